#include "common/bounds.h"
#include "tests/unit/server/rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static const char *rendezvous(npo_rig *rig, const rig_worker *worker, npo_message id,
                              const char *more)
{
    rig_ask(rig, worker->boot, id,
            "{\"worker\":%lld,\"task\":%lld,\"attempt\":%lld,\"rank\":%d,\"key\":\"k\"%s}",
            (long long)worker->id, (long long)worker->task, (long long)worker->attempt,
            worker->rank, more);
    return npo_json_string(rig->last, "value", "none");
}

static void test_stream_take_each_byte_once(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c");
    int64_t job = rig_submit(&rig, RIG_SAMPLE);
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
    rig_order(&rig, NPO_MESSAGE_REMOVE, job);
    rig_ask(&rig, 9, NPO_MESSAGE_STREAM, "{\"task\":%lld,\"stream\":\"log\"}", (long long)task);
    assert_string_equal(rig_code(&rig), "NOT_FOUND");
    rig_close(&rig);
}

static void test_stream_rendezvous_outlives_npod_but_not_the_attempt(void **state)
{
    npo_rig rig = {0};
    rig_open(&rig);
    rig_worker a = rig_hello(&rig, 1, "a", "c"), b = rig_hello(&rig, 2, "b", "c");
    rig_submit(&rig, RIG_GANG);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream_take_each_byte_once),
        cmocka_unit_test(test_stream_rendezvous_outlives_npod_but_not_the_attempt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
