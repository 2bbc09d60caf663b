#include "server/state.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- records ---- */

void npo_job_record_free(npo_job_record *job)
{
    if (!job)
        return;
    free(job->name);
    free(job->recipe);
    free(job->class);
    free(job->error);
    free(job->spec);
    cJSON_Delete(job->constraints);
    free(job->after);
    free(job->members);
    free(job);
}

static npo_err copy_text(const npo_query *query, int column, char **ret_text)
{
    const char *text = npo_query_text(query, column);
    if (text && !(*ret_text = strdup(text)))
        return NPO_E_NOMEM;
    return NPO_OK;
}

static npo_err read_texts(const npo_query *query, npo_job_record *job)
{
    NPO_TRY(copy_text(query, 1, &job->name));
    NPO_TRY(copy_text(query, 2, &job->recipe));
    NPO_TRY(copy_text(query, 9, &job->class));
    NPO_TRY(copy_text(query, 19, &job->error));
    const char *constraints = npo_query_text(query, 20);
    if (constraints && !(job->constraints = cJSON_Parse(constraints)))
        return NPO_E_NOMEM;
    if (constraints)
        job->constraints_hash = npo_hash_bytes(constraints, strlen(constraints));
    job->members = calloc((size_t)job->workers, sizeof *job->members);
    return job->members ? NPO_OK : NPO_E_NOMEM;
}

static bool is_ended(npo_job_state state)
{
    return state == NPO_JOB_DONE || state == NPO_JOB_FAILED || state == NPO_JOB_CANCELLED;
}

/* Of a job that is over; those of others are counted, and stand in the mirror. */
static void read_counts(const npo_query *query, npo_job_record *job)
{
    job->counts[NPO_TASK_DONE] = npo_query_int(query, 21);
    job->counts[NPO_TASK_FAILED] = npo_query_int(query, 22);
    job->counts[NPO_TASK_CANCELLED] =
        job->tasks - job->counts[NPO_TASK_DONE] - job->counts[NPO_TASK_FAILED];
}

npo_err npo_job_record_read(const npo_query *query, npo_job_record **ret_job)
{
    npo_job_record *job = calloc(1, sizeof *job);
    if (!job)
        return NPO_E_NOMEM;
    *job = (npo_job_record){
        .id = npo_query_int(query, 0),
        .state = (npo_job_state)npo_query_int(query, 3),
        .priority = npo_query_int(query, 4),
        .workers = (int)npo_query_int(query, 5),
        .retries = npo_query_int(query, 6),
        .time_limit_s = npo_query_int(query, 7),
        .any_class = npo_query_int(query, 8) != 0,
        .tasks = npo_query_int(query, 10),
        .steps = npo_query_int(query, 11),
        .rounds = npo_query_int(query, 12),
        .step = npo_query_int(query, 13),
        .submitted_ms = npo_query_int(query, 14),
        .started_ms = npo_query_int(query, 15),
        .ended_ms = npo_query_int(query, 16),
        .running_ms = npo_query_int(query, 17),
        .used_ms = npo_query_int(query, 18),
    };
    if (is_ended(job->state))
        read_counts(query, job);
    npo_err err = read_texts(query, job);
    if (err) {
        npo_job_record_free(job);
        return err;
    }
    *ret_job = job;
    return NPO_OK;
}

npo_job_state npo_job_find_state(const npo_server *server, int64_t id)
{
    const npo_job_record *job = npo_job_by_id(server, id);
    if (job)
        return job->state;
    return (npo_job_state)npo_query_int_once(npo_ask(server->store, NPO_SQL_JOB_STATE, npo_int(id)),
                                             NPO_JOB_STATE_COUNT);
}

bool npo_server_has_job(npo_server *server, int64_t job)
{
    return npo_job_find_state(server, job) != NPO_JOB_STATE_COUNT;
}

npo_job_record *npo_job_by_id(const npo_server *server, int64_t id)
{
    return npo_map_get(&server->jobs, id);
}

void npo_job_touch(npo_server *server, npo_job_record *job)
{
    if (job->dirty)
        return;
    job->dirty = true;
    job->next_dirty = server->dirty;
    server->dirty = job;
}

void npo_job_recount(npo_server *server, npo_job_record *job)
{
    memset(job->counts, 0, sizeof job->counts);
    npo_query *rows = npo_ask(server->store, NPO_SQL_JOB_TASK_STATES, npo_int(job->id));
    while (npo_query_next(rows)) {
        int64_t state = npo_query_int(rows, 0);
        if (state >= 0 && state < NPO_TASK_STATE_COUNT)
            job->counts[state] = npo_query_int(rows, 1);
        if (state == NPO_TASK_DONE && npo_query_int(rows, 2) > job->step)
            job->step = npo_query_int(rows, 2);
    }
}

const char *npo_job_spec(npo_server *server, npo_job_record *job)
{
    if (!job->spec)
        job->spec = npo_query_text_once(npo_ask(server->store, NPO_SQL_JOB_SPEC, npo_int(job->id)));
    return job->spec ? job->spec : "{}";
}

/* ---- life ---- */

int64_t npo_job_used_ms(const npo_server *server, const npo_job_record *job)
{
    if (job->running_ms == 0)
        return job->used_ms;
    return job->used_ms + (server->now.mono_ms - job->running_mono_ms);
}

void npo_job_clock(npo_server *server, npo_job_record *job)
{
    bool is_running = job->state == NPO_JOB_RUNNING && job->member_count > 0;
    if (is_running == (job->running_ms > 0))
        return;
    job->used_ms = npo_job_used_ms(server, job);
    job->running_ms = is_running ? server->now.wall_ms : 0;
    job->running_mono_ms = server->now.mono_ms;
    npo_job_touch(server, job);
}

/* Errors: NPO_E_STATE: the event is not allowed now. */
static npo_err move(npo_server *server, npo_job_record *job, npo_job_event event)
{
    npo_job_state to;
    NPO_TRY(npo_job_next(job->state, event, &to));
    if (job->state == NPO_JOB_PENDING)
        npo_queue_remove(server, job);
    job->state = to;
    npo_job_touch(server, job);
    return NPO_OK;
}

void npo_job_start(npo_server *server, npo_job_record *job)
{
    if (move(server, job, NPO_JOB_START) != NPO_OK) {
        npo_state_fail(server, NPO_E_STATE, "cannot start a job");
        return;
    }
    if (job->started_ms == 0)
        job->started_ms = server->now.wall_ms;
    npo_job_clock(server, job);
    npo_job_rate_start(server, job);
    server->has_incomplete |= job->member_count < job->workers;
    npo_event_add(server, job->id, 0, "job.started", NULL);
}

/* Members that hold no task leave; with a task they leave when it ends. */
static void release_members(npo_server *server, npo_job_record *job)
{
    for (int place = 0; place < job->workers; place++)
        if (job->members[place] && job->members[place]->task == 0)
            npo_allocation_leave(server, job->members[place]);
}

static void cancel_tasks(npo_server *server, npo_job_record *job)
{
    npo_task_record task;
    for (int place = 0; place < job->workers; place++)
        if (job->members[place] && job->members[place]->task != 0 &&
            npo_task_load(server, job->members[place]->task, &task))
            npo_task_abandon(server, job, &task, NPO_TASK_CANCEL, "task.cancelled", NULL);
    npo_run(server->store, NPO_SQL_TASK_CANCEL_ALL, npo_int(job->id), npo_int(server->last_event));
    static const npo_task_state left[] = {NPO_TASK_WAITING, NPO_TASK_READY, NPO_TASK_DELAYED};
    for (size_t i = 0; i < sizeof left / sizeof left[0]; i++) {
        job->counts[NPO_TASK_CANCELLED] += job->counts[left[i]];
        job->counts[left[i]] = 0;
    }
}

/* Jobs that wait for this one need to no longer. */
static void release_followers(npo_server *server, int64_t id)
{
    int found = 0;
    npo_query *rows = npo_ask(server->store, NPO_SQL_JOB_AFTER_WAITING, npo_int(id));
    while (npo_query_next(rows)) {
        npo_job_record *job = npo_job_by_id(server, npo_query_int(rows, 0));
        found++;
        for (size_t i = 0; job && i < job->after_count; i++)
            if (job->after[i] == id)
                job->after[i--] = job->after[--job->after_count];
    }
    if (found > 0)
        npo_run(server->store, NPO_SQL_JOB_AFTER_DONE, npo_int(id));
}

void npo_job_end(npo_server *server, npo_job_record *job, npo_job_event event, const char *error)
{
    static const char *const kinds[NPO_JOB_EVENT_COUNT] = {
        [NPO_JOB_FINISH] = "job.done",
        [NPO_JOB_FAIL] = "job.failed",
        [NPO_JOB_CANCEL] = "job.cancelled",
    };
    assert(kinds[event]);
    if (move(server, job, event) != NPO_OK) {
        npo_state_fail(server, NPO_E_STATE, kinds[event]);
        return;
    }
    npo_job_clock(server, job);
    if (error) {
        free(job->error);
        job->error = strdup(error);
    }
    job->ended_ms = server->now.wall_ms;
    npo_event_add(server, job->id, 0, kinds[event], error);
    if (event == NPO_JOB_FINISH)
        release_followers(server, job->id);
    else
        cancel_tasks(server, job);
    release_members(server, job);
    npo_map_remove(&server->jobs, job->id);
    job->next_dead = server->dead;
    server->dead = job;
    server->needs_schedule = true;
}

/* ---- time ---- */

static bool is_over(const npo_server *server, const npo_job_record *job)
{
    return job->state == NPO_JOB_RUNNING && job->time_limit_s > 0 &&
           npo_job_used_ms(server, job) >= job->time_limit_s * 1000;
}

static void end_over(npo_server *server, npo_job_record *job)
{
    char text[192];
    int len = snprintf(text, sizeof text, "its time limit of %lld s is over",
                       (long long)job->time_limit_s);
    if (job->step > 0)
        snprintf(text + len, sizeof text - (size_t)len,
                 " at step %lld of %lld; `npoctl submit --from %lld` goes on from there",
                 (long long)job->step, (long long)job->steps, (long long)job->id);
    npo_job_end(server, job, NPO_JOB_FAIL, text);
}

void npo_job_tick(npo_server *server)
{
    enum { MAX = 16 }; /* the others at the next tick */
    npo_job_record *job, *over[MAX];
    size_t count = 0;
    for (size_t at = 0; (job = npo_map_next(&server->jobs, &at));) {
        npo_job_rate_tick(server, job);
        if (count < MAX && is_over(server, job))
            over[count++] = job;
    }
    while (count > 0)
        end_over(server, over[--count]);
}

/* ---- what a client may do to a job ---- */

static npo_err read_id(npo_request *request, int64_t *ret_id)
{
    *ret_id = npo_json_int(request->json, "job", 0);
    if (*ret_id <= 0)
        return npo_error_set(&request->error, NPO_E_USAGE, "missing key 'job'");
    return NPO_OK;
}

static npo_err no_such_job(npo_request *request, int64_t id)
{
    return npo_error_set(&request->error, NPO_E_NOT_FOUND, "there is no job %lld", (long long)id);
}

/* A job that is over, read from its row. */
static npo_err load_ended(npo_server *server, npo_request *request, int64_t id,
                          npo_job_record **ret_job)
{
    npo_query *row = npo_ask(server->store, NPO_SQL_JOB_GET, npo_int(id));
    if (!npo_query_next(row))
        return no_such_job(request, id);
    npo_err err = npo_job_record_read(row, ret_job);
    npo_query_end(row);
    return err;
}

static npo_err refuse(npo_request *request, int64_t id, const char *verb, npo_job_state state)
{
    return npo_error_set(&request->error, NPO_E_STATE, "cannot %s job %lld: it is %s", verb,
                         (long long)id, npo_job_state_name(state));
}

static npo_err answer_state(npo_request *request, npo_job_state state)
{
    npo_buf_printf(&request->reply->json, "{\"state\":\"%s\"}", npo_job_state_name(state));
    return npo_buf_err(&request->reply->json);
}

/* The active job of the request, if the event is allowed in its state. */
static npo_err find_active(npo_server *server, npo_request *request, npo_job_event event,
                           const char *verb, npo_job_record **ret_job)
{
    int64_t id;
    npo_job_state to;
    npo_job_record *ended = NULL;
    NPO_TRY(read_id(request, &id));
    npo_job_record *job = npo_job_by_id(server, id);
    if (!job) {
        NPO_TRY(load_ended(server, request, id, &ended));
        npo_err err = refuse(request, id, verb, ended->state);
        npo_job_record_free(ended);
        return err;
    }
    if (npo_job_next(job->state, event, &to) != NPO_OK)
        return refuse(request, id, verb, job->state);
    *ret_job = job;
    return NPO_OK;
}

npo_err npo_handle_cancel(npo_server *server, npo_request *request)
{
    npo_job_record *job = NULL;
    NPO_TRY(find_active(server, request, NPO_JOB_CANCEL, "cancel", &job));
    npo_job_end(server, job, NPO_JOB_CANCEL, NULL);
    return answer_state(request, NPO_JOB_CANCELLED);
}

npo_err npo_handle_hold(npo_server *server, npo_request *request)
{
    npo_job_record *job = NULL;
    NPO_TRY(find_active(server, request, NPO_JOB_HOLD, "hold", &job));
    NPO_TRY(move(server, job, NPO_JOB_HOLD));
    npo_job_clock(server, job);
    npo_event_add(server, job->id, 0, "job.held", NULL);
    release_members(server, job);
    server->needs_schedule = true; /* workers may have been kept for it */
    return answer_state(request, NPO_JOB_HELD);
}

npo_err npo_handle_release(npo_server *server, npo_request *request)
{
    npo_job_record *job = NULL;
    NPO_TRY(find_active(server, request, NPO_JOB_RELEASE, "release", &job));
    NPO_TRY(move(server, job, NPO_JOB_RELEASE));
    npo_event_add(server, job->id, 0, "job.released", NULL);
    if (job->member_count > 0)
        npo_job_start(server, job); /* some of its tasks have run on meanwhile */
    else
        npo_queue_add(server, job);
    server->needs_schedule = true;
    return answer_state(request, job->state);
}

npo_err npo_job_load_after(npo_server *server, npo_job_record *job)
{
    npo_query *rows = npo_ask(server->store, NPO_SQL_JOB_AFTER_OF, npo_int(job->id));
    while (npo_query_next(rows)) {
        int64_t *after = realloc(job->after, (job->after_count + 1) * sizeof *after);
        if (!after) {
            npo_query_end(rows);
            return NPO_E_NOMEM;
        }
        job->after = after;
        job->after[job->after_count++] = npo_query_int(rows, 0);
    }
    return NPO_OK;
}

/* Errors: NPO_E_STATE: one of the jobs it waits for can never be done. */
static npo_err check_after(npo_server *server, npo_request *request, const npo_job_record *job)
{
    for (size_t i = 0; i < job->after_count; i++)
        if (npo_job_find_state(server, job->after[i]) == NPO_JOB_STATE_COUNT)
            return npo_error_set(&request->error, NPO_E_STATE,
                                 "cannot retry job %lld: job %lld, which it waits for, has been "
                                 "removed",
                                 (long long)job->id, (long long)job->after[i]);
    return NPO_OK;
}

npo_err npo_handle_retry(npo_server *server, npo_request *request)
{
    int64_t id;
    npo_job_state to;
    NPO_TRY(read_id(request, &id));
    npo_job_record *job = npo_job_by_id(server, id);
    if (job)
        return refuse(request, id, "retry", job->state);
    NPO_TRY(load_ended(server, request, id, &job));
    npo_err err = npo_job_next(job->state, NPO_JOB_RETRY, &to);
    if (err)
        (void)refuse(request, id, "retry", job->state);
    if (!err)
        err = npo_job_load_after(server, job);
    if (!err)
        err = check_after(server, request, job);
    if (!err)
        err = npo_map_put(&server->jobs, id, job);
    if (err) {
        npo_job_record_free(job);
        return err;
    }
    job->state = to;
    job->ended_ms = job->used_ms = 0;
    free(job->error);
    job->error = NULL;
    npo_job_touch(server, job);
    npo_run(server->store, NPO_SQL_TASK_RETRY_ALL, npo_int(id),
            npo_int(npo_event_add(server, id, 0, "job.retried", NULL)));
    npo_job_recount(server, job);
    npo_queue_add(server, job);
    return answer_state(request, job->state);
}

static npo_err check_followers(npo_server *server, npo_request *request, int64_t id)
{
    int64_t follower = 0;
    npo_query *rows = npo_ask(server->store, NPO_SQL_JOB_AFTER_WAITING, npo_int(id));
    while (npo_query_next(rows))
        if (npo_job_by_id(server, npo_query_int(rows, 0)))
            follower = npo_query_int(rows, 0);
    if (follower == 0)
        return NPO_OK;
    return npo_error_set(&request->error, NPO_E_STATE,
                         "cannot remove job %lld: job %lld waits for it", (long long)id,
                         (long long)follower);
}

npo_err npo_handle_remove(npo_server *server, npo_request *request)
{
    int64_t id;
    npo_job_state to;
    NPO_TRY(read_id(request, &id));
    npo_job_record *job = npo_job_by_id(server, id);
    if (job)
        return refuse(request, id, "remove", job->state);
    NPO_TRY(load_ended(server, request, id, &job));
    npo_err err = npo_job_next(job->state, NPO_JOB_REMOVE, &to);
    npo_job_record_free(job);
    if (err)
        return no_such_job(request, id);
    NPO_TRY(check_followers(server, request, id));
    npo_effect *effect = npo_effect_add(server, NULL, NPO_EFFECT_STREAMS_REMOVE);
    if (!effect)
        return npo_error_set(&request->error, NPO_E_NOMEM, "cannot remove job %lld", (long long)id);
    effect->job = id;
    npo_run(server->store, NPO_SQL_JOB_DELETE, npo_int(id));
    npo_event_add(server, id, 0, "job.removed", NULL);
    npo_buf_str(&request->reply->json, "{\"state\":\"removed\"}");
    return npo_buf_err(&request->reply->json);
}
