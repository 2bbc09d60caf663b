/* Eigenvalues of a symmetric matrix in f64: Householder reduction to tridiagonal form, then the QL
 * iteration with implicit shifts (Golub and Van Loan, Matrix Computations, 8.3). Single threaded;
 * the same input gives the same bytes. */
#ifndef NPO_COMMON_SYMMETRIC_H
#define NPO_COMMON_SYMMETRIC_H

#include "common/err.h"
#include <stddef.h>

#define NPO_SYMMETRIC_DIM_MAX 8192

/* a: [n, n], symmetric; overwritten, and on success with vectors != 0 its row i is the unit
 * eigenvector of ret_values[i]. ret_values: [n], in no particular order. Errors: NPO_E_RANGE (n is
 * 0 or over the bound), NPO_E_DIVERGED (an element is not finite, or the iteration does not end),
 * NPO_E_NOMEM. */
npo_err npo_symmetric_eigen(size_t n, double *a, int vectors, double *ret_values) NPO_MUST_CHECK;

#endif
