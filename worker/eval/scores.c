#include "worker/eval/scores.h"
#include <math.h>

static size_t largest_of(const float *logits, size_t classes)
{
    size_t best = 0;
    for (size_t c = 1; c < classes; c++)
        if (logits[c] > logits[best])
            best = c;
    return best;
}

static double probability(const float *logits, size_t classes, size_t largest, size_t label)
{
    double sum = 0;
    for (size_t c = 0; c < classes; c++)
        sum += exp((double)logits[c] - (double)logits[largest]);
    return exp((double)logits[label] - (double)logits[largest]) / sum;
}

static npo_err check_row(const float *logits, size_t classes, int32_t label)
{
    if (label < 0 || (size_t)label >= classes)
        return NPO_E_RANGE;
    for (size_t c = 0; c < classes; c++)
        if (!isfinite(logits[c]))
            return NPO_E_DIVERGED;
    return NPO_OK;
}

npo_err npo_scores_of(size_t n, size_t classes, const float *logits, const int32_t *labels,
                      double *ret_confidence, npo_scores *ret_scores)
{
    if (n == 0 || classes == 0)
        return NPO_E_RANGE;
    size_t right = 0;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        const float *row = logits + i * classes;
        NPO_TRY(check_row(row, classes, labels[i]));
        size_t largest = largest_of(row, classes);
        double p = probability(row, classes, largest, (size_t)labels[i]);
        right += largest == (size_t)labels[i];
        sum += p;
        if (ret_confidence)
            ret_confidence[i] = p;
    }
    *ret_scores = (npo_scores){(double)right / (double)n, sum / (double)n};
    return NPO_OK;
}

npo_wins npo_wins_count(size_t n, const double *a, const double *b)
{
    npo_wins wins = {0};
    for (size_t i = 0; i < n; i++) {
        wins.wins += a[i] > b[i];
        wins.ties += a[i] == b[i];
        wins.losses += a[i] < b[i];
    }
    return wins;
}

double npo_wins_rate(npo_wins wins)
{
    double all = (double)(wins.wins + wins.ties + wins.losses);
    return all == 0 ? NAN : ((double)wins.wins + 0.5 * (double)wins.ties) / all;
}
