#include "common/bounds.h"
#include "tests/unit/server/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLE "\"recipe\":\"sample\",\"prompts\":[\"a\"]"
#define STAGED                                                                                     \
    "\"recipe\":\"self-npo\",\"workers\":2,\"round_steps\":2,\"prompts\":[\"a\"],"                 \
    "\"train\":{\"steps\":5,\"batch\":4}"
#define GANG                                                                                       \
    "\"recipe\":\"self-npo\",\"pipeline\":\"fused\",\"workers\":2,\"round_steps\":2,"              \
    "\"prompts\":[\"a\"],\"train\":{\"steps\":4,\"batch\":4}"

static const cJSON *ask_job(npo_rig *rig, npo_message id, int64_t job)
{
    return rig_ask(rig, 999, id, "{\"job\":%lld}", (long long)job);
}

/* ---- whole jobs ---- */

static void test_server_plays_a_staged_job_to_its_end(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker workers[2] = {rig_hello(&rig, 1, "w0", "c"), rig_hello(&rig, 2, "w1", "c")};
    int64_t job = rig_submit(&rig, STAGED);
    /* 3 rounds of 2 generate, 2 truncate and a train of 2 ranks, then export. */
    assert_int_equal(rig_play(&rig, workers, 2), 3 * 6 + 1);
    assert_string_equal(rig_state(&rig, job), "done");
    const cJSON *view = cJSON_GetObjectItem(rig.last, "job");
    assert_int_equal(npo_json_int(view, "step", 0), 5);
    assert_int_equal(npo_json_int(cJSON_GetObjectItem(view, "tasks"), "done", 0), 3 * 5 + 1);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(rig.last, "checkpoints")), 3);
    rig_close(&rig);
}

static void test_server_goes_on_after_every_restart(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker workers[2] = {rig_hello(&rig, 1, "w0", "c"), rig_hello(&rig, 2, "w1", "c")};
    int64_t job = rig_submit(&rig, STAGED);
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

static void test_server_inputs_are_the_outputs_before(void **state)
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

static void test_server_ranks_get_their_own_inputs(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker workers[2] = {rig_hello(&rig, 1, "w0", "c"), rig_hello(&rig, 2, "w1", "c")};
    rig_submit(&rig, STAGED);
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

/* ---- failures ---- */

static void test_server_failed_task_is_tried_again_after_a_while(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    int64_t job = rig_submit(&rig, SAMPLE ",\"retries\":2");
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

static void test_server_back_off_is_not_lost_with_a_restart(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    rig_submit(&rig, SAMPLE);
    assert_true(rig_pull(&rig, &a));
    rig_fail(&rig, &a, true);
    rig_restart(&rig);
    rig_tick(&rig, 1);
    assert_true(rig_pull(&rig, &a));
    rig_close(&rig);
}

static void test_server_final_failure_fails_the_job_at_once(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    int64_t job = rig_submit(&rig, STAGED);
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

static void test_server_retry_goes_on_where_it_failed(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker workers[2] = {rig_hello(&rig, 1, "w0", "c"), rig_hello(&rig, 2, "w1", "c")};
    int64_t job = rig_submit(&rig, STAGED);
    for (int i = 0; i < 2; i++)
        assert_true(rig_pull(&rig, &workers[i]));
    rig_done(&rig, &workers[0]);
    rig_fail(&rig, &workers[1], false);
    assert_string_equal(rig_state(&rig, job), "failed");
    rig_restart(&rig);
    ask_job(&rig, NPO_MESSAGE_RETRY, job);
    assert_string_equal(npo_json_string(rig.last, "state", ""), "pending");
    assert_int_equal(rig_play(&rig, workers, 2), 3 * 6 + 1 - 1);
    assert_string_equal(rig_state(&rig, job), "done");
    rig_close(&rig);
}

static void test_server_one_failed_rank_ends_the_attempt_of_all(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    int64_t job = rig_submit(&rig, GANG);
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

/* ---- lost workers ---- */

static void test_server_silent_worker_loses_its_task(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    rig_submit(&rig, SAMPLE ",\"retries\":0");
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

static void test_server_heartbeats_keep_the_lease(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    rig_submit(&rig, SAMPLE);
    assert_true(rig_pull(&rig, &a));
    for (int i = 0; i < 60; i++) {
        rig_tick(&rig, 1000);
        assert_true(npo_json_bool(rig_beat(&rig, &a), "known", false));
    }
    rig_done(&rig, &a);
    rig_close(&rig);
}

static void test_server_restart_waits_a_whole_lease(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    rig_submit(&rig, SAMPLE);
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

static void test_server_own_absence_is_not_the_workers_fault(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    rig_submit(&rig, SAMPLE);
    assert_true(rig_pull(&rig, &a));
    rig_tick(&rig, 1000);
    rig.now.mono_ms += 100000; /* stopped, with the same memory */
    rig_tick(&rig, 1000);
    rig_done(&rig, &a);
    assert_string_equal(rig_code(&rig), "");
    rig_close(&rig);
}

static void test_server_a_new_boot_ends_what_the_old_one_held(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    rig_submit(&rig, SAMPLE ",\"retries\":0");
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

static void test_server_losses_have_a_limit_of_their_own(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    int64_t job = rig_submit(&rig, SAMPLE ",\"retries\":0");
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

static void test_server_goodbye_counts_as_nothing(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    int64_t job = rig_submit(&rig, SAMPLE ",\"retries\":0");
    for (int i = 0; i < NPO_LOSSES_MAX + 5; i++) {
        rig_worker a = rig_hello(&rig, 100 + (uint64_t)i, "a", "c");
        assert_true(rig_pull(&rig, &a));
        rig_ask(&rig, a.boot, NPO_MESSAGE_GOODBYE, "{\"worker\":%lld}", (long long)a.id);
        assert_string_equal(rig_code(&rig), "");
    }
    assert_string_equal(rig_state(&rig, job), "running");
    assert_string_equal(rig_reason(&rig, job), "waits for 1 of its 1 workers, which were lost");
    rig_close(&rig);
}

static void test_server_lost_rank_restarts_the_gang_when_it_is_whole(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    int64_t job = rig_submit(&rig, GANG);
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

/* ---- what people do ---- */

static void test_server_cancel_stops_and_frees(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    int64_t job = rig_submit(&rig, GANG), next = rig_submit(&rig, SAMPLE);
    assert_true(rig_pull(&rig, &a) && rig_pull(&rig, &b));
    ask_job(&rig, NPO_MESSAGE_CANCEL, job);
    assert_string_equal(npo_json_string(rig.last, "state", ""), "cancelled");
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(rig_beat(&rig, &a), "cancel")), 1);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(rig_beat(&rig, &a), "cancel")), 1);
    rig_tick(&rig, 1); /* b asks after a did, and gets it */
    assert_true(rig_pull(&rig, &b));
    assert_int_equal(b.job, next);
    ask_job(&rig, NPO_MESSAGE_CANCEL, job);
    assert_string_equal(rig_code(&rig), "STATE");
    assert_non_null(strstr(rig.last_text, "it is cancelled"));
    rig_close(&rig);
}

static void test_server_hold_lets_the_task_end_and_gives_workers_back(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    int64_t job = rig_submit(&rig, STAGED), other = rig_submit(&rig, SAMPLE ",\"workers\":1");
    assert_true(rig_pull(&rig, &a) && rig_pull(&rig, &b));
    rig_done(&rig, &b);
    ask_job(&rig, NPO_MESSAGE_HOLD, job);
    assert_string_equal(npo_json_string(rig.last, "state", ""), "held");
    assert_true(rig_pull(&rig, &b)); /* was free, is given away */
    assert_int_equal(b.job, other);
    rig_done(&rig, &b);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(rig_beat(&rig, &a), "cancel")), 0);
    rig_done(&rig, &a);
    assert_false(rig_pull(&rig, &a));
    rig_restart(&rig);
    assert_string_equal(rig_state(&rig, job), "held");
    ask_job(&rig, NPO_MESSAGE_RELEASE, job);
    assert_string_equal(npo_json_string(rig.last, "state", ""), "pending");
    rig_worker both[2] = {a, b};
    rig_play(&rig, both, 2);
    assert_string_equal(rig_state(&rig, job), "done");
    rig_close(&rig);
}

static void test_server_release_during_the_last_task_keeps_it_running(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    int64_t job = rig_submit(&rig, STAGED);
    assert_true(rig_pull(&rig, &a) && rig_pull(&rig, &b));
    rig_done(&rig, &b);
    ask_job(&rig, NPO_MESSAGE_HOLD, job);
    ask_job(&rig, NPO_MESSAGE_RELEASE, job);
    assert_string_equal(npo_json_string(rig.last, "state", ""), "running");
    assert_true(rig_pull(&rig, &b));
    assert_int_equal(b.job, job);
    rig_close(&rig);
}

static void test_server_remove_forgets_an_ended_job_only(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    char more[128];
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    int64_t job = rig_submit(&rig, SAMPLE);
    ask_job(&rig, NPO_MESSAGE_REMOVE, job);
    assert_string_equal(rig_code(&rig), "STATE");
    ask_job(&rig, NPO_MESSAGE_CANCEL, job);
    snprintf(more, sizeof more, SAMPLE ",\"after\":[%lld]", (long long)job);
    int64_t follower = rig_submit(&rig, more);
    ask_job(&rig, NPO_MESSAGE_REMOVE, job);
    assert_string_equal(rig_code(&rig), "STATE");
    assert_non_null(strstr(rig.last_text, "waits for it"));
    ask_job(&rig, NPO_MESSAGE_CANCEL, follower);
    ask_job(&rig, NPO_MESSAGE_REMOVE, job);
    assert_string_equal(npo_json_string(rig.last, "state", ""), "removed");
    assert_string_equal(rig_state(&rig, job), "gone");
    ask_job(&rig, NPO_MESSAGE_REMOVE, job);
    assert_string_equal(rig_code(&rig), "NOT_FOUND");
    int64_t next = rig_submit(&rig, SAMPLE);
    assert_true(next > follower); /* ids are never used again */
    assert_true(rig_pull(&rig, &a));
    rig_close(&rig);
}

static void test_server_refuses_orders_in_the_wrong_state(void **state)
{
    static const struct {
        npo_message id;
        const char *allowed; /* states: pending held failed */
    } orders[] = {{NPO_MESSAGE_HOLD, "p"},    {NPO_MESSAGE_RELEASE, "h"},
                  {NPO_MESSAGE_CANCEL, "ph"}, {NPO_MESSAGE_RETRY, "f"},
                  {NPO_MESSAGE_REMOVE, "f"}};
    for (size_t i = 0; i < sizeof orders / sizeof orders[0]; i++) {
        for (const char *from = "phf"; *from; from++) {
            npo_rig rig = {0};
            rig_open(&rig);
            int64_t job = rig_submit(&rig, SAMPLE);
            if (*from == 'h')
                ask_job(&rig, NPO_MESSAGE_HOLD, job);
            if (*from == 'f')
                ask_job(&rig, NPO_MESSAGE_CANCEL, job);
            ask_job(&rig, orders[i].id, job);
            assert_string_equal(rig_code(&rig), strchr(orders[i].allowed, *from) ? "" : "STATE");
            ask_job(&rig, orders[i].id, 1000);
            assert_string_equal(rig_code(&rig), "NOT_FOUND");
            rig_close(&rig);
        }
    }
}

static void test_server_submit_with_the_same_key_finds_the_same_job(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    const char *model = rig_publish(&rig, 9, "m");
    char json[512];
    snprintf(json, sizeof json,
             "{\"key\":\"mine\",\"spec\":{\"recipe\":\"export\",\"model\":{\"artifact\":\"%s\"},"
             "\"negative\":{\"artifact\":\"%s\"}}}",
             model, model);
    rig_ask(&rig, 9, NPO_MESSAGE_SUBMIT, "%s", json);
    int64_t job = npo_json_int(rig.last, "job", 0);
    assert_true(job > 0);
    assert_false(npo_json_bool(rig.last, "existing", true));
    rig_restart(&rig);
    rig_ask(&rig, 10, NPO_MESSAGE_SUBMIT, "%s", json);
    assert_int_equal(npo_json_int(rig.last, "job", 0), job);
    assert_true(npo_json_bool(rig.last, "existing", false));
    assert_int_equal(npo_json_int(rig.last, "tasks", 0), 1);
    rig_close(&rig);
}

static void test_server_submit_refuses_bad_jobs_whole(void **state)
{
    static const struct {
        const char *spec, *code, *says;
    } cases[] = {
        {"{\"recipe\":\"sampel\"}", "TYPE", "recipe"},
        {"{\"recipe\":\"sample\",\"prompts\":[\"a\"],\"modle\":1}", "USAGE", "did you mean 'model'"},
        {"{\"recipe\":\"sample\",\"prompts\":[\"a\"],\"model\":\"/tmp/m\"}", "TYPE", "model"},
        {"{\"recipe\":\"sample\",\"prompts\":[\"a\"],\"model\":{\"artifact\":"
         "\"00000000000000000000000000000000\"}}",
         "NOT_FOUND", "import it first"},
    };
    npo_rig rig = {0};
    rig_open(&rig);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rig_ask(&rig, 9, NPO_MESSAGE_SUBMIT, "{\"key\":\"k%zu\",\"spec\":%s}", i, cases[i].spec);
        if (strcmp(rig_code(&rig), cases[i].code) != 0 || !strstr(rig.last_text, cases[i].says))
            fail_msg("%s: %s", cases[i].spec, rig.last_text);
    }
    rig_ask(&rig, 9, NPO_MESSAGE_JOBS, "{}");
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(rig.last, "jobs")), 0);
    rig_close(&rig);
}

static void test_server_continues_from_a_checkpoint(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker workers[2] = {rig_hello(&rig, 1, "w0", "c"), rig_hello(&rig, 2, "w1", "c")};
    int64_t first = rig_submit(&rig, GANG);
    rig_play(&rig, workers, 2);
#define LONGER                                                                                     \
    "\"recipe\":\"self-npo\",\"pipeline\":\"fused\",\"workers\":2,\"round_steps\":2,"              \
    "\"prompts\":[\"a\"],\"train\":{\"steps\":6,\"batch\":4}"
    int64_t second = rig_submit_from(&rig, LONGER, first, -1);
    int64_t branch = rig_submit_from(&rig, LONGER, first, 2);
    ask_job(&rig, NPO_MESSAGE_JOB, second);
    const cJSON *from = cJSON_GetObjectItem(
        cJSON_GetObjectItem(cJSON_GetObjectItem(rig.last, "job"), "spec"), "from");
    assert_int_equal(npo_json_int(from, "step", 0), 4);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(from, "pools")), 2);
    /* One round and the export; the branch has two rounds. */
    assert_int_equal(rig_play(&rig, workers, 2), 2 + 1 + 4 + 1);
    assert_string_equal(rig_state(&rig, branch), "done");
    rig.may_fail = true;
    rig_submit_from(&rig, LONGER, first, 3);
    assert_string_equal(rig_code(&rig), "NOT_FOUND");
    assert_non_null(strstr(rig.last_text, "no checkpoint at step 3, the newest are at 4, 2"));
    rig_close(&rig);
}

static void test_server_resolve_finds_outputs(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker workers[2] = {rig_hello(&rig, 1, "w0", "c"), rig_hello(&rig, 2, "w1", "c")};
    int64_t job = rig_submit(&rig, GANG);
    rig_ask(&rig, 9, NPO_MESSAGE_RESOLVE, "{\"job\":%lld,\"name\":\"model\"}", (long long)job);
    assert_string_equal(rig_code(&rig), "NOT_FOUND");
    rig_play(&rig, workers, 2);
    rig_ask(&rig, 9, NPO_MESSAGE_RESOLVE, "{\"job\":%lld,\"name\":\"model\"}", (long long)job);
    assert_string_equal(rig_code(&rig), "");
    assert_string_equal(npo_json_string(rig.last, "kind", ""), "file");
    rig_ask(&rig, 9, NPO_MESSAGE_RESOLVE,
            "{\"job\":%lld,\"name\":\"checkpoint\",\"step\":2}", (long long)job);
    assert_int_equal(npo_json_int(rig.last, "step", 0), 2);
    rig_ask(&rig, 9, NPO_MESSAGE_RESOLVE, "{\"job\":%lld,\"name\":\"checkpoint\",\"step\":null}",
            (long long)job);
    assert_int_equal(npo_json_int(rig.last, "step", 0), 4);
    rig_close(&rig);
}

static void test_server_shows_progress_from_heartbeats(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    int64_t job = rig_submit(&rig, "\"recipe\":\"self-npo\",\"pipeline\":\"fused\",\"prompts\":"
                                   "[\"a\"],\"round_steps\":10,\"train\":{\"steps\":20,\"batch\":1}");
    assert_true(rig_pull(&rig, &a));
    rig_tick(&rig, 8000);
    rig_done(&rig, &a);
    assert_true(rig_pull(&rig, &a));
    rig_tick(&rig, 3000);
    rig_beat(&rig, &a); /* step 3 of the 10 of this round */
    ask_job(&rig, NPO_MESSAGE_JOB, job);
    const cJSON *view = cJSON_GetObjectItem(rig.last, "job");
    assert_int_equal(npo_json_int(view, "step", 0), 13);
    assert_int_equal(npo_json_int(view, "steps", 0), 20);
    assert_int_equal(npo_json_int(view, "round", -1), 1);
    assert_int_equal(npo_json_int(view, "rounds", 0), 2);
    assert_string_equal(npo_json_string(view, "phase", ""), "train");
    assert_true(npo_json_number(view, "loss", 0) == 0.25);
    assert_true(npo_json_number(view, "samples_per_s", 0) == 12.5);
    /* A round took 8 s, this one is 3 s old; when it takes longer, the time left does not grow. */
    assert_true(npo_json_number(view, "eta_s", -1) == 5);
    rig_tick(&rig, 9000);
    rig_beat(&rig, &a);
    ask_job(&rig, NPO_MESSAGE_JOB, job);
    assert_true(npo_json_number(cJSON_GetObjectItem(rig.last, "job"), "eta_s", -1) == 0);
    rig_close(&rig);
}

static void test_server_measures_the_rate_anew_after_a_restart(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    int64_t job = rig_submit(&rig, "\"recipe\":\"self-npo\",\"pipeline\":\"fused\",\"prompts\":"
                                   "[\"a\"],\"round_steps\":10,\"train\":{\"steps\":30,\"batch\":1}");
    assert_true(rig_pull(&rig, &a));
    rig_restart(&rig);
    a = rig_hello(&rig, 1, "a", "c");
    assert_true(rig_pull(&rig, &a));
    rig_tick(&rig, 5000);
    rig_done(&rig, &a);
    assert_true(rig_pull(&rig, &a));
    ask_job(&rig, NPO_MESSAGE_JOB, job);
    assert_true(npo_json_number(cJSON_GetObjectItem(rig.last, "job"), "eta_s", -1) < 0);
    rig_tick(&rig, 8000);
    rig_done(&rig, &a);
    assert_true(rig_pull(&rig, &a));
    ask_job(&rig, NPO_MESSAGE_JOB, job);
    assert_true(npo_json_number(cJSON_GetObjectItem(rig.last, "job"), "eta_s", -1) == 8);
    rig_close(&rig);
}

/* ---- events, streams, rendezvous ---- */

static void test_server_event_numbers_are_never_used_again(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    int64_t job = rig_submit(&rig, SAMPLE), other = rig_submit(&rig, SAMPLE);
    rig_play(&rig, &a, 1);
    int64_t after = 0, seen = 0, of_other = 0;
    for (bool more = true; more;) {
        rig_ask(&rig, 9, NPO_MESSAGE_EVENTS, "{\"after\":%lld,\"limit\":3}", (long long)after);
        const cJSON *event, *events = cJSON_GetObjectItem(rig.last, "events");
        more = cJSON_GetArraySize(events) > 0;
        cJSON_ArrayForEach(event, events) {
            assert_true(npo_json_int(event, "seq", 0) > after);
            after = npo_json_int(event, "seq", 0);
            of_other += npo_json_int(event, "job", 0) == other;
            seen++;
        }
        assert_true(npo_json_int(rig.last, "last", 0) >= after);
    }
    /* joined, and for each job: submitted, started, task started, task done, done */
    assert_int_equal(seen, 1 + 2 * 5);
    assert_int_equal(of_other, 5);
    ask_job(&rig, NPO_MESSAGE_REMOVE, job);
    rig_restart(&rig);
    rig_submit(&rig, SAMPLE);
    rig_ask(&rig, 9, NPO_MESSAGE_EVENTS, "{\"after\":%lld,\"limit\":100}", (long long)after);
    const cJSON *first = cJSON_GetArrayItem(cJSON_GetObjectItem(rig.last, "events"), 0);
    assert_int_equal(npo_json_int(first, "seq", 0), after + 1);
    rig_ask(&rig, 9, NPO_MESSAGE_EVENTS, "{\"after\":0,\"job\":%lld}", (long long)other);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(rig.last, "events")), 5);
    rig_close(&rig);
}

static const cJSON *append(npo_rig *rig, const rig_worker *worker, int offset, const char *text)
{
    rig->payload = text;
    rig->payload_len = strlen(text);
    return rig_ask(rig, worker->boot, NPO_MESSAGE_APPEND,
                   "{\"worker\":%lld,\"task\":%lld,\"attempt\":%lld,\"rank\":0,\"stream\":\"log\","
                   "\"offset\":%d}",
                   (long long)worker->id, (long long)worker->task, (long long)worker->attempt,
                   offset);
}

static void assert_stream(npo_rig *rig, int64_t task, int offset, const char *text, int size)
{
    rig_ask(rig, 9, NPO_MESSAGE_STREAM, "{\"task\":%lld,\"stream\":\"log\",\"offset\":%d}",
            (long long)task, offset);
    assert_int_equal(npo_json_int(rig->last, "size", -1), size);
    assert_int_equal(rig->reply.payload.len, strlen(text));
    if (*text)
        assert_memory_equal(rig->reply.payload.data, text, strlen(text));
}

static void test_server_streams_take_each_byte_once(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    int64_t job = rig_submit(&rig, SAMPLE);
    assert_true(rig_pull(&rig, &a));
    assert_stream(&rig, a.task, 0, "", 0);
    assert_int_equal(npo_json_int(append(&rig, &a, 0, "hello "), "size", 0), 6);
    assert_int_equal(npo_json_int(append(&rig, &a, 3, "lo world"), "size", 0), 11);
    assert_int_equal(npo_json_int(append(&rig, &a, 0, "hello "), "size", 0), 11);
    append(&rig, &a, 12, "gap");
    assert_string_equal(rig_code(&rig), "RANGE");
    append(&rig, &a, NPO_STREAM_BYTES_MAX, "x");
    assert_string_equal(rig_code(&rig), "LIMIT");
    assert_stream(&rig, a.task, 6, "world", 11);
    assert_stream(&rig, a.task, 50, "", 11);
    int64_t task = a.task;
    rig_done(&rig, &a);
    a.task = task;
    append(&rig, &a, 11, "late");
    assert_string_equal(rig_code(&rig), "FENCED");
    ask_job(&rig, NPO_MESSAGE_REMOVE, job);
    rig_ask(&rig, 9, NPO_MESSAGE_STREAM, "{\"task\":%lld,\"stream\":\"log\"}", (long long)task);
    assert_string_equal(rig_code(&rig), "NOT_FOUND");
    rig_close(&rig);
}

static const char *rendezvous(npo_rig *rig, const rig_worker *worker, npo_message id,
                              const char *more)
{
    rig_ask(rig, worker->boot, id,
            "{\"worker\":%lld,\"task\":%lld,\"attempt\":%lld,\"rank\":%d,\"key\":\"k\"%s}",
            (long long)worker->id, (long long)worker->task, (long long)worker->attempt,
            worker->rank, more);
    return npo_json_string(rig->last, "value", "none");
}

static void test_server_rendezvous_outlives_npod_but_not_the_attempt(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    rig_submit(&rig, GANG);
    assert_true(rig_pull(&rig, &a) && rig_pull(&rig, &b));
    assert_string_equal(rendezvous(&rig, &b, NPO_MESSAGE_RENDEZVOUS_GET, ""), "none");
    rendezvous(&rig, &a, NPO_MESSAGE_RENDEZVOUS_SET, ",\"value\":\"aGk=\"");
    rig_restart(&rig);
    assert_string_equal(rendezvous(&rig, &b, NPO_MESSAGE_RENDEZVOUS_GET, ""), "aGk=");
    rig_worker old = a;
    rig_fail(&rig, &b, true);
    rendezvous(&rig, &old, NPO_MESSAGE_RENDEZVOUS_SET, ",\"value\":\"b2xk\"");
    assert_string_equal(rig_code(&rig), "FENCED");
    rig_tick(&rig, NPO_RETRY_BASE_MS);
    assert_true(rig_pull(&rig, &a) && rig_pull(&rig, &b));
    assert_string_equal(rendezvous(&rig, &b, NPO_MESSAGE_RENDEZVOUS_GET, ""), "none");
    rig_close(&rig);
}

/* ---- the wire ---- */

static void test_server_refuses_nonsense_in_every_message(void **state)
{
    static const char *const bodies[] = {
        "", "[]", "{", "{}", "{\"worker\":\"x\"}", "{\"job\":-1}", "{\"hash\":5}", "null",
        "{\"worker\":1e300,\"task\":{},\"attempt\":[],\"rank\":null,\"job\":[1],\"hash\":\"zz\"}",
    };
    npo_rig rig = {0};
    size_t count;
    rig_open(&rig);
    const npo_message_info *table = npo_message_table(&count);
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < sizeof bodies / sizeof bodies[0]; k++) {
            rig_ask(&rig, 9, table[i].id, "%s", bodies[k]);
            assert_non_null(rig.last); /* an answer, and the group is whole */
        }
    }
    rig_submit(&rig, SAMPLE);
    rig_close(&rig);
}

static void test_server_refuses_a_sender_that_has_seen_a_higher_epoch(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    const npo_frame frame = {.id = NPO_MESSAGE_INFO,
                             .boot = 1,
                             .request = 1,
                             .epoch = npo_server_epoch(rig.server) + 1,
                             .json = "{}",
                             .json_len = 2};
    npo_server_handle(rig.server, &frame, rig.now, NULL, &rig.reply);
    assert_non_null(strstr(rig.reply.json.data, "\"FENCED\""));
    assert_int_equal(npo_server_commit(rig.server, rig.now, NULL), NPO_OK);
    rig.options.raise_epoch = true;
    rig_restart(&rig);
    npo_server_handle(rig.server, &frame, rig.now, NULL, &rig.reply);
    assert_null(strstr(rig.reply.json.data, "error"));
    assert_int_equal(npo_server_commit(rig.server, rig.now, NULL), NPO_OK);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_server_plays_a_staged_job_to_its_end),
        cmocka_unit_test(test_server_goes_on_after_every_restart),
        cmocka_unit_test(test_server_inputs_are_the_outputs_before),
        cmocka_unit_test(test_server_ranks_get_their_own_inputs),
        cmocka_unit_test(test_server_failed_task_is_tried_again_after_a_while),
        cmocka_unit_test(test_server_back_off_is_not_lost_with_a_restart),
        cmocka_unit_test(test_server_final_failure_fails_the_job_at_once),
        cmocka_unit_test(test_server_retry_goes_on_where_it_failed),
        cmocka_unit_test(test_server_one_failed_rank_ends_the_attempt_of_all),
        cmocka_unit_test(test_server_silent_worker_loses_its_task),
        cmocka_unit_test(test_server_heartbeats_keep_the_lease),
        cmocka_unit_test(test_server_restart_waits_a_whole_lease),
        cmocka_unit_test(test_server_own_absence_is_not_the_workers_fault),
        cmocka_unit_test(test_server_a_new_boot_ends_what_the_old_one_held),
        cmocka_unit_test(test_server_losses_have_a_limit_of_their_own),
        cmocka_unit_test(test_server_goodbye_counts_as_nothing),
        cmocka_unit_test(test_server_lost_rank_restarts_the_gang_when_it_is_whole),
        cmocka_unit_test(test_server_cancel_stops_and_frees),
        cmocka_unit_test(test_server_hold_lets_the_task_end_and_gives_workers_back),
        cmocka_unit_test(test_server_release_during_the_last_task_keeps_it_running),
        cmocka_unit_test(test_server_remove_forgets_an_ended_job_only),
        cmocka_unit_test(test_server_refuses_orders_in_the_wrong_state),
        cmocka_unit_test(test_server_submit_with_the_same_key_finds_the_same_job),
        cmocka_unit_test(test_server_submit_refuses_bad_jobs_whole),
        cmocka_unit_test(test_server_continues_from_a_checkpoint),
        cmocka_unit_test(test_server_resolve_finds_outputs),
        cmocka_unit_test(test_server_shows_progress_from_heartbeats),
        cmocka_unit_test(test_server_measures_the_rate_anew_after_a_restart),
        cmocka_unit_test(test_server_event_numbers_are_never_used_again),
        cmocka_unit_test(test_server_streams_take_each_byte_once),
        cmocka_unit_test(test_server_rendezvous_outlives_npod_but_not_the_attempt),
        cmocka_unit_test(test_server_refuses_nonsense_in_every_message),
        cmocka_unit_test(test_server_refuses_a_sender_that_has_seen_a_higher_epoch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
