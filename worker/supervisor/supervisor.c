#include "worker/supervisor/supervisor.h"

#include "common/bounds.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

void npo_supervisor_init(npo_supervisor *ret_state)
{
    *ret_state = (npo_supervisor){.heartbeat_ms = NPO_HEARTBEAT_MS};
}

static void act(npo_supervisor_actions *actions, npo_supervisor_action_kind kind, uint64_t ticket)
{
    assert(actions->count < NPO_SUPERVISOR_ACTIONS_MAX);
    actions->items[actions->count++] = (npo_supervisor_action){kind, ticket};
}

static bool is_current(const npo_supervisor *state, const npo_supervisor_event *event)
{
    return state->task != NPO_TASK_NONE && event->ticket == state->ticket;
}

/* ---- the executor ---- */

static int64_t respawn_wait_ms(int starts)
{
    int64_t wait_ms = starts > 0 ? (int64_t)NPO_SUPERVISOR_RESPAWN_MS << (starts - 1) : 0;
    return wait_ms < NPO_SUPERVISOR_RESPAWN_MAX_MS ? wait_ms : NPO_SUPERVISOR_RESPAWN_MAX_MS;
}

static void terminate(npo_supervisor *state, int64_t now_ms, npo_supervisor_actions *actions)
{
    if (state->executor == NPO_EXECUTOR_NONE || state->executor >= NPO_EXECUTOR_TERMINATED)
        return;
    state->executor = NPO_EXECUTOR_TERMINATED;
    state->executor_at_ms = now_ms + NPO_CANCEL_GRACE_MS;
    act(actions, NPO_ACTION_TERMINATE, 0);
}

static void kill_executor(npo_supervisor *state, npo_supervisor_actions *actions)
{
    if (state->executor == NPO_EXECUTOR_NONE || state->executor == NPO_EXECUTOR_KILLED)
        return;
    state->executor = NPO_EXECUTOR_KILLED;
    act(actions, NPO_ACTION_KILL, 0);
}

static void cancel_executor(npo_supervisor *state, int64_t now_ms, npo_supervisor_actions *actions)
{
    if (state->executor != NPO_EXECUTOR_BUSY)
        return;
    state->executor = NPO_EXECUTOR_CANCELLING;
    state->executor_at_ms = now_ms + NPO_CANCEL_GRACE_MS;
    act(actions, NPO_ACTION_CANCEL, state->ticket);
}

/* A step is over its time: each is followed by a harder one. */
static void check_executor(npo_supervisor *state, int64_t now_ms, npo_supervisor_actions *actions)
{
    bool silent = state->executor >= NPO_EXECUTOR_IDLE &&
                  state->executor < NPO_EXECUTOR_TERMINATED &&
                  now_ms - state->heard_at_ms >= NPO_SUPERVISOR_SILENT_MS;
    bool late = now_ms >= state->executor_at_ms;
    if (silent || (state->executor == NPO_EXECUTOR_STARTING && late))
        kill_executor(state, actions);
    else if (state->executor == NPO_EXECUTOR_CANCELLING && late)
        terminate(state, now_ms, actions);
    else if (state->executor == NPO_EXECUTOR_TERMINATED && late)
        kill_executor(state, actions);
}

/* ---- the task ---- */

static void drop(npo_supervisor *state, int64_t now_ms, npo_supervisor_actions *actions)
{
    if (state->task == NPO_TASK_NONE)
        return;
    state->task = NPO_TASK_NONE;
    state->report_open = false;
    state->pull_at_ms = now_ms;
    act(actions, NPO_ACTION_DROP, state->ticket);
    cancel_executor(state, now_ms, actions);
}

/* The log of a failed task is what explains it: it goes out before the failure does. */
static void fail(npo_supervisor *state, npo_err code, bool retry, const char *text,
                 npo_supervisor_actions *actions)
{
    if (state->task == NPO_TASK_NONE || state->task == NPO_TASK_FAILING)
        return;
    bool flushing = state->task == NPO_TASK_PUBLISHING || state->task == NPO_TASK_REPORTING;
    state->task = NPO_TASK_FAILING;
    state->report_open = false;
    state->failure.code = code;
    state->failure.retry = retry;
    snprintf(state->failure.text, sizeof state->failure.text, "%s",
             text ? text : npo_err_text(code));
    if (!flushing)
        act(actions, NPO_ACTION_FLUSH, state->ticket);
}

static void check_time_limit(npo_supervisor *state, int64_t now_ms, npo_supervisor_actions *actions)
{
    char text[96];
    if (state->task != NPO_TASK_RUNNING || !state->time_limit_at_ms ||
        now_ms < state->time_limit_at_ms)
        return;
    snprintf(text, sizeof text, "the task ran longer than its limit of %g s",
             (double)state->time_limit_ms / 1000.0);
    fail(state, NPO_E_TIMEOUT, false, text, actions);
    cancel_executor(state, now_ms, actions);
}

static void run(npo_supervisor *state, int64_t now_ms, npo_supervisor_actions *actions)
{
    state->task = NPO_TASK_RUNNING;
    state->executor = NPO_EXECUTOR_BUSY;
    state->time_limit_at_ms = state->time_limit_ms ? now_ms + state->time_limit_ms : 0;
    act(actions, NPO_ACTION_RUN, state->ticket);
}

static void report(npo_supervisor *state, npo_supervisor_action_kind kind,
                   npo_supervisor_actions *actions)
{
    state->report_open = true;
    act(actions, kind, state->ticket);
}

/* ---- what follows from the state, whatever the event was ---- */

static void advance_executor(npo_supervisor *state, int64_t now_ms, npo_supervisor_actions *actions)
{
    check_time_limit(state, now_ms, actions);
    check_executor(state, now_ms, actions);
    if (state->executor != NPO_EXECUTOR_NONE || state->stopping || now_ms < state->executor_at_ms)
        return;
    state->executor = NPO_EXECUTOR_STARTING;
    state->executor_at_ms = now_ms + NPO_SUPERVISOR_START_MS;
    act(actions, NPO_ACTION_SPAWN, 0);
}

static void advance_task(npo_supervisor *state, int64_t now_ms, npo_supervisor_actions *actions)
{
    if (state->task == NPO_TASK_FETCHING && state->inputs_ready &&
        state->executor == NPO_EXECUTOR_IDLE)
        run(state, now_ms, actions);
    if (state->task == NPO_TASK_PUBLISHING && state->uploads_open == 0 && state->streams_sent) {
        state->task = NPO_TASK_REPORTING;
        report(state, NPO_ACTION_DONE, actions);
    }
    if (state->task == NPO_TASK_FAILING && state->streams_sent && !state->report_open)
        report(state, NPO_ACTION_FAIL, actions);
}

static void advance_link(npo_supervisor *state, int64_t now_ms, npo_supervisor_actions *actions)
{
    if (state->link == NPO_LINK_DOWN && state->has_class && !state->stopping &&
        now_ms >= state->hello_at_ms) {
        state->link = NPO_LINK_HELLO;
        act(actions, NPO_ACTION_HELLO, 0);
    }
    if (state->link == NPO_LINK_GOODBYE && now_ms >= state->goodbye_by_ms)
        state->link = NPO_LINK_DOWN;
    if (state->link != NPO_LINK_UP)
        return;
    if (!state->heartbeat_open && now_ms >= state->heartbeat_at_ms) {
        state->heartbeat_open = true;
        state->heartbeat_at_ms = now_ms + state->heartbeat_ms;
        act(actions, NPO_ACTION_HEARTBEAT, 0);
    }
    if (!state->pull_open && state->task == NPO_TASK_NONE && state->executor == NPO_EXECUTOR_IDLE &&
        now_ms >= state->pull_at_ms) {
        state->pull_open = true;
        act(actions, NPO_ACTION_PULL, 0);
    }
}

static void advance_exit(npo_supervisor *state, npo_supervisor_actions *actions)
{
    if (!state->stopping || state->exited || state->executor != NPO_EXECUTOR_NONE ||
        state->link == NPO_LINK_GOODBYE)
        return;
    state->exited = true;
    act(actions, NPO_ACTION_EXIT, 0);
}

/* ---- events ---- */

typedef void handler(npo_supervisor *state, const npo_supervisor_event *event, int64_t now_ms,
                     npo_supervisor_actions *actions);

static void on_nothing(npo_supervisor *state, const npo_supervisor_event *event, int64_t now_ms,
                       npo_supervisor_actions *actions)
{
}

static void on_hint(npo_supervisor *state, const npo_supervisor_event *event, int64_t now_ms,
                    npo_supervisor_actions *actions)
{
    state->pull_at_ms = now_ms;
}

static void on_hello_done(npo_supervisor *state, const npo_supervisor_event *event, int64_t now_ms,
                          npo_supervisor_actions *actions)
{
    if (state->link != NPO_LINK_HELLO)
        return;
    state->link = NPO_LINK_UP;
    state->worker = event->worker;
    if (event->heartbeat_ms > 0)
        state->heartbeat_ms = event->heartbeat_ms;
    state->heartbeat_at_ms = now_ms + (state->task == NPO_TASK_NONE ? state->heartbeat_ms : 0);
    state->pull_at_ms = now_ms;
}

static void stop(npo_supervisor *state, int exit_code, int64_t now_ms,
                 npo_supervisor_actions *actions)
{
    state->stopping = true;
    state->exit_code = exit_code;
    drop(state, now_ms, actions);
    if (state->link == NPO_LINK_UP) {
        state->link = NPO_LINK_GOODBYE;
        state->goodbye_by_ms = now_ms + NPO_SUPERVISOR_GOODBYE_MS;
        act(actions, NPO_ACTION_GOODBYE, 0);
    } else if (state->link == NPO_LINK_HELLO) {
        state->link = NPO_LINK_DOWN;
    }
    terminate(state, now_ms, actions);
}

static void on_hello_refused(npo_supervisor *state, const npo_supervisor_event *event,
                             int64_t now_ms, npo_supervisor_actions *actions)
{
    if (state->link != NPO_LINK_HELLO)
        return;
    state->link = NPO_LINK_DOWN;
    state->hello_at_ms = now_ms + NPO_SUPERVISOR_HELLO_MS;
    /* Asking again would not help. */
    if (event->code == NPO_E_VERSION || event->code == NPO_E_REFUSED)
        stop(state, 1, now_ms, actions);
}

static void hello_again(npo_supervisor *state, int64_t now_ms)
{
    if (state->link != NPO_LINK_UP)
        return;
    state->link = NPO_LINK_DOWN;
    state->hello_at_ms = now_ms;
}

static void on_heartbeat_done(npo_supervisor *state, const npo_supervisor_event *event,
                              int64_t now_ms, npo_supervisor_actions *actions)
{
    state->heartbeat_open = false;
    if (!event->known)
        hello_again(state, now_ms);
    for (int i = 0; i < event->cancel_count; i++)
        if (event->cancels[i].task == state->fence.task &&
            event->cancels[i].attempt == state->fence.attempt)
            drop(state, now_ms, actions);
}

static void on_heartbeat_refused(npo_supervisor *state, const npo_supervisor_event *event,
                                 int64_t now_ms, npo_supervisor_actions *actions)
{
    state->heartbeat_open = false;
    if (event->code == NPO_E_NOT_FOUND)
        hello_again(state, now_ms);
}

static void on_pull_done(npo_supervisor *state, const npo_supervisor_event *event, int64_t now_ms,
                         npo_supervisor_actions *actions)
{
    state->pull_open = false;
    state->pull_at_ms = now_ms + event->wait_ms;
    /* Not taken while leaving: goodbye gives it back. */
    if (!event->has_assignment || state->stopping || state->task != NPO_TASK_NONE)
        return;
    state->task = NPO_TASK_FETCHING;
    state->ticket++;
    state->fence = event->fence;
    state->time_limit_ms = event->time_limit_ms;
    state->time_limit_at_ms = 0;
    state->uploads_open = 0;
    state->inputs_ready = state->streams_sent = state->report_open = false;
    act(actions, NPO_ACTION_FETCH, state->ticket);
}

static void on_pull_refused(npo_supervisor *state, const npo_supervisor_event *event,
                            int64_t now_ms, npo_supervisor_actions *actions)
{
    state->pull_open = false;
    state->pull_at_ms = now_ms + NPO_SUPERVISOR_HELLO_MS;
    if (event->code == NPO_E_NOT_FOUND || event->code == NPO_E_FENCED)
        hello_again(state, now_ms);
}

static void on_report_done(npo_supervisor *state, const npo_supervisor_event *event, int64_t now_ms,
                           npo_supervisor_actions *actions)
{
    if (is_current(state, event) && state->report_open)
        drop(state, now_ms, actions);
}

/* A done that is not accepted, though the attempt is still ours, is a failed attempt. */
static void on_report_refused(npo_supervisor *state, const npo_supervisor_event *event,
                              int64_t now_ms, npo_supervisor_actions *actions)
{
    if (!is_current(state, event) || !state->report_open)
        return;
    if (state->task == NPO_TASK_REPORTING && event->code != NPO_E_FENCED)
        fail(state, event->code, true, event->text, actions);
    else
        drop(state, now_ms, actions);
}

static void on_goodbye_done(npo_supervisor *state, const npo_supervisor_event *event,
                            int64_t now_ms, npo_supervisor_actions *actions)
{
    if (state->link == NPO_LINK_GOODBYE)
        state->link = NPO_LINK_DOWN;
}

static void on_fenced(npo_supervisor *state, const npo_supervisor_event *event, int64_t now_ms,
                      npo_supervisor_actions *actions)
{
    if (is_current(state, event))
        drop(state, now_ms, actions);
}

static void on_fetched(npo_supervisor *state, const npo_supervisor_event *event, int64_t now_ms,
                       npo_supervisor_actions *actions)
{
    if (is_current(state, event) && state->task == NPO_TASK_FETCHING)
        state->inputs_ready = true;
}

static void on_transfer_failed(npo_supervisor *state, const npo_supervisor_event *event,
                               int64_t now_ms, npo_supervisor_actions *actions)
{
    if (!is_current(state, event))
        return;
    if (event->code == NPO_E_FENCED) {
        drop(state, now_ms, actions);
        return;
    }
    fail(state, event->code, true, event->text, actions);
    cancel_executor(state, now_ms, actions);
}

static void on_uploaded(npo_supervisor *state, const npo_supervisor_event *event, int64_t now_ms,
                        npo_supervisor_actions *actions)
{
    if (is_current(state, event) && state->uploads_open > 0)
        state->uploads_open--;
}

static void on_streams_sent(npo_supervisor *state, const npo_supervisor_event *event,
                            int64_t now_ms, npo_supervisor_actions *actions)
{
    if (is_current(state, event))
        state->streams_sent = true;
}

static void on_executor_ready(npo_supervisor *state, const npo_supervisor_event *event,
                              int64_t now_ms, npo_supervisor_actions *actions)
{
    state->heard_at_ms = now_ms;
    if (state->executor != NPO_EXECUTOR_STARTING)
        return;
    state->executor = NPO_EXECUTOR_IDLE;
    state->has_class = true;
    state->starts = 0;
}

static void on_executor_alive(npo_supervisor *state, const npo_supervisor_event *event,
                              int64_t now_ms, npo_supervisor_actions *actions)
{
    state->heard_at_ms = now_ms;
}

static void on_executor_exited(npo_supervisor *state, const npo_supervisor_event *event,
                               int64_t now_ms, npo_supervisor_actions *actions)
{
    bool was_starting = state->executor == NPO_EXECUTOR_STARTING ||
                        (state->executor == NPO_EXECUTOR_KILLED && !state->has_class);
    state->executor = NPO_EXECUTOR_NONE;
    state->starts = was_starting ? state->starts + 1 : 0;
    state->executor_at_ms = now_ms + respawn_wait_ms(state->starts);
    if (state->task == NPO_TASK_RUNNING)
        fail(state, NPO_E_PEER, true, event->text, actions);
    if (state->starts >= NPO_SUPERVISOR_STARTS_MAX && !state->stopping)
        stop(state, 1, now_ms, actions);
}

static void on_task_output(npo_supervisor *state, const npo_supervisor_event *event, int64_t now_ms,
                           npo_supervisor_actions *actions)
{
    state->heard_at_ms = now_ms;
    if (!is_current(state, event) || state->task != NPO_TASK_RUNNING)
        return;
    state->uploads_open++;
    act(actions, NPO_ACTION_UPLOAD, state->ticket);
}

static bool frees_executor(npo_supervisor *state, const npo_supervisor_event *event, int64_t now_ms)
{
    state->heard_at_ms = now_ms;
    if (event->ticket != state->ticket)
        return false;
    if (state->executor == NPO_EXECUTOR_BUSY || state->executor == NPO_EXECUTOR_CANCELLING)
        state->executor = NPO_EXECUTOR_IDLE;
    return state->task == NPO_TASK_RUNNING;
}

static void on_task_done(npo_supervisor *state, const npo_supervisor_event *event, int64_t now_ms,
                         npo_supervisor_actions *actions)
{
    if (!frees_executor(state, event, now_ms))
        return;
    state->task = NPO_TASK_PUBLISHING;
    act(actions, NPO_ACTION_FLUSH, state->ticket);
}

static void on_task_failed(npo_supervisor *state, const npo_supervisor_event *event, int64_t now_ms,
                           npo_supervisor_actions *actions)
{
    if (frees_executor(state, event, now_ms))
        fail(state, event->code, !event->is_final, event->text, actions);
}

static void on_stop(npo_supervisor *state, const npo_supervisor_event *event, int64_t now_ms,
                    npo_supervisor_actions *actions)
{
    if (!state->stopping) {
        stop(state, 0, now_ms, actions);
        return;
    }
    /* Asked twice: without further waiting. */
    state->goodbye_by_ms = now_ms;
    kill_executor(state, actions);
}

static handler *const handlers[] = {
    [NPO_EVENT_START] = on_nothing,
    [NPO_EVENT_TIMER] = on_nothing,
    [NPO_EVENT_HINT] = on_hint,
    [NPO_EVENT_HELLO_DONE] = on_hello_done,
    [NPO_EVENT_HELLO_REFUSED] = on_hello_refused,
    [NPO_EVENT_HEARTBEAT_DONE] = on_heartbeat_done,
    [NPO_EVENT_HEARTBEAT_REFUSED] = on_heartbeat_refused,
    [NPO_EVENT_PULL_DONE] = on_pull_done,
    [NPO_EVENT_PULL_REFUSED] = on_pull_refused,
    [NPO_EVENT_REPORT_DONE] = on_report_done,
    [NPO_EVENT_REPORT_REFUSED] = on_report_refused,
    [NPO_EVENT_GOODBYE_DONE] = on_goodbye_done,
    [NPO_EVENT_FENCED] = on_fenced,
    [NPO_EVENT_FETCHED] = on_fetched,
    [NPO_EVENT_FETCH_FAILED] = on_transfer_failed,
    [NPO_EVENT_UPLOADED] = on_uploaded,
    [NPO_EVENT_UPLOAD_FAILED] = on_transfer_failed,
    [NPO_EVENT_STREAMS_SENT] = on_streams_sent,
    [NPO_EVENT_EXECUTOR_READY] = on_executor_ready,
    [NPO_EVENT_EXECUTOR_ALIVE] = on_executor_alive,
    [NPO_EVENT_EXECUTOR_EXITED] = on_executor_exited,
    [NPO_EVENT_TASK_OUTPUT] = on_task_output,
    [NPO_EVENT_TASK_DONE] = on_task_done,
    [NPO_EVENT_TASK_FAILED] = on_task_failed,
    [NPO_EVENT_STOP] = on_stop,
};
static_assert(sizeof handlers / sizeof handlers[0] == NPO_EVENT_COUNT, "an event has no handler");

void npo_supervisor_handle(npo_supervisor *state, const npo_supervisor_event *event, int64_t now_ms,
                           npo_supervisor_actions *ret_actions)
{
    handlers[event->kind](state, event, now_ms, ret_actions);
    advance_executor(state, now_ms, ret_actions);
    advance_task(state, now_ms, ret_actions);
    advance_link(state, now_ms, ret_actions);
    advance_exit(state, ret_actions);
    npo_supervisor_check(state);
}

/* ---- time ---- */

static int64_t sooner(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t executor_deadline(const npo_supervisor *state)
{
    static const bool is_timed[NPO_EXECUTOR_STATE_COUNT] = {
        [NPO_EXECUTOR_STARTING] = true,
        [NPO_EXECUTOR_CANCELLING] = true,
        [NPO_EXECUTOR_TERMINATED] = true,
    };
    int64_t at_ms = INT64_MAX;
    if (is_timed[state->executor] || (state->executor == NPO_EXECUTOR_NONE && !state->stopping))
        at_ms = state->executor_at_ms;
    if (state->executor >= NPO_EXECUTOR_IDLE && state->executor < NPO_EXECUTOR_TERMINATED)
        at_ms = sooner(at_ms, state->heard_at_ms + NPO_SUPERVISOR_SILENT_MS);
    if (state->task == NPO_TASK_RUNNING && state->time_limit_at_ms)
        at_ms = sooner(at_ms, state->time_limit_at_ms);
    return at_ms;
}

int64_t npo_supervisor_deadline(const npo_supervisor *state)
{
    int64_t at_ms = executor_deadline(state);
    if (state->exited)
        return INT64_MAX;
    if (state->link == NPO_LINK_DOWN && state->has_class && !state->stopping)
        at_ms = sooner(at_ms, state->hello_at_ms);
    if (state->link == NPO_LINK_GOODBYE)
        at_ms = sooner(at_ms, state->goodbye_by_ms);
    if (state->link == NPO_LINK_UP && !state->heartbeat_open)
        at_ms = sooner(at_ms, state->heartbeat_at_ms);
    if (state->link == NPO_LINK_UP && !state->pull_open && state->task == NPO_TASK_NONE &&
        state->executor == NPO_EXECUTOR_IDLE)
        at_ms = sooner(at_ms, state->pull_at_ms);
    return at_ms;
}

void npo_supervisor_check(const npo_supervisor *state)
{
    bool runs = state->task == NPO_TASK_RUNNING;
    assert(!runs || state->executor == NPO_EXECUTOR_BUSY ||
           state->executor >= NPO_EXECUTOR_TERMINATED);
    assert(runs || state->executor != NPO_EXECUTOR_BUSY);
    assert(!state->report_open || state->task == NPO_TASK_REPORTING ||
           state->task == NPO_TASK_FAILING);
    assert(!state->stopping || state->task == NPO_TASK_NONE);
    assert(state->uploads_open >= 0);
    assert(state->link != NPO_LINK_UP || state->worker > 0);
}
