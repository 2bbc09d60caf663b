/* Inside of the coordinator's logic: the mirror of workers and active jobs, and what its modules
 * offer each other. Only server/ includes this.
 *
 * The mirror is changed first and written when the group is committed (workers, jobs) or at once
 * (tasks, which are not mirrored). A rollback throws the mirror away and reads it anew; what is not
 * stored (leases, progress) then starts as after a restart. */
#ifndef NPO_SERVER_STATE_H
#define NPO_SERVER_STATE_H

#include "common/bounds.h"
#include "common/json.h"
#include "server/map.h"
#include "server/server.h"

typedef enum {
    NPO_JOB_PENDING,
    NPO_JOB_RUNNING,
    NPO_JOB_HELD,
    NPO_JOB_DONE,
    NPO_JOB_FAILED,
    NPO_JOB_CANCELLED,
    NPO_JOB_STATE_COUNT
} npo_job_state;

typedef enum {
    NPO_JOB_START,  /* got its workers */
    NPO_JOB_FINISH, /* the last task is done */
    NPO_JOB_FAIL,   /* a task failed for good, or the time is up */
    NPO_JOB_CANCEL,
    NPO_JOB_HOLD,
    NPO_JOB_RELEASE,
    NPO_JOB_RETRY,
    NPO_JOB_REMOVE,
    NPO_JOB_EVENT_COUNT
} npo_job_event;

typedef enum {
    NPO_TASK_WAITING, /* for other tasks */
    NPO_TASK_READY,
    NPO_TASK_DELAYED, /* back-off after a failure */
    NPO_TASK_RUNNING,
    NPO_TASK_DONE,
    NPO_TASK_FAILED,
    NPO_TASK_CANCELLED,
    NPO_TASK_STATE_COUNT
} npo_task_state;

typedef enum {
    NPO_TASK_START,
    NPO_TASK_FINISH,
    NPO_TASK_FAIL_AGAIN, /* may be tried again */
    NPO_TASK_FAIL,
    NPO_TASK_LOSE,   /* with its worker, or by goodbye */
    NPO_TASK_RESUME, /* back-off is over */
    NPO_TASK_CANCEL,
    NPO_TASK_RETRY,
    NPO_TASK_REDO, /* its output was lost */
    NPO_TASK_EVENT_COUNT
} npo_task_event;

/* States of the tables in state.c: where an event leads. Errors: NPO_E_STATE. */
npo_err npo_job_next(npo_job_state from, npo_job_event event, npo_job_state *ret_to) NPO_MUST_CHECK;
npo_err npo_task_next(npo_task_state from, npo_task_event event,
                      npo_task_state *ret_to) NPO_MUST_CHECK;
const char *npo_job_state_name(npo_job_state state);
/* What people see: "pending" for waiting, ready and delayed. */
const char *npo_task_state_name(npo_task_state state);

typedef struct npo_job_record npo_job_record;

enum { NPO_REPLACED_MAX = 8 };

typedef struct {
    int64_t task, attempt; /* 0: none */
    int64_t step, steps;
    char phase[32];
    int64_t optimizer_step;     /* of the job, 0: the task does none */
    double loss, samples_per_s; /* NaN, 0: unknown */
} npo_progress;

typedef struct {
    int64_t id, job;
    char kind[16];
    int64_t round, shard, shards, world, step_end;
    npo_task_state state;
    int64_t waiting, attempt, failures, losses, worker;
    char params[128]; /* JSON */
} npo_task_record;

typedef struct {
    int64_t id;
    char *name, *device, *class, *build; /* owned */
    uint64_t boot;                       /* 0: gone */
    int64_t threads, memory_bytes;
    cJSON *labels;         /* owned */
    int64_t seen_ms;       /* wall */
    npo_job_record *job;   /* allocation, NULL: none */
    int place;             /* in it */
    int64_t task, attempt; /* what it holds, 0: nothing */
    int rank;
    bool dirty; /* differs from its row */
    /* not stored */
    int64_t lease_end_ms;  /* monotonic */
    int64_t free_since_ms; /* monotonic, while task is 0 */
    int64_t pulled_ms;     /* monotonic, of its last pull */
    npo_progress progress;
    uint64_t replaced[NPO_REPLACED_MAX]; /* boots that lost the name to a later one; a ring */
    unsigned replaced_count;
    npo_task_record held; /* the task it holds, as it was when it got it; id 0: not known */
} npo_worker_record;

/* A job that is pending, running or held. */
struct npo_job_record {
    int64_t id;
    char *name, *recipe, *class, *error; /* owned; class, error: NULL until there is one */
    char *spec;                          /* owned; NULL until wanted */
    cJSON *constraints;                  /* owned, NULL: none */
    npo_hash constraints_hash;           /* of their text; 0: none */
    npo_hash shape; /* while it is queued: jobs of one shape find the same workers */
    int64_t *after; /* jobs that must be done first; owned */
    size_t after_count;
    npo_job_state state;
    int64_t priority, retries, time_limit_s;
    int workers;
    bool any_class;
    int64_t tasks, steps, rounds, step;
    int64_t submitted_ms, started_ms, ended_ms, running_ms, used_ms; /* wall; 0: not yet */
    int64_t counts[NPO_TASK_STATE_COUNT];
    npo_worker_record **members; /* `workers` of them, NULL where one is missing; owned */
    int member_count;
    bool dirty;
    /* not stored */
    int64_t running_mono_ms; /* when it began to run */
    /* see job_rate.c */
    int64_t rate_mono_ms, rate_step, mark_mono_ms, mark_step, checkpoint_step;
    bool mark_is_checkpoint;
    npo_job_record *next_dirty; /* in server->dirty, when dirty */
    npo_job_record *next_dead;  /* in server->dead: ended, to be freed when written */
};

typedef struct {
    int64_t task, due_ms; /* monotonic */
} npo_delay;

typedef struct npo_upload npo_upload;

struct npo_server {
    npo_store *store;
    char *state_dir, *bulk, *hints;
    npo_server_options options;
    npo_time now;
    int64_t tick_ms;  /* of the last tick, monotonic; 0: none yet */
    int64_t start_ms; /* monotonic */
    int64_t purge_ms; /* of the next purge, monotonic */
    int64_t epoch, last_event;
    bool needs_schedule;  /* a worker or a place in a job has become free */
    bool has_incomplete;  /* a running job may lack workers */
    int64_t reserved_for; /* pending job for which the last pass over the queue keeps workers */
    bool hint, hint_pending;
    npo_error failure; /* of logic in the midst of writing: the group cannot be committed */

    npo_worker_record **workers; /* by id */
    size_t worker_count, worker_cap;
    npo_map jobs;           /* id -> npo_job_record, all active ones */
    npo_job_record **queue; /* pending ones, the next to start last */
    size_t queue_count, queue_cap;
    npo_job_record *dirty, *dead;
    npo_delay *delays;
    size_t delay_count, delay_cap;

    npo_upload *uploads;
    size_t upload_count;
    uint64_t artifact_bytes;
    npo_effect *effects, **effects_tail; /* of this group */
    npo_map processes;                   /* boot id -> its last requests, see dedup.c */
    npo_buf log;                         /* requests answered in this group */
    size_t log_bytes;                    /* stored */
    size_t log_kept_bytes;               /* of them when it was last written anew */
    bool log_is_old;                     /* to be written anew */
    npo_map pinned;                      /* tasks that hold pins; values are not used */
    npo_map later; /* requests that wait for an effect, by boot ^ request; values are not used */
    void **dropped;
    size_t dropped_count, dropped_cap;
};

/* A request on its way through a handler. */
typedef struct {
    const npo_frame *frame;
    const cJSON *json;
    void *to;
    npo_server_reply *reply;
    npo_error error;
    int64_t task,
        attempt; /* pull: the assignment that the reply is; 0: the reply's text is remembered */
    int rank;
} npo_request;

/* One handler for each message: npo_handle_hello... They check, then write, then fill reply->json.
 * An error after the first write undoes the whole group. */
typedef npo_err npo_handler(npo_server *server, npo_request *request) NPO_MUST_CHECK;
npo_handler npo_handle_hello, npo_handle_heartbeat, npo_handle_pull, npo_handle_done,
    npo_handle_fail, npo_handle_append, npo_handle_rendezvous_set, npo_handle_rendezvous_get,
    npo_handle_goodbye, npo_handle_upload_open, npo_handle_upload_chunk, npo_handle_upload_close,
    npo_handle_download, npo_handle_artifacts_missing, npo_handle_info, npo_handle_submit,
    npo_handle_jobs, npo_handle_job, npo_handle_workers, npo_handle_events, npo_handle_stream,
    npo_handle_cancel, npo_handle_hold, npo_handle_release, npo_handle_retry, npo_handle_remove,
    npo_handle_resolve;

/* Reads the request's object by a table of fields; unknown keys are allowed. */
npo_err npo_request_read(npo_request *request, const npo_json_field *fields, size_t count,
                         void *ret_struct) NPO_MUST_CHECK;
#define npo_request_fields(request, fields, to)                                                    \
    npo_request_read(request, fields, sizeof(fields) / sizeof((fields)[0]), to)

/* Errors: NPO_E_FORMAT. */
npo_err npo_request_hash(npo_request *request, const char *text, npo_hash *ret_hash) NPO_MUST_CHECK;
/* Names are shown on terminals. Errors: NPO_E_USAGE: empty, or with a control character. */
npo_err npo_request_name(npo_request *request, const char *key, const char *name) NPO_MUST_CHECK;

/* ---- state.c ---- */
npo_err npo_state_load(npo_server *server, npo_error *error) NPO_MUST_CHECK;
void npo_state_unload(npo_server *server);
void npo_state_flush(npo_server *server); /* dirty records to the store */
/* A failure that must undo the group. */
void npo_state_fail(npo_server *server, npo_err code, const char *what);

/* ---- reply.c: JSON text ---- */
/* Fast: what is printed for every request goes by these two. */
void npo_json_add_int(npo_buf *buf, int64_t value);
/* Appends text, then value: (json, "{\"task\":", id). */
void npo_json_add_field(npo_buf *buf, const char *text, int64_t value);
/* Appends "text" in quotes, escaped; NULL: null. */
void npo_json_add_text(npo_buf *buf, const char *text);
/* Prints a tree into the reply; takes it. NULL (out of memory) fails the reply. */
npo_err npo_reply_tree(npo_request *request, cJSON *tree_take) NPO_MUST_CHECK;
npo_err npo_reply_ok(npo_request *request) NPO_MUST_CHECK;

/* ---- event.c ---- */
/* Records an event and returns its seq. text may be NULL. */
int64_t npo_event_add(npo_server *server, int64_t job, int64_t task, const char *kind,
                      const char *text);
void npo_event_purge(npo_server *server);

/* ---- dedup.c ---- */
typedef enum { NPO_DEDUP_NEW, NPO_DEDUP_SEEN, NPO_DEDUP_OLD } npo_dedup;
/* SEEN: ret_reply holds what was answered. */
npo_dedup npo_dedup_find(npo_server *server, const npo_frame *frame, npo_server_reply *ret_reply);
void npo_dedup_put(npo_server *server, uint64_t boot, uint64_t request, const npo_request *done,
                   const char *json);
/* When a process was last heard of, wall time; 0: not known. */
int64_t npo_dedup_used_ms(const npo_server *server, uint64_t boot);
void npo_dedup_touch(npo_server *server, uint64_t boot); /* heard of now */
void npo_dedup_purge(npo_server *server);
void npo_dedup_flush(npo_server *server);
npo_err npo_dedup_load(npo_server *server) NPO_MUST_CHECK;
void npo_dedup_unload(npo_server *server);

/* ---- worker.c ---- */
npo_worker_record *npo_worker_by_id(const npo_server *server, int64_t id);
/* The worker of a request, whose lease is renewed. Errors: NPO_E_FENCED. */
npo_err npo_worker_check(npo_server *server, npo_request *request, int64_t id,
                         npo_worker_record **ret_worker) NPO_MUST_CHECK;
/* Takes it unless memory is short; ids rise. */
npo_err npo_worker_add(npo_server *server, npo_worker_record *worker) NPO_MUST_CHECK;
void npo_worker_free(npo_worker_record *worker);
bool npo_worker_is_alive(const npo_worker_record *worker);
const char *npo_worker_state(const npo_worker_record *worker);

/* ---- lease.c ---- */
void npo_lease_renew(npo_server *server, npo_worker_record *worker);
/* Ends what the worker holds and its place; counts: a loss of the task. */
void npo_worker_lose(npo_server *server, npo_worker_record *worker, bool counts, const char *why);
void npo_lease_tick(npo_server *server);

/* ---- scheduler.c ---- */
/* Gives free workers to jobs. */
void npo_schedule(npo_server *server);
void npo_queue_add(npo_server *server, npo_job_record *job);
void npo_queue_remove(npo_server *server, npo_job_record *job);
void npo_allocation_join(npo_server *server, npo_job_record *job, npo_worker_record *worker,
                         int place);
/* Takes the worker out of its allocation; it must hold no task. */
void npo_allocation_leave(npo_server *server, npo_worker_record *worker);
bool npo_worker_matches(const npo_worker_record *worker, const npo_job_record *job);
/* Why a job does not run (all of it), as a sentence; empty when it does. */
void npo_schedule_reason(const npo_server *server, const npo_job_record *job, npo_buf *ret_text);
/* The next task for a worker that is free and has a place: started. 0: none now. */
bool npo_schedule_pick(npo_server *server, npo_worker_record *worker);

/* ---- assignment.c ---- */
/* Writes {"assignment": ...} for a rank. known: the task, where the caller has it, or NULL. Errors:
 * NPO_E_NOT_FOUND (gone), NPO_E_CORRUPT: an input is lost, its hash in ret_hash. */
npo_err npo_assignment_write(npo_server *server, const npo_task_record *known, int64_t task,
                             int64_t attempt, int rank, npo_buf *ret_json,
                             char ret_hash[NPO_HASH_TEXT_SIZE]) NPO_MUST_CHECK;

/* ---- task.c ---- */
bool npo_task_load(npo_server *server, int64_t id, npo_task_record *ret_task);
void npo_task_read_row(const npo_query *query, npo_task_record *ret_task);
/* Moves, counts, records `kind` as event and writes the row. */
void npo_task_move(npo_server *server, npo_job_record *job, npo_task_record *task,
                   npo_task_event event, const char *kind, const char *error);
/* The task that a worker holds: from memory, or else from its row. */
bool npo_task_held(npo_server *server, const npo_worker_record *worker, npo_task_record *ret_task);
/* Attempt attempt + 1 begins on members[place] (single) or on all of them (gang). */
void npo_task_start(npo_server *server, npo_job_record *job, npo_task_record *task,
                    npo_worker_record *worker);
/* The running attempt ends unfinished: ranks are freed, what they left is dropped. */
void npo_task_abandon(npo_server *server, npo_job_record *job, npo_task_record *task,
                      npo_task_event event, const char *kind, const char *error);
/* A loss, counted; fails the job when there were too many. */
void npo_task_lose(npo_server *server, npo_job_record *job, int64_t task, bool counts,
                   const char *why);
/* The worker holds nothing any more; leaves its place when the job is not running. */
void npo_task_free_worker(npo_server *server, npo_worker_record *worker);
/* An input is gone: whoever made it makes it again. */
void npo_task_input_lost(npo_server *server, const char *hash, int64_t job);
void npo_task_tick(npo_server *server); /* back-off */
void npo_task_delay(npo_server *server, int64_t task, int64_t due_ms);

/* The fence of a worker's request: the task it holds. Errors: NPO_E_FENCED. */
typedef struct {
    int64_t worker, task, attempt, rank;
} npo_fence;
#define NPO_FENCE_FIELDS(type, member)                                                             \
    {"worker", NPO_JSON_INT, offsetof(type, member.worker), true, 0, 0, NULL},                     \
        {"task", NPO_JSON_INT, offsetof(type, member.task), true, 0, 0, NULL},                     \
        {"attempt", NPO_JSON_INT, offsetof(type, member.attempt), true, 0, 0, NULL},               \
    {                                                                                              \
        "rank", NPO_JSON_INT, offsetof(type, member.rank), true, 0, 0, NULL                        \
    }
npo_err npo_fence_check(npo_server *server, npo_request *request, const npo_fence *fence,
                        npo_worker_record **ret_worker) NPO_MUST_CHECK;

/* ---- job.c ---- */
npo_job_record *npo_job_by_id(const npo_server *server, int64_t id); /* active ones; else NULL */
/* NPO_JOB_STATE_COUNT: there is no such job. */
npo_job_state npo_job_find_state(const npo_server *server, int64_t id);
void npo_job_record_free(npo_job_record *job);
void npo_job_touch(npo_server *server, npo_job_record *job); /* to be written at the next flush */
npo_err npo_job_record_read(const npo_query *query, npo_job_record **ret_job) NPO_MUST_CHECK;
npo_err npo_job_load_after(npo_server *server, npo_job_record *job) NPO_MUST_CHECK;
void npo_job_recount(npo_server *server, npo_job_record *job);
/* Leads a job to its end: cancels what is left, gives the workers back, retires the record. */
void npo_job_end(npo_server *server, npo_job_record *job, npo_job_event event, const char *error);
void npo_job_start(npo_server *server, npo_job_record *job);
/* The time limit runs while the job runs and has a worker: starts or stops the clock accordingly.
 */
void npo_job_clock(npo_server *server, npo_job_record *job);
int64_t npo_job_used_ms(const npo_server *server, const npo_job_record *job);
void npo_job_tick(npo_server *server); /* time limits, checkpoints */
const char *npo_job_spec(npo_server *server, npo_job_record *job);

/* ---- job_rate.c ---- */
void npo_job_rate_start(const npo_server *server, npo_job_record *job); /* the job begins to run */
void npo_job_rate_tick(const npo_server *server, npo_job_record *job);
/* A worker says that so many optimizer steps are done. */
void npo_job_advance(const npo_server *server, npo_job_record *job, int64_t step);
/* Seconds left; below 0: not known. Falls between checkpoints; a round that takes longer than those
 * before holds it, and raises it when it is over. */
double npo_job_eta_s(const npo_server *server, const npo_job_record *job);

/* ---- artifact.c, upload.c ---- */
typedef struct {
    bool is_there, is_folder;
    int64_t size;
} npo_artifact_info;
npo_artifact_info npo_artifact_find(npo_server *server, const char *hash);
bool npo_hash_is_text(const char *text);
void npo_artifact_pin(npo_server *server, const char *hash, uint64_t boot, const npo_fence *fence);
void npo_artifact_publish(npo_server *server, const npo_effect *effect, const char *hash);
uint64_t npo_effect_key(const npo_hash *hash);
/* The request of this effect may be sent again and is looked at anew. */
void npo_later_forget(npo_server *server, const npo_effect *effect);
/* request NULL: nobody waits for it; else its reply comes later. NULL: out of memory. */
npo_effect *npo_effect_add(npo_server *server, npo_request *request, npo_effect_kind kind);
void npo_effects_discard(npo_server *server);
void npo_upload_done(npo_server *server, npo_effect *effect, npo_request *request);
void npo_publish_done(npo_server *server, npo_effect *effect, npo_request *request);
void npo_read_done(npo_server *server, npo_effect *effect, npo_request *request);
void npo_garbage_done(npo_server *server, npo_effect *effect);
void npo_garbage_tick(npo_server *server);
void npo_garbage_resume(npo_server *server);
void npo_garbage_collect(npo_server *server, int64_t age_ms);
void npo_upload_ended(npo_server *server, const npo_hash *hash, npo_err err);
void npo_uploads_tick(npo_server *server);
void npo_uploads_free(npo_server *server);
void npo_uploads_rollback(npo_server *server);
void npo_uploads_committed(npo_server *server);

/* ---- stream.c ---- */
void npo_stream_done(npo_server *server, npo_effect *effect, npo_request *request);

#endif
