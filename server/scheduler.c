/* Which job gets which workers, and which task a worker does next.
 *
 * A job holds an all-or-nothing allocation from its first task to its end. Order: running jobs that
 * have lost a worker, then the queue by priority and age. The first job in the queue that could run
 * with the workers there are, but not now, reserves them; a job behind it starts on a reserved
 * worker only when its time limit ends before the reservation's estimated start. */
#include "server/state.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    BLOCKED_MAX = 64,     /* searches for workers in one go that find none */
    STEAL_AFTER_MS = 2000 /* a free worker that does not ask for its own shard loses it */
};

/* ---- queue ---- */

/* True when a should start before b. */
static bool goes_first(const npo_job_record *a, const npo_job_record *b)
{
    return a->priority != b->priority ? a->priority > b->priority : a->id < b->id;
}

/* Of all that find_group looks at. */
static npo_hash shape_of(const npo_job_record *job)
{
    struct {
        npo_hash constraints, class;
        int64_t workers, any_class;
    } parts = {
        .constraints = job->constraints_hash, .workers = job->workers, .any_class = job->any_class};
    if (job->class)
        parts.class = npo_hash_bytes(job->class, strlen(job->class));
    return npo_hash_bytes(&parts, sizeof parts);
}

void npo_queue_add(npo_server *server, npo_job_record *job)
{
    job->shape = shape_of(job);
    if (server->queue_count == server->queue_cap) {
        size_t cap = server->queue_cap ? server->queue_cap * 2 : 64;
        npo_job_record **queue = realloc(server->queue, cap * sizeof *queue);
        if (!queue) {
            npo_state_fail(server, NPO_E_NOMEM, "cannot queue a job");
            return;
        }
        server->queue = queue;
        server->queue_cap = cap;
    }
    size_t low = 0, high = server->queue_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (goes_first(job, server->queue[middle]))
            low = middle + 1;
        else
            high = middle;
    }
    memmove(server->queue + low + 1, server->queue + low,
            (server->queue_count - low) * sizeof *server->queue);
    server->queue[low] = job;
    server->queue_count++;
    server->needs_schedule = true;
}

void npo_queue_remove(npo_server *server, npo_job_record *job)
{
    for (size_t i = server->queue_count; i > 0; i--) {
        if (server->queue[i - 1] != job)
            continue;
        server->queue_count--;
        memmove(server->queue + i - 1, server->queue + i,
                (server->queue_count - (i - 1)) * sizeof *server->queue);
        return;
    }
}

/* ---- allocations ---- */

void npo_allocation_join(npo_server *server, npo_job_record *job, npo_worker_record *worker,
                         int place)
{
    assert(!worker->job || worker->job == job);
    assert(!job->members[place]);
    job->members[place] = worker;
    job->member_count++;
    worker->job = job;
    worker->place = place;
    worker->free_since_ms = server->now.mono_ms;
    worker->dirty = true;
    npo_job_clock(server, job);
}

void npo_allocation_leave(npo_server *server, npo_worker_record *worker)
{
    npo_job_record *job = worker->job;
    assert(worker->task == 0 && job->members[worker->place] == worker);
    job->members[worker->place] = NULL;
    job->member_count--;
    worker->job = NULL;
    worker->dirty = true;
    server->needs_schedule = true;
    server->has_incomplete |= job->state == NPO_JOB_RUNNING;
    npo_job_clock(server, job);
}

/* "cuda" stands for every "cuda:N". */
static bool device_matches(const char *device, const char *wanted)
{
    size_t len = strlen(wanted);
    return strncmp(device, wanted, len) == 0 && (device[len] == '\0' || device[len] == ':');
}

static bool labels_match(const cJSON *labels, const cJSON *wanted)
{
    const cJSON *item;
    cJSON_ArrayForEach(item, wanted)
    {
        const cJSON *label = cJSON_GetObjectItemCaseSensitive(labels, item->string);
        if (!label || !cJSON_Compare(label, item, 1))
            return false;
    }
    return true;
}

bool npo_worker_matches(const npo_worker_record *worker, const npo_job_record *job)
{
    if (job->class && !job->any_class && strcmp(job->class, worker->class) != 0)
        return false;
    if (!job->constraints)
        return true;
    const char *device = npo_json_string(job->constraints, "device", NULL);
    if (device && !device_matches(worker->device, device))
        return false;
    return labels_match(worker->labels,
                        cJSON_GetObjectItemCaseSensitive(job->constraints, "label"));
}

/* Workers of one job compute the same bits, and a gang never mixes builds. */
static bool can_join(const npo_worker_record *a, const npo_worker_record *b, bool any_class)
{
    return strcmp(a->build, b->build) == 0 && (any_class || strcmp(a->class, b->class) == 0);
}

static bool is_candidate(const npo_worker_record *worker, const npo_job_record *job, bool only_free)
{
    return npo_worker_is_alive(worker) && (!only_free || !worker->job) &&
           npo_worker_matches(worker, job);
}

/* The group of workers that fits the job: those that can join `first`. Counts it. */
static int count_group(const npo_server *server, const npo_job_record *job,
                       const npo_worker_record *first, bool only_free,
                       const npo_worker_record *const *reserved)
{
    int count = 0;
    for (size_t i = 0; i < server->worker_count; i++) {
        const npo_worker_record *worker = server->workers[i];
        if (is_candidate(worker, job, only_free) && can_join(first, worker, job->any_class) &&
            (!reserved || !reserved[i]))
            count++;
    }
    return count;
}

/* A worker whose group has job->workers members; NULL: there is none. */
static npo_worker_record *find_group(const npo_server *server, const npo_job_record *job,
                                     bool only_free, const npo_worker_record *const *reserved)
{
    const npo_worker_record *tried = NULL;
    for (size_t i = 0; i < server->worker_count; i++) {
        npo_worker_record *worker = server->workers[i];
        if (!is_candidate(worker, job, only_free) || (reserved && reserved[i]) ||
            (tried && can_join(tried, worker, job->any_class)))
            continue;
        if (job->workers == 1 ||
            count_group(server, job, worker, only_free, reserved) >= job->workers)
            return worker;
        tried = worker;
    }
    return NULL;
}

static void set_class(npo_server *server, npo_job_record *job, const npo_worker_record *worker)
{
    if (job->class)
        return;
    job->class = strdup(worker->class);
    if (!job->class)
        npo_state_fail(server, NPO_E_NOMEM, "cannot start a job");
    npo_job_touch(server, job);
}

/* Who has asked for work last is there and waits. */
static int compare_eagerness(const void *a, const void *b)
{
    const npo_worker_record *left = *(npo_worker_record *const *)a;
    const npo_worker_record *right = *(npo_worker_record *const *)b;
    if (left->pulled_ms != right->pulled_ms)
        return left->pulled_ms < right->pulled_ms ? 1 : -1;
    return (left->id > right->id) - (left->id < right->id);
}

static int compare_ids(const void *a, const void *b)
{
    const npo_worker_record *left = *(npo_worker_record *const *)a;
    const npo_worker_record *right = *(npo_worker_record *const *)b;
    return (left->id > right->id) - (left->id < right->id);
}

static void allocate(npo_server *server, npo_job_record *job, const npo_worker_record *first,
                     const npo_worker_record *const *reserved)
{
    npo_worker_record *chosen[NPO_WORKERS_MAX];
    int count = 0;
    set_class(server, job, first);
    for (size_t i = 0; i < server->worker_count; i++) {
        npo_worker_record *worker = server->workers[i];
        if (is_candidate(worker, job, true) && !(reserved && reserved[i]) &&
            can_join(first, worker, job->any_class))
            chosen[count++] = worker;
    }
    assert(count >= job->workers);
    qsort(chosen, (size_t)count, sizeof *chosen, compare_eagerness);
    qsort(chosen, (size_t)job->workers, sizeof *chosen, compare_ids);
    for (int place = 0; place < job->workers; place++)
        npo_allocation_join(server, job, chosen[place], place);
    npo_job_start(server, job);
}

/* A running job that has lost workers gets others as soon as there are some. */
static void complete(npo_server *server, npo_job_record *job)
{
    const npo_worker_record *mate = NULL;
    for (int place = 0; place < job->workers && !mate; place++)
        mate = job->members[place];
    for (int place = 0; place < job->workers; place++) {
        for (size_t i = 0; i < server->worker_count && !job->members[place]; i++) {
            npo_worker_record *worker = server->workers[i];
            if (!is_candidate(worker, job, true) ||
                (mate && !can_join(mate, worker, job->any_class)))
                continue;
            npo_allocation_join(server, job, worker, place);
            mate = worker;
        }
    }
}

static void complete_all(npo_server *server)
{
    npo_job_record *job;
    server->has_incomplete = false;
    for (size_t at = 0; (job = npo_map_next(&server->jobs, &at));) {
        if (job->state == NPO_JOB_RUNNING && job->member_count < job->workers)
            complete(server, job);
        if (job->state == NPO_JOB_RUNNING && job->member_count < job->workers)
            server->has_incomplete = true;
    }
}

/* ---- reservations ---- */

static int64_t end_of(const npo_server *server, const npo_job_record *job)
{
    if (job->time_limit_s == 0)
        return INT64_MAX;
    int64_t left_ms = job->time_limit_s * 1000 - npo_job_used_ms(server, job);
    return server->now.mono_ms + (left_ms > 0 ? left_ms : 0);
}

static int compare_times(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

/* What a pass over the queue has found out so far. */
typedef struct {
    /* Workers kept for the first job that has to wait, by index; with none: NULL. */
    const npo_worker_record *reserved[NPO_WORKERS_MAX];
    const npo_job_record *holder; /* for which they are kept, NULL: none */
    int64_t start_ms;             /* when they are free, as far as one can tell */
    struct {
        npo_hash shape;
        bool is_strict; /* not even reserved workers would do */
    } blocked[BLOCKED_MAX];
    int blocked_count;
} queue_pass;

/* Keeps the group that the job waits for; it is free at the job->workers-th end. */
static void reserve(const npo_server *server, const npo_job_record *job,
                    const npo_worker_record *first, queue_pass *pass)
{
    int64_t ends[NPO_WORKERS_MAX];
    int count = 0;
    for (size_t i = 0; i < server->worker_count; i++) {
        const npo_worker_record *worker = server->workers[i];
        if (!is_candidate(worker, job, false) || !can_join(first, worker, job->any_class))
            continue;
        pass->reserved[i] = worker;
        ends[count++] = worker->job ? end_of(server, worker->job) : server->now.mono_ms;
    }
    qsort(ends, (size_t)count, sizeof *ends, compare_times);
    pass->start_ms = ends[job->workers - 1];
    pass->holder = job;
}

static bool is_startable(const npo_job_record *job)
{
    return job->after_count == 0;
}

static bool any_free(const npo_server *server)
{
    for (size_t i = 0; i < server->worker_count; i++)
        if (npo_worker_is_alive(server->workers[i]) && !server->workers[i]->job)
            return true;
    return false;
}

/* A job that is over before the reserved workers are needed may use them meanwhile. */
static bool is_short(const npo_server *server, const npo_job_record *job, const queue_pass *pass)
{
    return job->time_limit_s > 0 && pass->holder &&
           server->now.mono_ms + job->time_limit_s * 1000 <= pass->start_ms;
}

/* True when a job of the same shape has looked in vain for the workers that this one may use: a
 * thousand jobs for a device that is busy, or not there, must not hide the others. */
static bool is_known_blocked(const queue_pass *pass, const npo_job_record *job, bool may_use_all)
{
    for (int i = 0; i < pass->blocked_count; i++)
        if (npo_hash_equal(&pass->blocked[i].shape, &job->shape) &&
            (pass->blocked[i].is_strict || !may_use_all))
            return true;
    return false;
}

/* Tries to start one job of the queue; the first that has to wait reserves its workers. */
static bool try_start(npo_server *server, npo_job_record *job, queue_pass *pass)
{
    bool may_use_all = !pass->holder || is_short(server, job, pass);
    if (is_known_blocked(pass, job, may_use_all))
        return false;
    const npo_worker_record *const *avoid = may_use_all ? NULL : pass->reserved;
    npo_worker_record *first = find_group(server, job, true, avoid);
    if (first) {
        allocate(server, job, first, avoid);
        return true;
    }
    pass->blocked[pass->blocked_count].shape = job->shape;
    pass->blocked[pass->blocked_count++].is_strict = may_use_all;
    first = pass->holder ? NULL : find_group(server, job, false, NULL);
    if (first)
        reserve(server, job, first, pass);
    return false;
}

static void start_from_queue(npo_server *server)
{
    queue_pass pass = {.holder = NULL};
    for (size_t i = server->queue_count; i > 0 && pass.blocked_count < BLOCKED_MAX; i--) {
        npo_job_record *job = server->queue[i - 1];
        if (!is_startable(job) || !try_start(server, job, &pass))
            continue;
        npo_queue_remove(server, job);
        if (!any_free(server))
            break;
    }
    server->reserved_for = pass.holder ? pass.holder->id : 0;
}

void npo_schedule(npo_server *server)
{
    if (!server->needs_schedule)
        return;
    server->needs_schedule = false;
    if (!any_free(server))
        return;
    if (server->has_incomplete)
        complete_all(server);
    start_from_queue(server);
}

/* ---- picking a task ---- */

/* A task of another worker's shard: only when that one is not about to ask for it. */
static bool may_steal(const npo_server *server, const npo_job_record *job, int64_t shard)
{
    const npo_worker_record *owner = job->members[shard % job->workers];
    return !owner || owner->task != 0 ||
           server->now.mono_ms - owner->free_since_ms > STEAL_AFTER_MS;
}

static bool is_gang_ready(const npo_job_record *job, const npo_task_record *task)
{
    if (job->member_count < job->workers || task->world > job->workers)
        return false;
    for (int place = 0; place < job->workers; place++)
        if (job->members[place]->task != 0)
            return false;
    return true;
}

/* The task that the worker should do next; id 0: none. The shard it did before is preferred, its
 * files are there. Nothing behind a gang that is ready is begun, so that its ranks come free. */
static npo_task_record choose(npo_server *server, const npo_job_record *job,
                              const npo_worker_record *worker)
{
    npo_task_record task, chosen = {0};
    npo_query *rows = npo_ask(server->store, NPO_SQL_TASK_READY, npo_int(job->id),
                              npo_int(2 * (int64_t)job->workers + 1));
    while (npo_query_next(rows)) {
        npo_task_read_row(rows, &task);
        if (task.world > 1) {
            if (chosen.id == 0 && is_gang_ready(job, &task))
                chosen = task;
            npo_query_end(rows);
            break;
        }
        if (task.shard % job->workers == worker->place) {
            chosen = task;
            npo_query_end(rows);
            break;
        }
        if (chosen.id == 0 && may_steal(server, job, task.shard))
            chosen = task;
    }
    return chosen;
}

bool npo_schedule_pick(npo_server *server, npo_worker_record *worker)
{
    npo_job_record *job = worker->job;
    if (job->state != NPO_JOB_RUNNING || job->counts[NPO_TASK_READY] == 0)
        return false;
    npo_task_record task = choose(server, job, worker);
    if (task.id == 0)
        return false;
    npo_task_start(server, job, &task, worker);
    return true;
}

/* ---- pull ---- */

enum { WAIT_PLACED_MS = 500, WAIT_FREE_MS = 1000 };

static npo_err answer_none(npo_request *request, int wait_ms)
{
    npo_buf_clear(&request->reply->json);
    npo_buf_printf(&request->reply->json, "{\"assignment\":null,\"wait_ms\":%d}", wait_ms);
    return npo_buf_err(&request->reply->json);
}

static npo_err answer_assignment(npo_server *server, npo_request *request,
                                 npo_worker_record *worker)
{
    char hash[NPO_HASH_TEXT_SIZE];
    npo_job_record *job = worker->job;
    npo_task_record task;
    npo_err err = npo_assignment_write(server, &worker->held, worker->task, worker->attempt,
                                       worker->rank, &request->reply->json, hash);
    if (err == NPO_E_CORRUPT && npo_task_load(server, worker->task, &task)) {
        npo_task_abandon(server, job, &task, NPO_TASK_LOSE, "task.input_lost", NULL);
        npo_task_input_lost(server, hash, job->id);
        return answer_none(request, WAIT_PLACED_MS);
    }
    request->task = worker->task;
    request->attempt = worker->attempt;
    request->rank = worker->rank;
    return err;
}

npo_err npo_handle_pull(npo_server *server, npo_request *request)
{
    npo_worker_record *worker = NULL;
    NPO_TRY(npo_worker_check(server, request, npo_json_int(request->json, "worker", 0), &worker));
    worker->pulled_ms = server->now.mono_ms;
    if (worker->task == 0)
        npo_schedule(server);
    if (worker->task == 0 && (!worker->job || !npo_schedule_pick(server, worker)))
        return answer_none(request, worker->job ? WAIT_PLACED_MS : WAIT_FREE_MS);
    return answer_assignment(server, request, worker);
}

/* ---- reasons ---- */

static void explain_after(const npo_server *server, const npo_job_record *job, npo_buf *text)
{
    npo_buf_str(text, job->after_count > 1 ? "waits for jobs" : "waits for job");
    for (size_t i = 0; i < job->after_count && i < 8; i++) {
        npo_job_state at = npo_job_find_state(server, job->after[i]);
        npo_buf_printf(text, "%s %lld", i ? "," : "", (long long)job->after[i]);
        if (at == NPO_JOB_FAILED || at == NPO_JOB_CANCELLED)
            npo_buf_printf(text, " (%s: `npoctl retry %lld`)", npo_job_state_name(at),
                           (long long)job->after[i]);
    }
    npo_buf_str(text, job->after_count > 8 ? ", ... to be done" : " to be done");
}

/* Workers that could do a job together. */
typedef struct {
    const npo_worker_record *first; /* NULL: there are not enough */
    int members, unused;
} group;

/* The group that is nearest to being free. */
static group best_group(const npo_server *server, const npo_job_record *job)
{
    group best = {0}, tried = {0};
    for (size_t i = 0; i < server->worker_count; i++) {
        const npo_worker_record *worker = server->workers[i];
        if (!is_candidate(worker, job, false) ||
            (tried.first && can_join(tried.first, worker, job->any_class)))
            continue;
        tried = (group){worker, count_group(server, job, worker, false, NULL),
                        count_group(server, job, worker, true, NULL)};
        if (tried.members >= job->workers && (!best.first || tried.unused > best.unused))
            best = tried;
    }
    return best;
}

static void explain_busy(const npo_server *server, const npo_job_record *job, const group *found,
                         npo_buf *text)
{
    enum { JOBS_MAX = 4 };
    const npo_job_record *seen[JOBS_MAX];
    int count = 0;
    npo_buf_printf(text, "needs %d workers, %d of %d are free", job->workers, found->unused,
                   found->members);
    for (size_t i = 0; i < server->worker_count && count < JOBS_MAX; i++) {
        const npo_worker_record *worker = server->workers[i];
        int known = 0;
        if (!worker->job || !is_candidate(worker, job, false) ||
            !can_join(found->first, worker, job->any_class))
            continue;
        while (known < count && seen[known] != worker->job)
            known++;
        if (known < count)
            continue;
        npo_buf_printf(text, "%s %lld", count ? "," : ", others have job",
                       (long long)worker->job->id);
        seen[count++] = worker->job;
    }
}

static void explain_no_group(const npo_job_record *job, int alive, int matching, npo_buf *text)
{
    if (alive == 0)
        npo_buf_str(text, "there are no workers");
    else if (matching < job->workers && job->class && !job->any_class)
        npo_buf_printf(text,
                       "needs %d workers of numeric class '%s' that match its constraints, there "
                       "are %d (any_class would let it use others)",
                       job->workers, job->class, matching);
    else if (matching < job->workers)
        npo_buf_printf(text, "needs %d workers, %d of %d match its constraints", job->workers,
                       matching, alive);
    else
        npo_buf_printf(text,
                       "needs %d workers of one numeric class and build; %d match, but differ",
                       job->workers, matching);
}

static void explain_pending(const npo_server *server, const npo_job_record *job, npo_buf *text)
{
    int alive = 0, matching = 0;
    for (size_t i = 0; i < server->worker_count; i++) {
        alive += npo_worker_is_alive(server->workers[i]);
        matching += is_candidate(server->workers[i], job, false);
    }
    group found = best_group(server, job);
    if (job->after_count > 0)
        explain_after(server, job, text);
    else if (!found.first)
        explain_no_group(job, alive, matching, text);
    else if (found.unused < job->workers)
        explain_busy(server, job, &found, text);
    else if (server->needs_schedule)
        npo_buf_str(text, "is looked at when a worker next asks for work, within a second");
    else if (server->reserved_for > 0)
        npo_buf_printf(text, "waits behind job %lld, for which workers are kept",
                       (long long)server->reserved_for);
    else
        npo_buf_printf(text, "waits behind %d kinds of jobs that cannot start", (int)BLOCKED_MAX);
}

void npo_schedule_reason(const npo_server *server, const npo_job_record *job, npo_buf *ret_text)
{
    if (job->state == NPO_JOB_PENDING)
        explain_pending(server, job, ret_text);
    else if (job->state == NPO_JOB_HELD)
        npo_buf_printf(ret_text, "held: `npoctl release %lld` lets it go on", (long long)job->id);
    else if (job->state == NPO_JOB_RUNNING && job->member_count < job->workers)
        npo_buf_printf(ret_text, "has %d of its %d workers, waits for the others",
                       job->member_count, job->workers);
}
