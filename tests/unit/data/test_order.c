#include "worker/data/order.h"

#include "tests/unit/cmocka.h"

#include <stdlib.h>
#include <string.h>

static void test_order_has_every_image_once_an_epoch(void **state)
{
    npo_order *order;
    assert_int_equal(npo_order_new(5, 100, &order), NPO_OK);
    for (int epoch = 0; epoch < 3; epoch++) {
        int seen[100] = {0};
        for (int i = 0; i < 100; i++)
            seen[npo_order_at(order, epoch * 100 + i)]++;
        for (int i = 0; i < 100; i++)
            assert_int_equal(seen[i], 1);
    }
    npo_order_free(order);
}

static void test_order_depends_on_seed_and_epoch_alone(void **state)
{
    npo_order *a, *b, *c;
    assert_int_equal(npo_order_new(5, 50, &a), NPO_OK);
    assert_int_equal(npo_order_new(5, 50, &b), NPO_OK);
    assert_int_equal(npo_order_new(6, 50, &c), NPO_OK);
    int same_seed = 0, same_epoch = 0;
    for (int i = 149; i >= 0; i--) /* backwards: the order of asking does not matter */
        assert_int_equal(npo_order_at(b, i), npo_order_at(a, i));
    for (int i = 0; i < 50; i++) {
        same_seed += npo_order_at(a, i) == npo_order_at(c, i);
        int64_t first = npo_order_at(a, i);
        same_epoch += npo_order_at(a, i + 50) == first;
    }
    assert_true(same_seed < 20 && same_epoch < 20);
    npo_order_free(a);
    npo_order_free(b);
    npo_order_free(c);
}

static void test_order_refuses_bad_counts(void **state)
{
    npo_order *order;
    assert_int_equal(npo_order_new(1, 0, &order), NPO_E_RANGE);
    assert_int_equal(npo_order_new(1, INT64_C(1) << 28, &order), NPO_E_RANGE);
    npo_order_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_has_every_image_once_an_epoch),
        cmocka_unit_test(test_order_depends_on_seed_and_epoch_alone),
        cmocka_unit_test(test_order_refuses_bad_counts),
    };
    return cmocka_run_group_tests_name("order", tests, NULL, NULL);
}
