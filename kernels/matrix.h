/* Products of matrices in f32 over all threads, for what is computed outside of a graph. */
#ifndef NPO_KERNELS_MATRIX_H
#define NPO_KERNELS_MATRIX_H

#include "kernels/backend.h"
#include <stddef.h>

/* c [m, n] = a [m, k] b [k, n]. Element (i, p) of a lies at a[i * a_row + p * a_col], so that a may
 * be transposed; rows of b and c are contiguous, b_row and c_row floats apart. c overlaps neither.
 */
typedef struct {
    size_t m, n, k;
    const float *a;
    size_t a_row, a_col;
    const float *b;
    size_t b_row;
    float *c;
    size_t c_row;
} npo_matrix_product;

/* The same bits for any number of threads. */
void npo_matrix_multiply(npo_backend *be, const npo_matrix_product *product);

#endif
