#include "common/bounds.h"
#include "tests/unit/server/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void test_worker_silent_worker_loses_its_task(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    rig_submit(&rig, RIG_SAMPLE ",\"retries\":0");
    assert_true(rig_pull(&rig, &a));
    for (int64_t ms = 0; ms <= NPO_LEASE_MS; ms += 1000) {
        assert_false(rig_pull(&rig, &b));
        rig_tick(&rig, 1000);
    }
    assert_true(rig_pull(&rig, &b));
    assert_int_equal(b.attempt, 2);
    /* The old one is known no longer; what it brings is refused. */
    const cJSON *beat = rig_beat(&rig, &a);
    assert_false(npo_json_bool(beat, "known", true));
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(beat, "cancel")), 1);
    rig_ask(&rig, a.boot, NPO_MESSAGE_DONE,
            "{\"worker\":%lld,\"task\":%lld,\"attempt\":1,\"rank\":0,\"outputs\":[]}",
            (long long)a.id, (long long)b.task);
    assert_string_equal(rig_code(&rig), "FENCED");
    rig_close(&rig);
}

static void test_worker_heartbeats_keep_the_lease(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    rig_submit(&rig, RIG_SAMPLE);
    assert_true(rig_pull(&rig, &a));
    for (int i = 0; i < 60; i++) {
        rig_tick(&rig, 1000);
        assert_true(npo_json_bool(rig_beat(&rig, &a), "known", false));
    }
    rig_done(&rig, &a);
    rig_close(&rig);
}

static void test_worker_restart_waits_a_whole_lease(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    rig_submit(&rig, RIG_SAMPLE);
    assert_true(rig_pull(&rig, &a));
    rig_tick(&rig, NPO_LEASE_MS - 1000);
    rig.now.mono_ms += 3600000; /* npod was away for an hour */
    rig.now.wall_ms += 3600000;
    rig_restart(&rig);
    rig_tick(&rig, NPO_LEASE_MS - 1000);
    rig_done(&rig, &a);
    assert_string_equal(rig_code(&rig), "");
    rig_close(&rig);
}

static void test_worker_own_absence_is_not_the_workers_fault(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    rig_submit(&rig, RIG_SAMPLE);
    assert_true(rig_pull(&rig, &a));
    rig_tick(&rig, 1000);
    rig.now.mono_ms += 100000; /* stopped, with the same memory */
    rig_tick(&rig, 1000);
    rig_done(&rig, &a);
    assert_string_equal(rig_code(&rig), "");
    rig_close(&rig);
}

static void test_worker_a_new_boot_ends_what_the_old_one_held(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    rig_submit(&rig, RIG_SAMPLE ",\"retries\":0");
    assert_true(rig_pull(&rig, &a));
    rig_worker again = rig_hello(&rig, 2, "a", "c");
    assert_int_equal(again.id, a.id);
    assert_true(rig_pull(&rig, &again));
    assert_int_equal(again.attempt, 2);
    rig_ask(&rig, a.boot, NPO_MESSAGE_PULL, "{\"worker\":%lld}", (long long)a.id);
    assert_string_equal(rig_code(&rig), "FENCED");
    rig_done(&rig, &again);
    rig_close(&rig);
}

static void test_worker_losses_have_a_limit_of_their_own(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    int64_t job = rig_submit(&rig, RIG_SAMPLE ",\"retries\":0");
    for (int i = 0; i <= NPO_LOSSES_MAX; i++) {
        assert_string_equal(rig_state(&rig, job), i ? "running" : "pending");
        rig_worker a = rig_hello(&rig, 100 + (uint64_t)i, "a", "c");
        assert_true(rig_pull(&rig, &a));
        assert_int_equal(a.attempt, i + 1);
    }
    rig_hello(&rig, 500, "a", "c");
    assert_string_equal(rig_state(&rig, job), "failed");
    assert_non_null(strstr(rig.last_text, "lost its worker 21 times"));
    rig_close(&rig);
}

static void test_worker_goodbye_counts_as_nothing(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    int64_t job = rig_submit(&rig, RIG_SAMPLE ",\"retries\":0");
    for (int i = 0; i < NPO_LOSSES_MAX + 5; i++) {
        rig_worker a = rig_hello(&rig, 100 + (uint64_t)i, "a", "c");
        assert_true(rig_pull(&rig, &a));
        rig_ask(&rig, a.boot, NPO_MESSAGE_GOODBYE, "{\"worker\":%lld}", (long long)a.id);
        assert_string_equal(rig_code(&rig), "");
    }
    assert_string_equal(rig_state(&rig, job), "running");
    assert_string_equal(rig_reason(&rig, job), "has 0 of its 1 workers, waits for the others");
    rig_close(&rig);
}

static void test_worker_lost_rank_restarts_the_gang_when_it_is_whole(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    int64_t job = rig_submit(&rig, RIG_GANG);
    assert_true(rig_pull(&rig, &a) && rig_pull(&rig, &b));
    rig_worker again = rig_hello(&rig, 3, "b", "c");
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(rig_beat(&rig, &a), "cancel")), 1);
    assert_true(rig_pull(&rig, &again));
    assert_true(rig_pull(&rig, &a));
    assert_int_equal(a.task, again.task);
    assert_int_equal(a.attempt, 2);
    rig_worker both[2] = {a, again};
    rig_play(&rig, both, 2);
    assert_string_equal(rig_state(&rig, job), "done");
    rig_close(&rig);
}

/* Two processes were given one name: the later one keeps it, and the job does not die of their
 * quarrel. */
static void test_worker_that_lost_its_name_does_not_take_it_back(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker first = rig_hello(&rig, 1, "a", "c");
    rig_submit(&rig, RIG_SAMPLE);
    rig_worker second = rig_hello(&rig, 2, "a", "c");
    assert_true(rig_pull(&rig, &second));
    rig_ask(&rig, first.boot, NPO_MESSAGE_HELLO,
            "{\"name\":\"a\",\"device\":\"cpu\",\"class\":\"c\"}");
    assert_string_equal(rig_code(&rig), "REFUSED");
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(rig_beat(&rig, &second), "cancel")), 0);
    /* When the later one is gone it may come again. */
    rig_tick(&rig, NPO_LEASE_MS + 1000);
    first = rig_hello(&rig, 1, "a", "c");
    first = rig_hello(&rig, 1, "a", "c");
    assert_true(rig_pull(&rig, &first));
    assert_int_equal(first.attempt, 2);
    rig_close(&rig);
}

static void test_worker_names_are_fit_for_a_terminal(void **state)
{
    static const char *const bad[] = {"", "a\\u001b[2J", "a\\nb", "\\u007f"};
    npo_rig rig = {0};
    rig_open(&rig);
    for (size_t i = 0; i < 3 * sizeof bad / sizeof bad[0]; i++) {
        const char *name = bad[i / 3];
        rig_ask(&rig, 1, NPO_MESSAGE_HELLO, "{\"name\":\"%s\",\"device\":\"%s\",\"class\":\"%s\"}",
                i % 3 == 0 ? name : "n", i % 3 == 1 ? name : "d", i % 3 == 2 ? name : "c");
        assert_string_equal(rig_code(&rig), "USAGE");
    }
    rig_close(&rig);
}

/* Its ticks are no absence of npod's, however short the lease is. */
static void test_worker_lease_of_a_tick_ends(void **state)
{
    npo_rig rig = {.options = {.lease_ms = NPO_SERVER_TICK_MS, .heartbeat_ms = 20}};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    for (int i = 0; i < 3; i++)
        rig_tick(&rig, NPO_SERVER_TICK_MS);
    assert_false(npo_json_bool(rig_beat(&rig, &a), "known", true));
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_worker_silent_worker_loses_its_task),
        cmocka_unit_test(test_worker_heartbeats_keep_the_lease),
        cmocka_unit_test(test_worker_restart_waits_a_whole_lease),
        cmocka_unit_test(test_worker_own_absence_is_not_the_workers_fault),
        cmocka_unit_test(test_worker_a_new_boot_ends_what_the_old_one_held),
        cmocka_unit_test(test_worker_losses_have_a_limit_of_their_own),
        cmocka_unit_test(test_worker_goodbye_counts_as_nothing),
        cmocka_unit_test(test_worker_lost_rank_restarts_the_gang_when_it_is_whole),
        cmocka_unit_test(test_worker_that_lost_its_name_does_not_take_it_back),
        cmocka_unit_test(test_worker_names_are_fit_for_a_terminal),
        cmocka_unit_test(test_worker_lease_of_a_tick_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
