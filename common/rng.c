#include "common/rng.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#define PHILOX_ROUNDS 10
#define PHILOX_MUL_0  0xD2511F53u
#define PHILOX_MUL_1  0xCD9E8D57u
#define PHILOX_WEYL_0 0x9E3779B9u
#define PHILOX_WEYL_1 0xBB67AE85u

#define LANES        16 /* blocks made at a time */
#define LANE_VALUES  (4 * LANES)
#define ATTEMPT_BITS 28 /* a draw's index; the rest of the block number counts rejections */
#define ATTEMPTS_MAX 16

#define ALWAYS_INLINE static inline __attribute__((always_inline))

npo_rng npo_rng_stream(uint64_t seed, npo_rng_purpose purpose, uint32_t slot, uint32_t lap)
{
    return (npo_rng){.seed = seed, .purpose = (uint32_t)purpose, .slot = slot, .lap = lap};
}

ALWAYS_INLINE void philox_round(uint32_t c[4], uint32_t key0, uint32_t key1)
{
    uint64_t product0 = (uint64_t)PHILOX_MUL_0 * c[0];
    uint64_t product1 = (uint64_t)PHILOX_MUL_1 * c[2];
    uint32_t next0 = (uint32_t)(product1 >> 32) ^ c[1] ^ key0;
    uint32_t next2 = (uint32_t)(product0 >> 32) ^ c[3] ^ key1;
    c[0] = next0;
    c[1] = (uint32_t)product1;
    c[2] = next2;
    c[3] = (uint32_t)product0;
}

void npo_rng_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t ret_words[4])
{
    uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
    for (uint32_t r = 0; r < PHILOX_ROUNDS; r++)
        philox_round(c, key[0] + r * PHILOX_WEYL_0, key[1] + r * PHILOX_WEYL_1);
    memcpy(ret_words, c, sizeof c);
}

static void draw_block(const npo_rng *rng, uint32_t block, uint32_t ret_words[4])
{
    const uint32_t counter[4] = {block, rng->lap, rng->slot, rng->purpose};
    const uint32_t key[2] = {(uint32_t)rng->seed, (uint32_t)(rng->seed >> 32)};
    npo_rng_philox(counter, key, ret_words);
}

uint32_t npo_rng_u32(const npo_rng *rng, uint32_t index)
{
    uint32_t words[4];
    draw_block(rng, index, words);
    return words[0];
}

uint64_t npo_rng_u64(const npo_rng *rng, uint32_t index)
{
    uint32_t words[4];
    draw_block(rng, index, words);
    return (uint64_t)words[1] << 32 | words[0];
}

double npo_rng_uniform(const npo_rng *rng, uint32_t index)
{
    return (double)(npo_rng_u64(rng, index) >> 11) * 0x1p-53;
}

/* High part of draw * bound; false where the draw belongs to the uneven rest. */
static bool scale_draw(uint64_t draw, uint64_t bound, uint64_t *ret_value)
{
    unsigned __int128 product = (unsigned __int128)draw * bound;
    *ret_value = (uint64_t)(product >> 64);
    return (uint64_t)product >= -bound % bound;
}

uint64_t npo_rng_below(const npo_rng *rng, uint32_t index, uint64_t bound)
{
    assert(bound > 0 && index < (uint32_t)1 << ATTEMPT_BITS);
    uint64_t value = 0;
    /* At most half of all draws are rejected (bound just above 2^63); for the bounds in use here
     * fewer than one in 2^30, so 32 attempts end by acceptance. */
    for (uint32_t attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
        uint32_t words[4];
        draw_block(rng, attempt << ATTEMPT_BITS | index, words);
        if (scale_draw((uint64_t)words[1] << 32 | words[0], bound, &value) ||
            scale_draw((uint64_t)words[3] << 32 | words[2], bound, &value))
            return value;
    }
    return value;
}

void npo_rng_permutation(const npo_rng *rng, uint32_t n, uint32_t *ret_order)
{
    for (uint32_t i = 0; i < n; i++)
        ret_order[i] = i;
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = (uint32_t)npo_rng_below(rng, i - 1, i);
        uint32_t swapped = ret_order[i - 1];
        ret_order[i - 1] = ret_order[j];
        ret_order[j] = swapped;
    }
}

/* ---- gaussians ----
 *
 * Written over LANES blocks side by side and compiled once an instruction set: the compiler makes
 * vectors of the loops, and without contraction every lane does the same roundings everywhere. */

typedef union {
    float f[LANES];
    uint32_t u[LANES];
    int32_t i[LANES];
} lanes;

ALWAYS_INLINE void philox_lanes(const npo_rng *rng, uint32_t first_block, lanes c[4])
{
    for (uint32_t l = 0; l < LANES; l++) {
        c[0].u[l] = first_block + l;
        c[1].u[l] = rng->lap;
        c[2].u[l] = rng->slot;
        c[3].u[l] = rng->purpose;
    }
    uint32_t key0 = (uint32_t)rng->seed, key1 = (uint32_t)(rng->seed >> 32);
    for (int r = 0; r < PHILOX_ROUNDS; r++) {
        for (int l = 0; l < LANES; l++) {
            uint64_t product0 = (uint64_t)PHILOX_MUL_0 * c[0].u[l];
            uint64_t product1 = (uint64_t)PHILOX_MUL_1 * c[2].u[l];
            c[0].u[l] = (uint32_t)(product1 >> 32) ^ c[1].u[l] ^ key0;
            c[1].u[l] = (uint32_t)product1;
            c[2].u[l] = (uint32_t)(product0 >> 32) ^ c[3].u[l] ^ key1;
            c[3].u[l] = (uint32_t)product0;
        }
        key0 += PHILOX_WEYL_0;
        key1 += PHILOX_WEYL_1;
    }
}

/* (w + 1/2) / 2^32 rounded to f32, in [2^-33, 1]. The halves convert exactly and are added with one
 * rounding, since not every instruction set converts unsigned words. */
ALWAYS_INLINE void unit_lanes(const lanes *w, lanes *ret_unit)
{
    for (int l = 0; l < LANES; l++) {
        float high = (float)(int32_t)(w->u[l] >> 16), low = (float)(int32_t)(w->u[l] & 0xffff);
        ret_unit->f[l] = ((high * 65536.0f + low) + 0.5f) * 0x1p-32f;
    }
}

/* sqrt(-2 ln u). ln u = e ln 2 + ln(1 + x) with 1 + x in [sqrt(1/2), sqrt(2)), and
 * ln(1 + x) = x - x^2/2 + x^3 P(x), P minimax of degree 7 (absolute error below 1e-8 x^2). ln 2 in
 * two parts, the first exact in products with small whole numbers. */
ALWAYS_INLINE void radius_lanes(const lanes *unit, lanes *ret_radius)
{
    static const float p[8] = {0.333333167841f,  -0.250007965642f, 0.200022825469f,
                               -0.166249698908f, 0.141814197079f,  -0.131252944397f,
                               0.128792028689f,  -0.0786545551577f};
    const float ln2_high = 0.693359375f, ln2_low = -2.12194440055e-4f;
    const uint32_t sqrt_half = 0x3f3504f3u;
    lanes mantissa, exponent;
    for (int l = 0; l < LANES; l++) {
        uint32_t bits = unit->u[l] - sqrt_half;
        exponent.i[l] = (int32_t)bits >> 23;
        mantissa.u[l] = (bits & 0x7fffffu) + sqrt_half;
    }
    for (int l = 0; l < LANES; l++) {
        float x = mantissa.f[l] - 1.0f, e = (float)exponent.i[l];
        float poly = p[7];
        for (int k = 6; k >= 0; k--)
            poly = poly * x + p[k];
        float square = x * x;
        float tail = square * x * poly - 0.5f * square;
        float ln = ((tail + e * ln2_low) + x) + e * ln2_high;
        ret_radius->f[l] = __builtin_sqrtf(-2.0f * ln);
    }
}

/* cos and sin of the angle w / 2^32 turns, as quarter q and f in [-1/2, 1/2] of a quarter around
 * its middle (the whole circle is covered evenly, so where it starts does not matter):
 * sin(pi/2 f) = f S(f^2), cos(pi/2 f) = C(f^2), minimax of degree 4. */
ALWAYS_INLINE void circle_lanes(const lanes *w, lanes *ret_cos, lanes *ret_sin)
{
    static const float s[5] = {1.57079632679f, -0.645964096149f, 0.07969258276f, -0.00468126647681f,
                               0.000158206743674f};
    static const float c[5] = {1.0f, -1.23370054065f, 0.253669203939f, -0.0208600713188f,
                               0.000903631703056f};
    lanes sine, cosine;
    for (int l = 0; l < LANES; l++) {
        float f = (float)(int32_t)(w->u[l] << 2) * 0x1p-32f, z = f * f;
        float sp = (((s[4] * z + s[3]) * z + s[2]) * z + s[1]) * z + s[0];
        sine.f[l] = f * sp;
        cosine.f[l] = (((c[4] * z + c[3]) * z + c[2]) * z + c[1]) * z + c[0];
    }
    for (int l = 0; l < LANES; l++) {
        uint32_t odd = 0u - (w->u[l] >> 30 & 1), sin_sign = w->u[l] & 0x80000000u;
        uint32_t cos_sign = sin_sign ^ (odd & 0x80000000u);
        ret_cos->u[l] = ((sine.u[l] & odd) | (cosine.u[l] & ~odd)) ^ cos_sign;
        ret_sin->u[l] = ((cosine.u[l] & odd) | (sine.u[l] & ~odd)) ^ sin_sign;
    }
}

ALWAYS_INLINE void gaussian_lanes(const npo_rng *rng, uint32_t first_block, float *ret_values)
{
    lanes words[4], unit, radius, cosine, sine;
    philox_lanes(rng, first_block, words);
    for (int pair = 0; pair < 2; pair++) {
        unit_lanes(&words[2 * pair], &unit);
        radius_lanes(&unit, &radius);
        circle_lanes(&words[2 * pair + 1], &cosine, &sine);
        for (int l = 0; l < LANES; l++) {
            ret_values[4 * l + 2 * pair] = radius.f[l] * cosine.f[l];
            ret_values[4 * l + 2 * pair + 1] = radius.f[l] * sine.f[l];
        }
    }
}

ALWAYS_INLINE void gaussians(const npo_rng *rng, size_t n, float *ret_values)
{
    size_t i = 0;
    for (; i + LANE_VALUES <= n; i += LANE_VALUES)
        gaussian_lanes(rng, (uint32_t)(i / 4), ret_values + i);
    if (i < n) {
        float rest[LANE_VALUES];
        gaussian_lanes(rng, (uint32_t)(i / 4), rest);
        memcpy(ret_values + i, rest, (n - i) * sizeof *rest);
    }
}

static void gaussians_portable(const npo_rng *rng, size_t n, float *ret_values)
{
    gaussians(rng, n, ret_values);
}

static bool has_portable(void)
{
    return true;
}

#ifdef __x86_64__
__attribute__((target("avx2"))) static void gaussians_avx2(const npo_rng *rng, size_t n,
                                                           float *ret_values)
{
    gaussians(rng, n, ret_values);
}

__attribute__((target("avx512f,avx512dq,avx512vl,avx512bw"))) static void
gaussians_avx512(const npo_rng *rng, size_t n, float *ret_values)
{
    gaussians(rng, n, ret_values);
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2");
}

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
}
#endif

/* Widest first. */
static const struct {
    npo_rng_isa isa;
    bool (*is_supported)(void);
    void (*fill)(const npo_rng *rng, size_t n, float *ret_values);
} paths[] = {
#ifdef __x86_64__
    {NPO_RNG_ISA_AVX512, has_avx512, gaussians_avx512},
    {NPO_RNG_ISA_AVX2, has_avx2, gaussians_avx2},
#endif
    {NPO_RNG_ISA_PORTABLE, has_portable, gaussians_portable},
};

npo_err npo_rng_gaussians_isa(npo_rng_isa isa, const npo_rng *rng, size_t n, float *ret_values)
{
    assert(n <= (size_t)1 << 34);
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
        if ((isa == NPO_RNG_ISA_BEST || isa == paths[i].isa) && paths[i].is_supported()) {
            paths[i].fill(rng, n, ret_values);
            return NPO_OK;
        }
    return NPO_E_UNSUPPORTED;
}

void npo_rng_gaussians(const npo_rng *rng, size_t n, float *ret_values)
{
    npo_err err = npo_rng_gaussians_isa(NPO_RNG_ISA_BEST, rng, n, ret_values);
    assert(err == NPO_OK);
    (void)err;
}
