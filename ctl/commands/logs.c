#include "ctl/job/follow.h"
#include "ctl/text/log_lines.h"
#include "ctl/text/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POLL_MS = 500, READ_BYTES = 256 << 10, EVENTS_LIMIT = 500 };

typedef struct {
    npo_common_values common;
    bool follow;
    const char *stream;
    int64_t task;
} logs_values;

static const logs_values defaults = {.stream = "log"};
static const char *const stream_names[] = {"log", "metrics", "events"};

typedef struct {
    npo_session *session;
    const char *stream;
    npo_log_cursors cursors;
    int64_t after; /* events: the last one seen */
} reader;

/* ---- log and metrics ---- */

static npo_exit ask_part(reader *read, const npo_log_cursor *cursor, bool *ret_missing,
                         npo_answer *ret_answer)
{
    cJSON *body = cJSON_CreateObject();
    cJSON_AddNumberToObject(body, "task", (double)cursor->task);
    cJSON_AddNumberToObject(body, "attempt", (double)cursor->attempt);
    cJSON_AddNumberToObject(body, "rank", (double)cursor->rank);
    cJSON_AddStringToObject(body, "stream", read->stream);
    cJSON_AddNumberToObject(body, "offset", (double)cursor->offset);
    cJSON_AddNumberToObject(body, "bytes", READ_BYTES);
    return npo_session_ask_unless(read->session, NPO_MESSAGE_STREAM, body, NPO_E_NOT_FOUND,
                                  ret_missing, ret_answer);
}

/* Prints what is new of one stream. */
static npo_exit drain(reader *read, npo_log_cursor *cursor)
{
    bool missing = false, more = true;
    npo_exit code = NPO_EXIT_OK;
    while (!code && more && !missing) {
        npo_answer answer = {0};
        npo_buf text = NPO_BUF_INIT;
        code = ask_part(read, cursor, &missing, &answer);
        if (!code && !missing) {
            int64_t size = npo_json_int(answer.json, "size", 0);
            bool is_last = cursor->offset + (int64_t)answer.payload_len >= size;
            size_t used =
                npo_log_lines(cursor, answer.payload, answer.payload_len, is_last && cursor->ended,
                              strcmp(read->stream, "log") == 0, &text);
            more = used > 0 && !is_last;
            cursor->offset += (int64_t)used;
            if (text.len > 0 && fwrite(text.data, 1, text.len, stdout) != text.len)
                code = npo_exit_with(NPO_EXIT_FAILED, "cannot write to standard output");
        }
        npo_buf_fini(&text);
        npo_answer_fini(&answer);
    }
    cursor->finished = cursor->ended;
    return code;
}

static npo_exit drain_all(reader *read, const cJSON *job_answer, int64_t task)
{
    bool all_ranks = strcmp(read->stream, "log") == 0;
    npo_exit code = NPO_EXIT_OK;
    if (npo_log_cursors_update(&read->cursors, job_answer, task, all_ranks))
        return npo_exit_with(NPO_EXIT_FAILED, "out of memory");
    for (size_t i = 0; !code && i < read->cursors.count; i++)
        if (!read->cursors.items[i].finished)
            code = drain(read, &read->cursors.items[i]);
    return code;
}

/* ---- events ---- */

static npo_exit drain_events(reader *read, int64_t job)
{
    npo_exit code = NPO_EXIT_OK;
    for (int count = EVENTS_LIMIT; !code && count == EVENTS_LIMIT;) {
        npo_answer answer = {0};
        npo_buf text = NPO_BUF_INIT;
        cJSON *body = npo_session_job_body(job);
        cJSON_AddNumberToObject(body, "after", (double)read->after);
        cJSON_AddNumberToObject(body, "limit", EVENTS_LIMIT);
        code = npo_session_ask(read->session, NPO_MESSAGE_EVENTS, body, &answer);
        const cJSON *events = cJSON_GetObjectItemCaseSensitive(answer.json, "events");
        count = cJSON_GetArraySize(events);
        for (const cJSON *item = events ? events->child : NULL; item; item = item->next) {
            npo_log_event(item, &text);
            read->after = npo_json_int(item, "seq", read->after);
        }
        if (text.len > 0 && fwrite(text.data, 1, text.len, stdout) != text.len)
            code = npo_exit_with(NPO_EXIT_FAILED, "cannot write to standard output");
        npo_buf_fini(&text);
        npo_answer_fini(&answer);
    }
    return code;
}

/* ---- the command ---- */

static bool has_task(const cJSON *job_answer, int64_t task)
{
    const cJSON *tasks = cJSON_GetObjectItemCaseSensitive(job_answer, "tasks");
    for (const cJSON *item = tasks ? tasks->child : NULL; item; item = item->next)
        if (npo_json_int(item, "id", 0) == task)
            return true;
    return false;
}

static npo_exit look(reader *read, int64_t job, const logs_values *values, bool *ret_over)
{
    npo_answer answer = {0};
    npo_job_view view;
    npo_exit code = npo_follow_get(read->session, job, &answer);
    if (code)
        return code;
    npo_job_view_read(cJSON_GetObjectItemCaseSensitive(answer.json, "job"), &view);
    *ret_over = npo_job_view_is_over(&view);
    bool truncated = npo_json_bool(answer.json, "truncated", false);
    if (truncated && !values->follow)
        fprintf(stderr, "npoctl: the job has many tasks: only those that changed last are shown\n");
    if (values->task && !has_task(answer.json, values->task))
        code = npo_exit_with(NPO_EXIT_REFUSED, "job %lld has no task %lld%s", (long long)job,
                             (long long)values->task,
                             truncated ? " among those that changed last" : "");
    else if (strcmp(read->stream, "events") == 0)
        code = drain_events(read, job);
    else
        code = drain_all(read, answer.json, values->task);
    npo_answer_fini(&answer);
    fflush(stdout);
    return code;
}

static npo_exit check_stream(const char *stream)
{
    for (size_t i = 0; i < NPO_ARRAY_COUNT(stream_names); i++)
        if (strcmp(stream, stream_names[i]) == 0)
            return NPO_EXIT_OK;
    return npo_exit_with(NPO_EXIT_USAGE, "--stream: found '%.60s', expected log, metrics or events",
                         stream);
}

static npo_exit run_logs(const npo_call *call)
{
    const logs_values *values = call->values;
    reader read = {.stream = values->stream};
    int64_t job = 0;
    bool over = false;
    npo_exit code = npo_command_parse_job(call->rest[0], &job, NULL);
    if (!code)
        code = check_stream(values->stream);
    if (!code)
        code = npo_session_open(&values->common, &read.session);
    if (!code)
        code = look(&read, job, values, &over);
    while (!code && values->follow && !over)
        code = npo_session_sleep(read.session, POLL_MS) ? look(&read, job, values, &over)
                                                        : NPO_EXIT_INTERRUPTED;
    npo_log_cursors_fini(&read.cursors);
    npo_session_close(read.session);
    return code;
}

static const npo_option options[] = {
    {"follow", 'f', NPO_OPTION_BOOL, NPO_OPTION_FLAG_ONLY, offsetof(logs_values, follow), NULL,
     "go on until the job ends", 0, 0},
    {"stream", 0, NPO_OPTION_STRING, NPO_OPTION_FLAG_ONLY, offsetof(logs_values, stream), "NAME",
     "log (default), metrics (JSON lines) or events", 0, 0},
    {"task", 0, NPO_OPTION_INT, NPO_OPTION_FLAG_ONLY, offsetof(logs_values, task), "N",
     "of this task only", 1, 9e15},
};

const npo_command npo_command_logs = {
    .name = "logs",
    .summary = "print what a job's tasks wrote",
    .usage = "[OPTION...] JOB",
    .text = "Prints the log lines of a job's tasks, each behind its task. Training writes its "
            "metrics (loss,\n"
            "gradient norm, offset, samples a second) as JSON lines into the stream \"metrics\"; "
            "\"events\" are\n"
            "npod's own records of the job.",
    .example = "npoctl logs 3 -f --stream metrics",
    .options = options,
    .option_count = NPO_ARRAY_COUNT(options),
    .defaults = &defaults,
    .values_size = sizeof(logs_values),
    .rest_min = 1,
    .rest_max = 1,
    .run = run_logs,
};
