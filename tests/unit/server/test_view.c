#include "common/bounds.h"
#include "tests/unit/server/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void test_view_resolve_finds_outputs(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker workers[2] = {rig_hello(&rig, 1, "w0", "c"), rig_hello(&rig, 2, "w1", "c")};
    int64_t job = rig_submit(&rig, RIG_GANG);
    rig_ask(&rig, 9, NPO_MESSAGE_RESOLVE, "{\"job\":%lld,\"name\":\"model\"}", (long long)job);
    assert_string_equal(rig_code(&rig), "NOT_FOUND");
    rig_play(&rig, workers, 2);
    rig_ask(&rig, 9, NPO_MESSAGE_RESOLVE, "{\"job\":%lld,\"name\":\"model\"}", (long long)job);
    assert_string_equal(rig_code(&rig), "");
    assert_string_equal(npo_json_string(rig.last, "kind", ""), "file");
    rig_ask(&rig, 9, NPO_MESSAGE_RESOLVE, "{\"job\":%lld,\"name\":\"checkpoint\",\"step\":2}",
            (long long)job);
    assert_int_equal(npo_json_int(rig.last, "step", 0), 2);
    rig_ask(&rig, 9, NPO_MESSAGE_RESOLVE, "{\"job\":%lld,\"name\":\"checkpoint\",\"step\":null}",
            (long long)job);
    assert_int_equal(npo_json_int(rig.last, "step", 0), 4);
    rig_close(&rig);
}

static void test_view_shows_progress_from_heartbeats(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    int64_t job =
        rig_submit(&rig, "\"recipe\":\"self-npo\",\"pipeline\":\"fused\",\"prompts\":"
                         "[\"a\"],\"round_steps\":10,\"train\":{\"steps\":20,\"batch\":1}");
    assert_true(rig_pull(&rig, &a));
    rig_tick(&rig, 10000);
    rig_done(&rig, &a);
    rig_tick(&rig, 100);
    assert_true(rig_pull(&rig, &a));
    rig_beat(&rig, &a); /* step 3 of the 10 of this round */
    rig_order(&rig, NPO_MESSAGE_JOB, job);
    const cJSON *view = cJSON_GetObjectItem(rig.last, "job");
    assert_int_equal(npo_json_int(view, "step", 0), 13);
    assert_int_equal(npo_json_int(view, "steps", 0), 20);
    assert_int_equal(npo_json_int(view, "round", -1), 1);
    assert_int_equal(npo_json_int(view, "rounds", 0), 2);
    assert_string_equal(npo_json_string(view, "phase", ""), "train");
    assert_true(npo_json_number(view, "loss", 0) == 0.25);
    assert_true(npo_json_number(view, "samples_per_s", 0) == 12.5);
    /* A round took 10.1 s, the checkpoint was seen just now. */
    assert_int_equal(npo_json_number(view, "eta_s", 0) * 10, 101);
    rig_close(&rig);
}

static void test_view_event_numbers_are_never_used_again(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    int64_t job = rig_submit(&rig, RIG_SAMPLE), other = rig_submit(&rig, RIG_SAMPLE);
    rig_play(&rig, &a, 1);
    int64_t after = 0, seen = 0, of_other = 0;
    for (bool more = true; more;) {
        rig_ask(&rig, 9, NPO_MESSAGE_EVENTS, "{\"after\":%lld,\"limit\":3}", (long long)after);
        const cJSON *event, *events = cJSON_GetObjectItem(rig.last, "events");
        more = cJSON_GetArraySize(events) > 0;
        cJSON_ArrayForEach(event, events)
        {
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
    rig_order(&rig, NPO_MESSAGE_REMOVE, job);
    rig_restart(&rig);
    rig_submit(&rig, RIG_SAMPLE);
    rig_ask(&rig, 9, NPO_MESSAGE_EVENTS, "{\"after\":%lld,\"limit\":100}", (long long)after);
    const cJSON *first = cJSON_GetArrayItem(cJSON_GetObjectItem(rig.last, "events"), 0);
    assert_int_equal(npo_json_int(first, "seq", 0), after + 1);
    rig_ask(&rig, 9, NPO_MESSAGE_EVENTS, "{\"after\":0,\"job\":%lld}", (long long)other);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(rig.last, "events")), 5);
    rig_close(&rig);
}

static double eta_s(npo_rig *rig, int64_t job)
{
    rig_order(rig, NPO_MESSAGE_JOB, job);
    return npo_json_number(cJSON_GetObjectItem(rig->last, "job"), "eta_s", -1);
}

/* Rounds of 20 s, of which the workers do optimizer steps in the last 4 only. */
static void test_view_eta_falls_between_checkpoints(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    int64_t job = rig_submit(&rig, "\"recipe\":\"self-npo\",\"prompts\":[\"a\"],\"round_steps\":10,"
                                   "\"train\":{\"steps\":50,\"batch\":1}");
    double before = 0;
    for (int second = 0; second < 100; second++) {
        if (a.task == 0)
            assert_true(rig_pull(&rig, &a));
        rig_tick(&rig, 900);
        rig_beat(&rig, &a);
        int in_round = (second + 1) % 20;
        if (in_round == 8 || in_round == 16 || in_round == 0)
            rig_done(&rig, &a);
        rig_tick(&rig, 100);
        double now = eta_s(&rig, job);
        if (second > 20 && second < 99) {
            assert_true(now >= 0 && now < before);
            assert_true(now > 99 - second - 2 && now < 99 - second + 2);
        }
        before = now;
    }
    rig_close(&rig);
}

/* Neither is it forgotten, nor taken for one fast step, when npod starts in the midst of a round.
 */
static void test_view_eta_comes_back_after_a_restart(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    int64_t job =
        rig_submit(&rig, "\"recipe\":\"self-npo\",\"pipeline\":\"fused\",\"prompts\":"
                         "[\"a\"],\"round_steps\":10,\"train\":{\"steps\":50,\"batch\":1}");
    assert_true(rig_pull(&rig, &a));
    rig_tick(&rig, 5000);
    rig_restart(&rig);
    rig_beat(&rig, &a);
    assert_true(eta_s(&rig, job) < 0);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 10; i++) {
            rig_tick(&rig, 1000);
            rig_beat(&rig, &a);
        }
        rig_done(&rig, &a);
        assert_true(rig_pull(&rig, &a));
    }
    rig_tick(&rig, 100);
    double eta = eta_s(&rig, job);
    assert_true(eta > 15 && eta < 30); /* 20 steps of one second each */
    rig_close(&rig);
}

/* A long job file and long lists: what does not fit is left out, and that is said. */
static void test_view_of_a_job_fits_a_reply(void **state)
{
    enum { PROMPTS = 215, OUTPUTS = 1200 };
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    char *text = malloc(1 << 20), prompt[4097];
    memset(prompt, 'x', sizeof prompt - 1);
    prompt[sizeof prompt - 1] = '\0';
    size_t len = (size_t)sprintf(text, "\"recipe\":\"sample\",\"prompts\":[");
    for (int i = 0; i < PROMPTS; i++)
        len += (size_t)sprintf(text + len, "%s\"%s\"", i ? "," : "", prompt);
    sprintf(text + len, "]");
    int64_t job = rig_submit(&rig, text);
    assert_true(rig_pull(&rig, &a));
    const char *hash = rig_publish(&rig, 1, "x");
    len = (size_t)sprintf(text,
                          "{\"worker\":%lld,\"task\":%lld,\"attempt\":1,\"rank\":0,\"outputs\":[",
                          (long long)a.id, (long long)a.task);
    for (int i = 0; i < OUTPUTS; i++)
        len += (size_t)sprintf(text + len, "%s{\"name\":\"%0120d\",\"hash\":\"%s\",\"size\":1}",
                               i ? "," : "", i, hash);
    sprintf(text + len, "]}");
    rig_ask(&rig, a.boot, NPO_MESSAGE_DONE, "%s", text);
    assert_string_equal(rig_code(&rig), "");
    rig_order(&rig, NPO_MESSAGE_JOB, job);
    assert_true(strlen(rig.last_text) <= NPO_REPLY_BYTES_MAX);
    assert_true(cJSON_GetArraySize(cJSON_GetObjectItem(rig.last, "outputs")) > 100);
    assert_true(npo_json_bool(rig.last, "truncated", false));
    free(text);
    rig_close(&rig);
}

/* A follower gets the events of its job, however many of others stand before and between them. */
static void test_view_events_of_one_job(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    for (int i = 0; i < 20; i++)
        rig_submit(&rig, RIG_SAMPLE);
    int64_t job = rig_submit(&rig, RIG_SAMPLE);
    rig_submit(&rig, RIG_SAMPLE);
    rig_order(&rig, NPO_MESSAGE_CANCEL, job);
    rig_ask(&rig, 9, NPO_MESSAGE_EVENTS, "{\"after\":0,\"job\":%lld}", (long long)job);
    const cJSON *events = cJSON_GetObjectItem(rig.last, "events");
    assert_int_equal(cJSON_GetArraySize(events), 2);
    assert_string_equal(npo_json_string(cJSON_GetArrayItem(events, 0), "kind", ""),
                        "job.submitted");
    assert_string_equal(npo_json_string(cJSON_GetArrayItem(events, 1), "kind", ""),
                        "job.cancelled");
    rig_ask(&rig, 9, NPO_MESSAGE_EVENTS, "{\"after\":%lld,\"job\":%lld}",
            (long long)npo_json_int(cJSON_GetArrayItem(events, 0), "seq", 0), (long long)job);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(rig.last, "events")), 1);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_view_resolve_finds_outputs),
        cmocka_unit_test(test_view_shows_progress_from_heartbeats),
        cmocka_unit_test(test_view_event_numbers_are_never_used_again),
        cmocka_unit_test(test_view_eta_falls_between_checkpoints),
        cmocka_unit_test(test_view_eta_comes_back_after_a_restart),
        cmocka_unit_test(test_view_of_a_job_fits_a_reply),
        cmocka_unit_test(test_view_events_of_one_job),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
