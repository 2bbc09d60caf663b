#include "tests/unit/cmocka.h"

#include "ctl/text/progress.h"

#include <math.h>
#include <string.h>

#define RUNNING                                                                                    \
    "{\"id\": 3, \"name\": \"demo\", \"recipe\": \"self-npo\", \"state\": \"running\", "           \
    "\"reason\": null, "                                                                           \
    "\"workers\": 2, \"submitted_ms\": 1000, \"started_ms\": 5000, \"ended_ms\": null, \"step\": " \
    "40, "                                                                                         \
    "\"steps\": 150, \"round\": 1, \"rounds\": 6, \"phase\": \"train\", \"loss\": 0.01234, "       \
    "\"samples_per_s\": 412, \"eta_s\": 80, \"tasks\": {\"pending\": 20, \"running\": 2, "         \
    "\"done\": 8, "                                                                                \
    "\"failed\": 0, \"cancelled\": 0}, \"error\": null}"
#define FAILED                                                                                     \
    "{\"id\": 4, \"name\": \"x\", \"recipe\": \"sample\", \"state\": \"failed\", \"started_ms\": " \
    "1000, "                                                                                       \
    "\"ended_ms\": 3000, \"error\": \"model 'm':\\nno such file\", \"tasks\": {\"failed\": 1}}"

static cJSON *read_view(const char *text, npo_job_view *ret_view)
{
    cJSON *json = cJSON_Parse(text);
    assert_non_null(json);
    npo_job_view_read(json, ret_view);
    return json;
}

static void expect_line(const char *job, const char *line)
{
    npo_job_view view;
    npo_buf buf = NPO_BUF_INIT;
    cJSON *json = read_view(job, &view);
    npo_progress_line(&view, &buf);
    assert_string_equal(buf.data, line);
    npo_buf_fini(&buf);
    cJSON_Delete(json);
}

static void test_progress_view_reads_a_job(void **state)
{
    npo_job_view view;
    cJSON *json = read_view(RUNNING, &view);
    assert_int_equal(view.id, 3);
    assert_int_equal(view.tasks_all, 30);
    assert_int_equal(view.tasks_done, 8);
    assert_int_equal(view.tasks_running, 2);
    assert_string_equal(view.reason, "");
    assert_false(npo_job_view_is_over(&view));
    assert_true(npo_job_view_seconds(&view, 9000) == 4.0);
    assert_true(npo_job_view_seconds(&view, 1000) == 0);
    cJSON_Delete(json);
}

static void test_progress_view_of_an_empty_object_is_unknown(void **state)
{
    npo_job_view view;
    cJSON *json = read_view("{}", &view);
    assert_true(isnan(view.loss) && isnan(view.eta_s));
    assert_true(isnan(npo_job_view_seconds(&view, 9000)));
    assert_false(npo_job_view_is_over(&view));
    cJSON_Delete(json);
}

static void test_progress_exit_code_follows_the_state(void **state)
{
    static const struct {
        const char *job;
        bool over;
        npo_exit exit;
    } rows[] = {
        {"{\"state\": \"done\"}", true, NPO_EXIT_OK},
        {"{\"state\": \"failed\"}", true, NPO_EXIT_FAILED},
        {"{\"state\": \"cancelled\"}", true, NPO_EXIT_CANCELLED},
        {"{\"state\": \"held\"}", false, NPO_EXIT_FAILED},
        {"{\"state\": \"pending\"}", false, NPO_EXIT_FAILED},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        npo_job_view view;
        cJSON *json = read_view(rows[i].job, &view);
        assert_int_equal(npo_job_view_is_over(&view), rows[i].over);
        assert_int_equal(npo_job_view_exit(&view), rows[i].exit);
        cJSON_Delete(json);
    }
}

static void test_progress_line_of_every_state(void **state)
{
    expect_line(RUNNING,
                "job 3 running: round 2/6, train, step 40/150, loss 0.01234, 412/s, 1m20s left");
    expect_line(FAILED, "job 4 failed: model 'm': no such file");
    expect_line("{\"id\": 5, \"state\": \"pending\", \"reason\": \"waits for 2 workers\"}",
                "job 5 pending: waits for 2 workers");
    expect_line("{\"id\": 5, \"state\": \"done\"}", "job 5 done");
    expect_line("{\"id\": 6, \"state\": \"running\", \"tasks\": {\"done\": 1, \"running\": 1}}",
                "job 6 running: waiting for a task, task 1/2");
    expect_line("{\"id\": 8, \"state\": \"running\", \"reason\": \"waits for 1 of its workers\", "
                "\"loss\": 1, \"tasks\": {\"done\": 1, \"pending\": 1}}",
                "job 8 running: waiting for a task, task 1/2, waits for 1 of its workers");
    expect_line("{\"id\": 7, \"state\": \"running\", \"round\": 6, \"rounds\": 6, \"step\": 9, "
                "\"steps\": 9, \"phase\": \"export\"}",
                "job 7 running: round 6/6, export, step 9/9");
    expect_line("{\"id\": 7, \"state\": \"running\", \"round\": 6, \"rounds\": 6, \"step\": 9, "
                "\"steps\": 9, \"phase\": \"evaluate\", \"tasks\": {\"done\": 4, \"pending\": 2}}",
                "job 7 running: round 6/6, evaluate, task 4/6");
}

static void test_progress_short_counts_steps_or_tasks(void **state)
{
    npo_job_view view;
    npo_buf buf = NPO_BUF_INIT;
    cJSON *json = read_view(RUNNING, &view);
    npo_progress_short(&view, &buf);
    assert_string_equal(buf.data, "40/150");
    cJSON_Delete(json);
    npo_buf_clear(&buf);
    json = read_view(FAILED, &view);
    npo_progress_short(&view, &buf);
    assert_string_equal(buf.data, "0/1");
    cJSON_Delete(json);
    npo_buf_fini(&buf);
}

#define WORKERS                                                                                    \
    "[{\"name\": \"w1\", \"state\": \"busy\", \"job\": 3, \"task\": 17},"                          \
    " {\"name\": \"w2\", \"state\": \"idle\", \"job\": 3, \"task\": null},"                        \
    " {\"name\": \"other\", \"state\": \"busy\", \"job\": 9, \"task\": 2}]"

static void test_progress_block_shows_job_and_workers(void **state)
{
    npo_job_view view;
    npo_buf buf = NPO_BUF_INIT;
    cJSON *json = read_view(RUNNING, &view), *workers = cJSON_Parse(WORKERS);
    npo_progress_block(&view, workers, 100, 65000, &buf);
    assert_string_equal(buf.data,
                        "job 3  demo  self-npo  running  1m00s\n"
                        "[##########----------------------------] step 40/150  round 2/6  train\n"
                        "  loss 0.01234  412/s  1m20s left\n"
                        "  w1               busy  task 17\n"
                        "  w2               idle\n");
    npo_buf_fini(&buf);
    cJSON_Delete(workers);
    cJSON_Delete(json);
}

static void test_progress_block_fits_the_width(void **state)
{
    npo_job_view view;
    cJSON *json = read_view(FAILED, &view), *workers = cJSON_Parse(WORKERS);
    for (size_t width = 10; width < 100; width += 7) {
        npo_buf buf = NPO_BUF_INIT;
        npo_progress_block(&view, workers, width, 65000, &buf);
        for (char *line = strtok(buf.data, "\n"); line; line = strtok(NULL, "\n"))
            assert_true(strlen(line) <= width);
        npo_buf_fini(&buf);
    }
    cJSON_Delete(workers);
    cJSON_Delete(json);
}

static void test_progress_block_bounds_the_workers(void **state)
{
    npo_job_view view;
    npo_buf buf = NPO_BUF_INIT;
    cJSON *json = read_view(RUNNING, &view), *workers = cJSON_CreateArray();
    for (int i = 0; i < 20; i++) {
        cJSON *worker = cJSON_CreateObject();
        cJSON_AddNumberToObject(worker, "job", 3);
        cJSON_AddItemToArray(workers, worker);
    }
    npo_progress_block(&view, workers, 0, 65000, &buf);
    assert_non_null(strstr(buf.data, "  and 12 more workers\n"));
    npo_buf_fini(&buf);
    cJSON_Delete(workers);
    cJSON_Delete(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_progress_view_reads_a_job),
        cmocka_unit_test(test_progress_view_of_an_empty_object_is_unknown),
        cmocka_unit_test(test_progress_exit_code_follows_the_state),
        cmocka_unit_test(test_progress_line_of_every_state),
        cmocka_unit_test(test_progress_short_counts_steps_or_tasks),
        cmocka_unit_test(test_progress_block_shows_job_and_workers),
        cmocka_unit_test(test_progress_block_fits_the_width),
        cmocka_unit_test(test_progress_block_bounds_the_workers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
