#include "common/bounds.h"
#include "tests/unit/server/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void test_submit_with_the_same_key_finds_the_same_job(void **state)
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

static void test_submit_refuses_bad_jobs_whole(void **state)
{
    static const struct {
        const char *spec, *code, *says;
    } cases[] = {
        {"{\"recipe\":\"sampel\"}", "TYPE", "recipe"},
        {"{\"recipe\":\"sample\",\"prompts\":[\"a\"],\"modle\":1}", "USAGE",
         "did you mean 'model'"},
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

static void test_submit_continues_from_a_checkpoint(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker workers[2] = {rig_hello(&rig, 1, "w0", "c"), rig_hello(&rig, 2, "w1", "c")};
    int64_t first = rig_submit(&rig, RIG_GANG);
    rig_play(&rig, workers, 2);
#define LONGER                                                                                     \
    "\"recipe\":\"self-npo\",\"pipeline\":\"fused\",\"workers\":2,\"round_steps\":2,"              \
    "\"prompts\":[\"a\"],\"train\":{\"steps\":6,\"batch\":4}"
    int64_t second = rig_submit_from(&rig, LONGER, first, -1);
    int64_t branch = rig_submit_from(&rig, LONGER, first, 2);
    rig_order(&rig, NPO_MESSAGE_JOB, second);
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

/* The source may go: what the job continues from is kept for it. */
static void test_submit_from_a_job_that_is_removed_later(void **state)
{
    npo_rig rig = {.options = {.garbage_age_ms = 1}};
    rig_open(&rig);
    rig_worker workers[2] = {rig_hello(&rig, 1, "w0", "c"), rig_hello(&rig, 2, "w1", "c")};
    int64_t first = rig_submit(&rig, RIG_GANG);
    rig_play(&rig, workers, 2);
    int64_t second = rig_submit_from(&rig, LONGER, first, 2);
    rig_order(&rig, NPO_MESSAGE_REMOVE, first);
    assert_string_equal(npo_json_string(rig.last, "state", ""), "removed");
    rig_tick(&rig, 3 * 3600000);
    for (int i = 0; i < 2; i++)
        workers[i] = rig_hello(&rig, 10 + (uint64_t)i, i ? "w1" : "w0", "c");
    rig_play(&rig, workers, 2);
    assert_string_equal(rig_state(&rig, second), "done");
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_submit_with_the_same_key_finds_the_same_job),
        cmocka_unit_test(test_submit_refuses_bad_jobs_whole),
        cmocka_unit_test(test_submit_continues_from_a_checkpoint),
        cmocka_unit_test(test_submit_from_a_job_that_is_removed_later),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
