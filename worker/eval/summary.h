/* Cells of several seeds taken together: what the charts and sentences of the report are made of.
 */
#ifndef NPO_WORKER_EVAL_SUMMARY_H
#define NPO_WORKER_EVAL_SUMMARY_H

#include "worker/eval/results.h"

/* A value over the seeds of one (method, scale, beta). */
typedef struct {
    double mean, low, high;
} npo_range;

typedef struct {
    npo_method method;
    double scale, beta;
    int64_t seeds, samples;                            /* cells and samples behind it */
    npo_range frechet, accuracy, confidence, win_rate; /* win_rate NaN where nothing was compared */
} npo_summary;

/* Groups in order of first appearance; *ret_groups is malloc'ed. Errors: NPO_E_NOMEM. */
npo_err npo_summary_make(const npo_cell *cells, size_t cell_count, npo_summary **ret_groups,
                         size_t *ret_count) NPO_MUST_CHECK;
/* The group, or NULL. */
const npo_summary *npo_summary_find(const npo_summary *groups, size_t count, npo_method method,
                                    double scale, double beta);
/* Of a method at a scale (any scale: NaN) the group with the least mean distance, or NULL. PLAIN
 * without a scale takes NONE in too. */
const npo_summary *npo_summary_best(const npo_summary *groups, size_t count, npo_method method,
                                    double scale);

#endif
