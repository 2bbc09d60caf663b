/* Weights in the device's layout: kept from run to run, or packed just before each use. */
#include "tests/unit/cmocka.h"

#include "tests/unit/kernels/network.h"

#include <stdio.h>
#include <string.h>

static void run(network *net)
{
    network_fill_params(net->params, 4);
    network_feed(net, 0);
    network_forward(net, net->params);
    network_backward(net, 1);
}

static void test_packing_when_needed_changes_no_byte(void **state)
{
    network kept, packed;
    network_open(&kept, (network_options){.n = 3, .loss = true});
    network_open(&packed,
                 (network_options){.n = 3, .loss = true, .packed_bytes = 1, .layout = kept.layout});
    run(&kept);
    run(&packed);
    assert_memory_equal(network_output(&packed), network_output(&kept),
                        network_output_floats(&kept) * sizeof(float));
    assert_memory_equal(npo_params_data(packed.grads), npo_params_data(kept.grads),
                        npo_layout_floats(kept.layout) * sizeof(float));
    network_close(&packed);
    network_close(&kept);
}

static void test_packing_holds_as_many_sets_as_the_limit_allows(void **state)
{
    network none, one, three;
    network_open(&three, (network_options){.n = 1});
    network_open(&none, (network_options){.n = 1, .packed_bytes = 1, .layout = three.layout});
    size_t set = (three.info.private_bytes - none.info.private_bytes) / 3;
    assert_int_equal(three.info.private_bytes - none.info.private_bytes, 3 * set);
    assert_true(set > npo_layout_floats(three.layout) * sizeof(float) / 2);
    network_open(&one,
                 (network_options){.n = 1, .packed_bytes = 2 * set - 1, .layout = three.layout});
    assert_int_equal(one.info.private_bytes - none.info.private_bytes, set);
    assert_true(none.info.arena_bytes >= one.info.arena_bytes);
    network_close(&one);
    network_close(&none);
    network_close(&three);
}

/* Plans one convolution, whose packed weights are most of what it needs. */
static npo_plan_info plan_convolution(size_t packed_bytes)
{
    npo_layout *layout = NULL;
    npo_graph *g = NULL;
    npo_plan_info info;
    assert_int_equal(npo_layout_new(&layout), NPO_OK);
    assert_int_equal(npo_graph_new(backend, layout, &g), NPO_OK);
    npo_value x = npo_graph_input(g, "x", NPO_F32, 4, (int64_t[]){1, SIDE, SIDE, WIDTH});
    npo_value weight = npo_graph_param(g, "weight", 4, (int64_t[]){WIDTH, WIDTH, 3, 3});
    npo_graph_output(
        g, "y", npo_op_conv2d(g, x, weight, NPO_VALUE_NONE, (npo_conv_options){1, 1, 1, 1, 1}));
    npo_plan_options options = {.loss = NPO_VALUE_NONE, .packed_bytes = packed_bytes};
    assert_int_equal(npo_graph_plan(g, &options, &info, NULL), NPO_OK);
    npo_graph_free(g);
    npo_layout_unref(layout);
    return info;
}

static void test_packing_when_needed_takes_the_arena(void **state)
{
    npo_plan_info kept = plan_convolution(0), packed = plan_convolution(1);
    size_t weights = WIDTH * WIDTH * 3 * 3 * sizeof(float);
    assert_true(kept.private_bytes >= packed.private_bytes + weights);
    assert_true(packed.arena_bytes >= kept.arena_bytes + weights);
}

static void test_packing_when_needed_follows_edits_and_sets(void **state)
{
    network net, other;
    network_open(&net, (network_options){.n = 1, .packed_bytes = 1});
    network_open(&other, (network_options){.n = 1, .layout = net.layout});
    network_feed(&net, 0);
    network_feed(&other, 0);
    for (uint64_t seed = 1; seed < 4; seed++) {
        network_fill_params(net.params, seed);
        network_forward(&net, net.params);
        network_forward(&other, net.params);
        assert_memory_equal(network_output(&net), network_output(&other),
                            network_output_floats(&net) * sizeof(float));
    }
    network_close(&other);
    network_close(&net);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packing_when_needed_changes_no_byte),
        cmocka_unit_test(test_packing_holds_as_many_sets_as_the_limit_allows),
        cmocka_unit_test(test_packing_when_needed_takes_the_arena),
        cmocka_unit_test(test_packing_when_needed_follows_edits_and_sets),
    };
    return cmocka_run_group_tests(tests, network_setup, network_teardown);
}
