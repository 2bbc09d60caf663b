/* Plans that store activations in bf16: rounding, and results beside those of f32. */
#include "tests/unit/cmocka.h"

#include "tests/unit/kernels/network.h"

#include "kernels/backend-ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Half a unit of the last of 8 bits: the relative error of one rounding. */
#define ROUNDING 0x1p-9

static float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Bits of f32 and of the nearest bf16, ties to even. */
static const struct {
    uint32_t bits;
    uint16_t bf16;
} rounded[] = {
    {0x3f800000, 0x3f80}, {0x3f808000, 0x3f80}, {0x3f808001, 0x3f81}, {0x3f818000, 0x3f82},
    {0xbf818000, 0xbf82}, {0x3f80ffff, 0x3f81}, {0x7f7fffff, 0x7f80}, {0x7f800000, 0x7f80},
    {0xff800000, 0xff80}, {0x00000001, 0x0000}, {0x80000000, 0x8000}, {0x00018000, 0x0002},
};

static void test_bf16_rounds_to_nearest_even(void **state)
{
    enum { N = sizeof rounded / sizeof *rounded };
    float x[N], y[N], z[N];
    uint16_t narrow[N];
    for (size_t i = 0; i < N; i++)
        x[i] = from_bits(rounded[i].bits);
    backend->ops->narrow_bf16(backend, N, x, narrow);
    backend->ops->widen_bf16(backend, N, narrow, y);
    backend->ops->round_bf16(backend, N, x, z);
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(narrow[i], rounded[i].bf16);
        float expected = from_bits((uint32_t)rounded[i].bf16 << 16);
        assert_memory_equal(&y[i], &expected, sizeof expected);
        assert_memory_equal(&z[i], &expected, sizeof expected);
    }
}

static void test_bf16_keeps_what_is_not_a_number(void **state)
{
    float x[] = {from_bits(0x7f800001), from_bits(0xffffffff), from_bits(0x7fc00000)}, y[3];
    uint16_t narrow[3];
    backend->ops->narrow_bf16(backend, 3, x, narrow);
    backend->ops->widen_bf16(backend, 3, narrow, y);
    for (int i = 0; i < 3; i++)
        assert_true(isnan(y[i]));
}

typedef struct {
    network f32, bf16;
} pair;

static void open_pair(pair *p, size_t packed_bytes)
{
    network_open(&p->f32, (network_options){.n = 3, .loss = true, .input_grads = true});
    network_open(&p->bf16, (network_options){.n = 3,
                                             .loss = true,
                                             .input_grads = true,
                                             .packed_bytes = packed_bytes,
                                             .compute = NPO_COMPUTE_BF16,
                                             .layout = p->f32.layout});
    network *nets[] = {&p->f32, &p->bf16};
    for (int i = 0; i < 2; i++) {
        network_fill_params(nets[i]->params, 8);
        network_feed(nets[i], 0);
        network_forward(nets[i], nets[i]->params);
        network_backward(nets[i], 1);
    }
}

static void close_pair(pair *p)
{
    network_close(&p->bf16);
    network_close(&p->f32);
}

/* A value passes a dozen roundings of weights and activations, forward and backward. */
static void test_bf16_network_is_near_f32(void **state)
{
    pair p;
    open_pair(&p, 0);
    size_t n = npo_layout_floats(p.f32.layout);
    double y = network_difference(network_output(&p.bf16), network_output(&p.f32),
                                  network_output_floats(&p.f32));
    double g = network_difference(npo_params_data(p.bf16.grads), npo_params_data(p.f32.grads), n);
    double x = network_difference(npo_graph_input_grad(p.bf16.graph, "x"),
                                  npo_graph_input_grad(p.f32.graph, "x"), 3 * SIDE * SIDE * IN);
    print_message("largest differences: output %.4f, gradients %.4f, of x %.4f\n", y, g, x);
    assert_true(y > 0 && y < 6 * ROUNDING);
    assert_true(g > 0 && g < 12 * ROUNDING);
    assert_true(x > 0 && x < 12 * ROUNDING);
    float loss = *npo_graph_output_data(p.bf16.graph, "loss", NULL);
    float expected = *npo_graph_output_data(p.f32.graph, "loss", NULL);
    assert_true(fabsf(loss - expected) < 0.01f * expected);
    close_pair(&p);
}

static void test_bf16_weights_are_rounded_in_slots_and_out_of_them(void **state)
{
    pair kept, packed;
    open_pair(&kept, 0);
    open_pair(&packed, 1);
    assert_memory_equal(network_output(&packed.bf16), network_output(&kept.bf16),
                        network_output_floats(&kept.bf16) * sizeof(float));
    assert_memory_equal(npo_params_data(packed.bf16.grads), npo_params_data(kept.bf16.grads),
                        npo_layout_floats(kept.bf16.layout) * sizeof(float));
    close_pair(&packed);
    close_pair(&kept);
}

/* A stack of layers whose products hold most of the memory. */
static size_t arena_of_stack(npo_compute compute)
{
    enum { ROWS = 512, CHANNELS = 64, LAYERS = 16 };
    npo_layout *layout;
    npo_graph *g;
    npo_plan_info info;
    assert_int_equal(npo_layout_new(&layout), NPO_OK);
    assert_int_equal(npo_graph_new(backend, layout, &g), NPO_OK);
    npo_value x = npo_graph_input(g, "x", NPO_F32, 2, (int64_t[]){ROWS, CHANNELS});
    npo_value zero = npo_graph_input(g, "zero", NPO_F32, 2, (int64_t[]){ROWS, CHANNELS});
    for (int i = 0; i < LAYERS; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d", i);
        npo_value w = npo_graph_param(g, name, 2, (int64_t[]){CHANNELS, CHANNELS});
        x = npo_op_activation(g, npo_op_linear(g, x, w, NPO_VALUE_NONE), NPO_ACT_SILU);
    }
    npo_plan_options options = {.loss = npo_op_mse_loss(g, x, zero), .compute = compute};
    assert_int_equal(npo_graph_plan(g, &options, &info, NULL), NPO_OK);
    npo_graph_free(g);
    npo_layout_unref(layout);
    return info.arena_bytes;
}

static void test_bf16_halves_what_is_kept(void **state)
{
    size_t f32 = arena_of_stack(NPO_COMPUTE_F32), bf16 = arena_of_stack(NPO_COMPUTE_BF16);
    assert_true(bf16 < f32 * 2 / 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bf16_rounds_to_nearest_even),
        cmocka_unit_test(test_bf16_keeps_what_is_not_a_number),
        cmocka_unit_test(test_bf16_network_is_near_f32),
        cmocka_unit_test(test_bf16_weights_are_rounded_in_slots_and_out_of_them),
        cmocka_unit_test(test_bf16_halves_what_is_kept),
    };
    return cmocka_run_group_tests(tests, network_setup, network_teardown);
}
