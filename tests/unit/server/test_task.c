#include "common/bounds.h"
#include "tests/unit/server/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void test_task_failed_task_is_tried_again_after_a_while(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    int64_t job = rig_submit(&rig, RIG_SAMPLE ",\"retries\":2");
    int64_t wait_ms = NPO_RETRY_BASE_MS;
    for (int failure = 1; failure <= 2; failure++, wait_ms *= 2) {
        assert_true(rig_pull(&rig, &a));
        assert_int_equal(a.attempt, failure);
        rig_fail(&rig, &a, true);
        rig_tick(&rig, wait_ms - 1);
        assert_false(rig_pull(&rig, &a));
        rig_tick(&rig, 1);
    }
    assert_true(rig_pull(&rig, &a));
    rig_fail(&rig, &a, true);
    assert_string_equal(rig_state(&rig, job), "failed");
    assert_non_null(strstr(rig.last_text, "(sample, round 0) failed too often: it broke"));
    rig_close(&rig);
}

static void test_task_back_off_is_not_lost_with_a_restart(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    rig_submit(&rig, RIG_SAMPLE);
    assert_true(rig_pull(&rig, &a));
    rig_fail(&rig, &a, true);
    rig_restart(&rig);
    rig_tick(&rig, 1);
    assert_true(rig_pull(&rig, &a));
    rig_close(&rig);
}

static void test_task_final_failure_fails_the_job_at_once(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    int64_t job = rig_submit(&rig, RIG_STAGED);
    rig_worker b = rig_hello(&rig, 2, "b", "c");
    assert_true(rig_pull(&rig, &a) && rig_pull(&rig, &b));
    rig_fail(&rig, &a, false);
    assert_string_equal(rig_state(&rig, job), "failed");
    const cJSON *counts = cJSON_GetObjectItem(cJSON_GetObjectItem(rig.last, "job"), "tasks");
    assert_int_equal(npo_json_int(counts, "failed", 0), 1);
    assert_int_equal(npo_json_int(counts, "cancelled", 0), 15);
    /* The other is told to stop. */
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(rig_beat(&rig, &b), "cancel")), 1);
    rig_close(&rig);
}

static void test_task_one_failed_rank_ends_the_attempt_of_all(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    int64_t job = rig_submit(&rig, RIG_GANG);
    assert_true(rig_pull(&rig, &a) && rig_pull(&rig, &b));
    rig_worker old = b;
    rig_done(&rig, &b); /* one rank was done already */
    rig_fail(&rig, &a, true);
    rig_tick(&rig, NPO_RETRY_BASE_MS);
    assert_true(rig_pull(&rig, &a) && rig_pull(&rig, &b));
    assert_int_equal(a.attempt, 2);
    assert_int_equal(b.attempt, 2);
    rig.may_fail = true;
    rig_done(&rig, &old);
    assert_string_equal(rig_code(&rig), "FENCED");
    rig.may_fail = false;
    rig_done(&rig, &a);
    assert_string_equal(rig_state(&rig, job), "running");
    assert_int_equal(npo_json_int(cJSON_GetObjectItem(rig.last, "job"), "step", -1), 0);
    rig_done(&rig, &b);
    assert_string_equal(rig_state(&rig, job), "running");
    assert_int_equal(npo_json_int(cJSON_GetObjectItem(rig.last, "job"), "step", -1), 2);
    rig_close(&rig);
}

static void test_task_fence_compares_whole_numbers(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    rig_submit(&rig, RIG_SAMPLE);
    assert_true(rig_pull(&rig, &a));
    rig_ask(&rig, a.boot, NPO_MESSAGE_DONE,
            "{\"worker\":%lld,\"task\":%lld,\"attempt\":1,\"rank\":4294967296,\"outputs\":[]}",
            (long long)a.id, (long long)a.task);
    assert_string_equal(rig_code(&rig), "FENCED");
    rig_done(&rig, &a);
    rig_close(&rig);
}

static void test_task_that_leaves_no_output_fails_its_job(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker workers[2] = {rig_hello(&rig, 1, "a", "c"), rig_hello(&rig, 2, "b", "c")};
    int64_t job = rig_submit(&rig, RIG_STAGED);
    for (int i = 0; i < 2; i++) {
        assert_true(rig_pull(&rig, &workers[i]));
        rig_ask(&rig, workers[i].boot, NPO_MESSAGE_DONE,
                "{\"worker\":%lld,\"task\":%lld,\"attempt\":1,\"rank\":0,\"outputs\":[]}",
                (long long)workers[i].id, (long long)workers[i].task);
    }
    assert_false(rig_pull(&rig, &workers[0]));
    assert_string_equal(rig_state(&rig, job), "failed");
    assert_non_null(strstr(rig.last_text, "did not leave the output that another one reads"));
    rig_close(&rig);
}

static void test_task_output_names_are_names(void **state)
{
    static const char *const bad[] = {"", "a/b", "..", ".hidden", "a\\u001b"};
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    rig_submit(&rig, RIG_SAMPLE);
    assert_true(rig_pull(&rig, &a));
    const char *hash = rig_publish(&rig, 1, "x");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        rig_ask(&rig, a.boot, NPO_MESSAGE_DONE,
                "{\"worker\":%lld,\"task\":%lld,\"attempt\":1,\"rank\":0,\"outputs\":[{\"name\":"
                "\"%s\",\"hash\":\"%s\",\"size\":1}]}",
                (long long)a.id, (long long)a.task, bad[i], hash);
        assert_string_equal(rig_code(&rig), "USAGE");
    }
    rig_done(&rig, &a);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_task_failed_task_is_tried_again_after_a_while),
        cmocka_unit_test(test_task_back_off_is_not_lost_with_a_restart),
        cmocka_unit_test(test_task_final_failure_fails_the_job_at_once),
        cmocka_unit_test(test_task_one_failed_rank_ends_the_attempt_of_all),
        cmocka_unit_test(test_task_fence_compares_whole_numbers),
        cmocka_unit_test(test_task_that_leaves_no_output_fails_its_job),
        cmocka_unit_test(test_task_output_names_are_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
