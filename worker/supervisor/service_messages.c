#include "worker/supervisor/service_state.h"

#include "common/file.h"
#include "common/log.h"

#include <stdlib.h>
#include <string.h>

/* ---- finished transfers ---- */

static void on_fetched(npo_service *service, const npo_mover_result *result)
{
    npo_supervisor_event event = {.kind = NPO_EVENT_FETCHED, .ticket = result->ticket};
    npo_mover_input *inputs = calloc(result->input_count + 1, sizeof *inputs);
    bool whole = inputs != NULL;
    for (size_t i = 0; whole && i < result->input_count; i++) {
        inputs[i].hash = result->inputs[i].hash;
        inputs[i].name = strdup(result->inputs[i].name);
        inputs[i].path = strdup(result->inputs[i].path);
        whole = inputs[i].name && inputs[i].path;
    }
    if (!whole) {
        npo_mover_inputs_free(inputs, result->input_count);
        event = (npo_supervisor_event){
            .kind = NPO_EVENT_FETCH_FAILED, .ticket = result->ticket, .code = NPO_E_NOMEM};
    } else {
        service->inputs = inputs;
        service->input_count = result->input_count;
    }
    npo_service_post(service, &event);
}

void npo_service_on_moved(void *self, const npo_mover_result *result)
{
    npo_service *service = self;
    npo_supervisor_event event = {.kind = NPO_EVENT_UPLOADED, .ticket = result->ticket};
    npo_err err = result->err;
    if (!service->has_assignment || result->ticket != service->assignment.ticket)
        return;
    if (!err && !result->is_upload) {
        on_fetched(service, result);
        return;
    }
    if (!err)
        err = npo_assignment_add_output(&service->assignment, result->name, &result->artifact);
    if (err) {
        event.kind = result->is_upload ? NPO_EVENT_UPLOAD_FAILED : NPO_EVENT_FETCH_FAILED;
        event.code = err;
        event.text = result->error.text[0] ? result->error.text : NULL;
    }
    npo_service_post(service, &event);
}

/* ---- what the executor says ---- */

static bool is_ours(const npo_service *service, const cJSON *message)
{
    return service->has_assignment &&
           npo_json_int(message, "ticket", 0) == (int64_t)service->assignment.ticket;
}

static void heard(npo_service *service)
{
    npo_supervisor_event event = {.kind = NPO_EVENT_EXECUTOR_ALIVE};
    npo_service_post(service, &event);
}

static void on_ready(npo_service *service, const cJSON *message)
{
    npo_supervisor_event event = {.kind = NPO_EVENT_EXECUTOR_READY};
    free(service->class);
    service->class = strdup(npo_json_string(message, "class", ""));
    npo_service_post(service, &event);
}

static void on_alive(npo_service *service, const cJSON *message)
{
    heard(service);
}

static void on_progress(npo_service *service, const cJSON *message)
{
    if (is_ours(service, message))
        npo_assignment_set_progress(&service->assignment, message);
    heard(service);
}

static void add_line(npo_service *service, const cJSON *message, service_stream which)
{
    if (is_ours(service, message) && service->streams[which])
        npo_stream_add(service->streams[which], npo_json_string(message, "line", ""));
    heard(service);
}

static void on_log(npo_service *service, const cJSON *message)
{
    add_line(service, message, SERVICE_LOG);
}

static void on_metrics(npo_service *service, const cJSON *message)
{
    add_line(service, message, SERVICE_METRICS);
}

static void on_output(npo_service *service, const cJSON *message)
{
    npo_supervisor_event event = {.kind = NPO_EVENT_TASK_OUTPUT,
                                  .ticket = (uint64_t)npo_json_int(message, "ticket", 0)};
    if (!is_ours(service, message))
        return;
    service->output_name = strdup(npo_json_string(message, "name", ""));
    service->output_path =
        npo_file_join(service->assignment.out_dir, npo_json_string(message, "file", ""));
    if (!service->output_name || !service->output_path) {
        event.kind = NPO_EVENT_UPLOAD_FAILED;
        event.code = NPO_E_NOMEM;
    }
    npo_service_post(service, &event);
    free(service->output_name);
    free(service->output_path);
    service->output_name = service->output_path = NULL;
}

static void on_store_set(npo_service *service, const cJSON *message)
{
    heard(service);
    if (is_ours(service, message) && service->rendezvous)
        npo_rendezvous_set(service->rendezvous, npo_json_int(message, "id", 0),
                           npo_json_string(message, "key", ""),
                           npo_json_string(message, "value", ""));
}

static void on_store_get(npo_service *service, const cJSON *message)
{
    heard(service);
    if (is_ours(service, message) && service->rendezvous)
        npo_rendezvous_get(service->rendezvous, npo_json_int(message, "id", 0),
                           npo_json_string(message, "key", ""),
                           npo_json_int(message, "timeout_ms", 0));
}

static void on_done(npo_service *service, const cJSON *message)
{
    npo_supervisor_event event = {.kind = NPO_EVENT_TASK_DONE,
                                  .ticket = (uint64_t)npo_json_int(message, "ticket", 0)};
    const cJSON *result = cJSON_GetObjectItemCaseSensitive(message, "result");
    if (is_ours(service, message) && cJSON_IsObject(result)) {
        cJSON_Delete(service->assignment.result);
        service->assignment.result = cJSON_Duplicate(result, 1);
    }
    npo_service_post(service, &event);
}

static void on_failed(npo_service *service, const cJSON *message)
{
    npo_supervisor_event event = {
        .kind = NPO_EVENT_TASK_FAILED,
        .ticket = (uint64_t)npo_json_int(message, "ticket", 0),
        .code = npo_err_from_name(npo_json_string(message, "code", "LIBRARY")),
        .text = npo_json_string(message, "text", NULL),
        .is_final = npo_json_bool(message, "final", false)};
    npo_service_post(service, &event);
}

void npo_service_on_message(void *self, const cJSON *message)
{
    static const struct {
        const char *name;
        void (*handle)(npo_service *service, const cJSON *message);
    } table[] = {
        {"ready", on_ready},         {"alive", on_alive},
        {"progress", on_progress},   {"log", on_log},
        {"metrics", on_metrics},     {"output", on_output},
        {"store_set", on_store_set}, {"store_get", on_store_get},
        {"done", on_done},           {"failed", on_failed},
    };
    npo_service *service = self;
    const char *name = npo_json_string(message, "event", "");
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strcmp(table[i].name, name) == 0)
            table[i].handle(service, message);
}

void npo_service_on_text(void *self, const char *line)
{
    npo_service *service = self;
    if (service->has_assignment && service->streams[SERVICE_LOG])
        npo_stream_add(service->streams[SERVICE_LOG], line);
    else
        npo_log_info("executor: %s", line);
}

void npo_service_on_exited(void *self, const char *how)
{
    npo_service *service = self;
    npo_supervisor_event event = {.kind = NPO_EVENT_EXECUTOR_EXITED, .text = how};
    service->child = NULL;
    if (!service->supervisor.stopping)
        npo_log_warn("%s", how);
    npo_service_post(service, &event);
}
