#include "ctl/job/follow.h"
#include "ctl/text/format.h"
#include "ctl/text/print.h"
#include "ctl/text/progress.h"
#include "ctl/text/terminal.h"

#include "common/clock.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    npo_common_values common;
    int64_t limit;
    bool json;
} status_values;

static const status_values defaults = {.limit = 20};

/* ---- all jobs ---- */

static const npo_table_column job_columns[] = {
    {"JOB", true},      {"NAME", false},  {"RECIPE", false}, {"STATE", false},
    {"PROGRESS", true}, {"PHASE", false}, {"LOSS", true},    {"RATE", true},
    {"TIME", true},     {"LEFT", true},   {"REASON", false},
};

static void add_job(npo_table *table, const cJSON *job, int64_t now_ms)
{
    npo_job_view view;
    npo_buf progress = NPO_BUF_INIT, name = NPO_BUF_INIT;
    char id[24], loss[NPO_FORMAT_SIZE], rate[NPO_FORMAT_SIZE], time[NPO_FORMAT_SIZE],
        left[NPO_FORMAT_SIZE];
    npo_job_view_read(job, &view);
    bool running = strcmp(view.state, "running") == 0;
    npo_print_id(view.id, id);
    npo_progress_short(&view, &progress);
    npo_text_clean(&name, view.name, 32);
    npo_format_loss(view.loss, loss);
    npo_format_rate(running ? view.samples_per_s : -1, rate);
    npo_format_duration(npo_job_view_seconds(&view, now_ms), time);
    npo_format_duration(running ? view.eta_s : -1, left);
    npo_table_add(table, (const char *[]){id, name.data, view.recipe, view.state, progress.data,
                                          running ? view.phase : "", loss, rate, time, left,
                                          *view.error ? view.error : view.reason});
    npo_buf_fini(&progress);
    npo_buf_fini(&name);
}

static npo_exit print_jobs(const cJSON *jobs)
{
    npo_table *table = npo_table_new(job_columns, NPO_ARRAY_COUNT(job_columns));
    for (const cJSON *item = jobs ? jobs->child : NULL; table && item; item = item->next)
        add_job(table, item, npo_clock_wall_ms());
    return npo_print_table(table, "no jobs yet; 'npoctl submit' makes one");
}

static npo_exit show_jobs(npo_session *session, const status_values *values)
{
    npo_answer answer = {0};
    cJSON *body = cJSON_CreateObject();
    cJSON_AddNumberToObject(body, "limit", (double)values->limit);
    cJSON_AddNumberToObject(body, "before", 0);
    npo_exit code = npo_session_ask(session, NPO_MESSAGE_JOBS, body, &answer);
    if (!code)
        code = values->json ? npo_print_json(answer.json)
                            : print_jobs(cJSON_GetObjectItemCaseSensitive(answer.json, "jobs"));
    npo_answer_fini(&answer);
    return code;
}

/* ---- one job ---- */

static void print_times(const npo_job_view *view)
{
    const struct {
        const char *title;
        int64_t wall_ms;
    } rows[] = {{"submitted", view->submitted_ms},
                {"started", view->started_ms},
                {"ended", view->ended_ms}};
    for (size_t i = 0; i < NPO_ARRAY_COUNT(rows); i++) {
        char text[NPO_FORMAT_SIZE];
        npo_format_time(rows[i].wall_ms, text);
        if (rows[i].wall_ms > 0)
            printf("%-10s %s\n", rows[i].title, text);
    }
}

static const npo_table_column task_columns[] = {
    {"TASK", true},    {"KIND", false},    {"ROUND", true},   {"SHARD", true},  {"STATE", false},
    {"ATTEMPT", true}, {"FAILURES", true}, {"WORKER", false}, {"ERROR", false},
};

/* Tasks that are under way or went wrong; those that are done or wait say nothing. */
static bool is_telling(const cJSON *task)
{
    const char *state = npo_json_string(task, "state", "");
    return strcmp(state, "running") == 0 || strcmp(state, "failed") == 0 ||
           npo_json_int(task, "failures", 0) > 0;
}

static void worker_text(const cJSON *task, char ret_text[160])
{
    const cJSON *worker = cJSON_GetObjectItemCaseSensitive(task, "worker");
    ret_text[0] = '\0';
    if (cJSON_IsString(worker))
        snprintf(ret_text, 160, "%s", worker->valuestring);
    else if (cJSON_IsNumber(worker) && worker->valuedouble > 0)
        snprintf(ret_text, 160, "%.0f", worker->valuedouble);
}

static void add_task(npo_table *table, const cJSON *task)
{
    char id[24], attempt[24], failures[24], round[24], shard[24], worker[160];
    npo_print_id(npo_json_int(task, "id", 0), id);
    npo_print_id(npo_json_int(task, "attempt", 0), attempt);
    npo_print_id(npo_json_int(task, "failures", 0), failures);
    snprintf(round, sizeof round, "%lld", (long long)npo_json_int(task, "round", 0));
    snprintf(shard, sizeof shard, "%lld", (long long)npo_json_int(task, "shard", 0));
    worker_text(task, worker);
    npo_table_add(table, (const char *[]){id, npo_json_string(task, "kind", "?"), round, shard,
                                          npo_json_string(task, "state", "?"), attempt, failures,
                                          worker, npo_json_string(task, "error", "")});
}

static npo_exit print_tasks(const cJSON *tasks)
{
    npo_table *table = npo_table_new(task_columns, NPO_ARRAY_COUNT(task_columns));
    for (const cJSON *item = tasks ? tasks->child : NULL; table && item; item = item->next)
        if (is_telling(item))
            add_task(table, item);
    if (table && npo_table_rows(table) == 0) {
        npo_table_free(table);
        return NPO_EXIT_OK;
    }
    putchar('\n');
    return npo_print_table(table, "");
}

static npo_exit print_job(const cJSON *answer)
{
    npo_job_view view;
    npo_buf text = NPO_BUF_INIT;
    npo_job_view_read(cJSON_GetObjectItemCaseSensitive(answer, "job"), &view);
    npo_progress_block(&view, NULL, npo_terminal_width(), npo_clock_wall_ms(), &text);
    bool printed = npo_terminal_print(&text);
    npo_buf_fini(&text);
    if (!printed)
        return npo_exit_with(NPO_EXIT_FAILED, "cannot print the job");
    print_times(&view);
    npo_exit code = print_tasks(cJSON_GetObjectItemCaseSensitive(answer, "tasks"));
    const cJSON *outputs = cJSON_GetObjectItemCaseSensitive(answer, "outputs");
    if (cJSON_GetArraySize(outputs) > 0)
        printf("\n%d outputs: 'npoctl get %lld' lists them\n", cJSON_GetArraySize(outputs),
               (long long)view.id);
    return code;
}

static npo_exit show_job(npo_session *session, int64_t job, bool json)
{
    npo_answer answer = {0};
    npo_exit code = npo_follow_get(session, job, &answer);
    if (!code)
        code = json ? npo_print_json(answer.json) : print_job(answer.json);
    npo_answer_fini(&answer);
    return code;
}

/* ---- the command ---- */

static npo_exit run_status(const npo_call *call)
{
    const status_values *values = call->values;
    npo_session *session = NULL;
    int64_t job = 0;
    npo_exit code =
        call->rest_count ? npo_command_parse_job(call->rest[0], &job, NULL) : NPO_EXIT_OK;
    if (!code)
        code = npo_session_open(&values->common, &session);
    if (!code)
        code = job ? show_job(session, job, values->json) : show_jobs(session, values);
    npo_session_close(session);
    return code;
}

static const npo_option options[] = {
    {"json", 0, NPO_OPTION_BOOL, NPO_OPTION_FLAG_ONLY, offsetof(status_values, json), NULL,
     "npod's answer as JSON", 0, 0},
    {"limit", 0, NPO_OPTION_INT, NPO_OPTION_FLAG_ONLY, offsetof(status_values, limit), "N",
     "so many jobs at most, the newest first (20)", 1, 1000},
};

const npo_command npo_command_status = {
    .name = "status",
    .summary = "list the jobs, or look at one",
    .usage = "[OPTION...] [JOB]",
    .text = "Lists the newest jobs, or shows one job with the tasks that run or went wrong.",
    .example = "npoctl status 3 --json",
    .options = options,
    .option_count = NPO_ARRAY_COUNT(options),
    .defaults = &defaults,
    .values_size = sizeof(status_values),
    .rest_max = 1,
    .run = run_status,
};
