/* Blocks that are computed again in the backward pass, so that a graph fits a limit. */
#include "tests/unit/cmocka.h"

#include "tests/unit/kernels/network.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 6, CHANNELS = 24, EDGE = 32, SAMPLES = 2 };

typedef struct {
    npo_layout *layout;
    npo_graph *graph;
    npo_params *params, *grads;
    npo_plan_info info;
} chain;

static npo_value module_param(npo_graph *g, int block, const char *name, int ndim, int64_t out,
                              int64_t in, int64_t kernel)
{
    char path[32];
    snprintf(path, sizeof path, "%d.%s", block, name);
    return npo_graph_param(g, path, ndim, (int64_t[]){out, in, kernel, kernel});
}

/* Norm, convolution, and a residual; `emb` of an earlier block is added to the channels. */
static npo_value residual(npo_graph *g, int block, npo_value x, npo_value emb)
{
    static const npo_conv_options same = {1, 1, 1, 1, 1};
    int64_t in = npo_graph_shape(g, x)->dims[3];
    npo_value h =
        npo_op_group_norm(g, x, module_param(g, block, "gamma", 1, in, 0, 0),
                          module_param(g, block, "beta", 1, in, 0, 0), 4, 1e-5f, NPO_ACT_SILU);
    h = npo_op_conv2d(g, h, module_param(g, block, "conv1", 4, CHANNELS, in, 3), NPO_VALUE_NONE,
                      same);
    h = npo_op_add_channels(g, h, emb);
    h = npo_op_activation(g, h, NPO_ACT_SILU);
    h = npo_op_conv2d(g, h, module_param(g, block, "conv2", 4, CHANNELS, CHANNELS, 3),
                      NPO_VALUE_NONE, same);
    if (in != CHANNELS)
        x = npo_op_conv2d(g, x, module_param(g, block, "short", 4, CHANNELS, in, 1), NPO_VALUE_NONE,
                          (npo_conv_options){1, 0, 0, 0, 0});
    return npo_op_add(g, x, h);
}

static npo_value attention(npo_graph *g, int block, npo_value x)
{
    npo_value tokens = npo_op_reshape(g, x, 3, (int64_t[]){SAMPLES, EDGE * EDGE, CHANNELS});
    npo_value q = npo_op_linear(g, tokens, module_param(g, block, "q", 2, CHANNELS, CHANNELS, 0),
                                NPO_VALUE_NONE);
    npo_value y = npo_op_attention(g, q, tokens, tokens, 2, false);
    y = npo_op_add(g, y, tokens);
    return npo_op_reshape(g, y, 4, (int64_t[]){SAMPLES, EDGE, EDGE, CHANNELS});
}

/* Half the blocks leave their output to one of the other half, as in a UNet. */
static npo_value record(npo_graph *g)
{
    npo_value x = npo_graph_input(g, "x", NPO_F32, 4, (int64_t[]){SAMPLES, EDGE, EDGE, CHANNELS});
    npo_value t = npo_graph_input(g, "t", NPO_F32, 1, (int64_t[]){SAMPLES});
    npo_value emb =
        npo_op_linear(g, npo_op_timestep(g, t, 16, true, 0),
                      npo_graph_param(g, "emb", 2, (int64_t[]){CHANNELS, 16}), NPO_VALUE_NONE);
    npo_value skips[BLOCKS];
    for (int b = 0; b < BLOCKS; b++) {
        npo_graph_block(g);
        if (b >= BLOCKS / 2)
            x = npo_op_concat(g, x, skips[BLOCKS - 1 - b]);
        x = residual(g, b, x, emb);
        if (b % 2)
            x = attention(g, b, x);
        skips[b] = x;
    }
    npo_graph_block(g);
    npo_graph_output(g, "y", x);
    return x;
}

static npo_err open_chain(chain *c, npo_plan_options plan, npo_layout *layout, npo_error *error)
{
    *c = (chain){0};
    if (layout)
        c->layout = npo_layout_ref(layout);
    else
        assert_int_equal(npo_layout_new(&c->layout), NPO_OK);
    assert_int_equal(npo_graph_new(backend, c->layout, &c->graph), NPO_OK);
    npo_value y = record(c->graph);
    const npo_shape *s = npo_graph_shape(c->graph, y);
    plan.loss =
        npo_op_mse_loss(c->graph, y, npo_graph_input(c->graph, "target", NPO_F32, 4, s->dims));
    npo_err err = npo_graph_plan(c->graph, &plan, &c->info, error);
    assert_int_equal(npo_params_new(c->layout, &c->params), NPO_OK);
    assert_int_equal(npo_params_new(c->layout, &c->grads), NPO_OK);
    return err;
}

static void close_chain(chain *c)
{
    npo_params_free(c->params);
    npo_params_free(c->grads);
    npo_graph_free(c->graph);
    npo_layout_unref(c->layout);
}

static void run(chain *c)
{
    size_t floats = SAMPLES * EDGE * EDGE * CHANNELS;
    npo_error error = {0};
    network_fill_params(c->params, 5);
    network_fill(npo_graph_input_data(c->graph, "x"), floats, 1, 1);
    network_fill(npo_graph_input_data(c->graph, "target"), floats, 2, 1);
    network_fill(npo_graph_input_data(c->graph, "t"), SAMPLES, 3, 100);
    memset(npo_params_edit(c->grads), 0, npo_layout_floats(c->layout) * sizeof(float));
    if (npo_graph_forward(c->graph, c->params, &error) ||
        npo_graph_backward(c->graph, c->params, 1, c->grads, &error))
        fail_msg("%s", error.text);
}

static void assert_same(const chain *a, const chain *b)
{
    assert_memory_equal(npo_graph_output_data(a->graph, "y", NULL),
                        npo_graph_output_data(b->graph, "y", NULL),
                        SAMPLES * EDGE * EDGE * CHANNELS * sizeof(float));
    assert_memory_equal(npo_params_data(a->grads), npo_params_data(b->grads),
                        npo_layout_floats(a->layout) * sizeof(float));
}

/* From all that it wants down to the least. */
static void test_recompute_changes_no_byte(void **state)
{
    static const npo_compute computes[] = {NPO_COMPUTE_F32, NPO_COMPUTE_BF16};
    for (size_t i = 0; i < 2; i++) {
        npo_plan_options options = {.compute = computes[i], .packed_bytes = 1};
        chain plain;
        assert_int_equal(open_chain(&plain, options, NULL, NULL), NPO_OK);
        run(&plain);
        assert_int_equal(plain.info.recomputed_blocks, 0);
        assert_int_equal(plain.info.blocks, BLOCKS + 2);
        int most = 0;
        size_t bytes = plain.info.arena_bytes + plain.info.private_bytes;
        for (;;) {
            chain less;
            npo_error error = {0};
            options.memory_bytes = bytes - 1;
            npo_err err = open_chain(&less, options, plain.layout, &error);
            if (!err) {
                run(&less);
                assert_same(&less, &plain);
                assert_true(less.info.arena_bytes + less.info.private_bytes < bytes);
                assert_true(less.info.recomputed_blocks > 0);
                assert_true(less.info.recompute_flops > 0);
                assert_true(less.info.recompute_flops <= less.info.forward_flops);
                if (most < less.info.recomputed_blocks)
                    most = less.info.recomputed_blocks;
                bytes = less.info.arena_bytes + less.info.private_bytes;
            }
            close_chain(&less);
            if (err) {
                assert_int_equal(err, NPO_E_NOMEM);
                break;
            }
        }
        assert_true(most >= BLOCKS / 2);
        print_message("arena of %zu KiB, at least %zu KiB\n", plain.info.arena_bytes >> 10,
                      bytes >> 10);
        assert_true(bytes - plain.info.private_bytes < plain.info.arena_bytes * 2 / 3);
        close_chain(&plain);
    }
}

static void test_recompute_says_what_is_needed(void **state)
{
    chain c;
    npo_error error = {0};
    assert_int_equal(open_chain(&c, (npo_plan_options){.memory_bytes = 1}, NULL, &error),
                     NPO_E_NOMEM);
    int ops, given, needed, blocks, end = 0;
    assert_int_equal(sscanf(error.text,
                            "cannot plan a graph of %d ops: %d MiB for activations, expected at "
                            "least %d MiB, which is with each of %d blocks computed twice%n",
                            &ops, &given, &needed, &blocks, &end),
                     4);
    assert_int_equal(end, strlen(error.text));
    assert_int_equal(given, 0);
    assert_true(needed > 0 && blocks >= BLOCKS);
    close_chain(&c);
}

static void test_recompute_takes_the_cheapest_first(void **state)
{
    chain plain, less;
    assert_int_equal(open_chain(&plain, (npo_plan_options){.packed_bytes = 1}, NULL, NULL), NPO_OK);
    npo_plan_options options = {
        .memory_bytes = plain.info.arena_bytes + plain.info.private_bytes - 1,
        .packed_bytes = 1,
    };
    assert_int_equal(open_chain(&less, options, plain.layout, NULL), NPO_OK);
    assert_int_equal(less.info.recomputed_blocks, 1);
    assert_true(less.info.recompute_flops < plain.info.forward_flops / 3);
    close_chain(&less);
    close_chain(&plain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recompute_changes_no_byte),
        cmocka_unit_test(test_recompute_says_what_is_needed),
        cmocka_unit_test(test_recompute_takes_the_cheapest_first),
    };
    return cmocka_run_group_tests(tests, network_setup, network_teardown);
}
