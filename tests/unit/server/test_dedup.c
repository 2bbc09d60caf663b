#include "tests/unit/server/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Asks, then asks again with the same ids (and once more after a restart): the same bytes each
 * time. */
static void ask_thrice(npo_rig *rig, uint64_t boot, uint64_t request, npo_message id,
                       const char *json)
{
    assert_non_null(rig_ask_as(rig, boot, request, id, json));
    char *first = strdup(rig->last_text);
    rig_ask_as(rig, boot, request, id, json);
    assert_string_equal(rig->last_text, first);
    rig_restart(rig);
    rig_ask_as(rig, boot, request, id, json);
    assert_string_equal(rig->last_text, first);
    free(first);
}

static int64_t count_events(npo_rig *rig)
{
    rig_ask(rig, 77, NPO_MESSAGE_EVENTS, "{\"after\":0}");
    return cJSON_GetArraySize(cJSON_GetObjectItem(rig->last, "events"));
}

static void test_dedup_resends_get_the_same_bytes_and_change_nothing(void **state)
{
    npo_rig rig = {0};
    char json[512];
    rig_open(&rig);
    ask_thrice(&rig, 1, 1, NPO_MESSAGE_HELLO,
               "{\"name\":\"a\",\"device\":\"cpu\",\"class\":\"c\",\"build\":\"1\"}");
    int64_t worker = npo_json_int(rig.last, "worker", 0);
    const char *model = rig_publish(&rig, 9, "m");
    snprintf(json, sizeof json,
             "{\"key\":\"k\",\"spec\":{\"recipe\":\"sample\",\"prompts\":[\"a\"],"
             "\"model\":{\"artifact\":\"%s\"}}}",
             model);
    ask_thrice(&rig, 9, 1000, NPO_MESSAGE_SUBMIT, json);
    assert_false(npo_json_bool(rig.last, "existing", true)); /* as the first time */
    snprintf(json, sizeof json, "{\"worker\":%lld}", (long long)worker);
    ask_thrice(&rig, 1, 2, NPO_MESSAGE_PULL, json);
    const cJSON *assignment = cJSON_GetObjectItem(rig.last, "assignment");
    int64_t task = npo_json_int(assignment, "task", 0);
    assert_true(task > 0);
    snprintf(json, sizeof json,
             "{\"worker\":%lld,\"task\":%lld,\"attempt\":1,\"rank\":0,\"outputs\":[{\"name\":\"o\","
             "\"hash\":\"%s\",\"size\":1}]}",
             (long long)worker, (long long)task, model);
    ask_thrice(&rig, 1, 3, NPO_MESSAGE_DONE, json);
    assert_string_equal(rig.last_text, "{\"ok\":true}");
    /* The pull before it is answered as it was, and starts nothing. */
    snprintf(json, sizeof json, "{\"worker\":%lld}", (long long)worker);
    rig_ask_as(&rig, 1, 2, NPO_MESSAGE_PULL, json);
    assert_int_equal(npo_json_int(cJSON_GetObjectItem(rig.last, "assignment"), "task", 0), task);
    /* joined, submitted, started, task started, task done, done: once each */
    assert_int_equal(count_events(&rig), 6);
    ask_thrice(&rig, 1, 4, NPO_MESSAGE_GOODBYE, json);
    assert_int_equal(count_events(&rig), 7);
    rig_close(&rig);
}

static void test_dedup_refuses_what_is_too_old_to_be_known(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    int64_t job = rig_submit(&rig, RIG_SAMPLE);
    char json[64];
    snprintf(json, sizeof json, "{\"job\":%lld}", (long long)job);
    rig_ask_as(&rig, 5, 100, NPO_MESSAGE_HOLD, json);
    assert_string_equal(rig_code(&rig), "");
    rig_ask_as(&rig, 5, 100 - NPO_REQUESTS_IN_FLIGHT_MAX, NPO_MESSAGE_RELEASE, json);
    assert_string_equal(rig_code(&rig), "STATE");
    assert_non_null(strstr(rig.last_text, "answered long ago"));
    /* Another process may use the number. */
    rig_ask_as(&rig, 6, 100 - NPO_REQUESTS_IN_FLIGHT_MAX, NPO_MESSAGE_RELEASE, json);
    assert_string_equal(rig_code(&rig), "");
    rig_close(&rig);
}

static void test_dedup_keeps_the_window_of_requests_in_flight(void **state)
{
    npo_rig rig = {0};
    char json[64], *first[NPO_REQUESTS_IN_FLIGHT_MAX];
    rig_open(&rig);
    for (int i = 0; i < NPO_REQUESTS_IN_FLIGHT_MAX; i++) {
        int64_t job = rig_submit(&rig, RIG_SAMPLE);
        snprintf(json, sizeof json, "{\"job\":%lld}", (long long)job);
        rig_ask_as(&rig, 5, (uint64_t)(40 + i), i % 2 ? NPO_MESSAGE_HOLD : NPO_MESSAGE_CANCEL,
                   json);
        first[i] = strdup(rig.last_text);
    }
    rig_restart(&rig);
    for (int i = NPO_REQUESTS_IN_FLIGHT_MAX - 1; i >= 0; i--) {
        rig_ask_as(&rig, 5, (uint64_t)(40 + i), NPO_MESSAGE_HOLD, json);
        assert_string_equal(rig.last_text, first[i]);
        free(first[i]);
    }
    rig_close(&rig);
}

static void test_dedup_errors_are_not_remembered(void **state)
{
    npo_rig rig = {0};
    char json[64];
    rig_open(&rig);
    rig_ask_as(&rig, 5, 1, NPO_MESSAGE_CANCEL, "{\"job\":1}");
    assert_string_equal(rig_code(&rig), "NOT_FOUND");
    int64_t job = rig_submit(&rig, RIG_SAMPLE);
    snprintf(json, sizeof json, "{\"job\":%lld}", (long long)job);
    rig_ask_as(&rig, 5, 1, NPO_MESSAGE_CANCEL, json);
    assert_string_equal(rig_code(&rig), "");
    rig_close(&rig);
}

static void test_dedup_ages_out_but_not_right_after_a_start(void **state)
{
    npo_rig rig = {0};
    char json[64];
    rig_open(&rig);
    int64_t job = rig_submit(&rig, RIG_SAMPLE);
    snprintf(json, sizeof json, "{\"job\":%lld}", (long long)job);
    rig_ask_as(&rig, 5, 1, NPO_MESSAGE_HOLD, json);
    rig.now.mono_ms += 3 * NPO_REQUEST_KEPT_MS; /* npod was away for long */
    rig.now.wall_ms += 3 * NPO_REQUEST_KEPT_MS;
    rig_restart(&rig);
    rig_tick(&rig, 60000);
    rig_ask_as(&rig, 5, 1, NPO_MESSAGE_HOLD, json);
    assert_string_equal(rig.last_text, "{\"state\":\"held\"}");
    rig_tick(&rig, NPO_REQUEST_KEPT_MS + 60000);
    rig_ask_as(&rig, 5, 1, NPO_MESSAGE_HOLD, json);
    assert_string_equal(rig_code(&rig), "STATE"); /* looked at anew: it is held already */
    rig_restart(&rig);
    rig_ask_as(&rig, 5, 1, NPO_MESSAGE_HOLD, json);
    assert_string_equal(rig_code(&rig), "STATE");
    rig_close(&rig);
}

/* Enough requests that the log is written anew, more than once. */
static void test_dedup_survives_its_log_being_rewritten(void **state)
{
    npo_rig rig = {0};
    char *text = malloc(900001), json[128];
    rig_open(&rig);
    int64_t job = rig_submit(&rig, RIG_SAMPLE);
    snprintf(json, sizeof json, "{\"job\":%lld}", (long long)job);
    rig_ask_as(&rig, 5, 1, NPO_MESSAGE_HOLD, json);
    /* Replies as long as requests: every hash is missing; the pin of the first makes them be
     * stored. */
    const char *hash = rig_publish(&rig, 5, "x");
    size_t len = (size_t)sprintf(text, "{\"hashes\":[\"%s\"", hash);
    while (len < 800000)
        len += (size_t)sprintf(text + len, ",\"%032zx\"", len);
    sprintf(text + len, "]}");
    for (uint64_t i = 0; i < 24; i++) {
        rig_ask_as(&rig, 6, 1 + i, NPO_MESSAGE_ARTIFACTS_MISSING, text);
        assert_string_equal(rig_code(&rig), "");
    }
    char *last = strdup(rig.last_text);
    rig_restart(&rig);
    rig_ask_as(&rig, 6, 24, NPO_MESSAGE_ARTIFACTS_MISSING, "{\"hashes\":[]}");
    assert_string_equal(rig.last_text, last);
    rig_ask_as(&rig, 5, 1, NPO_MESSAGE_HOLD, json);
    assert_string_equal(rig.last_text, "{\"state\":\"held\"}");
    free(last);
    free(text);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dedup_resends_get_the_same_bytes_and_change_nothing),
        cmocka_unit_test(test_dedup_refuses_what_is_too_old_to_be_known),
        cmocka_unit_test(test_dedup_keeps_the_window_of_requests_in_flight),
        cmocka_unit_test(test_dedup_errors_are_not_remembered),
        cmocka_unit_test(test_dedup_ages_out_but_not_right_after_a_start),
        cmocka_unit_test(test_dedup_survives_its_log_being_rewritten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
