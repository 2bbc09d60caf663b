#include "common/rng.h"

#include "tests/unit/cmocka.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* kat_vectors of the Random123 distribution, philox4x32 with 10 rounds. */
static void test_rng_philox_known_answers(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], expected[4];
    } rows[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint32_t words[4];
        npo_rng_philox(rows[i].counter, rows[i].key, words);
        assert_memory_equal(words, rows[i].expected, sizeof words);
    }
}

/* The mapping of (seed, purpose, slot, lap, index) is part of every result. */
static void test_rng_stream_mapping_is_fixed(void **state)
{
    npo_rng rng =
        npo_rng_stream(0x299f31d0a4093822, (npo_rng_purpose)0x03707344, 0x13198a2e, 0x85a308d3);
    assert_int_equal(npo_rng_u32(&rng, 0x243f6a88), 0xd16cfe09);
    assert_true(npo_rng_u64(&rng, 0x243f6a88) == 0x94fdccebd16cfe09);
}

static void test_rng_purposes_are_distinct(void **state)
{
    static const int ids[] = {
#define ID(name, id) id,
        NPO_RNG_PURPOSES(ID)
#undef ID
    };
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++)
        assert_int_equal(ids[i], (int)i + 1);
}

static void test_rng_below_is_uniform(void **state)
{
    enum { BOUND = 7, DRAWS = 70000 };
    int64_t counts[BOUND] = {0};
    npo_rng rng = npo_rng_stream(11, NPO_RNG_PROMPT, 3, 4);
    for (uint32_t i = 0; i < DRAWS; i++)
        counts[npo_rng_below(&rng, i, BOUND)]++;
    double chi2 = 0;
    for (int k = 0; k < BOUND; k++)
        chi2 += pow((double)counts[k] - DRAWS / BOUND, 2) / (DRAWS / BOUND);
    assert_true(chi2 < 22.5); /* 6 degrees of freedom, p = 0.001 */
}

/* A bound of 3/4 of the range: without rejection multiples of three would be drawn twice as often
 * as the other values. */
static void test_rng_below_rejects_the_uneven_rest(void **state)
{
    const uint64_t bound = (uint64_t)3 << 62;
    const int draws = 30000;
    int low = 0;
    npo_rng rng = npo_rng_stream(12, NPO_RNG_PROMPT, 0, 0);
    for (int i = 0; i < draws; i++) {
        uint64_t value = npo_rng_below(&rng, (uint32_t)i, bound);
        assert_true(value < bound);
        low += value % 3 == 0;
    }
    assert_true(fabs(low / (double)draws - 1.0 / 3) < 0.01);
    for (uint32_t i = 0; i < 100; i++)
        assert_true(npo_rng_below(&rng, i, 1) == 0);
}

static void test_rng_uniform_has_the_moments(void **state)
{
    enum { DRAWS = 100000 };
    double sum = 0, squares = 0;
    npo_rng rng = npo_rng_stream(1, NPO_RNG_TIMESTEP, 0, 0);
    for (uint32_t i = 0; i < DRAWS; i++) {
        double u = npo_rng_uniform(&rng, i);
        assert_true(u >= 0 && u < 1);
        sum += u;
        squares += u * u;
    }
    assert_true(fabs(sum / DRAWS - 0.5) < 0.004);
    assert_true(fabs(squares / DRAWS - 1.0 / 3) < 0.004);
}

static void test_rng_permutation_is_one(void **state)
{
    enum { N = 1000 };
    static uint32_t order[N], again[N];
    bool seen[N] = {0};
    npo_rng rng = npo_rng_stream(9, NPO_RNG_DATA_ORDER, 0, 5);
    npo_rng_permutation(&rng, N, order);
    npo_rng_permutation(&rng, N, again);
    assert_memory_equal(order, again, sizeof order);
    int fixed = 0;
    for (int i = 0; i < N; i++) {
        assert_true(order[i] < N && !seen[order[i]]);
        seen[order[i]] = true;
        fixed += order[i] == (uint32_t)i;
    }
    assert_true(fixed < 10);
    npo_rng_permutation(&rng, 0, order);
}

/* Every permutation of three things equally often. */
static void test_rng_permutation_is_uniform(void **state)
{
    enum { DRAWS = 60000 };
    int counts[27] = {0};
    for (uint32_t lap = 0; lap < DRAWS; lap++) {
        uint32_t order[3];
        npo_rng rng = npo_rng_stream(10, NPO_RNG_DATA_ORDER, 0, lap);
        npo_rng_permutation(&rng, 3, order);
        counts[order[0] * 9 + order[1] * 3 + order[2]]++;
    }
    double chi2 = 0;
    for (int k = 0; k < 27; k++)
        if (counts[k])
            chi2 += pow(counts[k] - DRAWS / 6.0, 2) / (DRAWS / 6.0);
    assert_true(chi2 < 20.5); /* 5 degrees of freedom, p = 0.001 */
}

enum { GAUSSIANS = 1 << 20 };

static void test_rng_gaussians_have_the_distribution(void **state)
{
    float *z = malloc(GAUSSIANS * sizeof *z);
    assert_non_null(z);
    npo_rng rng = npo_rng_stream(7, NPO_RNG_NOISE, 1, 2);
    npo_rng_gaussians(&rng, GAUSSIANS, z);
    double m[5] = {0}, neighbours = 0;
    /* shares beyond 1, 2, 3, 4: erfc(k / sqrt 2) */
    int64_t beyond[5] = {0};
    for (int i = 0; i < GAUSSIANS; i++) {
        for (int k = 1; k <= 4; k++) {
            m[k] += pow(z[i], k) / GAUSSIANS;
            beyond[k] += fabsf(z[i]) > (float)k;
        }
        if (i)
            neighbours += (double)z[i] * z[i - 1] / GAUSSIANS;
    }
    assert_true(fabs(m[1]) < 0.004 && fabs(m[2] - 1) < 0.006);
    assert_true(fabs(m[3]) < 0.01 && fabs(m[4] - 3) < 0.04);
    assert_true(fabs(neighbours) < 0.004);
    for (int k = 1; k <= 4; k++) {
        double expected = erfc(k / sqrt(2)) * GAUSSIANS;
        assert_true(fabs((double)beyond[k] - expected) < 4.5 * sqrt(expected));
    }
    free(z);
}

/* Box-Muller in f64 by the C library, from the same words and the same two rounded uniforms. */
static void test_rng_gaussians_match_the_c_library(void **state)
{
    enum { N = 1 << 18 };
    float *z = malloc(N * sizeof *z);
    assert_non_null(z);
    npo_rng rng = npo_rng_stream(0xfeedfacecafe, NPO_RNG_SAMPLE_NOISE, 77, 0);
    npo_rng_gaussians(&rng, N, z);
    double worst = 0;
    for (uint32_t block = 0; block < N / 4; block++) {
        const uint32_t counter[4] = {block, rng.lap, rng.slot, rng.purpose};
        const uint32_t key[2] = {(uint32_t)rng.seed, (uint32_t)(rng.seed >> 32)};
        uint32_t w[4];
        npo_rng_philox(counter, key, w);
        for (int pair = 0; pair < 2; pair++) {
            float unit = ((float)w[2 * pair] + 0.5f) * 0x1p-32f;
            float part = (float)(int32_t)(w[2 * pair + 1] << 2) * 0x1p-32f;
            double radius = sqrt(-2 * log((double)unit));
            double angle = M_PI / 2 * part;
            double c = cos(angle), s = sin(angle);
            const double turned[4][2] = {{c, s}, {-s, c}, {-c, -s}, {s, -c}};
            for (int k = 0; k < 2; k++) {
                double exact = radius * turned[w[2 * pair + 1] >> 30][k];
                float got = z[4 * block + 2 * (uint32_t)pair + (uint32_t)k];
                double ulp =
                    (double)(nextafterf(fabsf((float)exact), INFINITY) - fabsf((float)exact));
                worst = fmax(worst, fabs(got - exact) / ulp);
            }
        }
    }
    print_message("worst error %.2f ulp\n", worst);
    assert_true(worst <= 4);
    free(z);
}

static void test_rng_gaussians_agree_over_instruction_sets(void **state)
{
    enum { N = 100003 };
    float *best = malloc(N * sizeof *best), *other = malloc(N * sizeof *other);
    assert_true(best && other);
    npo_rng rng = npo_rng_stream(3, NPO_RNG_X_T, 123456, 7);
    npo_rng_gaussians(&rng, N, best);
    for (int isa = NPO_RNG_ISA_PORTABLE; isa <= NPO_RNG_ISA_AVX512; isa++) {
        npo_err err = npo_rng_gaussians_isa((npo_rng_isa)isa, &rng, N, other);
        if (err == NPO_E_UNSUPPORTED && isa != NPO_RNG_ISA_PORTABLE)
            continue;
        assert_int_equal(err, NPO_OK);
        assert_memory_equal(best, other, N * sizeof *best);
    }
    assert_int_equal(npo_rng_gaussians_isa((npo_rng_isa)99, &rng, 1, other), NPO_E_UNSUPPORTED);
    free(best);
    free(other);
}

/* A prefix of a stream does not depend on how much of it is asked for. */
static void test_rng_gaussians_of_any_length(void **state)
{
    float all[300], part[300];
    npo_rng rng = npo_rng_stream(3, NPO_RNG_X_T, 1, 0);
    npo_rng_gaussians(&rng, 300, all);
    for (size_t n = 0; n < 300; n++) {
        memset(part, 0x55, sizeof part);
        npo_rng_gaussians(&rng, n, part);
        assert_memory_equal(part, all, n * sizeof *all);
        uint32_t behind;
        memcpy(&behind, part + n, sizeof behind);
        assert_int_equal(behind, 0x55555555);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rng_philox_known_answers),
        cmocka_unit_test(test_rng_stream_mapping_is_fixed),
        cmocka_unit_test(test_rng_purposes_are_distinct),
        cmocka_unit_test(test_rng_below_is_uniform),
        cmocka_unit_test(test_rng_below_rejects_the_uneven_rest),
        cmocka_unit_test(test_rng_uniform_has_the_moments),
        cmocka_unit_test(test_rng_permutation_is_one),
        cmocka_unit_test(test_rng_permutation_is_uniform),
        cmocka_unit_test(test_rng_gaussians_have_the_distribution),
        cmocka_unit_test(test_rng_gaussians_match_the_c_library),
        cmocka_unit_test(test_rng_gaussians_agree_over_instruction_sets),
        cmocka_unit_test(test_rng_gaussians_of_any_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
