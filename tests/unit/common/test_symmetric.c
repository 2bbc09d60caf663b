#include "common/symmetric.h"

#include "tests/unit/cmocka.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void test_symmetric_known_values(void **state)
{
    /* 2 on the diagonal, -1 beside it: 2 - 2 cos(k pi / (n + 1)). */
    enum { N = 50 };
    static double a[N * N];
    double values[N];
    for (int i = 0; i < N; i++) {
        a[i * N + i] = 2;
        if (i > 0)
            a[i * N + i - 1] = a[(i - 1) * N + i] = -1;
    }
    assert_int_equal(npo_symmetric_eigen(N, a, 0, values), NPO_OK);
    qsort(values, N, sizeof *values, by_value);
    for (int k = 1; k <= N; k++)
        assert_true(fabs(values[k - 1] - (2 - 2 * cos(k * M_PI / (N + 1)))) < 1e-13);
}

/* A V' = V' L and V V' = 1 for a full matrix with elements of very different size. */
static void check_decomposition(size_t n, double spread)
{
    double *a = calloc(n * n, sizeof *a), *v = calloc(n * n, sizeof *v);
    double *values = calloc(n, sizeof *values);
    uint32_t s = 7;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) {
            s = s * 1664525u + 1013904223u;
            double x = (s >> 8) / 16777216.0 - 0.5;
            a[i * n + j] = a[j * n + i] = x * pow(spread, -(double)(i + j) / (double)n);
        }
    memcpy(v, a, n * n * sizeof *a);
    assert_int_equal(npo_symmetric_eigen(n, v, 1, values), NPO_OK);
    double worst = 0;
    for (size_t k = 0; k < n; k++)
        for (size_t i = 0; i < n; i++) {
            double product = 0, overlap = 0;
            for (size_t j = 0; j < n; j++) {
                product += a[i * n + j] * v[k * n + j];
                overlap += v[i * n + j] * v[k * n + j];
            }
            worst = fmax(worst, fabs(product - values[k] * v[k * n + i]));
            worst = fmax(worst, fabs(overlap - (i == k)));
        }
    assert_true(worst < 1e-12);
    free(a);
    free(v);
    free(values);
}

static void test_symmetric_decomposes(void **state)
{
    check_decomposition(1, 1);
    check_decomposition(2, 1);
    check_decomposition(3, 1);
    check_decomposition(60, 1);
    check_decomposition(60, 1e6);
    check_decomposition(128, 10);
}

static void test_symmetric_of_low_rank(void **state)
{
    /* x x' + y y' in 128 dimensions: two eigenvalues, and 126 of rounding noise. */
    enum { N = 128 };
    static double a[N * N];
    double x[N], y[N], values[N], xx = 0, yy = 0, xy = 0;
    uint32_t s = 3;
    for (int i = 0; i < N; i++) {
        s = s * 1664525u + 1013904223u;
        x[i] = (s >> 8) / 16777216.0;
        y[i] = i % 5 - 1.5;
        xx += x[i] * x[i];
        yy += y[i] * y[i];
        xy += x[i] * y[i];
    }
    for (int i = 0; i < N * N; i++)
        a[i] = x[i / N] * x[i % N] + y[i / N] * y[i % N];
    assert_int_equal(npo_symmetric_eigen(N, a, 1, values), NPO_OK);
    qsort(values, N, sizeof *values, by_value);
    double root = sqrt((xx - yy) * (xx - yy) / 4 + xy * xy);
    assert_true(fabs(values[N - 1] - ((xx + yy) / 2 + root)) < 1e-11);
    assert_true(fabs(values[N - 2] - ((xx + yy) / 2 - root)) < 1e-11);
    for (int i = 0; i < N - 2; i++)
        assert_true(fabs(values[i]) < 1e-11);
}

static void test_symmetric_handles_diagonal_and_zero(void **state)
{
    double a[9] = {3, 0, 0, 0, -1, 0, 0, 0, 2}, values[3];
    assert_int_equal(npo_symmetric_eigen(3, a, 1, values), NPO_OK);
    qsort(values, 3, sizeof *values, by_value);
    assert_true(values[0] == -1 && values[1] == 2 && values[2] == 3);
    double zero[9] = {0};
    assert_int_equal(npo_symmetric_eigen(3, zero, 1, values), NPO_OK);
    assert_true(values[0] == 0 && values[1] == 0 && values[2] == 0);
}

static void test_symmetric_refuses_bad_input(void **state)
{
    double a[4] = {1, NAN, NAN, 1}, values[2];
    assert_int_equal(npo_symmetric_eigen(0, a, 0, values), NPO_E_RANGE);
    assert_int_equal(npo_symmetric_eigen(NPO_SYMMETRIC_DIM_MAX + 1, a, 0, values), NPO_E_RANGE);
    assert_int_equal(npo_symmetric_eigen(2, a, 0, values), NPO_E_DIVERGED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_symmetric_known_values),
        cmocka_unit_test(test_symmetric_decomposes),
        cmocka_unit_test(test_symmetric_of_low_rank),
        cmocka_unit_test(test_symmetric_handles_diagonal_and_zero),
        cmocka_unit_test(test_symmetric_refuses_bad_input),
    };
    return cmocka_run_group_tests_name("symmetric", tests, NULL, NULL);
}
