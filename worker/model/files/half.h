/* IEEE binary16 and bfloat16 to and from f32, rounding to nearest even. */
#ifndef NPO_WORKER_MODEL_FILES_HALF_H
#define NPO_WORKER_MODEL_FILES_HALF_H

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

static inline float npo_f32_from_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7FFF;
    if (rest >= 0x7C00) /* infinity, NaN */
        return npo_f32_from_bits(sign | 0x7F800000 | (rest & 0x3FF) << 13);
    uint32_t bits = rest >= 0x400 ? (rest << 13) + (112u << 23)
                                  : npo_f32_to_bits((float)rest * 0x1p-24f); /* subnormal */
    return npo_f32_from_bits(sign | bits);
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
