#include "server/state.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- tables of states ---- */

typedef struct {
    int from, event, to;
} transition;

static const transition job_transitions[] = {
    {NPO_JOB_PENDING, NPO_JOB_START, NPO_JOB_RUNNING},
    {NPO_JOB_PENDING, NPO_JOB_HOLD, NPO_JOB_HELD},
    {NPO_JOB_PENDING, NPO_JOB_CANCEL, NPO_JOB_CANCELLED},
    {NPO_JOB_PENDING, NPO_JOB_FAIL, NPO_JOB_FAILED},
    {NPO_JOB_RUNNING, NPO_JOB_FINISH, NPO_JOB_DONE},
    {NPO_JOB_RUNNING, NPO_JOB_FAIL, NPO_JOB_FAILED},
    {NPO_JOB_RUNNING, NPO_JOB_HOLD, NPO_JOB_HELD},
    {NPO_JOB_RUNNING, NPO_JOB_CANCEL, NPO_JOB_CANCELLED},
    {NPO_JOB_HELD, NPO_JOB_FINISH, NPO_JOB_DONE}, /* its running tasks go on to their ends */
    {NPO_JOB_HELD, NPO_JOB_FAIL, NPO_JOB_FAILED},
    {NPO_JOB_HELD, NPO_JOB_RELEASE, NPO_JOB_PENDING},
    {NPO_JOB_HELD, NPO_JOB_CANCEL, NPO_JOB_CANCELLED},
    {NPO_JOB_FAILED, NPO_JOB_RETRY, NPO_JOB_PENDING},
    {NPO_JOB_CANCELLED, NPO_JOB_RETRY, NPO_JOB_PENDING},
    {NPO_JOB_DONE, NPO_JOB_REMOVE, NPO_JOB_STATE_COUNT}, /* gone */
    {NPO_JOB_FAILED, NPO_JOB_REMOVE, NPO_JOB_STATE_COUNT},
    {NPO_JOB_CANCELLED, NPO_JOB_REMOVE, NPO_JOB_STATE_COUNT},
};

static const transition task_transitions[] = {
    {NPO_TASK_WAITING, NPO_TASK_CANCEL, NPO_TASK_CANCELLED},
    {NPO_TASK_READY, NPO_TASK_START, NPO_TASK_RUNNING},
    {NPO_TASK_READY, NPO_TASK_FAIL, NPO_TASK_FAILED}, /* an input is gone for good */
    {NPO_TASK_READY, NPO_TASK_CANCEL, NPO_TASK_CANCELLED},
    {NPO_TASK_DELAYED, NPO_TASK_RESUME, NPO_TASK_READY},
    {NPO_TASK_DELAYED, NPO_TASK_CANCEL, NPO_TASK_CANCELLED},
    {NPO_TASK_RUNNING, NPO_TASK_FINISH, NPO_TASK_DONE},
    {NPO_TASK_RUNNING, NPO_TASK_FAIL_AGAIN, NPO_TASK_DELAYED},
    {NPO_TASK_RUNNING, NPO_TASK_FAIL, NPO_TASK_FAILED},
    {NPO_TASK_RUNNING, NPO_TASK_LOSE, NPO_TASK_READY},
    {NPO_TASK_RUNNING, NPO_TASK_CANCEL, NPO_TASK_CANCELLED},
    {NPO_TASK_DONE, NPO_TASK_REDO, NPO_TASK_READY},
    {NPO_TASK_FAILED, NPO_TASK_RETRY, NPO_TASK_READY},
    {NPO_TASK_CANCELLED, NPO_TASK_RETRY, NPO_TASK_READY},
};

static npo_err look_up(const transition *table, size_t count, int from, int event, int *ret_to)
{
    for (size_t i = 0; i < count; i++) {
        if (table[i].from == from && table[i].event == event) {
            *ret_to = table[i].to;
            return NPO_OK;
        }
    }
    return NPO_E_STATE;
}

npo_err npo_job_next(npo_job_state from, npo_job_event event, npo_job_state *ret_to)
{
    int to;
    NPO_TRY(look_up(job_transitions, sizeof job_transitions / sizeof job_transitions[0], (int)from,
                    (int)event, &to));
    *ret_to = (npo_job_state)to;
    return NPO_OK;
}

npo_err npo_task_next(npo_task_state from, npo_task_event event, npo_task_state *ret_to)
{
    int to;
    NPO_TRY(look_up(task_transitions, sizeof task_transitions / sizeof task_transitions[0],
                    (int)from, (int)event, &to));
    *ret_to = (npo_task_state)to;
    return NPO_OK;
}

const char *npo_job_state_name(npo_job_state state)
{
    static const char *const names[NPO_JOB_STATE_COUNT] = {
        [NPO_JOB_PENDING] = "pending", [NPO_JOB_RUNNING] = "running",
        [NPO_JOB_HELD] = "held",       [NPO_JOB_DONE] = "done",
        [NPO_JOB_FAILED] = "failed",   [NPO_JOB_CANCELLED] = "cancelled",
    };
    return state < NPO_JOB_STATE_COUNT ? names[state] : "removed";
}

const char *npo_task_state_name(npo_task_state state)
{
    static const char *const names[NPO_TASK_STATE_COUNT] = {
        [NPO_TASK_WAITING] = "pending",     [NPO_TASK_READY] = "pending",
        [NPO_TASK_DELAYED] = "pending",     [NPO_TASK_RUNNING] = "running",
        [NPO_TASK_DONE] = "done",           [NPO_TASK_FAILED] = "failed",
        [NPO_TASK_CANCELLED] = "cancelled",
    };
    assert(state < NPO_TASK_STATE_COUNT);
    return names[state];
}

/* ---- loading ---- */

static char *copy_text(const npo_query *query, int column)
{
    const char *text = npo_query_text(query, column);
    return strdup(text ? text : "");
}

static npo_worker_record *read_worker(const npo_query *query, int64_t *ret_job)
{
    npo_worker_record *worker = calloc(1, sizeof *worker);
    if (!worker)
        return NULL;
    worker->id = npo_query_int(query, 0);
    worker->name = copy_text(query, 1);
    worker->boot = (uint64_t)npo_query_int(query, 2);
    worker->device = copy_text(query, 3);
    worker->class = copy_text(query, 4);
    worker->build = copy_text(query, 5);
    worker->threads = npo_query_int(query, 6);
    worker->memory_bytes = npo_query_int(query, 7);
    worker->labels = cJSON_Parse(npo_query_text(query, 8));
    worker->seen_ms = npo_query_int(query, 9);
    *ret_job = npo_query_int(query, 10);
    worker->place = (int)npo_query_int(query, 11);
    worker->task = npo_query_int(query, 12);
    worker->attempt = npo_query_int(query, 13);
    worker->rank = (int)npo_query_int(query, 14);
    if (!worker->name || !worker->device || !worker->class || !worker->build || !worker->labels) {
        npo_worker_free(worker);
        return NULL;
    }
    return worker;
}

static npo_err load_workers(npo_server *server)
{
    npo_query *rows = npo_ask(server->store, NPO_SQL_WORKER_ALL);
    while (npo_query_next(rows)) {
        int64_t job_id;
        npo_worker_record *worker = read_worker(rows, &job_id);
        npo_err err = worker ? npo_worker_add(server, worker) : NPO_E_NOMEM;
        if (err) {
            npo_worker_free(worker);
            npo_query_end(rows);
            return err;
        }
        /* A whole lease to report back: npod, not the worker, was away. */
        npo_lease_renew(server, worker);
        worker->free_since_ms = server->now.mono_ms;
        npo_job_record *job = npo_job_by_id(server, job_id);
        if (job && worker->place < job->workers && !job->members[worker->place])
            npo_allocation_join(server, job, worker, worker->place);
        worker->dirty = false;
    }
    return NPO_OK;
}

/* Since a moment that was written down; the wall clock may have been set back since. */
static int64_t elapsed_ms(const npo_server *server, int64_t since_wall_ms)
{
    int64_t elapsed = server->now.wall_ms - since_wall_ms;
    return since_wall_ms > 0 && elapsed > 0 ? elapsed : 0;
}

static npo_err load_jobs(npo_server *server)
{
    npo_err err = NPO_OK;
    npo_query *rows = npo_ask(server->store, NPO_SQL_JOB_ACTIVE);
    while (!err && npo_query_next(rows)) {
        npo_job_record *job = NULL;
        err = npo_job_record_read(rows, &job);
        if (!err)
            err = npo_job_load_after(server, job);
        if (!err)
            err = npo_map_put(&server->jobs, job->id, job);
        if (err) {
            npo_job_record_free(job);
            npo_query_end(rows);
            return err;
        }
        job->running_mono_ms = server->now.mono_ms - elapsed_ms(server, job->running_ms);
    }
    return err;
}

static int compare_ids(const void *a, const void *b)
{
    int64_t left = (*(npo_job_record *const *)a)->id, right = (*(npo_job_record *const *)b)->id;
    return (left > right) - (left < right);
}

/* Queues in the order of submission, so that every insertion but those of higher priority is cheap.
 */
static npo_err queue_jobs(npo_server *server)
{
    size_t count = 0, at = 0;
    npo_job_record *job, **jobs = calloc(server->jobs.count + 1, sizeof *jobs);
    if (!jobs)
        return NPO_E_NOMEM;
    while ((job = npo_map_next(&server->jobs, &at))) {
        npo_job_recount(server, job);
        job->mark_step = job->checkpoint_step = job->step;
        if (job->state == NPO_JOB_PENDING)
            jobs[count++] = job;
    }
    qsort(jobs, count, sizeof *jobs, compare_ids);
    for (size_t i = count; i > 0; i--)
        npo_queue_add(server, jobs[i - 1]);
    free(jobs);
    return NPO_OK;
}

/* Tasks that hold pins: few, and most tasks that end need not look. */
static npo_err load_pinned(npo_server *server)
{
    npo_query *rows = npo_ask(server->store, NPO_SQL_PIN_TASKS);
    while (npo_query_next(rows)) {
        npo_err err = npo_map_put(&server->pinned, npo_query_int(rows, 0), server);
        if (err) {
            npo_query_end(rows);
            return err;
        }
    }
    return NPO_OK;
}

static void load_delays(npo_server *server)
{
    /* When they were to be tried again is forgotten: now. */
    npo_query *rows = npo_ask(server->store, NPO_SQL_TASK_DELAYED);
    while (npo_query_next(rows))
        npo_task_delay(server, npo_query_int(rows, 0), server->now.mono_ms);
}

npo_err npo_state_load(npo_server *server, npo_error *error)
{
    npo_err err = npo_dedup_load(server);
    if (!err)
        err = load_jobs(server);
    if (!err)
        err = load_workers(server);
    if (!err)
        err = queue_jobs(server);
    if (!err)
        err = load_pinned(server);
    if (err)
        return npo_error_set(error, err, "cannot load the state");
    load_delays(server);
    server->epoch =
        npo_query_int_once(npo_ask(server->store, NPO_SQL_META_GET, npo_text("epoch")), 1);
    server->last_event = npo_query_int_once(npo_ask(server->store, NPO_SQL_EVENT_LAST), 0);
    server->artifact_bytes =
        (uint64_t)npo_query_int_once(npo_ask(server->store, NPO_SQL_ARTIFACT_BYTES), 0);
    server->needs_schedule = server->has_incomplete = true;
    return npo_store_err(server->store, error);
}

static void free_dead(npo_server *server)
{
    while (server->dead) {
        npo_job_record *job = server->dead;
        server->dead = job->next_dead;
        npo_job_record_free(job);
    }
}

void npo_state_unload(npo_server *server)
{
    npo_job_record *job;
    for (size_t at = 0; (job = npo_map_next(&server->jobs, &at));)
        npo_job_record_free(job);
    npo_map_fini(&server->jobs);
    npo_map_fini(&server->pinned);
    npo_dedup_unload(server);
    for (size_t i = 0; i < server->worker_count; i++)
        npo_worker_free(server->workers[i]);
    free(server->workers);
    free(server->queue);
    free(server->delays);
    server->dirty = NULL;
    free_dead(server);
    server->workers = NULL;
    server->queue = NULL;
    server->delays = NULL;
    server->worker_count = server->worker_cap = 0;
    server->queue_count = server->queue_cap = 0;
    server->delay_count = server->delay_cap = 0;
}

/* ---- flushing ---- */

static void flush_worker(npo_server *server, npo_worker_record *worker)
{
    npo_run(server->store, NPO_SQL_WORKER_UPDATE, npo_int(worker->id),
            npo_int((int64_t)worker->boot), npo_int(worker->seen_ms),
            npo_int(worker->job ? worker->job->id : 0), npo_int(worker->place),
            npo_int(worker->task), npo_int(worker->attempt), npo_int(worker->rank));
    worker->dirty = false;
}

static npo_value time_or_null(int64_t time_ms)
{
    return time_ms > 0 ? npo_int(time_ms) : npo_text(NULL);
}

static void flush_job(npo_server *server, npo_job_record *job)
{
    npo_run(server->store, NPO_SQL_JOB_UPDATE, npo_int(job->id), npo_int(job->state),
            npo_text(job->class), npo_int(job->step), time_or_null(job->started_ms),
            time_or_null(job->ended_ms), time_or_null(job->running_ms), npo_int(job->used_ms),
            npo_text(job->error), npo_int(job->counts[NPO_TASK_DONE]),
            npo_int(job->counts[NPO_TASK_FAILED]));
    job->dirty = false;
}

void npo_state_flush(npo_server *server)
{
    for (size_t i = 0; i < server->worker_count; i++)
        if (server->workers[i]->dirty)
            flush_worker(server, server->workers[i]);
    while (server->dirty) {
        npo_job_record *job = server->dirty;
        server->dirty = job->next_dirty;
        flush_job(server, job);
    }
    free_dead(server);
}

void npo_state_fail(npo_server *server, npo_err code, const char *what)
{
    if (server->failure.code == NPO_OK)
        (void)npo_error_set(&server->failure, code, "%s: %s", what, npo_err_text(code));
}
