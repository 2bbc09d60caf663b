/* IEEE binary16 and bfloat16 to and from f32, rounding to nearest even; and the bits of f32. */
#ifndef NPO_WORKER_MODEL_FILES_HALF_H
#define NPO_WORKER_MODEL_FILES_HALF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline float npo_f32_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t npo_f32_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float npo_f32_from_bf16(uint16_t half)
{
    return npo_f32_from_bits((uint32_t)half << 16);
}

static inline uint16_t npo_f32_to_bf16(float value)
{
    uint32_t bits = npo_f32_to_bits(value);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) /* NaN: keep it one when the low half goes */
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/* Without branches, so that loops over it become vector code. */
static inline float npo_f32_from_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7FFF;
    uint32_t special = rest >= 0x7C00 ? 112u << 23 : 0; /* infinity, NaN */
    uint32_t normal = (rest << 13) + (112u << 23) + special;
    uint32_t subnormal = npo_f32_to_bits((float)(int32_t)rest * 0x1p-24f);
    return npo_f32_from_bits(sign | (rest >= 0x400 ? normal : subnormal));
}

/* Whether none of [n] is NaN or infinite. */
static inline bool npo_f32_all_finite(const float *values, size_t n)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++)
        bad |= (npo_f32_to_bits(values[i]) & 0x7F800000) == 0x7F800000;
    return !bad;
}

static inline uint16_t npo_f32_to_f16(float value)
{
    uint32_t bits = npo_f32_to_bits(value), sign = bits >> 16 & 0x8000;
    bits &= 0x7FFFFFFF;
    if (bits > 0x7F800000) /* NaN */
        return (uint16_t)(sign | 0x7E00 | (bits >> 13 & 0x3FF));
    if (bits >= 0x477FF000) /* 65520, the first that rounds to infinity */
        return (uint16_t)(sign | 0x7C00);
    if (bits <
        0x38800000) { /* below 2^-14: adding 0.5 leaves the multiple of 2^-24 in the low bits */
        uint32_t sum = npo_f32_to_bits(npo_f32_from_bits(bits) + 0.5f);
        return (uint16_t)(sign | (sum - 0x3F000000));
    }
    bits += 0xFFF + (bits >> 13 & 1);
    return (uint16_t)(sign | ((bits >> 13) - (112u << 10)));
}

#endif
