#include "worker/eval/frechet.h"

#include "tests/unit/cmocka.h"
#include "common/symmetric.h"

#include <math.h>
#include <stdlib.h>

/* The features that the goldens below were computed from. */
static float *features(size_t n, size_t d, uint32_t s, float shift)
{
    float *x = malloc(n * d * sizeof *x), *y = malloc(n * d * sizeof *y);
    for (size_t i = 0; i < n * d; i++) {
        s = s * 1664525u + 1013904223u;
        x[i] = (float)(s >> 8) / 16777216.0f - 0.5f;
    }
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < d; j++)
            y[i * d + j] = (x[i * d + j] + 0.5f * x[i * d + (j + 1) % d]) + shift * (float)(j % 3);
    free(x);
    return y;
}

static double distance(size_t n1, size_t n2, size_t d)
{
    float *x = features(n1, d, 1, 0.0f), *y = features(n2, d, 2, 0.25f);
    npo_gaussian a, b;
    double result = NAN;
    assert_int_equal(npo_gaussian_fit(x, n1, d, &a), NPO_OK);
    assert_int_equal(npo_gaussian_fit(y, n2, d, &b), NPO_OK);
    assert_int_equal(npo_frechet_distance(&a, &b, &result), NPO_OK);
    npo_gaussian_fini(&a);
    npo_gaussian_fini(&b);
    free(x);
    free(y);
    return result;
}

static void test_frechet_agrees_with_scipy(void **state)
{
    /* numpy.cov and scipy.linalg.sqrtm of scipy 1.17 on the same features. */
    static const struct {
        size_t n1, n2, d;
        double golden, tolerance;
    } cases[] = {
        {40, 50, 3, 0.40974105907598657, 1e-12},
        {300, 200, 32, 3.553785878930755, 1e-11},
        {700, 900, 128, 14.058059992735613, 1e-11},
        /* Fewer samples than dimensions: sqrtm of a singular matrix is good to half the digits. */
        {20, 30, 64, 13.386946855629766, 1e-6},
        {20, 500, 128, 29.119863282922232, 1e-6},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double found = distance(cases[i].n1, cases[i].n2, cases[i].d);
        if (fabs(found - cases[i].golden) > cases[i].tolerance * cases[i].golden)
            fail_msg("%zu dims: found %.15g, expected %.15g", cases[i].d, found, cases[i].golden);
    }
}

static void test_frechet_of_a_set_with_itself_is_zero(void **state)
{
    float *x = features(100, 8, 3, 0.0f);
    npo_gaussian a;
    double result = NAN;
    assert_int_equal(npo_gaussian_fit(x, 100, 8, &a), NPO_OK);
    assert_int_equal(npo_frechet_distance(&a, &a, &result), NPO_OK);
    assert_true(fabs(result) < 1e-12);
    npo_gaussian_fini(&a);
    free(x);
}

static void test_gaussian_fit_by_hand(void **state)
{
    const float x[] = {1, 2, 3, 6, 5, 4};
    npo_gaussian a;
    assert_int_equal(npo_gaussian_fit(x, 3, 2, &a), NPO_OK);
    assert_true(a.mean[0] == 3 && a.mean[1] == 4);
    assert_true(a.covariance[0] == 4 && a.covariance[1] == 2);
    assert_true(a.covariance[2] == 2 && a.covariance[3] == 4);
    npo_gaussian_fini(&a);
}

static void test_frechet_refuses_bad_input(void **state)
{
    float x[4] = {1, 2, 3, NAN};
    npo_gaussian a;
    double result;
    assert_int_equal(npo_gaussian_fit(x, 1, 2, &a), NPO_E_RANGE);
    assert_int_equal(npo_gaussian_fit(x, 2, 0, &a), NPO_E_RANGE);
    assert_int_equal(npo_gaussian_fit(x, 2, NPO_SYMMETRIC_DIM_MAX + 1, &a), NPO_E_RANGE);
    assert_int_equal(npo_gaussian_fit(x, 2, 2, &a), NPO_OK);
    assert_int_equal(npo_frechet_distance(&a, &a, &result), NPO_E_DIVERGED);
    npo_gaussian_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frechet_agrees_with_scipy),
        cmocka_unit_test(test_frechet_of_a_set_with_itself_is_zero),
        cmocka_unit_test(test_gaussian_fit_by_hand),
        cmocka_unit_test(test_frechet_refuses_bad_input),
    };
    return cmocka_run_group_tests_name("frechet", tests, NULL, NULL);
}
