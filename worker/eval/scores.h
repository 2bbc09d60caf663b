/* What a classifier says of samples made for a prompt. */
#ifndef NPO_WORKER_EVAL_SCORES_H
#define NPO_WORKER_EVAL_SCORES_H

#include "common/err.h"
#include <stddef.h>
#include <stdint.h>

typedef struct {
    double accuracy;   /* share of samples whose largest logit is the prompted class */
    double confidence; /* mean probability of the prompted class */
} npo_scores;

/* logits: [n, classes] f32; labels: [n], the prompted classes. ret_confidence: [n], the probability
 * of each sample's class in f64, or NULL. Of equal logits the first counts as the largest. Errors:
 * NPO_E_RANGE for n or classes of 0 or a label that is no class, NPO_E_DIVERGED for a logit that is
 * not finite. */
npo_err npo_scores_of(size_t n, size_t classes, const float *logits, const int32_t *labels,
                      double *ret_confidence, npo_scores *ret_scores) NPO_MUST_CHECK;

typedef struct {
    int64_t wins, ties, losses;
} npo_wins;

/* Sample by sample: where a is above b it wins, where they are equal to the last bit it ties. */
npo_wins npo_wins_count(size_t n, const double *a, const double *b);
/* Wins plus half the ties, as a share of all; NaN of none. */
double npo_wins_rate(npo_wins wins);

#endif
