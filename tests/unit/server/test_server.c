#include "tests/unit/server/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SELF_NPO "\"recipe\":\"self-npo\",\"prompts\":[\"a\"],\"train\":{\"steps\":%d,\"batch\":4}"

static void test_server_plays_a_staged_job_to_its_end(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker workers[2] = {rig_hello(&rig, 1, "w0", "c"), rig_hello(&rig, 2, "w1", "c")};
    int64_t job = rig_submit(&rig, "\"recipe\":\"self-npo\",\"workers\":2,\"round_steps\":2,"
                                   "\"prompts\":[\"a\"],\"train\":{\"steps\":5,\"batch\":4}");
    /* 3 rounds of 2 generate, 2 truncate and a train of 2 ranks, then export. */
    assert_int_equal(rig_play(&rig, workers, 2), 3 * 6 + 1);
    assert_string_equal(rig_state(&rig, job), "done");
    const cJSON *view = cJSON_GetObjectItem(rig.last, "job");
    assert_int_equal(npo_json_int(view, "step", 0), 5);
    assert_int_equal(npo_json_int(cJSON_GetObjectItem(view, "tasks"), "done", 0), 3 * 5 + 1);
    rig_close(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_server_plays_a_staged_job_to_its_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
