#include "worker/eval/frechet.h"
#include "common/symmetric.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void add_outer(size_t dims, const double *x, double *ret_sum)
{
    for (size_t i = 0; i < dims; i++)
        for (size_t j = 0; j <= i; j++)
            ret_sum[i * dims + j] += x[i] * x[j];
}

npo_err npo_gaussian_fit(const float *x, size_t n, size_t dims, npo_gaussian *ret_gaussian)
{
    if (n < 2 || dims == 0 || dims > NPO_SYMMETRIC_DIM_MAX)
        return NPO_E_RANGE;
    double *mean = calloc(dims * dims + 2 * dims, sizeof *mean);
    if (!mean)
        return NPO_E_NOMEM;
    double *covariance = mean + dims, *centred = covariance + dims * dims;
    for (size_t i = 0; i < n; i++)
        for (size_t d = 0; d < dims; d++)
            mean[d] += (double)x[i * dims + d];
    for (size_t d = 0; d < dims; d++)
        mean[d] /= (double)n;
    for (size_t i = 0; i < n; i++) {
        for (size_t d = 0; d < dims; d++)
            centred[d] = (double)x[i * dims + d] - mean[d];
        add_outer(dims, centred, covariance);
    }
    for (size_t i = 0; i < dims; i++)
        for (size_t j = 0; j <= i; j++) {
            double value = covariance[i * dims + j] / (double)(n - 1);
            covariance[i * dims + j] = covariance[j * dims + i] = value;
        }
    *ret_gaussian = (npo_gaussian){dims, mean, covariance};
    return NPO_OK;
}

void npo_gaussian_fini(npo_gaussian *gaussian)
{
    free(gaussian->mean);
    *gaussian = (npo_gaussian){0};
}

/* ret <- a b' for [n, n]; rows times rows, so that both are read in order. */
static void multiply_transposed(size_t n, const double *a, const double *b, double *ret)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t k = 0; k < n; k++)
                sum += a[i * n + k] * b[j * n + k];
            ret[i * n + j] = sum;
        }
}

/* Trace of sqrt(sqrt(A) B sqrt(A)). With A = V' L V (rows of V are eigenvectors) the matrix is
 * similar to L^1/2 V B V' L^1/2. work: 3 n^2 + n values. */
static npo_err trace_of_root(size_t n, const double *a, const double *b, double *work,
                             double *ret_trace)
{
    double *v = work, *half = v + n * n, *product = half + n * n, *values = product + n * n;
    memcpy(v, a, n * n * sizeof *v);
    NPO_TRY(npo_symmetric_eigen(n, v, 1, values));
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            v[i * n + j] *= sqrt(fmax(values[i], 0));
    multiply_transposed(n, v, b, half); /* B is symmetric */
    multiply_transposed(n, half, v, product);
    for (size_t i = 0; i < n; i++) /* rounding leaves the two triangles a little apart */
        for (size_t j = 0; j < i; j++) {
            double value = (product[i * n + j] + product[j * n + i]) / 2;
            product[i * n + j] = product[j * n + i] = value;
        }
    NPO_TRY(npo_symmetric_eigen(n, product, 0, values));
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += sqrt(fmax(values[i], 0));
    *ret_trace = sum;
    return NPO_OK;
}

npo_err npo_frechet_distance(const npo_gaussian *a, const npo_gaussian *b, double *ret_distance)
{
    assert(a->dims == b->dims);
    size_t n = a->dims;
    double *work = malloc((3 * n * n + n) * sizeof *work);
    if (!work)
        return NPO_E_NOMEM;
    double root = 0, sum = 0;
    npo_err err = trace_of_root(n, a->covariance, b->covariance, work, &root);
    free(work);
    if (err != NPO_OK)
        return err;
    for (size_t i = 0; i < n; i++) {
        double apart = a->mean[i] - b->mean[i];
        sum += apart * apart + a->covariance[i * n + i] + b->covariance[i * n + i];
    }
    if (!isfinite(sum))
        return NPO_E_DIVERGED;
    *ret_distance = sum - 2 * root;
    return NPO_OK;
}
