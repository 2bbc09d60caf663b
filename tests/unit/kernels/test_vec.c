/* Flat kernels: the same bits for every instruction set and number of threads, and torch's values.
 */
#include "tests/unit/cmocka.h"

#include "kernels/cpu/isa/isa.h"
#include "kernels/vec.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { N = 70001, BLOCKS = N / NPO_DYNAMIC_BLOCK + 1 }; /* not a multiple of anything */

static const char *const isas[] = {"avx512", "avx2", "portable"};

typedef struct {
    float x[N], y[N], z[N], w[N], e[N];
    uint8_t codes[2][N];
    float absmax[2][BLOCKS];
    double norm;
} result;

static npo_blockwise exp_avg8(result *r)
{
    return (npo_blockwise){npo_dynamic_map_signed(), r->codes[0], r->absmax[0]};
}

static npo_blockwise exp_avg_sq8(result *r)
{
    return (npo_blockwise){npo_dynamic_map_unsigned(), r->codes[1], r->absmax[1]};
}

static float noise(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(int64_t)(*state >> 11) / (double)(1ull << 52) - 1);
}

static void fill(result *r)
{
    uint64_t state = 99;
    for (int i = 0; i < N; i++) {
        r->x[i] = noise(&state);
        r->y[i] = noise(&state) * 3;
        r->z[i] = noise(&state) * 0.01f;
        r->e[i] = r->y[i] + r->z[i];
        r->w[i] = fabsf(noise(&state)) * 0.001f;
    }
    npo_blockwise_clear(N, exp_avg8(r));
    npo_blockwise_clear(N, exp_avg_sq8(r));
}

/* All kernels of a table over one array, in one thread. */
static void run_table(const npo_cpu_kernels *k, result *r)
{
    npo_adamw_scalars s = {.keep = 0.999f,
                           .new1 = 0.1f,
                           .beta2 = 0.999f,
                           .new2 = 0.001f,
                           .correction2 = 0.05f,
                           .eps = 1e-8f,
                           .step = 0.003f,
                           .grad_scale = 0.5f};
    fill(r);
    k->vec_lerp(N, 0.001f, r->x, r->y);
    k->vec_lerp(N, 0.7f, r->z, r->y);
    k->vec_axpy(N, -0.3f, r->y, r->x);
    k->vec_scale(N, 1.7f, r->x);
    k->vec_adamw(N, &s, r->x, r->y, r->z, r->w);
    k->vec_adamw8(N, &s, r->x, r->y, exp_avg8(r), exp_avg_sq8(r));
    k->vec_adamw8(N, &s, r->z, r->y, exp_avg8(r), exp_avg_sq8(r));
    r->norm = k->vec_square_sum(N, r->y);
}

static void test_vec_has_the_same_bits_on_every_instruction_set(void **state)
{
    result *first = calloc(1, sizeof *first), *other = calloc(1, sizeof *other);
    int compared = 0;
    run_table(npo_cpu_kernels_find("portable"), first);
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        const npo_cpu_kernels *k = npo_cpu_kernels_find(isas[i]);
        if (!k)
            continue;
        run_table(k, other);
        assert_memory_equal(first, other, sizeof *first);
        compared++;
    }
    assert_true(compared >= 1);
    free(first);
    free(other);
}

static void run_backend(int threads, result *r)
{
    npo_backend *be;
    npo_backend_options options = {.device = "cpu", .threads = threads};
    npo_adamw hyper = {
        .lr = 3e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01, .step = 3};
    assert_int_equal(npo_backend_new(&options, &be, NULL), NPO_OK);
    fill(r);
    npo_vec_lerp(be, N, 0.001f, r->x, r->y);
    npo_vec_axpy(be, N, -0.3f, r->y, r->x);
    npo_vec_scale(be, N, 1.7f, r->x);
    const npo_update update = {.adamw = hyper,
                               .grad_scale = 0.7f,
                               .ema_weight = 0.1f,
                               .grad = r->x,
                               .param = r->y,
                               .ema = r->e};
    npo_vec_update(be, N, &update, r->z, r->w);
    npo_vec_update8(be, N, &update, exp_avg8(r), exp_avg_sq8(r));
    r->norm = npo_vec_norm(be, N, r->y);
    npo_backend_free(be);
}

static void test_vec_has_the_same_bits_with_any_number_of_threads(void **state)
{
    result *one = calloc(1, sizeof *one), *many = calloc(1, sizeof *many);
    run_backend(1, one);
    for (int threads = 2; threads <= 5; threads++) {
        run_backend(threads, many);
        assert_memory_equal(one, many, sizeof *one);
    }
    free(one);
    free(many);
}

static void test_vec_norm_is_accurate(void **state)
{
    npo_backend *be;
    npo_backend_options options = {.device = "cpu", .threads = 2};
    assert_int_equal(npo_backend_new(&options, &be, NULL), NPO_OK);
    enum { LONG = 3000000 };
    float *x = malloc(LONG * sizeof *x);
    for (int i = 0; i < LONG; i++)
        x[i] = 0.1f;
    assert_true(fabs(npo_vec_norm(be, LONG, x) / ((double)0.1f * sqrt(LONG)) - 1) < 1e-13);
    assert_true(npo_vec_norm(be, 0, x) == 0);
    x[0] = -2;
    assert_true(npo_vec_norm(be, 1, x) == 2);
    free(x);
    npo_backend_free(be);
}

/* In one pass the same bits as scaling, AdamW and averaging one after another. */
static void test_vec_update_is_scale_adamw_and_lerp(void **state)
{
    npo_backend *be;
    npo_backend_options options = {.device = "cpu", .threads = 2};
    const npo_adamw hyper = {
        .lr = 3e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01, .step = 2};
    result *one = calloc(1, sizeof *one), *three = calloc(1, sizeof *three);
    assert_int_equal(npo_backend_new(&options, &be, NULL), NPO_OK);
    fill(one);
    fill(three);
    const npo_update update = {.adamw = hyper,
                               .grad_scale = 0.3f,
                               .ema_weight = 0.01f,
                               .grad = one->x,
                               .param = one->y,
                               .ema = one->e};
    npo_vec_update(be, N, &update, one->z, one->w);
    npo_vec_scale(be, N, 0.3f, three->x);
    npo_vec_adamw(be, N, hyper, three->x, three->y, three->z, three->w);
    npo_vec_lerp(be, N, 0.01f, three->y, three->e);
    npo_vec_scale(be, N, 0.3f, one->x); /* which the update has left as they were */
    assert_memory_equal(one, three, sizeof *one);
    free(one);
    free(three);
    npo_backend_free(be);
}

static double distance(const npo_dynamic_map *map, double x, int code)
{
    return fabs(x - (double)map->code[code]);
}

/* Against a search through all codes. */
static void check_nearest(npo_blockwise values, bool is_signed, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double part = (double)(x[i] / values.absmax[i / NPO_DYNAMIC_BLOCK]);
        double least = 2, found = distance(values.map, part, values.codes[i]);
        for (int code = 0; code < NPO_DYNAMIC_CODES; code++)
            least = fmin(least, distance(values.map, part, code));
        if (found > least)
            fail_msg("%s value %.9g: code %d at %.9g, nearest at %.9g",
                     is_signed ? "signed" : "unsigned", part, values.codes[i], found, least);
    }
}

/* Just at and beside every boundary, and many others. */
static void fill_near_boundaries(const npo_dynamic_map *map, float *x)
{
    uint64_t state = 5;
    for (int i = 0; i < N; i++)
        x[i] = noise(&state) * powf(10, -8 * fabsf(noise(&state)));
    for (int i = 0; i + 1 < NPO_DYNAMIC_CODES; i++) {
        float middle = (map->code[i] + map->code[i + 1]) / 2;
        x[3 * i] = middle;
        x[3 * i + 1] = nextafterf(middle, -2);
        x[3 * i + 2] = nextafterf(middle, 2);
    }
    for (int i = 0; i < N; i += NPO_DYNAMIC_BLOCK)
        x[i] = i % 3 ? -1 : 1; /* largest of its block */
}

static void test_vec_update8_stores_the_nearest_codes(void **state)
{
    npo_backend *be;
    npo_backend_options options = {.device = "cpu", .threads = 2};
    result *r = calloc(1, sizeof *r);
    assert_int_equal(npo_backend_new(&options, &be, NULL), NPO_OK);
    fill(r);
    /* beta 0: the moments are the gradient and its square. */
    const npo_update update = {.adamw = {.lr = 1e-3, .eps = 1e-8, .step = 1},
                               .grad_scale = 1,
                               .grad = r->x,
                               .param = r->y};
    fill_near_boundaries(npo_dynamic_map_signed(), r->x);
    npo_vec_update8(be, N, &update, exp_avg8(r), exp_avg_sq8(r));
    check_nearest(exp_avg8(r), true, r->x, N);
    for (int i = 0; i < N; i++)
        r->z[i] = r->x[i] * r->x[i];
    check_nearest(exp_avg_sq8(r), false, r->z, N);
    memset(r->x, 0, sizeof r->x);
    npo_vec_update8(be, N, &update, exp_avg8(r), exp_avg_sq8(r));
    for (int i = 0; i < N; i++)
        assert_true(r->codes[0][i] == npo_dynamic_map_signed()->zero && r->codes[1][i] == 0);
    for (int i = 0; i < BLOCKS; i++)
        assert_true(r->absmax[0][i] == 0 && r->absmax[1][i] == 0);
    free(r);
    npo_backend_free(be);
}

/* torch 2.15: torch.optim.AdamW(lr=3e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01,
 * foreach=False), three steps. */
enum { G = 6 };
static const float golden_start[G] = {0x1.9b4700p-1f,  0x1.660f0cp-3f, 0x1.6c744cp-4f,
                                      -0x1.3a3940p-1f, 0x1.7a539ep-5f, -0x1.5e463cp+0f};
static const float golden_grads[3][G] = {{0x1.599850p-2f, 0x1.02d87ep+0f, -0x1.6f67eap+0f,
                                          0x1.f471f0p-1f, 0x1.0b4a22p-1f, 0x1.3ce81cp+0f},
                                         {-0x1.62279ep-4f, 0x1.e9d144p-6f, 0x1.576c86p-5f,
                                          -0x1.05aaaap-7f, 0x1.7b7538p-4f, 0x1.4e19fep-4f},
                                         {0x1.4486eep-8f, -0x1.aebf42p-10f, -0x1.bc4f2ep-8f,
                                          -0x1.5b0c5ep-7f, 0x1.ea02aep-8f, 0x1.392760p-9f}};
static const float golden_param[3][G] = {{0x1.99baa0p-1f, 0x1.5fe76ep-3f, 0x1.78bb3ap-4f,
                                          -0x1.3bc00ep-1f, 0x1.61bd42p-5f, -0x1.5f0828p+0f},
                                         {0x1.9900e6p-1f, 0x1.5ba4acp-3f, 0x1.80aee0p-4f,
                                          -0x1.3cc2b6p-1f, 0x1.4e5166p-5f, -0x1.5f928ap+0f},
                                         {0x1.986d12p-1f, 0x1.585a90p-3f, 0x1.86dd34p-4f,
                                          -0x1.3d875cp-1f, 0x1.3f1554p-5f, -0x1.5ffd24p+0f}};
static const float golden_exp_avg[G] = {0x1.488232p-6f, 0x1.59cfd6p-4f, -0x1.cf7b1ep-4f,
                                        0x1.3d01aep-4f, 0x1.a4d5b8p-5f, 0x1.b9c240p-4f};
static const float golden_exp_avg_sq[G] = {0x1.fc3768p-14f, 0x1.0bb40ep-10f, 0x1.0dabb2p-9f,
                                           0x1.f3fb42p-11f, 0x1.2640a6p-12f, 0x1.92a906p-10f};
static const float golden_lerp[4][4] = {
    {-0x1.918fd4p-2f, 0x1.371f28p-3f, -0x1.2f0924p+0f, 0x1.1197bap-1f},
    {-0x1.73763ap+0f, -0x1.423d50p-1f, 0x1.3c3dfcp-3f, -0x1.fbe244p-3f},
    {-0x1.92a568p-2f, 0x1.35858ap-3f, -0x1.2eb172p+0f, 0x1.11312ep-1f},
    {-0x1.2fb1a8p+0f, -0x1.bc7814p-2f, -0x1.70e3ccp-3f, -0x1.ad47e0p-5f}};

/* Two roundings of the value, or of the larger terms it came from. */
static void assert_near(const float *x, const float *expected, int n)
{
    for (int i = 0; i < n; i++)
        if (!(fabsf(x[i] - expected[i]) <= 2.4e-7f * fabsf(expected[i])))
            fail_msg("element %d is %.9g, expected %.9g", i, (double)x[i], (double)expected[i]);
}

static void test_vec_adamw_matches_torch(void **state)
{
    npo_backend *be;
    npo_backend_options options = {.device = "cpu", .threads = 1};
    npo_adamw hyper = {.lr = 3e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.01};
    float param[G], exp_avg[G] = {0}, exp_avg_sq[G] = {0};
    assert_int_equal(npo_backend_new(&options, &be, NULL), NPO_OK);
    memcpy(param, golden_start, sizeof param);
    for (int i = 0; i < 3; i++) {
        hyper.step = i + 1;
        npo_vec_adamw(be, G, hyper, golden_grads[i], param, exp_avg, exp_avg_sq);
        assert_near(param, golden_param[i], G);
    }
    assert_near(exp_avg, golden_exp_avg, G);
    assert_near(exp_avg_sq, golden_exp_avg_sq, G);
    npo_backend_free(be);
}

static void test_vec_lerp_matches_torch(void **state)
{
    static const float weights[] = {0.001f, 0.75f};
    npo_backend *be;
    npo_backend_options options = {.device = "cpu", .threads = 1};
    assert_int_equal(npo_backend_new(&options, &be, NULL), NPO_OK);
    for (int i = 0; i < 2; i++) {
        float y[4];
        memcpy(y, golden_lerp[0], sizeof y);
        npo_vec_lerp(be, 4, weights[i], golden_lerp[1], y);
        assert_near(y, golden_lerp[2 + i], 4);
    }
    npo_backend_free(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vec_has_the_same_bits_on_every_instruction_set),
        cmocka_unit_test(test_vec_has_the_same_bits_with_any_number_of_threads),
        cmocka_unit_test(test_vec_norm_is_accurate),
        cmocka_unit_test(test_vec_update_is_scale_adamw_and_lerp),
        cmocka_unit_test(test_vec_update8_stores_the_nearest_codes),
        cmocka_unit_test(test_vec_adamw_matches_torch),
        cmocka_unit_test(test_vec_lerp_matches_torch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
