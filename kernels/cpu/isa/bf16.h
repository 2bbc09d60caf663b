/* Part of isa.c: bf16 and back, plain C that the compiler vectorises. */

/* The bits of x rounded to the upper half, to nearest, ties to even; a NaN stays one. */
ALWAYS_INLINE uint32_t bits_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1);
    uint32_t nan = bits | 0x400000u;
    return ((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded) & 0xffff0000u;
}

static void widen_bf16(size_t n, const uint16_t *restrict x, float *restrict y)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t)x[i] << 16;
        memcpy(y + i, &bits, sizeof bits);
    }
}

static void narrow_bf16(size_t n, const float *restrict x, uint16_t *restrict y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = (uint16_t)(bits_bf16(x[i]) >> 16);
}

static void round_bf16(size_t n, const float *restrict x, float *restrict y)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = bits_bf16(x[i]);
        memcpy(y + i, &bits, sizeof bits);
    }
}
