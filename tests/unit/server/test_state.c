#include "server/state.h"
#include "tests/unit/cmocka.h"

#include <string.h>

/* Rows: from; columns: event; '.' not allowed. Written down apart from the tables in state.c. */
static void test_state_every_job_pair(void **state)
{
    /*                       start finish fail cancel hold release retry remove */
    static const char *const expected[NPO_JOB_STATE_COUNT] = {
        [NPO_JOB_PENDING] = "R.FXH...", [NPO_JOB_RUNNING] = ".DFXH...",
        [NPO_JOB_HELD] = ".DFX.P..",    [NPO_JOB_DONE] = ".......-",
        [NPO_JOB_FAILED] = "......P-",  [NPO_JOB_CANCELLED] = "......P-",
    };
    static const char letters[] = "PRHDFX-";
    for (int from = 0; from < NPO_JOB_STATE_COUNT; from++) {
        assert_int_equal(strlen(expected[from]), NPO_JOB_EVENT_COUNT);
        for (int event = 0; event < NPO_JOB_EVENT_COUNT; event++) {
            npo_job_state to = NPO_JOB_STATE_COUNT;
            npo_err err = npo_job_next((npo_job_state)from, (npo_job_event)event, &to);
            char found = err ? '.' : letters[to];
            if (found != expected[from][event])
                fail_msg("job %s, event %d: '%c', expected '%c'",
                         npo_job_state_name((npo_job_state)from), event, found,
                         expected[from][event]);
        }
    }
}

static void test_state_every_task_pair(void **state)
{
    /*                       start finish again fail lose resume cancel retry redo */
    static const char *const expected[NPO_TASK_STATE_COUNT] = {
        [NPO_TASK_WAITING] = "......X..",   [NPO_TASK_READY] = "U..F..X..",
        [NPO_TASK_DELAYED] = ".....RX..",   [NPO_TASK_RUNNING] = ".DLFR.X..",
        [NPO_TASK_DONE] = "........R",      [NPO_TASK_FAILED] = ".......R.",
        [NPO_TASK_CANCELLED] = ".......R.",
    };
    static const char letters[] = "WRLUDFX";
    for (int from = 0; from < NPO_TASK_STATE_COUNT; from++) {
        assert_int_equal(strlen(expected[from]), NPO_TASK_EVENT_COUNT);
        for (int event = 0; event < NPO_TASK_EVENT_COUNT; event++) {
            npo_task_state to = NPO_TASK_STATE_COUNT;
            npo_err err = npo_task_next((npo_task_state)from, (npo_task_event)event, &to);
            char found = err ? '.' : letters[to];
            if (found != expected[from][event])
                fail_msg("task state %d, event %d: '%c', expected '%c'", from, event, found,
                         expected[from][event]);
        }
    }
}

static void test_state_json_text_is_escaped(void **state)
{
    npo_buf buf = NPO_BUF_INIT;
    npo_json_add_text(&buf, "a\"b\\c\nd\x01 \xc3\xa4");
    assert_string_equal(buf.data, "\"a\\\"b\\\\c\\nd\\u0001 \xc3\xa4\"");
    npo_buf_clear(&buf);
    npo_json_add_text(&buf, NULL);
    assert_string_equal(buf.data, "null");
    npo_buf_clear(&buf);
    npo_json_add_field(&buf, "x", INT64_MIN);
    npo_json_add_field(&buf, " ", 0);
    npo_json_add_field(&buf, " ", INT64_MAX);
    assert_string_equal(buf.data, "x-9223372036854775808 0 9223372036854775807");
    npo_buf_fini(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_state_every_job_pair),
        cmocka_unit_test(test_state_every_task_pair),
        cmocka_unit_test(test_state_json_text_is_escaped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
