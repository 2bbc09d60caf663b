/* Vectors of VW floats for kernels that are compiled once for each instruction set. Included by
 * isa.c only; what is chosen follows from the compiler's target flags. */
#ifndef NPO_KERNELS_CPU_ISA_SIMD_H
#define NPO_KERNELS_CPU_ISA_SIMD_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
enum { VW = 16 };
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
enum { VW = 8 };
#else
enum { VW = 4 };
#endif

typedef float vf __attribute__((vector_size(VW * 4)));
typedef int32_t vi __attribute__((vector_size(VW * 4)));

#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE vf vf_load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

ALWAYS_INLINE void vf_store(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}

#if defined(__AVX512F__)

ALWAYS_INLINE vf vf_set(float x)
{
    return (vf)_mm512_set1_ps(x);
}

/* The first m of VW floats, zeros behind; 1 <= m <= VW. */
ALWAYS_INLINE vf vf_load_n(const float *p, size_t m)
{
    return (vf)_mm512_maskz_loadu_ps((__mmask16)(0xffffu >> (16 - m)), p);
}

ALWAYS_INLINE void vf_store_n(float *p, size_t m, vf v)
{
    _mm512_mask_storeu_ps(p, (__mmask16)(0xffffu >> (16 - m)), (__m512)v);
}

ALWAYS_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

/* The second operand where either is not a number. */
ALWAYS_INLINE vf vf_max(vf a, vf b)
{
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
}

ALWAYS_INLINE vf vf_min(vf a, vf b)
{
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
}

ALWAYS_INLINE vf vf_sqrt(vf a)
{
    return (vf)_mm512_sqrt_ps((__m512)a);
}

/* 1 / a by an estimate of 14 bits and a Newton step: within 2 ulp. */
ALWAYS_INLINE vf vf_reciprocal(vf a)
{
    vf r = (vf)_mm512_rcp14_ps((__m512)a);
    return vf_fma(r, (vf)_mm512_fnmadd_ps((__m512)a, (__m512)r, _mm512_set1_ps(1)), r);
}

#elif defined(__AVX2__) && defined(__FMA__)

ALWAYS_INLINE vf vf_set(float x)
{
    return (vf)_mm256_set1_ps(x);
}

ALWAYS_INLINE __m256i vf_mask(size_t m)
{
    static const int32_t ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const __m256i *)(ones + 8 - m));
}

ALWAYS_INLINE vf vf_load_n(const float *p, size_t m)
{
    return m == VW ? vf_load(p) : (vf)_mm256_maskload_ps(p, vf_mask(m));
}

ALWAYS_INLINE void vf_store_n(float *p, size_t m, vf v)
{
    if (m == VW)
        vf_store(p, v);
    else
        _mm256_maskstore_ps(p, vf_mask(m), (__m256)v);
}

ALWAYS_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}

ALWAYS_INLINE vf vf_max(vf a, vf b)
{
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
}

ALWAYS_INLINE vf vf_min(vf a, vf b)
{
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
}

ALWAYS_INLINE vf vf_sqrt(vf a)
{
    return (vf)_mm256_sqrt_ps((__m256)a);
}

ALWAYS_INLINE vf vf_reciprocal(vf a)
{
    return vf_set(1) / a;
}

#else

ALWAYS_INLINE vf vf_set(float x)
{
    vf v;
    for (int i = 0; i < VW; i++)
        v[i] = x;
    return v;
}

ALWAYS_INLINE vf vf_load_n(const float *p, size_t m)
{
    if (m == VW)
        return vf_load(p);
    vf v = {0};
    memcpy(&v, p, m * sizeof *p);
    return v;
}

ALWAYS_INLINE void vf_store_n(float *p, size_t m, vf v)
{
    if (m == VW)
        vf_store(p, v);
    else
        memcpy(p, &v, m * sizeof *p);
}

ALWAYS_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return a * b + c;
}

ALWAYS_INLINE vf vf_max(vf a, vf b)
{
    vi more = a > b;
    return (vf)((more & (vi)a) | (~more & (vi)b));
}

ALWAYS_INLINE vf vf_min(vf a, vf b)
{
    vi less = a < b;
    return (vf)((less & (vi)a) | (~less & (vi)b));
}

ALWAYS_INLINE vf vf_sqrt(vf a)
{
    for (int i = 0; i < VW; i++)
        a[i] = sqrtf(a[i]);
    return a;
}

ALWAYS_INLINE vf vf_reciprocal(vf a)
{
    return vf_set(1) / a;
}

#endif

/* table[at] of each lane. */
ALWAYS_INLINE vf vf_gather(const float *table, vi at)
{
#if defined(__AVX512F__)
    return (vf)_mm512_i32gather_ps((__m512i)at, table, 4);
#elif defined(__AVX2__) && defined(__FMA__)
    return (vf)_mm256_i32gather_ps(table, (__m256i)at, 4);
#else
    vf v;
    for (int i = 0; i < VW; i++)
        v[i] = table[at[i]];
    return v;
#endif
}

ALWAYS_INLINE vi vi_gather(const int32_t *table, vi at)
{
#if defined(__AVX512F__)
    return (vi)_mm512_i32gather_epi32((__m512i)at, table, 4);
#elif defined(__AVX2__) && defined(__FMA__)
    return (vi)_mm256_i32gather_epi32(table, (__m256i)at, 4);
#else
    vi v;
    for (int i = 0; i < VW; i++)
        v[i] = table[at[i]];
    return v;
#endif
}

/* VW bytes as whole numbers, and their low bytes back. */
ALWAYS_INLINE vi vi_load_bytes(const uint8_t *p)
{
#if defined(__AVX512F__)
    return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
#elif defined(__AVX2__) && defined(__FMA__)
    return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
#else
    vi v;
    for (int i = 0; i < VW; i++)
        v[i] = p[i];
    return v;
#endif
}

ALWAYS_INLINE void vi_store_bytes(uint8_t *p, vi v)
{
#if defined(__AVX512F__)
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8((__m512i)v));
#elif defined(__AVX2__) && defined(__FMA__)
    __m128i low = _mm256_castsi256_si128((__m256i)v);
    __m128i words = _mm_packus_epi32(low, _mm256_extracti128_si256((__m256i)v, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(words, words));
#else
    for (int i = 0; i < VW; i++)
        p[i] = (uint8_t)v[i];
#endif
}

ALWAYS_INLINE vi vi_max(vi a, vi b)
{
    vi more = a > b;
    return (more & a) | (~more & b);
}

ALWAYS_INLINE vi vi_min(vi a, vi b)
{
    vi less = a < b;
    return (less & a) | (~less & b);
}

/* for (each vector of n floats): i its start, m how many of it are there. */
#define VF_EACH(i, m, n)                                                                           \
    for (size_t i = 0, m; i < (n) && (m = (n)-i < VW ? (n)-i : (size_t)VW) > 0; i += VW)

ALWAYS_INLINE vf vf_select(vi mask, vf yes, vf no)
{
    return (vf)((mask & (vi)yes) | (~mask & (vi)no));
}

ALWAYS_INLINE vf vf_abs(vf a)
{
    return (vf)((vi)a & 0x7fffffff);
}

/* Lanes in pairs: a fixed order. */
ALWAYS_INLINE float vf_sum(vf v)
{
    for (int half = VW / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            v[i] += v[i + half];
    return v[0];
}

ALWAYS_INLINE float vf_largest(vf v)
{
    float most = v[0];
    for (int i = 1; i < VW; i++)
        most = v[i] > most ? v[i] : most;
    return most;
}

/* Exchanges the off-diagonal blocks of `half` lanes of a and b. */
ALWAYS_INLINE void vf_exchange(vf *a, vf *b, const int half)
{
    vi low, high;
    for (int i = 0; i < VW; i++) {
        low[i] = i & half ? i - half + VW : i;
        high[i] = i & half ? i + VW : i + half;
    }
    vf x = __builtin_shuffle(*a, *b, low);
    *b = __builtin_shuffle(*a, *b, high);
    *a = x;
}

/* Lane c of row r becomes lane r of row c. */
ALWAYS_INLINE void vf_transpose(vf rows[VW])
{
    for (int half = VW / 2; half > 0; half /= 2)
        for (int i = 0; i < VW; i++)
            if (!(i & half))
                vf_exchange(&rows[i], &rows[i + half], half);
}

/* e^x within 1.5 ulp from -87.3 to 88; beyond, the value at the end. r = x - n ln 2, then
 * 1 + r + r^2 p(r) with p fitted to least relative error (3e-9), times 2^n. */
ALWAYS_INLINE vf vf_exp(vf x)
{
    const vf magic = vf_set(12582912.0f); /* 1.5 * 2^23: rounds to a whole number in the low bits */
    x = vf_min(vf_set(88.0f), vf_max(vf_set(-87.3f), x));
    vf shifted = vf_fma(x, vf_set(1.44269504f), magic);
    vf n = shifted - magic;
    vf r = vf_fma(n, vf_set(-0.693145752f), x);
    r = vf_fma(n, vf_set(-1.42860677e-6f), r);
    vf p = vf_fma(r, vf_set(0x1.6db426p-10f), vf_set(0x1.123b56p-7f));
    p = vf_fma(p, r, vf_set(0x1.55545ep-5f));
    p = vf_fma(p, r, vf_set(0x1.55548ep-3f));
    p = vf_fma(p, r, vf_set(0.5f));
    p = vf_fma(p * r, r, r) + vf_set(1);
    return (vf)((vi)p + ((vi)shifted << 23));
}

ALWAYS_INLINE vf vf_sigmoid(vf x)
{
    return vf_reciprocal(vf_set(1) + vf_exp(-x));
}

/* Phi(x), the normal distribution function, within 1e-7: half of erfc(t) = exp(-t q(t)),
 * t = |x| / sqrt 2, with q fitted on [0, 5.5] to least error of erfc. */
ALWAYS_INLINE vf vf_phi(vf x)
{
    static const float q[] = {-7.430840633e-04f, 1.800021389e-03f, -2.509279002e-04f,
                              -1.912034489e-02f, 1.027725264e-01f, 6.366195679e-01f,
                              1.128379226e+00f};
    vf t = vf_min(vf_set(5.5f), vf_abs(x) * vf_set(0.707106781f));
    vf p = vf_fma(t, vf_set(1.251425829e-06f), vf_set(-2.186526945e-05f));
    p = vf_fma(p, t, vf_set(1.691659272e-04f));
    for (size_t i = 0; i < sizeof q / sizeof *q; i++)
        p = vf_fma(p, t, vf_set(q[i]));
    vf half = vf_set(0.5f) * vf_exp(-p * t);
    return vf_select(x < vf_set(0), half, vf_set(1) - half);
}

#endif
