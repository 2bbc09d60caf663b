/* A matrix as the product of two thin ones: truncated singular value decomposition by subspace
 * iteration from random directions (Halko, Martinsson and Tropp, "Finding structure with
 * randomness", SIAM Review 53(2), 2011, algorithms 4.4 and 5.1). Products in f32, the small
 * eigenvalue problems in f64. The same matrix and options give the same bytes for any number of
 * threads. */
#ifndef NPO_MODEL_LOWRANK_H
#define NPO_MODEL_LOWRANK_H

#include "kernels/backend.h"
#include <stddef.h>

typedef struct {
    size_t rank;   /* at most so many, at least 1 */
    double energy; /* 0: `rank` of them; else the fewest that keep this share of the squared norm,
                    * as far as `rank` goes; at most 1 */
} npo_lowrank_options;

/* up [rows, rank], down [rank, columns]; the square roots of the singular values are on either
 * side, so that both survive half precision. rank 0, both NULL: a matrix of zeros. */
typedef struct {
    size_t rows, columns, rank;
    float *up, *down;
    double norm; /* of the matrix (Frobenius) */
} npo_lowrank;

/* matrix: [rows, columns], both at least 1. The rank is at most the smaller side; directions within
 * rounding noise are left out too. Errors: NPO_E_RANGE (a value is not finite), NPO_E_NOMEM,
 * NPO_E_DIVERGED. */
npo_err npo_lowrank_factor(npo_backend *be, size_t rows, size_t columns, const float *matrix,
                           const npo_lowrank_options *options, npo_lowrank *ret_factors,
                           npo_error *error) NPO_MUST_CHECK;
void npo_lowrank_fini(npo_lowrank *factors);
/* |matrix - up down|, whatever up and down hold by now (rounded to a file's precision). */
npo_err npo_lowrank_distance(npo_backend *be, const npo_lowrank *factors, const float *matrix,
                             double *ret_distance) NPO_MUST_CHECK;

#endif
