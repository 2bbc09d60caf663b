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
    /* More, unless the scratch of another op is larger than any packed weights. */
    assert_true(none.info.arena_bytes >= one.info.arena_bytes);
    network_close(&one);
    network_close(&none);
    network_close(&three);
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
        cmocka_unit_test(test_packing_when_needed_follows_edits_and_sets),
    };
    npo_backend_options options = {.device = "cpu", .threads = 2};
    npo_error error = {0};
    if (npo_backend_new(&options, &backend, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    npo_backend_free(backend);
    return failed;
}
