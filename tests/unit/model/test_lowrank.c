/* Truncated decompositions against numpy's singular values, and matrices whose factors are known.
 */
#include "tests/unit/model/device.h"
#include "tests/unit/model/support.h"

#include "common/rng.h"
#include "worker/model/lowrank.h"

static float *new_gaussians(uint32_t slot, size_t count)
{
    float *values = calloc(count, sizeof *values);
    npo_rng rng = npo_rng_stream(3, NPO_RNG_NOISE, slot, 0);
    assert_non_null(values);
    npo_rng_gaussians(&rng, count, values);
    return values;
}

/* A matrix that is the product of two thin ones, direction i weighted by fall^i. */
static float *new_product(size_t rows, size_t columns, size_t rank, double fall)
{
    float *left = new_gaussians(0, rows * rank), *right = new_gaussians(1, rank * columns);
    float *values = calloc(rows * columns, sizeof *values);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++) {
            double sum = 0;
            for (size_t k = 0; k < rank; k++)
                sum += (double)left[i * rank + k] * (double)right[k * columns + j] *
                       pow(fall, (double)k);
            values[i * columns + j] = (float)sum;
        }
    free(left);
    free(right);
    return values;
}

static npo_lowrank factor(npo_backend *be, size_t rows, size_t columns, const float *matrix,
                          size_t rank, double energy)
{
    npo_lowrank factors;
    npo_error error = {0};
    npo_lowrank_options options = {rank, energy};
    if (npo_lowrank_factor(be, rows, columns, matrix, &options, &factors, &error))
        fail_msg("%s", error.text);
    return factors;
}

/* |matrix - up down| / |matrix| in f64. */
static double factor_error(const npo_lowrank *factors, const float *matrix)
{
    double sum = 0, whole = 0;
    for (size_t i = 0; i < factors->rows; i++)
        for (size_t j = 0; j < factors->columns; j++) {
            double x = (double)matrix[i * factors->columns + j], y = 0;
            for (size_t k = 0; k < factors->rank; k++)
                y += (double)factors->up[i * factors->rank + k] *
                     (double)factors->down[k * factors->columns + j];
            sum += (x - y) * (x - y);
            whole += x * x;
        }
    return whole > 0 ? sqrt(sum / whole) : 0;
}

typedef struct {
    size_t rows, columns, sides; /* sides: the smaller */
    float *matrix, *values;
} golden;

static golden read_golden(const npo_safetensors *file, const char *name)
{
    char key[64];
    snprintf(key, sizeof key, "%s.matrix", name);
    const npo_tensor *matrix = npo_safetensors_find(file, key);
    snprintf(key, sizeof key, "%s.values", name);
    const npo_tensor *values = npo_safetensors_find(file, key);
    golden g = {(size_t)matrix->dims[0], (size_t)matrix->dims[1], values->count,
                calloc(matrix->count, sizeof(float)), calloc(values->count, sizeof(float))};
    npo_tensor_read_f32(matrix, 0, matrix->count, g.matrix);
    npo_tensor_read_f32(values, 0, values->count, g.values);
    return g;
}

/* Squared norm of the singular values from `first` on. */
static double tail(const golden *g, size_t first)
{
    double sum = 0;
    for (size_t i = first; i < g->sides; i++)
        sum += (double)g->values[i] * (double)g->values[i];
    return sum;
}

static void check_golden(npo_backend *be, const golden *g, size_t rank, double slack)
{
    npo_lowrank factors = factor(be, g->rows, g->columns, g->matrix, rank, 0);
    double best = sqrt(tail(g, rank) / tail(g, 0)), error = factor_error(&factors, g->matrix);
    double told;
    assert_int_equal(npo_lowrank_distance(be, &factors, g->matrix, &told), NPO_OK);
    assert_int_equal(factors.rank, rank < g->sides ? rank : g->sides);
    assert_true(fabs(factors.norm / sqrt(tail(g, 0)) - 1) < 1e-5);
    assert_true(fabs(told / factors.norm - error) < 1e-6);
    if (error > best * slack + 1e-6)
        fail_msg("rank %zu: error %.6g, numpy's %.6g", rank, error, best);
    npo_lowrank_fini(&factors);
}

static void test_lowrank_is_as_near_as_numpy(void **state)
{
    static const struct {
        const char *name;
        double slack; /* over the smallest error there is */
    } rows[] = {{"noise", 1.00001}, {"slow", 1.01}, {"steep", 1.01}};
    static const size_t ranks[] = {1, 2, 7, 24, 64, 1000};
    npo_backend *be = backend;
    npo_safetensors *file;
    assert_int_equal(npo_safetensors_open(GOLDEN("unit/lowrank/matrices.safetensors"), &file, NULL),
                     NPO_OK);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        golden g = read_golden(file, rows[i].name);
        for (size_t j = 0; j < sizeof ranks / sizeof *ranks; j++)
            check_golden(be, &g, ranks[j], rows[i].slack);
        free(g.matrix);
        free(g.values);
    }
    npo_safetensors_close(file);
}

static void test_lowrank_takes_the_rank_that_keeps_the_energy(void **state)
{
    static const double energies[] = {0.3, 0.9, 0.99, 0.999, 1};
    npo_backend *be = backend;
    npo_safetensors *file;
    assert_int_equal(npo_safetensors_open(GOLDEN("unit/lowrank/matrices.safetensors"), &file, NULL),
                     NPO_OK);
    golden g = read_golden(file, "steep");
    for (size_t i = 0; i < sizeof energies / sizeof *energies; i++) {
        size_t expected = 0;
        while (expected < 100 && tail(&g, 0) - tail(&g, expected) < energies[i] * tail(&g, 0))
            expected++;
        npo_lowrank factors = factor(be, g.rows, g.columns, g.matrix, 100, energies[i]);
        if (energies[i] < 1)
            assert_int_equal(factors.rank, expected);
        else
            assert_int_equal(factors.rank, 100); /* as far as the rank goes */
        npo_lowrank_fini(&factors);
    }
    free(g.matrix);
    free(g.values);
    npo_safetensors_close(file);
}

static void test_lowrank_recovers_products(void **state)
{
    static const struct {
        size_t rows, columns, rank, asked;
        double fall;
    } cases[] = {
        {1, 1, 1, 1, 1},       {1, 1, 1, 8, 1},       {1, 40, 1, 4, 1},    {40, 1, 1, 4, 1},
        {7, 5, 2, 2, 1},       {5, 7, 5, 9, 1},       {300, 700, 6, 6, 1}, {700, 300, 6, 6, 0.1},
        {300, 700, 8, 20, .2}, {270, 320, 40, 40, 1},
    };
    npo_backend *be = backend;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float *matrix = new_product(cases[i].rows, cases[i].columns, cases[i].rank, cases[i].fall);
        npo_lowrank factors =
            factor(be, cases[i].rows, cases[i].columns, matrix, cases[i].asked, 0);
        double error = factor_error(&factors, matrix);
        if (!(error < 2e-6))
            fail_msg("case %zu: rank %zu, error %g", i, factors.rank, error);
        assert_true(factors.rank >= 1 && factors.rank <= cases[i].asked);
        npo_lowrank_fini(&factors);
        free(matrix);
    }
}

/* Half precision must hold both factors of a small offset. */
static void test_lowrank_balances_the_factors(void **state)
{
    npo_backend *be = backend;
    float *matrix = new_product(64, 320, 4, 1);
    for (size_t i = 0; i < 64 * 320; i++)
        matrix[i] *= 1e-7f;
    npo_lowrank factors = factor(be, 64, 320, matrix, 4, 0);
    double up = 0, down = 0;
    for (size_t i = 0; i < 64 * 4; i++)
        up += (double)factors.up[i] * (double)factors.up[i];
    for (size_t i = 0; i < 320 * 4; i++)
        down += (double)factors.down[i] * (double)factors.down[i];
    assert_true(fabs(up / down - 1) < 1e-4);
    npo_lowrank_fini(&factors);
    free(matrix);
}

static void test_lowrank_of_zeros_has_no_factors(void **state)
{
    static const float zeros[300 * 310] = {0};
    npo_backend *be = backend;
    double distance = 1;
    npo_lowrank factors = factor(be, 300, 310, zeros, 4, 0);
    assert_int_equal(factors.rank, 0);
    assert_null(factors.up);
    assert_int_equal(npo_lowrank_distance(be, &factors, zeros, &distance), NPO_OK);
    assert_true(distance == 0);
    npo_lowrank_fini(&factors);
}

static void test_lowrank_refuses_values_that_are_not_finite(void **state)
{
    npo_backend *be = backend;
    const float bad[] = {NAN, INFINITY};
    for (int i = 0; i < 2; i++) {
        float matrix[6] = {1, 2, 3, 4, bad[i], 6};
        npo_lowrank factors;
        npo_error error = {0};
        npo_lowrank_options options = {2, 0};
        assert_int_equal(npo_lowrank_factor(be, 2, 3, matrix, &options, &factors, &error),
                         NPO_E_RANGE);
        assert_string_equal(error.text, "cannot factor a matrix of [2,3]: a value is not finite");
    }
}

static void test_lowrank_has_the_same_bits_with_any_number_of_threads(void **state)
{
    float *matrix = new_gaussians(5, 290 * 410);
    npo_lowrank first = {0};
    for (int threads = 1; threads <= 3; threads++) {
        npo_backend *be;
        npo_backend_options options = {.device = "cpu", .threads = threads};
        assert_int_equal(npo_backend_new(&options, &be, NULL), NPO_OK);
        npo_lowrank factors = factor(be, 290, 410, matrix, 12, 0);
        if (threads == 1) {
            first = factors;
        } else {
            assert_memory_equal(first.up, factors.up, 290 * 12 * sizeof(float));
            assert_memory_equal(first.down, factors.down, 410 * 12 * sizeof(float));
            npo_lowrank_fini(&factors);
        }
        npo_backend_free(be);
    }
    npo_lowrank_fini(&first);
    free(matrix);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lowrank_is_as_near_as_numpy),
        cmocka_unit_test(test_lowrank_takes_the_rank_that_keeps_the_energy),
        cmocka_unit_test(test_lowrank_recovers_products),
        cmocka_unit_test(test_lowrank_balances_the_factors),
        cmocka_unit_test(test_lowrank_of_zeros_has_no_factors),
        cmocka_unit_test(test_lowrank_refuses_values_that_are_not_finite),
        cmocka_unit_test(test_lowrank_has_the_same_bits_with_any_number_of_threads),
    };
    return cmocka_run_group_tests(tests, device_setup, device_teardown);
}
