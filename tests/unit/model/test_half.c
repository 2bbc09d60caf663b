#include "tests/unit/model/support.h"

#include "worker/model/files/half.h"

#if defined(__x86_64__)
#include <immintrin.h>

/* The processor's own conversions, which round to nearest even. */
__attribute__((target("f16c"))) static uint16_t hardware_f16(float value)
{
    return (uint16_t)_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT);
}

__attribute__((target("f16c"))) static float hardware_f32(uint16_t half)
{
    return _cvtsh_ss(half);
}

static void test_half_agrees_with_the_processor(void **state)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2")) /* each that has it converts halves */
        skip();
    for (uint32_t half = 0; half < 0x10000; half++) {
        float value = hardware_f32((uint16_t)half);
        if (value != value) /* the processor quiets signalling NaNs; ours stay what they are */
            assert_true(npo_f32_from_f16((uint16_t)half) != npo_f32_from_f16((uint16_t)half));
        else
            assert_int_equal(npo_f32_to_bits(npo_f32_from_f16((uint16_t)half)),
                             npo_f32_to_bits(value));
    }
    uint32_t bits = 1;
    for (int i = 0; i < 4000000; i++) {
        bits = bits * 1664525u + 1013904223u;
        /* Half of them near ties: the low 13 bits are all that decides the rounding. */
        uint32_t pattern = i & 1 ? bits : (bits & ~0x1FFFu) + 0xFFF + (bits >> 3 & 3);
        float value = npo_f32_from_bits(pattern);
        if (value == value)
            assert_int_equal(npo_f32_to_f16(value), hardware_f16(value));
    }
}
#endif

static void test_half_keeps_every_f16(void **state)
{
    for (uint32_t half = 0; half < 0x10000; half++)
        if ((half & 0x7C00) != 0x7C00 || !(half & 0x3FF))
            assert_int_equal(npo_f32_to_f16(npo_f32_from_f16((uint16_t)half)), half);
    assert_true(npo_f32_from_f16(npo_f32_to_f16(NAN)) != npo_f32_from_f16(npo_f32_to_f16(NAN)));
}

static void test_half_rounds_bf16_to_nearest_even(void **state)
{
    static const struct {
        uint32_t from;
        uint16_t to;
    } cases[] = {
        {0x3F800000, 0x3F80}, {0x3F807FFF, 0x3F80}, {0x3F808000, 0x3F80}, {0x3F808001, 0x3F81},
        {0x3F818000, 0x3F82}, {0xBF818000, 0xBF82}, {0x7F7FFFFF, 0x7F80}, {0x00000001, 0x0000},
        {0x00008001, 0x0001}, {0xFF800000, 0xFF80}, {0x80000000, 0x8000},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(npo_f32_to_bf16(npo_f32_from_bits(cases[i].from)), cases[i].to);
    for (uint32_t half = 0; half < 0x10000; half++)
        if ((half & 0x7F80) != 0x7F80 || !(half & 0x7F))
            assert_int_equal(npo_f32_to_bf16(npo_f32_from_bf16((uint16_t)half)), half);
    assert_int_equal(npo_f32_to_bf16(npo_f32_from_bits(0x7F800001)) & 0x7FC0, 0x7FC0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#if defined(__x86_64__)
        cmocka_unit_test(test_half_agrees_with_the_processor),
#endif
        cmocka_unit_test(test_half_keeps_every_f16),
        cmocka_unit_test(test_half_rounds_bf16_to_nearest_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
