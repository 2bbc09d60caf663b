#include "tests/unit/train/support.h"

#include "worker/model/files/safetensors.h"
#include "worker/train/moments.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* tests/golden/make_adamw8bit.py */
enum { STEPS = 4 };
static const npo_adamw hyper = {
    .lr = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 1e-2};

static npo_safetensors *golden;

static int setup(void **state)
{
    return npo_safetensors_open(NPO_GOLDEN_DIR "/unit/adamw8bit/case.safetensors", &golden, NULL);
}

static int teardown(void **state)
{
    npo_safetensors_close(golden);
    return 0;
}

static const npo_tensor *tensor_at(const char *name, int step)
{
    char full[64];
    snprintf(full, sizeof full, "%s.%d", name, step);
    const npo_tensor *tensor = npo_safetensors_find(golden, full);
    assert_non_null(tensor);
    return tensor;
}

static void assert_near(const float *x, const npo_tensor *expected, double relative)
{
    for (size_t i = 0; i < expected->count; i++) {
        float value;
        npo_tensor_read_f32(expected, i, 1, &value);
        if (!(fabs((double)x[i] - (double)value) <= relative * fabs((double)value)))
            fail_msg("'%s' %zu is %.9g, expected %.9g", expected->name, i, (double)x[i],
                     (double)value);
    }
}

static void test_moments_maps_are_those_of_bitsandbytes(void **state)
{
    const npo_tensor *tensor = npo_safetensors_find(golden, "map.signed");
    assert_memory_equal(npo_dynamic_map_signed()->code, tensor->data, tensor->bytes);
    tensor = npo_safetensors_find(golden, "map.unsigned");
    assert_memory_equal(npo_dynamic_map_unsigned()->code, tensor->data, tensor->bytes);
}

/* Codes within one of the expected, where rounding puts the value on the other side of a boundary;
 * how many differ at all. */
static size_t compare_codes(const npo_blockwise *blocks, const npo_tensor *expected)
{
    size_t other = 0;
    for (size_t i = 0; i < expected->count; i++) {
        int apart = abs((int)blocks->codes[i] - (int)expected->data[i]);
        assert_true(apart <= 1);
        other += apart != 0;
    }
    return other;
}

static void test_moments_update_matches_bitsandbytes(void **state)
{
    const npo_tensor *start = npo_safetensors_find(golden, "start");
    const npo_backend_options options = {.device = "cpu", .threads = 2};
    npo_backend *be;
    npo_layout *layout;
    npo_moments *moments;
    size_t index, other = 0, n = start->count;
    assert_int_equal(npo_backend_new(&options, &be, NULL), NPO_OK);
    assert_int_equal(npo_layout_new(&layout), NPO_OK);
    assert_int_equal(npo_layout_add(layout, "w", 1, start->dims, &index, NULL), NPO_OK);
    assert_int_equal(npo_moments_new(layout, NPO_OPTIMIZER_ADAMW8BIT, &moments), NPO_OK);
    float *grad = malloc(n * sizeof *grad), *param = malloc(n * sizeof *param);
    float *ema = calloc(n, sizeof *ema);
    npo_tensor_read_f32(start, 0, n, param);
    for (int step = 0; step < STEPS; step++) {
        npo_update update = {
            .adamw = hyper, .grad_scale = 1, .grad = grad, .param = param, .ema = ema};
        update.adamw.step = step + 1;
        npo_tensor_read_f32(tensor_at("grad", step), 0, n, grad);
        npo_moments_update(moments, be, &update);
        npo_moment exp_avg = npo_moments_at(moments, NPO_EXP_AVG, 0);
        npo_moment exp_avg_sq = npo_moments_at(moments, NPO_EXP_AVG_SQ, 0);
        assert_near(param, tensor_at("param", step), 1e-5);
        assert_near(exp_avg.blocks.absmax, tensor_at("exp_avg_absmax", step), 1e-6);
        assert_near(exp_avg_sq.blocks.absmax, tensor_at("exp_avg_sq_absmax", step), 1e-6);
        other += compare_codes(&exp_avg.blocks, tensor_at("exp_avg", step));
        other += compare_codes(&exp_avg_sq.blocks, tensor_at("exp_avg_sq", step));
    }
    assert_true(other <= 4);
    free(grad);
    free(param);
    free(ema);
    npo_moments_free(moments);
    npo_layout_unref(layout);
    npo_backend_free(be);
}

/* Small tensors stay f32 and large ones take two bytes and two shares of a float an element. */
static void test_moments_are_small_in_8_bits(void **state)
{
    static const int64_t small[] = {NPO_MOMENTS_8BIT_MIN - 1}, large[] = {512, 300};
    npo_layout *layout;
    npo_moments *full, *blocks;
    size_t index;
    assert_int_equal(npo_layout_new(&layout), NPO_OK);
    assert_int_equal(npo_layout_add(layout, "small", 1, small, &index, NULL), NPO_OK);
    assert_int_equal(npo_layout_add(layout, "large", 2, large, &index, NULL), NPO_OK);
    assert_int_equal(npo_moments_new(layout, NPO_OPTIMIZER_ADAMW, &full), NPO_OK);
    assert_int_equal(npo_moments_new(layout, NPO_OPTIMIZER_ADAMW8BIT, &blocks), NPO_OK);
    assert_int_equal(npo_moments_bytes(layout, npo_moments_optimizer(full)),
                     2 * 4 * npo_layout_floats(layout));
    assert_int_equal(npo_moments_bytes(layout, npo_moments_optimizer(blocks)),
                     2 * (4096 * 4 + 512 * 300 + 600 * 4 + 32));
    assert_non_null(npo_moments_at(blocks, NPO_EXP_AVG, 0).values);
    assert_null(npo_moments_at(blocks, NPO_EXP_AVG, 1).values);
    assert_non_null(npo_moments_at(full, NPO_EXP_AVG_SQ, 1).values);
    npo_moments_free(full);
    npo_moments_free(blocks);
    npo_moments_free(NULL);
    npo_layout_unref(layout);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moments_maps_are_those_of_bitsandbytes),
        cmocka_unit_test(test_moments_update_matches_bitsandbytes),
        cmocka_unit_test(test_moments_are_small_in_8_bits),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
