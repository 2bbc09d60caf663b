#include "common/bounds.h"
#include "tests/unit/server/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void test_server_refuses_nonsense_in_every_message(void **state)
{
    static const char *const bodies[] = {
        "",
        "[]",
        "{",
        "{}",
        "{\"worker\":\"x\"}",
        "{\"job\":-1}",
        "{\"hash\":5}",
        "null",
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
    rig_submit(&rig, RIG_SAMPLE);
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
        cmocka_unit_test(test_server_refuses_nonsense_in_every_message),
        cmocka_unit_test(test_server_refuses_a_sender_that_has_seen_a_higher_epoch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
