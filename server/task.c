#include "server/state.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- rows ---- */

/* At most size - 1 bytes of text, not ending within a character. */
static void copy_cut(char *to, size_t size, const char *text)
{
    size_t len = strlen(text);
    if (len >= size) {
        len = size - 1;
        while (len > 0 && ((unsigned char)text[len] & 0xc0) == 0x80)
            len--;
    }
    memcpy(to, text, len);
    to[len] = '\0';
}

void npo_task_read_row(const npo_query *query, npo_task_record *ret_task)
{
    *ret_task = (npo_task_record){
        .id = npo_query_int(query, 0),
        .job = npo_query_int(query, 1),
        .round = npo_query_int(query, 3),
        .shard = npo_query_int(query, 4),
        .shards = npo_query_int(query, 5),
        .world = npo_query_int(query, 6),
        .step_end = npo_query_int(query, 7),
        .state = (npo_task_state)npo_query_int(query, 8),
        .waiting = npo_query_int(query, 9),
        .attempt = npo_query_int(query, 10),
        .failures = npo_query_int(query, 11),
        .losses = npo_query_int(query, 12),
        .worker = npo_query_int(query, 13),
    };
    copy_cut(ret_task->kind, sizeof ret_task->kind, npo_query_text(query, 2));
    copy_cut(ret_task->params, sizeof ret_task->params, npo_query_text(query, 14));
}

bool npo_task_load(npo_server *server, int64_t id, npo_task_record *ret_task)
{
    npo_query *row = npo_ask(server->store, NPO_SQL_TASK_GET, npo_int(id));
    if (!npo_query_next(row))
        return false;
    npo_task_read_row(row, ret_task);
    npo_query_end(row);
    return true;
}

static void move(npo_server *server, npo_job_record *job, npo_task_record *task,
                 npo_task_event event, const char *kind, const char *error, const char *result)
{
    npo_task_state to;
    if (npo_task_next(task->state, event, &to) != NPO_OK) {
        npo_state_fail(server, NPO_E_STATE, kind);
        return;
    }
    if (to == NPO_TASK_READY && task->waiting > 0)
        to = NPO_TASK_WAITING; /* an input was lost meanwhile */
    job->counts[task->state]--;
    job->counts[to]++;
    task->state = to;
    int64_t seq = npo_event_add(server, job->id, task->id, kind, error);
    npo_run(server->store, NPO_SQL_TASK_UPDATE, npo_int(task->id), npo_int(task->state),
            npo_int(task->attempt), npo_int(task->failures), npo_int(task->losses),
            npo_int(task->worker), npo_int(seq), npo_text(error), npo_text(result));
}

void npo_task_move(npo_server *server, npo_job_record *job, npo_task_record *task,
                   npo_task_event event, const char *kind, const char *error)
{
    move(server, job, task, event, kind, error, NULL);
}

bool npo_task_held(npo_server *server, const npo_worker_record *worker, npo_task_record *ret_task)
{
    if (worker->held.id != worker->task)
        return npo_task_load(server, worker->task, ret_task);
    *ret_task = worker->held;
    return true;
}

/* ---- starting and ending an attempt ---- */

static void hand_over(npo_worker_record *worker, const npo_task_record *task, int rank)
{
    assert(worker->task == 0);
    worker->task = task->id;
    worker->attempt = task->attempt;
    worker->rank = rank;
    worker->held = *task;
    worker->dirty = true;
}

void npo_task_start(npo_server *server, npo_job_record *job, npo_task_record *task,
                    npo_worker_record *worker)
{
    task->attempt++;
    task->worker = task->world > 1 ? job->members[0]->id : worker->id;
    npo_task_move(server, job, task, NPO_TASK_START, "task.started", NULL);
    if (task->world > 1)
        for (int rank = 0; rank < (int)task->world; rank++)
            hand_over(job->members[rank], task, rank);
    else
        hand_over(worker, task, 0);
}

void npo_task_free_worker(npo_server *server, npo_worker_record *worker)
{
    worker->task = 0;
    worker->free_since_ms = server->now.mono_ms;
    worker->progress.task = 0;
    worker->dirty = true;
    if (worker->job && worker->job->state != NPO_JOB_RUNNING)
        npo_allocation_leave(server, worker);
}

static void free_ranks(npo_server *server, npo_job_record *job, int64_t task)
{
    for (int place = 0; place < job->workers; place++)
        if (job->members[place] && job->members[place]->task == task)
            npo_task_free_worker(server, job->members[place]);
}

static void forget_attempt(npo_server *server, const npo_task_record *task)
{
    if (npo_map_get(&server->pinned, task->id)) {
        npo_run(server->store, NPO_SQL_PIN_DELETE_TASK, npo_int(task->id));
        npo_map_remove(&server->pinned, task->id);
    }
    if (task->world == 1)
        return;
    npo_run(server->store, NPO_SQL_TASK_RANK_DELETE, npo_int(task->id));
    npo_run(server->store, NPO_SQL_RENDEZVOUS_DELETE, npo_int(task->id));
}

void npo_task_abandon(npo_server *server, npo_job_record *job, npo_task_record *task,
                      npo_task_event event, const char *kind, const char *error)
{
    npo_task_move(server, job, task, event, kind, error);
    forget_attempt(server, task);
    npo_run(server->store, NPO_SQL_OUTPUT_DELETE, npo_int(task->id));
    free_ranks(server, job, task->id);
}

void npo_task_lose(npo_server *server, npo_job_record *job, int64_t task_id, bool counts,
                   const char *why)
{
    npo_task_record task;
    char text[NPO_ERROR_TEXT_MAX];
    if (!npo_task_load(server, task_id, &task))
        return;
    task.losses += counts;
    if (task.losses <= NPO_LOSSES_MAX) {
        npo_task_abandon(server, job, &task, NPO_TASK_LOSE, "task.lost", why);
        return;
    }
    snprintf(text, sizeof text, "task %lld (%s) lost its worker %lld times: %.200s",
             (long long)task.id, task.kind, (long long)task.losses, why);
    npo_task_abandon(server, job, &task, NPO_TASK_FAIL, "task.failed", text);
    npo_job_end(server, job, NPO_JOB_FAIL, text);
}

npo_err npo_fence_check(npo_server *server, npo_request *request, const npo_fence *fence,
                        npo_worker_record **ret_worker)
{
    npo_worker_record *worker = NULL;
    NPO_TRY(npo_worker_check(server, request, fence->worker, &worker));
    if (fence->task == 0 || worker->task != fence->task || worker->attempt != fence->attempt ||
        worker->rank != fence->rank)
        return npo_error_set(
            &request->error, NPO_E_FENCED,
            "worker %lld does not hold task %lld, attempt %lld, rank %lld (any more)",
            (long long)fence->worker, (long long)fence->task, (long long)fence->attempt,
            (long long)fence->rank);
    *ret_worker = worker;
    return NPO_OK;
}

/* ---- done ---- */

typedef struct {
    npo_fence fence;
    const cJSON *outputs, *result;
} done_request;

static npo_err check_output(npo_server *server, npo_request *request, const cJSON *output)
{
    const char *name = npo_json_string(output, "name", "");
    const char *hash = npo_json_string(output, "hash", "");
    NPO_TRY(npo_request_name(request, "outputs", name));
    if (strlen(name) > NPO_NAME_MAX || strchr(name, '/') || *name == '.')
        return npo_error_set(&request->error, NPO_E_USAGE,
                             "outputs: found name '%.40s', expected one without '/' that does not "
                             "begin with '.'",
                             name);
    if (!npo_hash_is_text(hash))
        return npo_error_set(&request->error, NPO_E_FORMAT,
                             "output '%s': found hash '%.40s', expected 32 hex digits", name, hash);
    npo_artifact_info info = npo_artifact_find(server, hash);
    if (!info.is_there)
        return npo_error_set(&request->error, NPO_E_NOT_FOUND,
                             "output '%s': artifact %s has not been published", name, hash);
    if (npo_json_int(output, "size", -1) != info.size)
        return npo_error_set(&request->error, NPO_E_RANGE,
                             "output '%s': found size %lld, but artifact %s has %lld bytes", name,
                             (long long)npo_json_int(output, "size", -1), hash,
                             (long long)info.size);
    return NPO_OK;
}

static npo_err check_outputs(npo_server *server, npo_request *request, const cJSON *outputs)
{
    const cJSON *output;
    if (cJSON_GetArraySize(outputs) > NPO_OUTPUTS_PER_TASK_MAX)
        return npo_error_set(&request->error, NPO_E_LIMIT, "outputs: found %d, expected at most %d",
                             cJSON_GetArraySize(outputs), (int)NPO_OUTPUTS_PER_TASK_MAX);
    cJSON_ArrayForEach(output, outputs) NPO_TRY(check_output(server, request, output));
    return NPO_OK;
}

static void put_outputs(npo_server *server, const done_request *done)
{
    const cJSON *output;
    cJSON_ArrayForEach(output, done->outputs)
    {
        const char *hash = npo_json_string(output, "hash", "");
        npo_run(server->store, NPO_SQL_OUTPUT_INSERT, npo_int(done->fence.task),
                npo_text(npo_json_string(output, "name", "")), npo_int(done->fence.rank),
                npo_text(hash), npo_int(npo_json_int(output, "size", 0)));
    }
}

static bool all_ranks_done(npo_server *server, const npo_task_record *task, int64_t rank)
{
    if (task->world == 1)
        return true;
    npo_run(server->store, NPO_SQL_TASK_RANK_INSERT, npo_int(task->id), npo_int(rank));
    return npo_query_int_once(npo_ask(server->store, NPO_SQL_TASK_RANK_COUNT, npo_int(task->id)),
                              0) >= task->world;
}

typedef struct {
    int64_t id, waiting;
    npo_task_state state;
} dependent;

/* One that waits for one task less, and is ready when that was the last. */
static void release_one(npo_server *server, npo_job_record *job, dependent task)
{
    bool is_ready = task.state == NPO_TASK_WAITING && task.waiting == 1;
    job->counts[NPO_TASK_READY] += is_ready;
    job->counts[NPO_TASK_WAITING] -= is_ready;
    npo_run(server->store, NPO_SQL_TASK_WAITING, npo_int(task.id), npo_int(task.waiting - 1),
            npo_int(is_ready ? NPO_TASK_READY : task.state));
}

static void release_dependents(npo_server *server, npo_job_record *job, int64_t task)
{
    enum { AT_ONCE = 64 };
    dependent found[AT_ONCE];
    int count;
    int64_t after = 0;
    do {
        count = 0;
        npo_query *rows =
            npo_ask(server->store, NPO_SQL_TASK_DEPENDENTS, npo_int(task), npo_int(after));
        while (count < AT_ONCE && npo_query_next(rows))
            found[count++] = (dependent){.id = npo_query_int(rows, 0),
                                         .state = (npo_task_state)npo_query_int(rows, 1),
                                         .waiting = npo_query_int(rows, 2)};
        npo_query_end(rows);
        for (int i = 0; i < count; i++)
            release_one(server, job, found[i]);
        if (count > 0)
            after = found[count - 1].id;
    } while (count == AT_ONCE);
}

/* result: of the rank that was done last. */
static void finish(npo_server *server, npo_job_record *job, npo_task_record *task,
                   const cJSON *result)
{
    char *text = result && result->child ? cJSON_PrintUnformatted(result) : NULL;
    forget_attempt(server, task);
    move(server, job, task, NPO_TASK_FINISH, "task.done", NULL, text);
    free(text);
    release_dependents(server, job, task->id);
    if (task->step_end > job->step)
        job->step = task->step_end; /* written when the job is over, else found among its tasks */
    if (job->counts[NPO_TASK_DONE] == job->tasks)
        npo_job_end(server, job, NPO_JOB_FINISH, NULL);
}

npo_err npo_handle_done(npo_server *server, npo_request *request)
{
    static const npo_json_field fields[] = {
        NPO_FENCE_FIELDS(done_request, fence),
        {"outputs", NPO_JSON_ARRAY, offsetof(done_request, outputs), false, 0, 0, NULL},
        {"result", NPO_JSON_OBJECT, offsetof(done_request, result), false, 0, 0, NULL},
    };
    done_request done = {0};
    npo_worker_record *worker = NULL;
    npo_task_record task;
    NPO_TRY(npo_request_fields(request, fields, &done));
    NPO_TRY(npo_fence_check(server, request, &done.fence, &worker));
    NPO_TRY(check_outputs(server, request, done.outputs));
    if (!npo_task_held(server, worker, &task))
        return npo_error_set(&request->error, NPO_E_NOT_FOUND, "task %lld is gone",
                             (long long)done.fence.task);
    npo_job_record *job = worker->job;
    put_outputs(server, &done);
    bool is_last = all_ranks_done(server, &task, done.fence.rank);
    npo_task_free_worker(server, worker);
    if (is_last)
        finish(server, job, &task, done.result);
    return npo_reply_ok(request);
}

/* ---- fail ---- */

typedef struct {
    npo_fence fence;
    const char *code, *text;
    bool retry;
} fail_request;

static int64_t back_off_ms(int64_t failures)
{
    int64_t wait_ms = NPO_RETRY_BASE_MS;
    for (int64_t k = 1; k < failures && wait_ms < NPO_RETRY_MAX_MS; k++)
        wait_ms *= 2;
    return wait_ms < NPO_RETRY_MAX_MS ? wait_ms : NPO_RETRY_MAX_MS;
}

static void fail_task(npo_server *server, npo_job_record *job, npo_task_record *task,
                      const fail_request *failure)
{
    char text[NPO_ERROR_TEXT_MAX], sentence[NPO_ERROR_TEXT_MAX + 128];
    copy_cut(text, sizeof text, failure->text);
    task->failures++;
    if (failure->retry && task->failures <= job->retries) {
        npo_task_abandon(server, job, task, NPO_TASK_FAIL_AGAIN, "task.retried", text);
        npo_task_delay(server, task->id, server->now.mono_ms + back_off_ms(task->failures));
        return;
    }
    npo_task_abandon(server, job, task, NPO_TASK_FAIL, "task.failed", text);
    snprintf(sentence, sizeof sentence, "task %lld (%s, round %lld) failed%s: %s",
             (long long)task->id, task->kind, (long long)task->round,
             failure->retry ? " too often" : "", text);
    npo_job_end(server, job, NPO_JOB_FAIL, sentence);
}

npo_err npo_handle_fail(npo_server *server, npo_request *request)
{
    static const npo_json_field fields[] = {
        NPO_FENCE_FIELDS(fail_request, fence),
        {"code", NPO_JSON_STRING, offsetof(fail_request, code), false, 0, 64, NULL},
        {"text", NPO_JSON_STRING, offsetof(fail_request, text), false, 0, 0, NULL},
        {"retry", NPO_JSON_BOOL, offsetof(fail_request, retry), false, 0, 0, NULL},
    };
    fail_request failure = {.code = "", .text = "", .retry = true};
    npo_worker_record *worker = NULL;
    npo_task_record task;
    NPO_TRY(npo_request_fields(request, fields, &failure));
    NPO_TRY(npo_fence_check(server, request, &failure.fence, &worker));
    if (!npo_task_held(server, worker, &task))
        return npo_error_set(&request->error, NPO_E_NOT_FOUND, "task %lld is gone",
                             (long long)failure.fence.task);
    if (!*failure.text)
        failure.text = *failure.code ? failure.code : "no reason was given";
    fail_task(server, worker->job, &task, &failure);
    return npo_reply_ok(request);
}

/* ---- lost inputs ---- */

/* The output is gone: made again, and what has not read it yet waits again. */
static void redo(npo_server *server, int64_t task_id)
{
    npo_task_record task;
    if (!npo_task_load(server, task_id, &task))
        return;
    npo_job_record *job = npo_job_by_id(server, task.job);
    if (!job)
        return;
    npo_task_move(server, job, &task, NPO_TASK_REDO, "task.redo", "its output was lost");
    npo_run(server->store, NPO_SQL_OUTPUT_DELETE, npo_int(task.id));
    npo_run(server->store, NPO_SQL_TASK_UNRELEASE, npo_int(task.id));
    for (int place = 0; place < job->workers; place++)
        if (job->members[place])
            job->members[place]->held.id = 0; /* it may wait for one more task now */
    npo_job_recount(server, job);
}

void npo_task_input_lost(npo_server *server, const char *hash, int64_t job_id)
{
    enum { MAX = 256 };
    int64_t makers[MAX];
    int count = 0;
    npo_job_record *job = npo_job_by_id(server, job_id);
    npo_query *rows = npo_ask(server->store, NPO_SQL_TASK_LOST_INPUT, npo_text(hash));
    while (npo_query_next(rows)) {
        if (count == MAX) {
            npo_query_end(rows);
            break;
        }
        makers[count++] = npo_query_int(rows, 0);
    }
    for (int i = 0; i < count; i++)
        redo(server, makers[i]);
    if (count > 0 || !job)
        return;
    char text[160] = "a task did not leave the output that another one reads";
    if (*hash)
        snprintf(text, sizeof text, "input artifact '%s' is gone and no task of the job makes it",
                 hash);
    npo_job_end(server, job, NPO_JOB_FAIL, text);
}

/* ---- back-off ---- */

void npo_task_delay(npo_server *server, int64_t task, int64_t due_ms)
{
    if (server->delay_count == server->delay_cap) {
        size_t cap = server->delay_cap ? server->delay_cap * 2 : 16;
        npo_delay *delays = realloc(server->delays, cap * sizeof *delays);
        if (!delays) {
            npo_state_fail(server, NPO_E_NOMEM, "cannot delay a task");
            return;
        }
        server->delays = delays;
        server->delay_cap = cap;
    }
    server->delays[server->delay_count++] = (npo_delay){task, due_ms};
}

static void resume(npo_server *server, int64_t id)
{
    npo_task_record task;
    if (!npo_task_load(server, id, &task) || task.state != NPO_TASK_DELAYED)
        return;
    npo_job_record *job = npo_job_by_id(server, task.job);
    if (job)
        npo_task_move(server, job, &task, NPO_TASK_RESUME, "task.ready", NULL);
}

void npo_task_tick(npo_server *server)
{
    size_t kept = 0;
    for (size_t i = 0; i < server->delay_count; i++) {
        npo_delay delay = server->delays[i];
        if (delay.due_ms > server->now.mono_ms)
            server->delays[kept++] = delay;
        else
            resume(server, delay.task);
    }
    server->delay_count = kept;
}
