#include "common/bounds.h"
#include "tests/unit/server/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void test_job_plays_a_staged_job_to_its_end(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker workers[2] = {rig_hello(&rig, 1, "w0", "c"), rig_hello(&rig, 2, "w1", "c")};
    int64_t job = rig_submit(&rig, RIG_STAGED);
    /* 3 rounds of 2 generate, 2 truncate and a train of 2 ranks, then export. */
    assert_int_equal(rig_play(&rig, workers, 2), 3 * 6 + 1);
    assert_string_equal(rig_state(&rig, job), "done");
    const cJSON *view = cJSON_GetObjectItem(rig.last, "job");
    assert_int_equal(npo_json_int(view, "step", 0), 5);
    assert_int_equal(npo_json_int(cJSON_GetObjectItem(view, "tasks"), "done", 0), 3 * 5 + 1);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(rig.last, "checkpoints")), 3);
    rig_close(&rig);
}

static void test_job_goes_on_after_every_restart(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker workers[2] = {rig_hello(&rig, 1, "w0", "c"), rig_hello(&rig, 2, "w1", "c")};
    int64_t job = rig_submit(&rig, RIG_STAGED);
    int done = 0;
    for (bool more = true; more;) {
        more = false;
        for (int i = 0; i < 2; i++) {
            rig_restart(&rig);
            more |= rig_pull(&rig, &workers[i]);
        }
        rig_restart(&rig);
        for (int i = 0; i < 2; i++) {
            if (!workers[i].task)
                continue;
            rig_done(&rig, &workers[i]);
            done++;
            rig_restart(&rig);
        }
    }
    assert_int_equal(done, 3 * 6 + 1);
    assert_string_equal(rig_state(&rig, job), "done");
    assert_int_equal(npo_json_int(cJSON_GetObjectItem(rig.last, "job"), "step", 0), 5);
    const cJSON *task;
    cJSON_ArrayForEach(task, cJSON_GetObjectItem(rig.last, "tasks"))
        assert_int_equal(npo_json_int(task, "attempt", 0), 1);
    rig_close(&rig);
}

static void test_job_inputs_are_the_outputs_before(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "w0", "c");
    rig_submit(&rig, "\"recipe\":\"self-npo\",\"prompts\":[\"a\"],\"round_steps\":1,"
                     "\"train\":{\"steps\":1,\"batch\":1}");
    assert_true(rig_pull(&rig, &a));
    char generated[64];
    snprintf(generated, sizeof generated, "pool of task %lld", (long long)a.task);
    rig_done(&rig, &a);
    assert_true(rig_pull(&rig, &a));
    const cJSON *inputs =
        cJSON_GetObjectItem(cJSON_GetObjectItem(rig.last, "assignment"), "inputs");
    assert_int_equal(cJSON_GetArraySize(inputs), 2);
    npo_hash hash = npo_hash_bytes(generated, strlen(generated));
    char text[NPO_HASH_TEXT_SIZE];
    npo_hash_format(&hash, text);
    const cJSON *pool = cJSON_GetArrayItem(inputs, 1);
    assert_string_equal(npo_json_string(pool, "name", ""), "pool");
    assert_string_equal(npo_json_string(pool, "hash", ""), text);
    assert_int_equal(npo_json_int(pool, "size", 0), strlen(generated));
    rig_close(&rig);
}

static void test_job_ranks_get_their_own_inputs(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker workers[2] = {rig_hello(&rig, 1, "w0", "c"), rig_hello(&rig, 2, "w1", "c")};
    rig_submit(&rig, RIG_STAGED);
    while (strcmp(workers[0].kind, "train") != 0) {
        for (int i = 0; i < 2; i++)
            assert_true(rig_pull(&rig, &workers[i]));
        if (strcmp(workers[0].kind, "train") != 0)
            for (int i = 0; i < 2; i++)
                rig_done(&rig, &workers[i]);
    }
    for (int i = 0; i < 2; i++) {
        char name[16];
        assert_true(rig_pull(&rig, &workers[i])); /* the same again */
        const cJSON *inputs =
            cJSON_GetObjectItem(cJSON_GetObjectItem(rig.last, "assignment"), "inputs");
        assert_int_equal(cJSON_GetArraySize(inputs), 2);
        snprintf(name, sizeof name, "segment.%d", workers[i].rank);
        assert_string_equal(npo_json_string(cJSON_GetArrayItem(inputs, 1), "name", ""), name);
    }
    rig_close(&rig);
}

static void test_job_cancel_stops_and_frees(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    int64_t job = rig_submit(&rig, RIG_GANG), next = rig_submit(&rig, RIG_SAMPLE);
    assert_true(rig_pull(&rig, &a) && rig_pull(&rig, &b));
    rig_order(&rig, NPO_MESSAGE_CANCEL, job);
    assert_string_equal(npo_json_string(rig.last, "state", ""), "cancelled");
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(rig_beat(&rig, &a), "cancel")), 1);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(rig_beat(&rig, &a), "cancel")), 1);
    rig_tick(&rig, 1); /* b asks after a did, and gets it */
    assert_true(rig_pull(&rig, &b));
    assert_int_equal(b.job, next);
    rig_order(&rig, NPO_MESSAGE_CANCEL, job);
    assert_string_equal(rig_code(&rig), "STATE");
    assert_non_null(strstr(rig.last_text, "it is cancelled"));
    rig_close(&rig);
}

static void test_job_hold_lets_the_task_end_and_gives_workers_back(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    int64_t job = rig_submit(&rig, RIG_STAGED),
            other = rig_submit(&rig, RIG_SAMPLE ",\"workers\":1");
    assert_true(rig_pull(&rig, &a) && rig_pull(&rig, &b));
    rig_done(&rig, &b);
    rig_order(&rig, NPO_MESSAGE_HOLD, job);
    assert_string_equal(npo_json_string(rig.last, "state", ""), "held");
    assert_true(rig_pull(&rig, &b)); /* was free, is given away */
    assert_int_equal(b.job, other);
    rig_done(&rig, &b);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(rig_beat(&rig, &a), "cancel")), 0);
    rig_done(&rig, &a);
    assert_false(rig_pull(&rig, &a));
    rig_restart(&rig);
    assert_string_equal(rig_state(&rig, job), "held");
    rig_order(&rig, NPO_MESSAGE_RELEASE, job);
    assert_string_equal(npo_json_string(rig.last, "state", ""), "pending");
    rig_worker both[2] = {a, b};
    rig_play(&rig, both, 2);
    assert_string_equal(rig_state(&rig, job), "done");
    rig_close(&rig);
}

static void test_job_release_during_the_last_task_keeps_it_running(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    int64_t job = rig_submit(&rig, RIG_STAGED);
    assert_true(rig_pull(&rig, &a) && rig_pull(&rig, &b));
    rig_done(&rig, &b);
    rig_order(&rig, NPO_MESSAGE_HOLD, job);
    rig_order(&rig, NPO_MESSAGE_RELEASE, job);
    assert_string_equal(npo_json_string(rig.last, "state", ""), "running");
    assert_true(rig_pull(&rig, &b));
    assert_int_equal(b.job, job);
    rig_close(&rig);
}

static void test_job_remove_forgets_an_ended_job_only(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    char more[128];
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    int64_t job = rig_submit(&rig, RIG_SAMPLE);
    rig_order(&rig, NPO_MESSAGE_REMOVE, job);
    assert_string_equal(rig_code(&rig), "STATE");
    rig_order(&rig, NPO_MESSAGE_CANCEL, job);
    snprintf(more, sizeof more, RIG_SAMPLE ",\"after\":[%lld]", (long long)job);
    int64_t follower = rig_submit(&rig, more);
    rig_order(&rig, NPO_MESSAGE_REMOVE, job);
    assert_string_equal(rig_code(&rig), "STATE");
    assert_non_null(strstr(rig.last_text, "waits for it"));
    rig_order(&rig, NPO_MESSAGE_CANCEL, follower);
    rig_order(&rig, NPO_MESSAGE_REMOVE, job);
    assert_string_equal(npo_json_string(rig.last, "state", ""), "removed");
    assert_string_equal(rig_state(&rig, job), "gone");
    rig_order(&rig, NPO_MESSAGE_REMOVE, job);
    assert_string_equal(rig_code(&rig), "NOT_FOUND");
    int64_t next = rig_submit(&rig, RIG_SAMPLE);
    assert_true(next > follower); /* ids are never used again */
    assert_true(rig_pull(&rig, &a));
    rig_close(&rig);
}

static void test_job_refuses_orders_in_the_wrong_state(void **state)
{
    static const struct {
        npo_message id;
        const char *allowed; /* states: pending held failed */
    } orders[] = {{NPO_MESSAGE_HOLD, "p"},
                  {NPO_MESSAGE_RELEASE, "h"},
                  {NPO_MESSAGE_CANCEL, "ph"},
                  {NPO_MESSAGE_RETRY, "f"},
                  {NPO_MESSAGE_REMOVE, "f"}};
    for (size_t i = 0; i < sizeof orders / sizeof orders[0]; i++) {
        for (const char *from = "phf"; *from; from++) {
            npo_rig rig = {0};
            rig_open(&rig);
            int64_t job = rig_submit(&rig, RIG_SAMPLE);
            if (*from == 'h')
                rig_order(&rig, NPO_MESSAGE_HOLD, job);
            if (*from == 'f')
                rig_order(&rig, NPO_MESSAGE_CANCEL, job);
            rig_order(&rig, orders[i].id, job);
            assert_string_equal(rig_code(&rig), strchr(orders[i].allowed, *from) ? "" : "STATE");
            rig_order(&rig, orders[i].id, 1000);
            assert_string_equal(rig_code(&rig), "NOT_FOUND");
            rig_close(&rig);
        }
    }
}

static void test_job_retry_goes_on_where_it_failed(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker workers[2] = {rig_hello(&rig, 1, "w0", "c"), rig_hello(&rig, 2, "w1", "c")};
    int64_t job = rig_submit(&rig, RIG_STAGED);
    for (int i = 0; i < 2; i++)
        assert_true(rig_pull(&rig, &workers[i]));
    rig_done(&rig, &workers[0]);
    rig_fail(&rig, &workers[1], false);
    assert_string_equal(rig_state(&rig, job), "failed");
    rig_restart(&rig);
    rig_order(&rig, NPO_MESSAGE_RETRY, job);
    assert_string_equal(npo_json_string(rig.last, "state", ""), "pending");
    assert_int_equal(rig_play(&rig, workers, 2), 3 * 6 + 1 - 1);
    assert_string_equal(rig_state(&rig, job), "done");
    rig_close(&rig);
}

static void test_job_retry_needs_what_it_waits_for(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    char more[128];
    int64_t first = rig_submit(&rig, RIG_SAMPLE);
    snprintf(more, sizeof more, RIG_SAMPLE ",\"after\":[%lld]", (long long)first);
    int64_t second = rig_submit(&rig, more);
    rig_order(&rig, NPO_MESSAGE_CANCEL, second);
    rig_order(&rig, NPO_MESSAGE_CANCEL, first);
    rig_order(&rig, NPO_MESSAGE_REMOVE, first);
    rig_order(&rig, NPO_MESSAGE_RETRY, second);
    assert_string_equal(rig_code(&rig), "STATE");
    assert_non_null(strstr(rig.last_text, "job 1, which it waits for, has been removed"));
    assert_string_equal(rig_state(&rig, second), "cancelled");
    rig_close(&rig);
}

static void assert_counts(npo_rig *rig, int64_t job, int done, int failed, int cancelled)
{
    rig_order(rig, NPO_MESSAGE_JOB, job);
    const cJSON *counts = cJSON_GetObjectItem(cJSON_GetObjectItem(rig->last, "job"), "tasks");
    assert_int_equal(npo_json_int(counts, "done", -1), done);
    assert_int_equal(npo_json_int(counts, "failed", -1), failed);
    assert_int_equal(npo_json_int(counts, "cancelled", -1), cancelled);
    assert_int_equal(npo_json_int(counts, "pending", -1), 0);
    assert_int_equal(npo_json_int(counts, "running", -1), 0);
}

static void test_job_counts_of_its_tasks_outlive_it(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker workers[2] = {rig_hello(&rig, 1, "w0", "c"), rig_hello(&rig, 2, "w1", "c")};
    int64_t job = rig_submit(&rig, RIG_STAGED);
    assert_true(rig_pull(&rig, &workers[0]) && rig_pull(&rig, &workers[1]));
    rig_done(&rig, &workers[0]);
    rig_fail(&rig, &workers[1], false);
    assert_counts(&rig, job, 1, 1, 14);
    rig_restart(&rig);
    assert_counts(&rig, job, 1, 1, 14);
    rig_order(&rig, NPO_MESSAGE_RETRY, job);
    rig_play(&rig, workers, 2);
    assert_counts(&rig, job, 16, 0, 0);
    rig_restart(&rig);
    assert_counts(&rig, job, 16, 0, 0);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_job_plays_a_staged_job_to_its_end),
        cmocka_unit_test(test_job_goes_on_after_every_restart),
        cmocka_unit_test(test_job_inputs_are_the_outputs_before),
        cmocka_unit_test(test_job_ranks_get_their_own_inputs),
        cmocka_unit_test(test_job_cancel_stops_and_frees),
        cmocka_unit_test(test_job_hold_lets_the_task_end_and_gives_workers_back),
        cmocka_unit_test(test_job_release_during_the_last_task_keeps_it_running),
        cmocka_unit_test(test_job_remove_forgets_an_ended_job_only),
        cmocka_unit_test(test_job_refuses_orders_in_the_wrong_state),
        cmocka_unit_test(test_job_retry_goes_on_where_it_failed),
        cmocka_unit_test(test_job_retry_needs_what_it_waits_for),
        cmocka_unit_test(test_job_counts_of_its_tasks_outlive_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
