#include "server/state.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void npo_worker_free(npo_worker_record *worker)
{
    if (!worker)
        return;
    free(worker->name);
    free(worker->device);
    free(worker->class);
    free(worker->build);
    cJSON_Delete(worker->labels);
    free(worker);
}

bool npo_worker_is_alive(const npo_worker_record *worker)
{
    return worker->boot != 0;
}

const char *npo_worker_state(const npo_worker_record *worker)
{
    if (!npo_worker_is_alive(worker))
        return "lost";
    return worker->task ? "busy" : "idle";
}

npo_worker_record *npo_worker_by_id(const npo_server *server, int64_t id)
{
    size_t low = 0, high = server->worker_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (server->workers[middle]->id < id)
            low = middle + 1;
        else
            high = middle;
    }
    bool found = low < server->worker_count && server->workers[low]->id == id;
    return found ? server->workers[low] : NULL;
}

npo_err npo_worker_check(npo_server *server, npo_request *request, int64_t id,
                         npo_worker_record **ret_worker)
{
    npo_worker_record *worker = npo_worker_by_id(server, id);
    if (!worker || worker->boot != request->frame->boot)
        return npo_error_set(&request->error, NPO_E_FENCED,
                             "worker %lld is not registered by this process: say hello again",
                             (long long)id);
    npo_lease_renew(server, worker);
    worker->seen_ms = server->now.wall_ms;
    *ret_worker = worker;
    return NPO_OK;
}

/* ---- hello ---- */

typedef struct {
    const char *name, *device, *class, *build;
    int64_t threads, memory_bytes;
    const cJSON *labels, *protocol;
} hello_request;

static npo_err read_hello(npo_request *request, hello_request *ret_hello)
{
    static const npo_json_field fields[] = {
        {"name", NPO_JSON_STRING, offsetof(hello_request, name), true, 0, NPO_NAME_MAX, NULL},
        {"device", NPO_JSON_STRING, offsetof(hello_request, device), true, 0, NPO_NAME_MAX, NULL},
        {"class", NPO_JSON_STRING, offsetof(hello_request, class), true, 0, NPO_NAME_MAX, NULL},
        {"build", NPO_JSON_STRING, offsetof(hello_request, build), false, 0, NPO_NAME_MAX, NULL},
        {"threads", NPO_JSON_INT, offsetof(hello_request, threads), false, 0, 65536, NULL},
        {"memory_bytes", NPO_JSON_INT, offsetof(hello_request, memory_bytes), false, 0,
         9007199254740992.0, NULL},
        {"labels", NPO_JSON_OBJECT, offsetof(hello_request, labels), false, 0, 0, NULL},
        {"protocol", NPO_JSON_ARRAY, offsetof(hello_request, protocol), false, 0, 0, NULL},
    };
    *ret_hello = (hello_request){.build = ""};
    NPO_TRY(npo_request_fields(request, fields, ret_hello));
    NPO_TRY(npo_request_name(request, "name", ret_hello->name));
    NPO_TRY(npo_request_name(request, "device", ret_hello->device));
    NPO_TRY(npo_request_name(request, "class", ret_hello->class));
    const cJSON *low = cJSON_GetArrayItem(ret_hello->protocol, 0);
    const cJSON *high = cJSON_GetArrayItem(ret_hello->protocol, 1);
    if (cJSON_IsNumber(low) && cJSON_IsNumber(high) &&
        (low->valuedouble > NPO_PROTOCOL_VERSION || high->valuedouble < NPO_PROTOCOL_VERSION))
        return npo_error_set(&request->error, NPO_E_VERSION,
                             "worker '%s' speaks protocol versions %d to %d, this npod %d",
                             ret_hello->name, low->valueint, high->valueint,
                             (int)NPO_PROTOCOL_VERSION);
    return NPO_OK;
}

static npo_worker_record *find_name(const npo_server *server, const char *name)
{
    for (size_t i = 0; i < server->worker_count; i++)
        if (strcmp(server->workers[i]->name, name) == 0)
            return server->workers[i];
    return NULL;
}

/* Makes room for a new name by forgetting the one not seen for longest. */
static npo_err make_room(npo_server *server, npo_request *request)
{
    size_t oldest = server->worker_count;
    if (server->worker_count < NPO_WORKERS_MAX)
        return NPO_OK;
    for (size_t i = 0; i < server->worker_count; i++)
        if (!npo_worker_is_alive(server->workers[i]) &&
            (oldest == server->worker_count ||
             server->workers[i]->seen_ms < server->workers[oldest]->seen_ms))
            oldest = i;
    if (oldest == server->worker_count)
        return npo_error_set(&request->error, NPO_E_LIMIT, "%d workers are registered already",
                             (int)NPO_WORKERS_MAX);
    npo_run(server->store, NPO_SQL_WORKER_DELETE, npo_int(server->workers[oldest]->id));
    npo_worker_free(server->workers[oldest]);
    server->worker_count--;
    memmove(server->workers + oldest, server->workers + oldest + 1,
            (server->worker_count - oldest) * sizeof *server->workers);
    return NPO_OK;
}

npo_err npo_worker_add(npo_server *server, npo_worker_record *worker)
{
    if (server->worker_count == server->worker_cap) {
        size_t cap = server->worker_cap ? server->worker_cap * 2 : 16;
        npo_worker_record **workers = realloc(server->workers, cap * sizeof *workers);
        if (!workers)
            return NPO_E_NOMEM;
        server->workers = workers;
        server->worker_cap = cap;
    }
    server->workers[server->worker_count++] = worker;
    return NPO_OK;
}

static npo_err add_name(npo_server *server, npo_request *request, const char *name,
                        npo_worker_record **ret_worker)
{
    NPO_TRY(make_room(server, request));
    npo_worker_record *worker = calloc(1, sizeof *worker);
    if (!worker || !(worker->name = strdup(name)) || npo_worker_add(server, worker) != NPO_OK) {
        npo_worker_free(worker);
        return npo_error_set(&request->error, NPO_E_NOMEM, "cannot register worker '%s'", name);
    }
    npo_run(server->store, NPO_SQL_WORKER_INSERT, npo_text(name));
    worker->id = npo_store_last_id(server->store);
    *ret_worker = worker;
    return NPO_OK;
}

/* Two processes under one name would take it from each other for ever, and every time the task in
 * hand would be lost: who has lost the name to one that lives does not get it back. */
static npo_err check_replaced(npo_request *request, const npo_worker_record *worker)
{
    if (!npo_worker_is_alive(worker) || worker->boot == request->frame->boot)
        return NPO_OK;
    for (int i = 0; i < NPO_REPLACED_MAX; i++)
        if (worker->replaced[i] == request->frame->boot)
            return npo_error_set(&request->error, NPO_E_REFUSED,
                                 "another process has become worker '%s' since: every worker "
                                 "needs a name of its own",
                                 worker->name);
    return NPO_OK;
}

static void replace(npo_server *server, npo_worker_record *worker, const npo_request *request)
{
    char why[NPO_NAME_MAX + 64];
    if (worker->boot != request->frame->boot)
        worker->replaced[worker->replaced_count++ % NPO_REPLACED_MAX] = worker->boot;
    snprintf(why, sizeof why, "worker '%s' was started again", worker->name);
    npo_worker_lose(server, worker, true, why);
}

static npo_err replace_text(char **text, const char *with)
{
    char *copy = strdup(with);
    if (!copy)
        return NPO_E_NOMEM;
    free(*text);
    *text = copy;
    return NPO_OK;
}

static npo_err describe(npo_server *server, npo_worker_record *worker, const hello_request *hello)
{
    cJSON *labels = hello->labels ? cJSON_Duplicate(hello->labels, 1) : cJSON_CreateObject();
    char *text = labels ? cJSON_PrintUnformatted(labels) : NULL;
    npo_err err = text ? NPO_OK : NPO_E_NOMEM;
    if (!err)
        err = replace_text(&worker->device, hello->device);
    if (!err)
        err = replace_text(&worker->class, hello->class);
    if (!err)
        err = replace_text(&worker->build, hello->build);
    if (err) {
        cJSON_Delete(labels);
        free(text);
        return err;
    }
    cJSON_Delete(worker->labels);
    worker->labels = labels;
    worker->threads = hello->threads;
    worker->memory_bytes = hello->memory_bytes;
    npo_run(server->store, NPO_SQL_WORKER_DESCRIBE, npo_int(worker->id),
            npo_int((int64_t)worker->boot), npo_text(worker->device), npo_text(worker->class),
            npo_text(worker->build), npo_int(worker->threads), npo_int(worker->memory_bytes),
            npo_text(text));
    free(text);
    return NPO_OK;
}

static bool is_changed(const npo_worker_record *worker, const hello_request *hello)
{
    return strcmp(worker->class, hello->class) != 0 || strcmp(worker->build, hello->build) != 0 ||
           strcmp(worker->device, hello->device) != 0;
}

static npo_err greet(const npo_server *server, npo_request *request,
                     const npo_worker_record *worker)
{
    npo_buf *json = &request->reply->json;
    npo_buf_printf(
        json, "{\"worker\":%lld,\"epoch\":%lld,\"lease_ms\":%lld,\"heartbeat_ms\":%lld,\"bulk\":",
        (long long)worker->id, (long long)server->epoch, (long long)server->options.lease_ms,
        (long long)server->options.heartbeat_ms);
    npo_json_add_text(json, server->bulk);
    npo_buf_str(json, ",\"hints\":");
    npo_json_add_text(json, server->hints);
    npo_buf_str(json, "}");
    return npo_buf_err(json);
}

npo_err npo_handle_hello(npo_server *server, npo_request *request)
{
    hello_request hello;
    NPO_TRY(read_hello(request, &hello));
    npo_worker_record *worker = find_name(server, hello.name);
    bool is_new = !worker || worker->boot != request->frame->boot;
    if (!worker)
        NPO_TRY(add_name(server, request, hello.name, &worker));
    NPO_TRY(check_replaced(request, worker));
    if (npo_worker_is_alive(worker) && (is_new || is_changed(worker, &hello)))
        replace(server, worker, request);
    worker->boot = request->frame->boot;
    worker->seen_ms = server->now.wall_ms;
    worker->dirty = true;
    worker->free_since_ms = server->now.mono_ms;
    if (describe(server, worker, &hello) != NPO_OK)
        return npo_error_set(&request->error, NPO_E_NOMEM, "cannot register worker '%s'",
                             hello.name);
    npo_lease_renew(server, worker);
    server->needs_schedule = true;
    if (is_new)
        npo_event_add(server, 0, 0, "worker.joined", worker->name);
    return greet(server, request, worker);
}

/* ---- heartbeat ---- */

typedef struct {
    int64_t worker;
    const char *state;
    const cJSON *tasks;
} heartbeat_request;

typedef struct {
    int64_t task, attempt, step, steps;
    const char *phase;
    double loss, samples_per_s;
} heartbeat_task;

/* An executor counts within its round, or over all of the job; 0: its task does no such steps. */
static int64_t optimizer_step(npo_server *server, const npo_worker_record *worker,
                              const heartbeat_task *beat)
{
    npo_task_record task;
    if (!worker->job || !npo_task_held(server, worker, &task) || task.step_end == 0)
        return 0;
    bool is_within_round = beat->steps > 0 && beat->steps != worker->job->steps;
    return beat->step + (is_within_round ? task.step_end - beat->steps : 0);
}

static void take_progress(npo_server *server, npo_worker_record *worker, const heartbeat_task *task)
{
    npo_progress *progress = &worker->progress;
    progress->optimizer_step = optimizer_step(server, worker, task);
    if (progress->optimizer_step > 0)
        npo_job_advance(server, worker->job, progress->optimizer_step);
    progress->task = task->task;
    progress->attempt = task->attempt;
    progress->step = task->step;
    progress->steps = task->steps;
    progress->loss = task->loss;
    progress->samples_per_s = task->samples_per_s;
    snprintf(progress->phase, sizeof progress->phase, "%s", task->phase);
}

static heartbeat_task read_heartbeat_task(const cJSON *item)
{
    return (heartbeat_task){
        .task = npo_json_int(item, "task", 0),
        .attempt = npo_json_int(item, "attempt", 0),
        .step = npo_json_int(item, "step", 0),
        .steps = npo_json_int(item, "steps", 0),
        .phase = npo_json_string(item, "phase", ""),
        .loss = npo_json_number(item, "loss", NAN),
        .samples_per_s = npo_json_number(item, "samples_per_s", 0),
    };
}

npo_err npo_handle_heartbeat(npo_server *server, npo_request *request)
{
    static const npo_json_field fields[] = {
        {"worker", NPO_JSON_INT, offsetof(heartbeat_request, worker), true, 0, 0, NULL},
        {"state", NPO_JSON_STRING, offsetof(heartbeat_request, state), false, 0, 16, NULL},
        {"tasks", NPO_JSON_ARRAY, offsetof(heartbeat_request, tasks), false, 0, 0, NULL},
    };
    heartbeat_request beat = {0};
    NPO_TRY(npo_request_fields(request, fields, &beat));
    npo_worker_record *worker = NULL;
    bool is_known = npo_worker_check(server, request, beat.worker, &worker) == NPO_OK;
    npo_buf *json = &request->reply->json;
    npo_buf_printf(json, "{\"lease_ms\":%lld,\"cancel\":[", (long long)server->options.lease_ms);
    int cancelled = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, beat.tasks)
    {
        heartbeat_task task = read_heartbeat_task(item);
        if (is_known && worker->task == task.task && worker->attempt == task.attempt)
            take_progress(server, worker, &task);
        else
            npo_buf_printf(json, "%s{\"task\":%lld,\"attempt\":%lld}", cancelled++ ? "," : "",
                           (long long)task.task, (long long)task.attempt);
    }
    npo_buf_printf(json, "],\"known\":%s}", is_known ? "true" : "false");
    return npo_buf_err(json);
}

/* ---- goodbye, workers ---- */

npo_err npo_handle_goodbye(npo_server *server, npo_request *request)
{
    int64_t id = npo_json_int(request->json, "worker", 0);
    npo_worker_record *worker = NULL;
    NPO_TRY(npo_worker_check(server, request, id, &worker));
    char why[NPO_NAME_MAX + 32];
    snprintf(why, sizeof why, "worker '%s' left", worker->name);
    npo_worker_lose(server, worker, false, why);
    worker->boot = 0;
    worker->dirty = true;
    npo_event_add(server, 0, 0, "worker.left", worker->name);
    return npo_reply_ok(request);
}

static cJSON *worker_tree(const npo_worker_record *worker)
{
    cJSON *tree = cJSON_CreateObject();
    cJSON_AddNumberToObject(tree, "id", (double)worker->id);
    cJSON_AddStringToObject(tree, "name", worker->name);
    cJSON_AddStringToObject(tree, "device", worker->device);
    cJSON_AddStringToObject(tree, "class", worker->class);
    cJSON_AddNumberToObject(tree, "threads", (double)worker->threads);
    cJSON_AddStringToObject(tree, "state", npo_worker_state(worker));
    cJSON_AddNumberToObject(tree, "job", worker->job ? (double)worker->job->id : 0);
    cJSON_AddNumberToObject(tree, "task", (double)worker->task);
    cJSON_AddNumberToObject(tree, "last_seen_ms", (double)worker->seen_ms);
    return tree;
}

npo_err npo_handle_workers(npo_server *server, npo_request *request)
{
    cJSON *tree = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(tree, "workers");
    for (size_t i = 0; i < server->worker_count; i++)
        cJSON_AddItemToArray(list, worker_tree(server->workers[i]));
    return npo_reply_tree(request, tree);
}
