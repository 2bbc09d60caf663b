#include "tests/unit/cmocka.h"

#include "ctl/cluster/restart.h"

static void test_restart_backs_off_and_gives_up(void **state)
{
    static const int64_t waits_ms[NPO_RESTARTS_MAX] = {500,  1000,  2000,  4000,
                                                       8000, 16000, 30000, 30000};
    npo_restart restart = {0};
    int64_t now_ms = 1000;
    for (int i = 0; i < NPO_RESTARTS_MAX; i++) {
        npo_restart_started(&restart, now_ms);
        now_ms += 10;
        npo_restart_ended(&restart, now_ms);
        assert_false(restart.given_up);
        assert_int_equal(restart.due_ms - now_ms, waits_ms[i]);
        now_ms = restart.due_ms;
    }
    npo_restart_started(&restart, now_ms);
    npo_restart_ended(&restart, now_ms + NPO_RESTART_GOOD_MS - 1);
    assert_true(restart.given_up);
}

static void test_restart_forgets_after_a_long_life(void **state)
{
    npo_restart restart = {.ends = NPO_RESTARTS_MAX};
    npo_restart_started(&restart, 1000);
    npo_restart_ended(&restart, 1000 + NPO_RESTART_GOOD_MS);
    assert_false(restart.given_up);
    assert_int_equal(restart.ends, 1);
    assert_int_equal(restart.due_ms, 1000 + NPO_RESTART_GOOD_MS + NPO_RESTART_BASE_MS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_restart_backs_off_and_gives_up),
        cmocka_unit_test(test_restart_forgets_after_a_long_life),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
