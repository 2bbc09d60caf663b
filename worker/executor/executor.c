#include "worker/executor/executor.h"

#include "common/base64.h"
#include "common/bounds.h"
#include "common/clock.h"
#include "common/file.h"
#include "worker/executor/wire.h"
#include "worker/tasks/task.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <unistd.h>

typedef struct {
    npo_wire *wire;
    int64_t ticket;
    int64_t store_id; /* the last used */
} executor;

/* ---- services of a task ---- */

static cJSON *body_new(const executor *self)
{
    cJSON *body = cJSON_CreateObject();
    cJSON_AddNumberToObject(body, "ticket", (double)self->ticket);
    return body;
}

static void add_finite(cJSON *body, const char *key, double value)
{
    if (isfinite(value))
        cJSON_AddNumberToObject(body, key, value);
}

static void on_progress(void *self, const npo_task_progress *progress)
{
    const executor *ex = self;
    cJSON *body = body_new(ex);
    cJSON_AddNumberToObject(body, "step", (double)progress->step);
    cJSON_AddNumberToObject(body, "steps", (double)progress->steps);
    cJSON_AddStringToObject(body, "phase", progress->phase ? progress->phase : "");
    add_finite(body, "loss", progress->loss);
    add_finite(body, "samples_per_s", progress->samples_per_s);
    npo_wire_send(ex->wire, "progress", body);
}

static void send_line(const executor *ex, const char *event, const char *line)
{
    cJSON *body = body_new(ex);
    cJSON_AddStringToObject(body, "line", line);
    npo_wire_send(ex->wire, event, body);
}

static void on_metrics(void *self, const char *json_line)
{
    send_line(self, "metrics", json_line);
}

static void on_log(void *self, const char *line)
{
    send_line(self, "log", line);
}

static npo_err on_output(void *self, const char *name, const char *file)
{
    const executor *ex = self;
    cJSON *body = body_new(ex);
    cJSON_AddStringToObject(body, "name", name);
    cJSON_AddStringToObject(body, "file", file);
    npo_wire_send(ex->wire, "output", body);
    return NPO_OK;
}

static bool on_is_cancelled(void *self)
{
    const executor *ex = self;
    return npo_wire_is_cancelled(ex->wire);
}

static npo_err on_store_set(void *self, const char *key, const void *value, size_t len)
{
    executor *ex = self;
    char *none = NULL;
    npo_buf text = NPO_BUF_INIT;
    npo_base64_encode(value, len, &text);
    npo_err err = npo_buf_err(&text);
    if (!err) {
        cJSON *body = body_new(ex);
        cJSON_AddNumberToObject(body, "id", (double)++ex->store_id);
        cJSON_AddStringToObject(body, "key", key);
        cJSON_AddStringToObject(body, "value", text.data ? text.data : "");
        npo_wire_send(ex->wire, "store_set", body);
        err = npo_wire_wait_store(ex->wire, ex->store_id, &none);
    }
    free(none);
    npo_buf_fini(&text);
    return err;
}

static npo_err on_store_get(void *self, const char *key, int64_t timeout_ms, void *ret_value,
                            size_t size, size_t *ret_len)
{
    executor *ex = self;
    char *value = NULL;
    cJSON *body = body_new(ex);
    cJSON_AddNumberToObject(body, "id", (double)++ex->store_id);
    cJSON_AddStringToObject(body, "key", key);
    cJSON_AddNumberToObject(body, "timeout_ms", (double)timeout_ms);
    npo_wire_send(ex->wire, "store_get", body);
    npo_err err = npo_wire_wait_store(ex->wire, ex->store_id, &value);
    if (!err && !value)
        err = NPO_E_TIMEOUT;
    if (!err)
        err = npo_base64_decode(value, ret_value, size, ret_len);
    free(value);
    return err;
}

/* ---- one task ---- */

static npo_err read_paths(const cJSON *order, npo_task_input **ret_inputs, size_t *ret_count,
                          npo_error *error)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(order, "paths");
    size_t count = (size_t)cJSON_GetArraySize(list), at = 0;
    npo_task_input *inputs = calloc(count + 1, sizeof *inputs);
    if (!inputs)
        return npo_error_set(error, NPO_E_NOMEM, "cannot take the task: out of memory");
    for (const cJSON *item = list ? list->child : NULL; item; item = item->next) {
        inputs[at].name = npo_json_string(item, "name", "");
        inputs[at++].path = npo_json_string(item, "path", "");
    }
    *ret_inputs = inputs;
    *ret_count = count;
    return NPO_OK;
}

static npo_err read_task(const cJSON *order, npo_task *ret_task, npo_job *ret_spec,
                         npo_task_input **ret_inputs, npo_error *error)
{
    const cJSON *from = cJSON_GetObjectItemCaseSensitive(order, "assignment");
    size_t input_count = 0;
    NPO_TRY(npo_job_read(cJSON_GetObjectItemCaseSensitive(from, "spec"), ret_spec, error));
    NPO_TRY(read_paths(order, ret_inputs, &input_count, error));
    *ret_task = (npo_task){
        .task = npo_json_int(from, "task", 0),
        .job = npo_json_int(from, "job", 0),
        .attempt = (int)npo_json_int(from, "attempt", 0),
        .rank = (int)npo_json_int(from, "rank", 0),
        .world = (int)npo_json_int(from, "world", 1),
        .shard = (int)npo_json_int(from, "shard", 0),
        .shards = (int)npo_json_int(from, "shards", 1),
        .kind = npo_json_string(from, "kind", ""),
        .round = npo_json_int(from, "round", 0),
        .params = cJSON_GetObjectItemCaseSensitive(from, "params"),
        .spec = ret_spec,
        .inputs = *ret_inputs,
        .input_count = input_count,
        .out_dir = npo_json_string(order, "out_dir", ""),
    };
    return NPO_OK;
}

static npo_err run_order(executor *ex, const cJSON *order, npo_task_cache *cache, npo_error *error)
{
    npo_task_services services = {.self = ex,
                                  .progress = on_progress,
                                  .metrics = on_metrics,
                                  .log = on_log,
                                  .output = on_output,
                                  .is_cancelled = on_is_cancelled,
                                  .store_set = on_store_set,
                                  .store_get = on_store_get};
    npo_task task;
    npo_job spec = {0};
    npo_task_input *inputs = NULL;
    npo_err err = read_task(order, &task, &spec, &inputs, error);
    if (!err)
        err = npo_task_run(&task, cache, &services, error);
    fflush(NULL); /* what it printed belongs to its log */
    free(inputs);
    return err;
}

static void report(executor *ex, npo_err err, const npo_error *error, double seconds)
{
    cJSON *body = body_new(ex);
    if (!err) {
        cJSON *result = cJSON_AddObjectToObject(body, "result");
        cJSON_AddNumberToObject(result, "seconds", seconds);
        npo_wire_send(ex->wire, "done", body);
        return;
    }
    cJSON_AddStringToObject(body, "code", npo_err_name(err));
    cJSON_AddStringToObject(body, "text", error->text[0] ? error->text : npo_err_text(err));
    cJSON_AddBoolToObject(body, "final", npo_task_error_is_final(err));
    npo_wire_send(ex->wire, "failed", body);
}

static void run_tasks(executor *ex, npo_task_cache *cache)
{
    for (;;) {
        npo_error error = {0};
        cJSON *order = npo_wire_wait_task(ex->wire);
        int64_t start_ns = npo_clock_ns();
        ex->ticket = npo_json_int(order, "ticket", 0);
        npo_err err = run_order(ex, order, cache, &error);
        report(ex, err, &error, (double)(npo_clock_ns() - start_ns) * 1e-9);
        cJSON_Delete(order);
    }
}

/* ---- the process ---- */

/* The CPU is shared, so its lock is the worker's own; another device has one for the whole machine.
 */
static npo_err lock_path(const npo_executor_options *options, char **ret_path, npo_error *error)
{
    char device[64];
    int n = strncmp(options->device, "cpu", 3) == 0
                ? asprintf(ret_path, "%s/executor.lock", options->state_dir)
                : 0;
    if (n == 0) {
        snprintf(device, sizeof device, "%s", options->device);
        for (char *at = device; *at; at++)
            if (*at == '/' || *at == ':')
                *at = '-';
        n = asprintf(ret_path, "/run/lock/npo-%s.lock", device);
    }
    return n < 0 ? npo_error_set(error, NPO_E_NOMEM, "cannot lock the device: out of memory")
                 : NPO_OK;
}

/* Waits for an orphan that is still going; the supervisor's patience bounds it. Held for life. */
static npo_err lock_device(const npo_executor_options *options, npo_error *error)
{
    char *path = NULL;
    NPO_TRY(lock_path(options, &path, error));
    npo_err err = NPO_OK;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        err = npo_error_errno(error, errno, "cannot open '%s'", path);
    while (!err && flock(fd, LOCK_EX) < 0)
        if (errno != EINTR)
            err = npo_error_errno(error, errno, "cannot lock '%s'", path);
    free(path);
    return err;
}

static void prepare_process(void)
{
    /* Nothing of the supervisor's but stdin, stdout, stderr and the wire. */
    close_range(NPO_WIRE_FD + 1, ~0U, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_IGN); /* Ctrl-C reaches the whole group; the supervisor decides */
    signal(SIGPIPE, SIG_IGN);
}

npo_err npo_executor_run(const npo_executor_options *options, npo_error *error)
{
    executor ex = {0};
    npo_backend *backend = NULL;
    npo_task_cache *cache = NULL;
    npo_backend_options backend_options = {
        .device = options->device, .threads = options->threads, .isa = options->isa};
    prepare_process();
    NPO_TRY(npo_wire_open(NPO_WIRE_FD, &ex.wire, error));
    NPO_TRY(lock_device(options, error));
    NPO_TRY(npo_backend_new(&backend_options, &backend, error));
    cJSON *ready = cJSON_CreateObject();
    cJSON_AddStringToObject(ready, "class", npo_backend_class(backend));
    npo_err err = npo_task_cache_new(backend, &cache);
    if (err) {
        cJSON_Delete(ready);
        return npo_error_set(error, err, "cannot start the executor: %s", npo_err_text(err));
    }
    npo_task_cache_set_memory(cache, options->memory_bytes);
    npo_wire_send(ex.wire, "ready", ready);
    run_tasks(&ex, cache);
    return NPO_OK;
}
