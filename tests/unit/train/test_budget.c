/* What training takes, before it is allocated. */
#include "tests/unit/train/support.h"

#include "worker/train/budget.h"

#include <stdio.h>
#include <string.h>

#define GIB ((size_t)1 << 30)

static npo_trainer_options options_of(small_unet *unet, npo_optimizer_kind optimizer)
{
    return (npo_trainer_options){
        .backend = unet->backend, .layout = unet->layout, .optimizer = optimizer};
}

static void test_budget_leaves_the_rest_to_the_graph(void **state)
{
    small_unet unet;
    npo_budget budget;
    small_unet_init(&unet, 1);
    npo_trainer_options options = options_of(&unet, NPO_OPTIMIZER_ADAMW);
    assert_int_equal(npo_budget_plan(8 * GIB, &options, &budget, NULL), NPO_OK);
    assert_int_equal(budget.sets, 5 * 4 * npo_layout_floats(unet.layout));
    assert_true(budget.used > 0);
    assert_int_equal(options.memory_bytes, 8 * GIB - budget.used - budget.sets);
    options = options_of(&unet, NPO_OPTIMIZER_ADAMW8BIT);
    size_t full = budget.sets;
    assert_int_equal(npo_budget_plan(0, &options, &budget, NULL), NPO_OK);
    assert_true(budget.sets < full);
    assert_true(budget.given > budget.used);
    small_unet_fini(&unet);
}

static void test_budget_refuses_sets_that_do_not_fit(void **state)
{
    small_unet unet;
    npo_budget budget;
    npo_error error = {0};
    small_unet_init(&unet, 1);
    npo_trainer_options options = options_of(&unet, NPO_OPTIMIZER_ADAMW);
    assert_int_equal(npo_budget_plan(1 << 20, &options, &budget, &error), NPO_E_NOMEM);
    assert_non_null(strstr(error.text, "memory of 0.00 GiB: expected more than 0."));
    small_unet_fini(&unet);
}

static void test_budget_says_what_will_be_used(void **state)
{
    npo_budget budget = {.given = 20 * GIB, .used = GIB / 2, .sets = 11 * GIB};
    npo_plan_info plan = {
        .arena_bytes = GIB, .private_bytes = GIB / 4, .blocks = 49, .recomputed_blocks = 12};
    char text[NPO_BUDGET_TEXT_MAX];
    assert_int_equal(npo_budget_total(&budget, &plan), 12 * GIB + 3 * GIB / 4);
    assert_string_equal(npo_budget_format(&budget, &plan, text),
                        "memory: 12.75 of 20.00 GiB: 0.50 in use, 11.00 of weights, gradients and "
                        "optimizer, 1.25 of activations with 12 of 49 blocks computed twice");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budget_leaves_the_rest_to_the_graph),
        cmocka_unit_test(test_budget_refuses_sets_that_do_not_fit),
        cmocka_unit_test(test_budget_says_what_will_be_used),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
