/* Frechet distance between two feature sets, each taken as a Gaussian:
 *     |m1 - m2|^2 + tr(C1 + C2 - 2 sqrt(C1 C2)).
 * Source: Heusel et al., arXiv 1706.08500. All in f64. */
#ifndef NPO_WORKER_EVAL_FRECHET_H
#define NPO_WORKER_EVAL_FRECHET_H

#include "common/err.h"
#include <stddef.h>

typedef struct {
    size_t dims;
    double *mean;       /* [dims], owned with the covariance */
    double *covariance; /* [dims, dims], divisor n - 1 */
} npo_gaussian;

/* x: [n, dims] f32. Errors: NPO_E_RANGE for n < 2 or dims of 0 or over NPO_SYMMETRIC_DIM_MAX,
 * NPO_E_NOMEM. */
npo_err npo_gaussian_fit(const float *x, size_t n, size_t dims,
                         npo_gaussian *ret_gaussian) NPO_MUST_CHECK;
void npo_gaussian_fini(npo_gaussian *gaussian);

/* Uses that sqrt(C1 C2) has the trace of sqrt(sqrt(C1) C2 sqrt(C1)), which is symmetric;
 * eigenvalues that rounding left below zero count as zero. Asserts equal dims. Errors:
 * NPO_E_DIVERGED (a value that is not finite), NPO_E_NOMEM. */
npo_err npo_frechet_distance(const npo_gaussian *a, const npo_gaussian *b,
                             double *ret_distance) NPO_MUST_CHECK;

#endif
