#include "worker/supervisor/service_state.h"

#include "common/bounds.h"
#include "common/crash.h"
#include "common/log.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void post_failure(npo_service *service, npo_supervisor_event_kind kind, uint64_t ticket,
                         npo_err err, const char *text)
{
    npo_supervisor_event event = {.kind = kind, .ticket = ticket, .code = err, .text = text};
    npo_service_post(service, &event);
}

/* Sends, or turns what kept it from being sent into the event of a refusal. */
static void ask(npo_service *service, npo_message id, cJSON *body_take, npo_link_callback *callback,
                uint64_t ticket)
{
    npo_error error = {0};
    npo_err err =
        npo_link_send(service->control, id, body_take, NULL, 0, callback, service, ticket, &error);
    if (err)
        callback(service, ticket, err, &error, NULL);
}

/* ---- hello ---- */

enum { PATIENCE_MS = 5000, PATIENCE_REPEAT_MS = 60000 };

static void on_impatient(uv_timer_t *timer)
{
    const npo_service *service = timer->data;
    npo_log_warn("no answer from npod at '%s' yet: waiting for it", service->options->address);
}

static void on_hello(void *self, uint64_t ticket, npo_err err, const npo_error *error,
                     const npo_answer *answer)
{
    npo_service *service = self;
    npo_supervisor_event event = {.kind = NPO_EVENT_HELLO_DONE};
    if (err != NPO_E_CANCELLED) /* else the loop is being closed */
        uv_timer_stop(&service->patience);
    event.worker = err ? 0 : npo_json_int(answer->json, "worker", 0);
    if (!err && event.worker <= 0) {
        err = NPO_E_FORMAT;
        npo_log_error("npod answered hello without a worker id");
    } else if (err && err != NPO_E_CANCELLED) {
        npo_log_error("npod refused hello: %s", error->text);
    }
    if (err) {
        post_failure(service, NPO_EVENT_HELLO_REFUSED, 0, err, error->text);
        return;
    }
    event.heartbeat_ms = npo_json_int(answer->json, "heartbeat_ms", NPO_HEARTBEAT_MS);
    if (event.heartbeat_ms < 10 || event.heartbeat_ms > NPO_LEASE_MS)
        event.heartbeat_ms = NPO_HEARTBEAT_MS;
    npo_log_info("connected to '%s' as worker %lld '%s'", service->options->address,
                 (long long)event.worker, service->options->name);
    npo_service_post(service, &event);
}

static bool add_labels(cJSON *body, const npo_option_list *list)
{
    cJSON *labels = cJSON_AddObjectToObject(body, "labels");
    for (size_t i = 0; labels && i < list->count; i++) {
        char key[NPO_NAME_MAX + 1] = "";
        const char *equals = strchr(list->items[i], '=');
        size_t len = equals ? (size_t)(equals - list->items[i]) : 0;
        if (len == 0 || len > NPO_NAME_MAX)
            continue; /* refused when the options were read */
        memcpy(key, list->items[i], len);
        if (!cJSON_AddStringToObject(labels, key, equals + 1))
            return false;
    }
    return labels != NULL;
}

static cJSON *hello_body(const npo_service *service)
{
    const npo_service_options *options = service->options;
    cJSON *body = cJSON_CreateObject();
    int versions[] = {NPO_PROTOCOL_VERSION, NPO_PROTOCOL_VERSION};
    double memory = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    if (cJSON_AddStringToObject(body, "name", options->name) &&
        cJSON_AddStringToObject(body, "device", options->device) &&
        cJSON_AddStringToObject(body, "class", service->class ? service->class : "") &&
        cJSON_AddNumberToObject(body, "threads", (double)options->threads) &&
        cJSON_AddNumberToObject(body, "memory_bytes", memory) &&
        cJSON_AddStringToObject(body, "build", NPO_VERSION) &&
        cJSON_AddItemToObject(body, "protocol", cJSON_CreateIntArray(versions, 2)) &&
        add_labels(body, &options->labels))
        return body;
    cJSON_Delete(body);
    return NULL;
}

static void do_hello(npo_service *service, uint64_t ticket)
{
    uv_timer_start(&service->patience, on_impatient, PATIENCE_MS, PATIENCE_REPEAT_MS);
    ask(service, NPO_MESSAGE_HELLO, hello_body(service), on_hello, 0);
}

/* ---- heartbeat ---- */

static void read_cancels(const cJSON *list, npo_supervisor_event *event)
{
    for (const cJSON *item = list ? list->child : NULL; item; item = item->next) {
        npo_fence fence = {npo_json_int(item, "task", 0), (int)npo_json_int(item, "attempt", 0), 0};
        /* More than fit come again with the next heartbeat. */
        if (event->cancel_count < NPO_SUPERVISOR_CANCELS_MAX)
            event->cancels[event->cancel_count++] = fence;
    }
}

static void on_heartbeat(void *self, uint64_t ticket, npo_err err, const npo_error *error,
                         const npo_answer *answer)
{
    npo_service *service = self;
    npo_supervisor_event event = {.kind = NPO_EVENT_HEARTBEAT_DONE};
    if (err) {
        post_failure(service, NPO_EVENT_HEARTBEAT_REFUSED, 0, err, error->text);
        return;
    }
    event.known = npo_json_bool(answer->json, "known", true);
    read_cancels(cJSON_GetObjectItemCaseSensitive(answer->json, "cancel"), &event);
    npo_service_post(service, &event);
}

static cJSON *heartbeat_body(const npo_service *service)
{
    cJSON *body = cJSON_CreateObject(), *tasks = NULL;
    const char *state = service->supervisor.executor == NPO_EXECUTOR_IDLE ? "idle" : "busy";
    if (service->has_assignment)
        state = "busy";
    if (!cJSON_AddNumberToObject(body, "worker", (double)service->supervisor.worker) ||
        !cJSON_AddStringToObject(body, "state", state) ||
        !(tasks = cJSON_AddArrayToObject(body, "tasks"))) {
        cJSON_Delete(body);
        return NULL;
    }
    if (service->has_assignment)
        cJSON_AddItemToArray(tasks, npo_assignment_status(&service->assignment));
    return body;
}

static void do_heartbeat(npo_service *service, uint64_t ticket)
{
    ask(service, NPO_MESSAGE_HEARTBEAT, heartbeat_body(service), on_heartbeat, 0);
}

/* ---- pull ---- */

static void on_pull(void *self, uint64_t ticket, npo_err err, const npo_error *error,
                    const npo_answer *answer)
{
    npo_service *service = self;
    npo_supervisor_event event = {.kind = NPO_EVENT_PULL_DONE};
    if (err) {
        if (err != NPO_E_CANCELLED)
            npo_log_warn("npod refused pull: %s", error->text);
        post_failure(service, NPO_EVENT_PULL_REFUSED, 0, err, error->text);
        return;
    }
    const cJSON *assignment = cJSON_GetObjectItemCaseSensitive(answer->json, "assignment");
    if (cJSON_IsObject(assignment)) {
        cJSON_Delete(service->pulled);
        service->pulled = cJSON_Duplicate(assignment, 1);
        event.has_assignment = true;
        event.fence.task = npo_json_int(assignment, "task", 0);
        event.fence.attempt = (int)npo_json_int(assignment, "attempt", 0);
        event.fence.rank = (int)npo_json_int(assignment, "rank", 0);
        event.time_limit_ms = 1000 * npo_json_int(assignment, "time_limit_s", 0);
    } else {
        event.wait_ms = npo_json_int(answer->json, "wait_ms", NPO_HEARTBEAT_MS);
        if (event.wait_ms < 1 || event.wait_ms > NPO_RETRY_MAX_MS)
            event.wait_ms = NPO_HEARTBEAT_MS;
    }
    npo_service_post(service, &event);
}

static cJSON *worker_body(const npo_service *service)
{
    cJSON *body = cJSON_CreateObject();
    if (cJSON_AddNumberToObject(body, "worker", (double)service->supervisor.worker))
        return body;
    cJSON_Delete(body);
    return NULL;
}

static void do_pull(npo_service *service, uint64_t ticket)
{
    ask(service, NPO_MESSAGE_PULL, worker_body(service), on_pull, 0);
}

/* ---- done, fail, goodbye ---- */

static void on_report(void *self, uint64_t ticket, npo_err err, const npo_error *error,
                      const npo_answer *answer)
{
    npo_service *service = self;
    npo_supervisor_event event = {.kind = NPO_EVENT_REPORT_DONE, .ticket = ticket};
    npo_crash_point("report.after");
    if (err && err != NPO_E_CANCELLED)
        npo_log_warn("npod refused a report: %s", error->text);
    if (err)
        post_failure(service, NPO_EVENT_REPORT_REFUSED, ticket, err, error->text);
    else
        npo_service_post(service, &event);
}

static void do_done(npo_service *service, uint64_t ticket)
{
    npo_crash_point("report.before");
    ask(service, NPO_MESSAGE_DONE,
        npo_assignment_done(&service->assignment, service->supervisor.worker), on_report, ticket);
}

static void do_fail(npo_service *service, uint64_t ticket)
{
    const npo_supervisor *supervisor = &service->supervisor;
    npo_log_warn("task %lld attempt %d failed: %s", (long long)supervisor->fence.task,
                 supervisor->fence.attempt, supervisor->failure.text);
    ask(service, NPO_MESSAGE_FAIL,
        npo_assignment_fail(&supervisor->fence, supervisor->worker, &supervisor->failure),
        on_report, ticket);
}

static void on_goodbye(void *self, uint64_t ticket, npo_err err, const npo_error *error,
                       const npo_answer *answer)
{
    npo_supervisor_event event = {.kind = NPO_EVENT_GOODBYE_DONE};
    npo_service_post(self, &event);
}

static void do_goodbye(npo_service *service, uint64_t ticket)
{
    ask(service, NPO_MESSAGE_GOODBYE, worker_body(service), on_goodbye, 0);
}

/* ---- executor ---- */

static void do_spawn(npo_service *service, uint64_t ticket)
{
    npo_child_handler handler = {.self = service,
                                 .message = npo_service_on_message,
                                 .text = npo_service_on_text,
                                 .exited = npo_service_on_exited};
    npo_error error = {0};
    npo_err err =
        npo_child_start(&service->loop, service->options->executor_file,
                        service->options->executor_argv, &handler, &service->child, &error);
    if (!err)
        return;
    service->child = NULL;
    npo_service_on_exited(service, error.text);
}

static void do_terminate(npo_service *service, uint64_t ticket)
{
    if (service->child)
        npo_child_signal(service->child, SIGTERM);
}

static void do_kill(npo_service *service, uint64_t ticket)
{
    npo_log_warn("the executor does not answer: it is killed");
    if (service->child)
        npo_child_signal(service->child, SIGKILL);
}

static void order(npo_service *service, cJSON *order_take)
{
    if (order_take && service->child)
        npo_child_send(service->child, order_take);
    cJSON_Delete(order_take);
}

static void do_run(npo_service *service, uint64_t ticket)
{
    cJSON *task = npo_assignment_order(&service->assignment, service->inputs, service->input_count);
    if (!task)
        post_failure(service, NPO_EVENT_TASK_FAILED, ticket, NPO_E_NOMEM, NULL);
    order(service, task);
}

static void do_cancel(npo_service *service, uint64_t ticket)
{
    cJSON *cancel = cJSON_CreateObject();
    cJSON_AddStringToObject(cancel, "order", "cancel");
    cJSON_AddNumberToObject(cancel, "ticket", (double)ticket);
    order(service, cancel);
}

/* ---- the task's files and streams ---- */

static void on_stream_ended(void *self, uint64_t ticket)
{
    npo_service *service = self;
    npo_supervisor_event event = {.kind = NPO_EVENT_STREAMS_SENT, .ticket = ticket};
    if (--service->streams_open == 0)
        npo_service_post(service, &event);
}

static void on_fenced(void *self, uint64_t ticket)
{
    npo_supervisor_event event = {.kind = NPO_EVENT_FENCED, .ticket = ticket};
    npo_service_post(self, &event);
}

static void on_store_answer(void *self, int64_t id, npo_err code, const char *value)
{
    npo_service *service = self;
    cJSON *answer = cJSON_CreateObject();
    cJSON_AddStringToObject(answer, "order", "store");
    cJSON_AddNumberToObject(answer, "id", (double)id);
    cJSON_AddStringToObject(answer, "code", npo_err_name(code));
    if (value)
        cJSON_AddStringToObject(answer, "value", value);
    order(service, answer);
    if (code == NPO_E_FENCED)
        on_fenced(service, service->assignment.ticket);
}

static npo_err open_streams(npo_service *service, npo_error *error)
{
    static const char *const names[] = {[SERVICE_LOG] = "log", [SERVICE_METRICS] = "metrics"};
    npo_transfer_fence fence =
        npo_assignment_fence(&service->assignment, service->supervisor.worker);
    npo_stream_options stream = {.link = service->reports,
                                 .fence = fence,
                                 .self = service,
                                 .tag = service->assignment.ticket,
                                 .ended = on_stream_ended,
                                 .fenced = on_fenced};
    npo_rendezvous_options rendezvous = {
        .link = service->reports, .fence = fence, .self = service, .answered = on_store_answer};
    for (int i = 0; i < SERVICE_STREAM_COUNT; i++) {
        stream.name = names[i];
        NPO_TRY(npo_stream_open(&service->loop, &stream, &service->streams[i], error));
        service->streams_open++;
    }
    return npo_rendezvous_open(&service->loop, &rendezvous, &service->rendezvous, error);
}

static npo_err begin_task(npo_service *service, uint64_t ticket, npo_error *error)
{
    npo_mover_input *inputs = NULL;
    size_t count = 0;
    if (!service->pulled)
        return npo_error_set(error, NPO_E_NOMEM, "cannot take a task: out of memory");
    NPO_TRY(npo_assignment_init(service->pulled, ticket, service->tasks_dir, &service->assignment,
                                error));
    service->has_assignment = true;
    NPO_TRY(open_streams(service, error));
    NPO_TRY(npo_assignment_inputs(&service->assignment, &inputs, &count, error));
    npo_transfer_fence fence =
        npo_assignment_fence(&service->assignment, service->supervisor.worker);
    return npo_mover_fetch(service->mover, ticket, &fence, inputs, count, error);
}

static void do_fetch(npo_service *service, uint64_t ticket)
{
    npo_error error = {0};
    npo_crash_point("lease.taken");
    npo_err err = begin_task(service, ticket, &error);
    if (err) {
        post_failure(service, NPO_EVENT_FETCH_FAILED, ticket, err, error.text);
        return;
    }
    npo_log_info("task %lld attempt %d: %s, round %lld, rank %d",
                 (long long)service->assignment.fence.task, service->assignment.fence.attempt,
                 service->assignment.kind,
                 (long long)npo_json_int(service->assignment.json, "round", 0),
                 service->assignment.fence.rank);
}

static void do_upload(npo_service *service, uint64_t ticket)
{
    npo_error error = {0};
    npo_transfer_fence fence =
        npo_assignment_fence(&service->assignment, service->supervisor.worker);
    npo_err err = npo_mover_upload(service->mover, ticket, &fence, service->output_name,
                                   service->output_path, &error);
    if (err)
        post_failure(service, NPO_EVENT_UPLOAD_FAILED, ticket, err, error.text);
}

static void do_flush(npo_service *service, uint64_t ticket)
{
    npo_supervisor_event event = {.kind = NPO_EVENT_STREAMS_SENT, .ticket = ticket};
    if (service->streams_open == 0) { /* they could not be opened: that is the failure */
        npo_service_post(service, &event);
        return;
    }
    if (service->supervisor.task == NPO_TASK_FAILING && service->streams[SERVICE_LOG])
        npo_stream_add(service->streams[SERVICE_LOG], service->supervisor.failure.text);
    for (int i = 0; i < SERVICE_STREAM_COUNT; i++)
        if (service->streams[i])
            npo_stream_end(service->streams[i]);
}

void npo_service_drop(npo_service *service)
{
    for (int i = 0; i < SERVICE_STREAM_COUNT; i++) {
        npo_stream_close(service->streams[i]);
        service->streams[i] = NULL;
    }
    service->streams_open = 0;
    npo_rendezvous_close(service->rendezvous);
    service->rendezvous = NULL;
    if (service->has_assignment)
        npo_mover_drop(service->mover, service->assignment.ticket);
    npo_mover_inputs_free(service->inputs, service->input_count);
    service->inputs = NULL;
    service->input_count = 0;
    npo_assignment_fini(&service->assignment);
    service->has_assignment = false;
}

static void do_drop(npo_service *service, uint64_t ticket)
{
    npo_service_drop(service);
}

static void do_exit(npo_service *service, uint64_t ticket)
{
    uv_stop(&service->loop);
}

/* ---- dispatch ---- */

static void (*const actions[])(npo_service *service, uint64_t ticket) = {
    [NPO_ACTION_HELLO] = do_hello,   [NPO_ACTION_HEARTBEAT] = do_heartbeat,
    [NPO_ACTION_PULL] = do_pull,     [NPO_ACTION_DONE] = do_done,
    [NPO_ACTION_FAIL] = do_fail,     [NPO_ACTION_GOODBYE] = do_goodbye,
    [NPO_ACTION_SPAWN] = do_spawn,   [NPO_ACTION_TERMINATE] = do_terminate,
    [NPO_ACTION_KILL] = do_kill,     [NPO_ACTION_FETCH] = do_fetch,
    [NPO_ACTION_RUN] = do_run,       [NPO_ACTION_CANCEL] = do_cancel,
    [NPO_ACTION_UPLOAD] = do_upload, [NPO_ACTION_FLUSH] = do_flush,
    [NPO_ACTION_DROP] = do_drop,     [NPO_ACTION_EXIT] = do_exit,
};
_Static_assert(sizeof actions / sizeof actions[0] == NPO_ACTION_COUNT, "an action has no function");

void npo_service_act(npo_service *service, const npo_supervisor_action *action)
{
    actions[action->kind](service, action->ticket);
}
