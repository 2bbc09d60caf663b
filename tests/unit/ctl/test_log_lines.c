#include "tests/unit/cmocka.h"

#include "ctl/text/log_lines.h"

#include <stdlib.h>
#include <string.h>

static const npo_log_cursor cursor = {.task = 12, .kind = "train", .round = 3, .rank = 1};

static void expect_lines(const char *bytes, bool is_last, size_t used, const char *text)
{
    npo_buf buf = NPO_BUF_INIT;
    assert_int_equal(npo_log_lines(&cursor, bytes, strlen(bytes), is_last, true, &buf), used);
    assert_string_equal(buf.data ? buf.data : "", text);
    npo_buf_fini(&buf);
}

static void test_logs_lines_keep_an_unfinished_one_back(void **state)
{
    expect_lines("one\ntwo\nthr", false, 8, "task 12 train 3.1: one\ntask 12 train 3.1: two\n");
    expect_lines("thr", false, 0, "");
    expect_lines("thr", true, 3, "task 12 train 3.1: thr\n");
    expect_lines("", true, 0, "");
    expect_lines("\n", false, 1, "task 12 train 3.1: \n");
}

static void test_logs_lines_remove_control_characters(void **state)
{
    expect_lines("a\x1b[2J\tb\n", false, 8, "task 12 train 3.1: a [2J\tb\n");
}

static void test_logs_lines_print_an_endless_one_in_pieces(void **state)
{
    size_t len = 64 << 10;
    char *bytes = malloc(len);
    npo_buf buf = NPO_BUF_INIT;
    memset(bytes, 'x', len);
    assert_int_equal(npo_log_lines(&cursor, bytes, len - 1, false, false, &buf), 0);
    assert_int_equal(npo_log_lines(&cursor, bytes, len, false, false, &buf), len);
    assert_int_equal(buf.len, len + 1);
    npo_buf_fini(&buf);
    free(bytes);
}

static cJSON *answer(const char *tasks)
{
    npo_buf text = NPO_BUF_INIT;
    npo_buf_printf(&text, "{\"job\": {\"workers\": 2}, \"tasks\": [%s]}", tasks);
    cJSON *json = cJSON_Parse(text.data);
    npo_buf_fini(&text);
    assert_non_null(json);
    return json;
}

#define TASK(id, kind, state, attempt)                                                             \
    "{\"id\": " #id ", \"kind\": \"" kind "\", \"round\": 1, \"shard\": 0, \"state\": \"" state    \
    "\", \"attempt\": " #attempt "}"

static void test_logs_cursors_are_sorted_by_task_attempt_and_rank(void **state)
{
    npo_log_cursors cursors = {0};
    cJSON *json = answer(TASK(7, "train", "running", 2) "," TASK(3, "generate", "done", 1) "," TASK(
        9, "export", "pending", 0));
    assert_int_equal(npo_log_cursors_update(&cursors, json, 0, true), NPO_OK);
    static const struct {
        int64_t task, attempt, rank;
        bool ended;
    } rows[] = {
        {3, 1, 0, true}, {7, 1, 0, true}, {7, 1, 1, true}, {7, 2, 0, false}, {7, 2, 1, false}};
    assert_int_equal(cursors.count, 5);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(cursors.items[i].task, rows[i].task);
        assert_int_equal(cursors.items[i].attempt, rows[i].attempt);
        assert_int_equal(cursors.items[i].rank, rows[i].rank);
        assert_int_equal(cursors.items[i].ended, rows[i].ended);
    }
    cJSON_Delete(json);
    npo_log_cursors_fini(&cursors);
}

static void test_logs_cursors_keep_their_place(void **state)
{
    npo_log_cursors cursors = {0};
    cJSON *json = answer(TASK(7, "train", "running", 1));
    assert_int_equal(npo_log_cursors_update(&cursors, json, 0, false), NPO_OK);
    assert_int_equal(cursors.count, 1);
    cursors.items[0].offset = 100;
    cJSON_Delete(json);
    json = answer(TASK(8, "export", "running", 1) "," TASK(7, "train", "done",
                                                           1) "," TASK(2, "generate", "done", 1));
    assert_int_equal(npo_log_cursors_update(&cursors, json, 0, false), NPO_OK);
    assert_int_equal(cursors.count, 3);
    assert_int_equal(cursors.items[1].task, 7);
    assert_int_equal(cursors.items[1].offset, 100);
    assert_true(cursors.items[1].ended);
    cJSON_Delete(json);
    npo_log_cursors_fini(&cursors);
}

static void test_logs_cursors_of_one_task_only(void **state)
{
    npo_log_cursors cursors = {0};
    cJSON *json = answer(TASK(7, "train", "failed", 12) "," TASK(3, "generate", "done", 1));
    assert_int_equal(npo_log_cursors_update(&cursors, json, 7, false), NPO_OK);
    assert_int_equal(cursors.count, 8); /* the last attempts */
    assert_int_equal(cursors.items[0].attempt, 5);
    assert_int_equal(cursors.items[7].attempt, 12);
    cJSON_Delete(json);
    npo_log_cursors_fini(&cursors);
}

static void test_logs_event_is_one_line(void **state)
{
    npo_buf buf = NPO_BUF_INIT;
    cJSON *event = cJSON_Parse("{\"seq\": 1, \"time_ms\": 1769860805123, \"job\": 1, \"task\": 4, "
                               "\"kind\": \"task.failed\", \"text\": \"a\\nb\"}");
    setenv("TZ", "UTC", 1);
    npo_log_event(event, &buf);
    assert_string_equal(buf.data, "2026-01-31 12:00:05  task.failed  task 4  a b\n");
    cJSON_Delete(event);
    npo_buf_clear(&buf);
    event = cJSON_Parse("{\"time_ms\": 1769860805123, \"task\": null, \"kind\": \"job.done\"}");
    npo_log_event(event, &buf);
    assert_string_equal(buf.data, "2026-01-31 12:00:05  job.done\n");
    cJSON_Delete(event);
    npo_buf_fini(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logs_lines_keep_an_unfinished_one_back),
        cmocka_unit_test(test_logs_lines_remove_control_characters),
        cmocka_unit_test(test_logs_lines_print_an_endless_one_in_pieces),
        cmocka_unit_test(test_logs_cursors_are_sorted_by_task_attempt_and_rank),
        cmocka_unit_test(test_logs_cursors_keep_their_place),
        cmocka_unit_test(test_logs_cursors_of_one_task_only),
        cmocka_unit_test(test_logs_event_is_one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
