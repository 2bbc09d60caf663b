#include "server/map.h"
#include "tests/unit/cmocka.h"

#include <stdbool.h>
#include <stdlib.h>

enum { KEYS = 400, ROUNDS = 20000 };

static void test_map_agrees_with_an_array(void **state)
{
    static int values[KEYS + 1];
    bool is_there[KEYS + 1] = {false};
    npo_map map = {0};
    size_t count = 0;
    srand(7);
    for (int i = 0; i < ROUNDS; i++) {
        int key = 1 + rand() % KEYS;
        if (rand() % 2) {
            assert_int_equal(npo_map_put(&map, key, &values[key]), NPO_OK);
            count += !is_there[key];
            is_there[key] = true;
        } else {
            npo_map_remove(&map, key);
            count -= is_there[key];
            is_there[key] = false;
        }
        assert_int_equal(map.count, count);
        int probe = 1 + rand() % KEYS;
        assert_ptr_equal(npo_map_get(&map, probe), is_there[probe] ? &values[probe] : NULL);
    }
    size_t seen = 0, at = 0;
    for (const int *value; (value = npo_map_next(&map, &at)); seen++)
        assert_true(is_there[value - values]);
    assert_int_equal(seen, count);
    npo_map_fini(&map);
}

static void test_map_holds_keys_that_collide(void **state)
{
    npo_map map = {0};
    int value;
    for (int64_t i = 1; i <= 64; i++)
        assert_int_equal(npo_map_put(&map, i << 40, &value), NPO_OK);
    assert_int_equal(npo_map_put(&map, -5, &value), NPO_OK);
    for (int64_t i = 1; i <= 64; i++)
        npo_map_remove(&map, i << 40);
    assert_non_null(npo_map_get(&map, -5));
    assert_null(npo_map_get(&map, 1LL << 40));
    assert_null(npo_map_get(&map, 0));
    npo_map_fini(&map);
    npo_map_remove(&map, 3);
    assert_null(npo_map_get(&map, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_map_agrees_with_an_array),
        cmocka_unit_test(test_map_holds_keys_that_collide),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
