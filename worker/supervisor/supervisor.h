/* What a worker's supervisor decides: npo_supervisor_handle(state, event, now) -> actions. No
 * clock, no socket, no file, no process here, so that every state can be met with every event in a
 * test. The loop in service.c turns what happens into events and carries the actions out.
 *
 * One task at a time. Its life:
 *
 *   NONE -pull-> FETCHING -inputs-> RUNNING -done-> PUBLISHING -all out-> REPORTING -> NONE
 *                   |                 |                |                      |
 *                   +---- failed -----+---- failed ----+------ refused -------+
 *                   v
 *                FAILING -answer-> NONE
 *
 *   fenced or cancelled: dropped from any state; NONE once the executor is free again
 *
 * Every task gets a ticket; events about work done elsewhere (transfers, executor, answers) carry
 * it, and those of a task that is gone are ignored. While npod is away nothing here changes:
 * requests stay open and the executor goes on. */
#ifndef NPO_WORKER_SUPERVISOR_SUPERVISOR_H
#define NPO_WORKER_SUPERVISOR_SUPERVISOR_H

#include "common/err.h"
#include <stdbool.h>
#include <stdint.h>

enum {
    NPO_SUPERVISOR_CANCELS_MAX = 8,   /* of one heartbeat that matter here: one task runs */
    NPO_SUPERVISOR_ACTIONS_MAX = 8,   /* of one event */
    NPO_SUPERVISOR_SILENT_MS = 30000, /* an executor not heard from for so long is hung */
    NPO_SUPERVISOR_START_MS = 60000,  /* an executor that is not ready by then is hung */
    NPO_SUPERVISOR_RESPAWN_MS = 200,  /* doubles with every failed start ... */
    NPO_SUPERVISOR_RESPAWN_MAX_MS = 5000,
    NPO_SUPERVISOR_STARTS_MAX = 6,   /* ... and after so many in a row the worker gives up */
    NPO_SUPERVISOR_HELLO_MS = 2000,  /* between refused hellos */
    NPO_SUPERVISOR_GOODBYE_MS = 2000 /* for the answer to a goodbye */
};

typedef enum {
    NPO_LINK_DOWN,  /* hello not yet answered */
    NPO_LINK_HELLO, /* hello is out */
    NPO_LINK_UP,
    NPO_LINK_GOODBYE, /* goodbye is out */
    NPO_LINK_STATE_COUNT
} npo_link_state;

typedef enum {
    NPO_EXECUTOR_NONE,     /* not there; respawned at executor_at_ms */
    NPO_EXECUTOR_STARTING, /* not yet ready */
    NPO_EXECUTOR_IDLE,
    NPO_EXECUTOR_BUSY,
    NPO_EXECUTOR_CANCELLING, /* asked to stop its task */
    NPO_EXECUTOR_TERMINATED, /* SIGTERM sent */
    NPO_EXECUTOR_KILLED,     /* SIGKILL sent */
    NPO_EXECUTOR_STATE_COUNT
} npo_executor_state;

typedef enum {
    NPO_TASK_NONE,
    NPO_TASK_FETCHING, /* inputs are on their way, or the executor is not free yet */
    NPO_TASK_RUNNING,
    NPO_TASK_PUBLISHING, /* the executor is done, outputs or streams are still on their way */
    NPO_TASK_REPORTING,  /* done is out */
    NPO_TASK_FAILING,    /* streams are on their way, or fail is out */
    NPO_TASK_STATE_COUNT
} npo_task_state;

typedef struct {
    int64_t task;
    int attempt, rank;
} npo_fence;

typedef enum {
    NPO_EVENT_START,             /* the first */
    NPO_EVENT_TIMER,             /* npo_supervisor_deadline has come; harmless before */
    NPO_EVENT_HINT,              /* npod says something changed */
    NPO_EVENT_HELLO_DONE,        /* worker, heartbeat_ms */
    NPO_EVENT_HELLO_REFUSED,     /* code */
    NPO_EVENT_HEARTBEAT_DONE,    /* known, cancels */
    NPO_EVENT_HEARTBEAT_REFUSED, /* code */
    NPO_EVENT_PULL_DONE,         /* has_assignment, fence, time_limit_ms; or wait_ms */
    NPO_EVENT_PULL_REFUSED,      /* code */
    NPO_EVENT_REPORT_DONE,       /* ticket: done or fail was answered */
    NPO_EVENT_REPORT_REFUSED,    /* ticket, code, text */
    NPO_EVENT_GOODBYE_DONE,      /* answered, or refused */
    NPO_EVENT_FENCED,            /* ticket: an append or a rendezvous was refused so */
    NPO_EVENT_FETCHED,           /* ticket */
    NPO_EVENT_FETCH_FAILED,      /* ticket, code, text */
    NPO_EVENT_UPLOADED,          /* ticket: one output is published */
    NPO_EVENT_UPLOAD_FAILED,     /* ticket, code, text */
    NPO_EVENT_STREAMS_SENT,      /* ticket: all log and metrics of a task that ended are out */
    NPO_EVENT_EXECUTOR_READY,
    NPO_EVENT_EXECUTOR_ALIVE,  /* anything was heard from it */
    NPO_EVENT_EXECUTOR_EXITED, /* text: how */
    NPO_EVENT_TASK_OUTPUT,     /* ticket: an output is to be published */
    NPO_EVENT_TASK_DONE,       /* ticket */
    NPO_EVENT_TASK_FAILED,     /* ticket, code, text, is_final */
    NPO_EVENT_STOP,            /* the worker shall leave */
    NPO_EVENT_COUNT
} npo_supervisor_event_kind;

typedef struct {
    npo_supervisor_event_kind kind;
    uint64_t ticket;
    npo_err code;
    const char *text; /* borrowed */
    bool is_final;
    int64_t worker, heartbeat_ms, wait_ms, time_limit_ms;
    bool has_assignment, known;
    npo_fence fence;
    npo_fence cancels[NPO_SUPERVISOR_CANCELS_MAX];
    int cancel_count;
} npo_supervisor_event;

typedef enum {
    NPO_ACTION_HELLO,
    NPO_ACTION_HEARTBEAT,
    NPO_ACTION_PULL,
    NPO_ACTION_DONE, /* ticket */
    NPO_ACTION_FAIL, /* ticket; state's failure */
    NPO_ACTION_GOODBYE,
    NPO_ACTION_SPAWN,
    NPO_ACTION_TERMINATE, /* SIGTERM to the executor */
    NPO_ACTION_KILL,      /* SIGKILL to the executor */
    NPO_ACTION_FETCH,     /* ticket: the inputs of the assignment just pulled */
    NPO_ACTION_RUN,       /* ticket: hand the task to the executor */
    NPO_ACTION_CANCEL,    /* ticket: tell the executor to stop the task */
    NPO_ACTION_UPLOAD,    /* ticket: the output of the event */
    NPO_ACTION_FLUSH,     /* ticket: end the streams; STREAMS_SENT follows */
    NPO_ACTION_DROP,      /* ticket: forget the task: stop its transfers, remove its files */
    NPO_ACTION_EXIT,      /* exit_code */
    NPO_ACTION_COUNT
} npo_supervisor_action_kind;

typedef struct {
    npo_supervisor_action_kind kind;
    uint64_t ticket;
} npo_supervisor_action;

typedef struct {
    npo_supervisor_action items[NPO_SUPERVISOR_ACTIONS_MAX];
    int count;
} npo_supervisor_actions;

typedef struct {
    npo_err code;
    bool retry;
    char text[NPO_ERROR_TEXT_MAX];
} npo_task_failure;

typedef struct {
    npo_link_state link;
    npo_executor_state executor;
    npo_task_state task;
    bool has_class; /* the executor was ready once: hello can say what it is */
    bool stopping, exited;
    int exit_code;

    int64_t worker; /* 0: never said hello */
    int64_t heartbeat_ms;
    bool heartbeat_open, pull_open;                   /* a request is out */
    int64_t hello_at_ms, heartbeat_at_ms, pull_at_ms; /* not before */
    int64_t goodbye_by_ms;

    int64_t
        executor_at_ms; /* NONE: spawn; STARTING: ready by; CANCELLING, TERMINATED: worse follows */
    int64_t heard_at_ms;
    int starts; /* failed in a row */

    uint64_t ticket; /* of the current or last task */
    npo_fence fence;
    int64_t time_limit_ms, time_limit_at_ms; /* 0: none */
    int uploads_open;
    bool inputs_ready, streams_sent, report_open;
    npo_task_failure failure;
} npo_supervisor;

void npo_supervisor_init(npo_supervisor *ret_state);
/* Appends to ret_actions, which the caller empties. event's pointers are not kept. */
void npo_supervisor_handle(npo_supervisor *state, const npo_supervisor_event *event, int64_t now_ms,
                           npo_supervisor_actions *ret_actions);
/* When the next TIMER is due; INT64_MAX: none. */
int64_t npo_supervisor_deadline(const npo_supervisor *state);
/* Asserts what must hold between events. */
void npo_supervisor_check(const npo_supervisor *state);

#endif
