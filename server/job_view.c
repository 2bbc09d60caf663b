/* What people see of jobs. */
#include "server/state.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- progress ---- */

typedef struct {
    int64_t step, steps, round;
    const char *phase; /* NULL: no worker has said; the kind stands in for it */
    double loss, samples_per_s;
    char kind[16];
} job_progress;

static void add_member(npo_server *server, const npo_job_record *job,
                       const npo_worker_record *worker, job_progress *progress)
{
    npo_task_record task;
    const npo_progress *at = &worker->progress;
    if (worker->task == 0 || !npo_task_held(server, worker, &task))
        return;
    bool is_first = !*progress->kind;
    if (is_first || task.round < progress->round)
        progress->round = task.round;
    if (is_first)
        memcpy(progress->kind, task.kind, sizeof progress->kind);
    if (at->task != worker->task || at->attempt != worker->attempt)
        return;
    if (!progress->phase && *at->phase)
        progress->phase = at->phase;
    if (isnan(progress->loss))
        progress->loss = at->loss;
    progress->samples_per_s += at->samples_per_s;
    int64_t step = job->steps > 0 ? at->optimizer_step : at->step;
    if (step > progress->step)
        progress->step = step;
    if (job->steps == 0 && at->steps > progress->steps)
        progress->steps = at->steps;
}

static job_progress measure(npo_server *server, const npo_job_record *job)
{
    job_progress progress = {.step = job->step, .steps = job->steps, .loss = NAN};
    for (int place = 0; place < job->workers; place++)
        if (job->members[place])
            add_member(server, job, job->members[place], &progress);
    if (!*progress.kind && job->rounds > 0)
        progress.round = job->steps > 0 ? job->step * job->rounds / job->steps : 0;
    return progress;
}

/* ---- JSON ---- */

static void add_number(npo_buf *json, const char *key, double value, bool is_known)
{
    if (is_known && isfinite(value))
        npo_buf_printf(json, ",\"%s\":%.6g", key, value);
    else
        npo_buf_printf(json, ",\"%s\":null", key);
}

static void add_time(npo_buf *json, const char *key, int64_t time_ms)
{
    if (time_ms > 0)
        npo_buf_printf(json, ",\"%s\":%lld", key, (long long)time_ms);
    else
        npo_buf_printf(json, ",\"%s\":null", key);
}

static void add_counts(npo_buf *json, const npo_job_record *job)
{
    static const npo_task_state shown[] = {NPO_TASK_READY, NPO_TASK_RUNNING, NPO_TASK_DONE,
                                           NPO_TASK_FAILED, NPO_TASK_CANCELLED};
    npo_buf_str(json, ",\"tasks\":{");
    for (size_t i = 0; i < sizeof shown / sizeof shown[0]; i++) {
        const char *name = npo_task_state_name(shown[i]);
        int64_t count = 0;
        for (int state = 0; state < NPO_TASK_STATE_COUNT; state++)
            if (strcmp(npo_task_state_name((npo_task_state)state), name) == 0)
                count += job->counts[state];
        npo_buf_printf(json, "%s\"%s\":%lld", i ? "," : "", name, (long long)count);
    }
    npo_buf_str(json, "}");
}

static void add_job(npo_server *server, npo_job_record *job, npo_buf *json)
{
    npo_buf reason = NPO_BUF_INIT;
    job_progress progress = measure(server, job);
    double eta_s = npo_job_eta_s(server, job);
    npo_schedule_reason(server, job, &reason);
    npo_buf_printf(json, "{\"id\":%lld,\"name\":", (long long)job->id);
    npo_json_add_text(json, job->name);
    npo_buf_printf(json, ",\"recipe\":\"%s\",\"state\":\"%s\",\"reason\":", job->recipe,
                   npo_job_state_name(job->state));
    npo_json_add_text(json, reason.len > 0 ? reason.data : NULL);
    npo_buf_printf(json, ",\"priority\":%lld,\"workers\":%d", (long long)job->priority,
                   job->workers);
    add_time(json, "submitted_ms", job->submitted_ms);
    add_time(json, "started_ms", job->started_ms);
    add_time(json, "ended_ms", job->ended_ms);
    npo_buf_printf(json, ",\"step\":%lld,\"steps\":%lld,\"round\":%lld,\"rounds\":%lld,\"phase\":",
                   (long long)progress.step, (long long)progress.steps, (long long)progress.round,
                   (long long)job->rounds);
    const char *phase = progress.phase ? progress.phase : progress.kind;
    npo_json_add_text(json, *phase ? phase : NULL);
    add_number(json, "loss", progress.loss, true);
    add_number(json, "samples_per_s", progress.samples_per_s, progress.samples_per_s > 0);
    add_number(json, "eta_s", eta_s, eta_s >= 0);
    add_counts(json, job);
    npo_buf_str(json, ",\"error\":");
    npo_json_add_text(json, job->error);
    npo_buf_fini(&reason);
}

/* Writes one job of a row; active ones from the mirror. with_spec: also the job file. */
static npo_err add_row(npo_server *server, const npo_query *row, npo_buf *json, bool with_spec)
{
    npo_job_record *ended = NULL, *job = npo_job_by_id(server, npo_query_int(row, 0));
    if (!job) {
        NPO_TRY(npo_job_record_read(row, &ended));
        job = ended;
    }
    add_job(server, job, json);
    if (with_spec) {
        npo_buf_str(json, ",\"spec\":");
        npo_buf_str(json, npo_job_spec(server, job));
    }
    npo_buf_str(json, "}");
    npo_job_record_free(ended);
    return npo_buf_err(json);
}

/* ---- jobs, job ---- */

typedef struct {
    int64_t limit, before;
} jobs_request;

npo_err npo_handle_jobs(npo_server *server, npo_request *request)
{
    static const npo_json_field fields[] = {
        {"limit", NPO_JSON_INT, offsetof(jobs_request, limit), false, 1, 1000, NULL},
        {"before", NPO_JSON_INT, offsetof(jobs_request, before), false, 0, 9007199254740992.0,
         NULL},
    };
    jobs_request wanted = {.limit = 100};
    NPO_TRY(npo_request_fields(request, fields, &wanted));
    npo_buf *json = &request->reply->json;
    npo_err err = NPO_OK;
    int count = 0;
    npo_buf_str(json, "{\"jobs\":[");
    npo_query *rows =
        npo_ask(server->store, NPO_SQL_JOB_LIST,
                npo_int(wanted.before > 0 ? wanted.before : INT64_MAX), npo_int(wanted.limit));
    while (!err && json->len < NPO_REPLY_BYTES_MAX / 2 && npo_query_next(rows)) {
        npo_buf_str(json, count++ ? "," : "");
        err = add_row(server, rows, json, false);
    }
    npo_query_end(rows);
    npo_buf_str(json, "]}");
    return err ? err : npo_buf_err(json);
}

/* For one more entry of a list and the end of the reply. */
static bool has_room(const npo_buf *json)
{
    enum { ENTRY_BYTES_MAX = 8 * NPO_ERROR_TEXT_MAX };
    return json->len < NPO_REPLY_BYTES_MAX - ENTRY_BYTES_MAX;
}

static void add_outputs(npo_server *server, int64_t job, npo_buf *json)
{
    enum { MAX = 1000 };
    int count = 0;
    npo_query *rows = npo_ask(server->store, NPO_SQL_JOB_OUTPUTS, npo_int(job), npo_int(MAX));
    npo_buf_str(json, ",\"outputs\":[");
    while (has_room(json) && npo_query_next(rows)) {
        npo_buf_str(json, count++ ? ",{\"name\":" : "{\"name\":");
        npo_json_add_text(json, npo_query_text(rows, 0));
        npo_buf_printf(
            json, ",\"task\":%lld,\"round\":%lld,\"hash\":\"%s\",\"size\":%lld,\"kind\":\"%s\"}",
            (long long)npo_query_int(rows, 1), (long long)npo_query_int(rows, 2),
            npo_query_text(rows, 3), (long long)npo_query_int(rows, 4),
            npo_query_int(rows, 5) ? "folder" : "file");
    }
    npo_query_end(rows);
    npo_buf_str(json, "]");
}

static void add_checkpoints(npo_server *server, int64_t job, npo_buf *json)
{
    enum { MAX = 200 };
    int count = 0;
    npo_query *rows = npo_ask(server->store, NPO_SQL_JOB_CHECKPOINTS, npo_int(job), npo_int(MAX));
    npo_buf_str(json, ",\"checkpoints\":[");
    while (has_room(json) && npo_query_next(rows))
        npo_buf_printf(json, "%s{\"step\":%lld,\"task\":%lld,\"hash\":\"%s\"}", count++ ? "," : "",
                       (long long)npo_query_int(rows, 0), (long long)npo_query_int(rows, 1),
                       npo_query_text(rows, 2));
    npo_query_end(rows);
    npo_buf_str(json, "]");
}

static void add_task(npo_buf *json, const npo_query *row, bool is_first)
{
    npo_buf_printf(json,
                   "%s{\"id\":%lld,\"kind\":\"%s\",\"round\":%lld,\"shard\":%lld,\"state\":\"%s\","
                   "\"attempt\":%lld,\"failures\":%lld,\"worker\":",
                   is_first ? "" : ",", (long long)npo_query_int(row, 0), npo_query_text(row, 1),
                   (long long)npo_query_int(row, 2), (long long)npo_query_int(row, 3),
                   npo_task_state_name((npo_task_state)npo_query_int(row, 4)),
                   (long long)npo_query_int(row, 5), (long long)npo_query_int(row, 6));
    npo_json_add_text(json, npo_query_text(row, 7));
    npo_buf_str(json, ",\"error\":");
    npo_json_add_text(json, npo_query_text(row, 8));
    npo_buf_str(json, "}");
}

static void add_tasks(npo_server *server, int64_t job, npo_buf *json)
{
    enum { MAX = 2000 };
    int count = 0;
    bool is_whole = true;
    npo_query *rows = npo_ask(server->store, NPO_SQL_TASK_LIST, npo_int(job), npo_int(MAX + 1));
    npo_buf_str(json, ",\"tasks\":[");
    while (is_whole && npo_query_next(rows)) {
        is_whole = count < MAX && has_room(json);
        if (is_whole)
            add_task(json, rows, count++ == 0);
    }
    npo_query_end(rows);
    npo_buf_printf(json, "],\"truncated\":%s", is_whole ? "false" : "true");
}

npo_err npo_handle_job(npo_server *server, npo_request *request)
{
    int64_t id = npo_json_int(request->json, "job", 0);
    npo_buf *json = &request->reply->json;
    npo_query *row = npo_ask(server->store, NPO_SQL_JOB_GET, npo_int(id));
    if (!npo_query_next(row))
        return npo_error_set(&request->error, NPO_E_NOT_FOUND, "there is no job %lld",
                             (long long)id);
    npo_buf_str(json, "{\"job\":");
    npo_err err = add_row(server, row, json, true);
    npo_query_end(row);
    if (err)
        return npo_error_set(&request->error, err, "cannot describe job %lld", (long long)id);
    add_outputs(server, id, json);
    add_checkpoints(server, id, json);
    add_tasks(server, id, json);
    npo_buf_str(json, "}");
    return npo_buf_err(json);
}

/* ---- resolve ---- */

npo_err npo_handle_resolve(npo_server *server, npo_request *request)
{
    int64_t id = npo_json_int(request->json, "job", 0);
    const char *name = npo_json_string(request->json, "name", "");
    int64_t step = npo_json_int(request->json, "step", -1);
    npo_query *row = npo_ask(server->store, NPO_SQL_JOB_GET, npo_int(id));
    bool is_there = npo_query_next(row);
    npo_query_end(row);
    if (!is_there)
        return npo_error_set(&request->error, NPO_E_NOT_FOUND, "there is no job %lld",
                             (long long)id);
    row =
        npo_ask(server->store, NPO_SQL_JOB_OUTPUT_FIND, npo_int(id), npo_text(name), npo_int(step));
    if (!npo_query_next(row))
        return npo_error_set(&request->error, NPO_E_NOT_FOUND,
                             step < 0 ? "job %lld has no output '%.40s' (yet)"
                                      : "job %lld has no output '%.40s' at step %lld",
                             (long long)id, name, (long long)step);
    npo_buf *json = &request->reply->json;
    npo_buf_printf(
        json, "{\"hash\":\"%s\",\"size\":%lld,\"kind\":\"%s\",\"step\":", npo_query_text(row, 0),
        (long long)npo_query_int(row, 1), npo_query_int(row, 2) ? "folder" : "file");
    if (npo_query_int(row, 3) > 0)
        npo_buf_printf(json, "%lld}", (long long)npo_query_int(row, 3));
    else
        npo_buf_str(json, "null}");
    npo_query_end(row);
    return npo_buf_err(json);
}

/* ---- info ---- */

static void add_job_counts(npo_server *server, npo_buf *json)
{
    int64_t counts[NPO_JOB_STATE_COUNT] = {0};
    npo_query *rows = npo_ask(server->store, NPO_SQL_JOB_STATE_COUNTS);
    while (npo_query_next(rows))
        if (npo_query_int(rows, 0) >= 0 && npo_query_int(rows, 0) < NPO_JOB_STATE_COUNT)
            counts[npo_query_int(rows, 0)] = npo_query_int(rows, 1);
    npo_buf_str(json, ",\"jobs\":{");
    for (int state = 0; state < NPO_JOB_STATE_COUNT; state++)
        npo_buf_printf(json, "%s\"%s\":%lld", state ? "," : "",
                       npo_job_state_name((npo_job_state)state), (long long)counts[state]);
    npo_buf_str(json, "}");
}

npo_err npo_handle_info(npo_server *server, npo_request *request)
{
    npo_buf *json = &request->reply->json;
    int idle = 0, busy = 0, lost = 0;
    for (size_t i = 0; i < server->worker_count; i++) {
        const npo_worker_record *worker = server->workers[i];
        lost += !npo_worker_is_alive(worker);
        busy += npo_worker_is_alive(worker) && worker->task != 0;
        idle += npo_worker_is_alive(worker) && worker->task == 0;
    }
    npo_buf_printf(
        json, "{\"build\":\"%s\",\"protocol\":[%d,%d],\"epoch\":%lld,\"state_dir\":", NPO_VERSION,
        (int)NPO_PROTOCOL_VERSION, (int)NPO_PROTOCOL_VERSION, (long long)server->epoch);
    npo_json_add_text(json, server->state_dir);
    add_job_counts(server, json);
    npo_buf_printf(json, ",\"workers\":{\"idle\":%d,\"busy\":%d,\"lost\":%d},\"bulk\":", idle, busy,
                   lost);
    npo_json_add_text(json, server->bulk);
    npo_buf_str(json, ",\"hints\":");
    npo_json_add_text(json, server->hints);
    npo_buf_printf(json, ",\"artifact_bytes\":%llu}", (unsigned long long)server->artifact_bytes);
    return npo_buf_err(json);
}
