/* Stands in for worker/tasks and the CPU backend: every kind of task gives, within milliseconds,
 * outputs whose bytes are a function of the seed, the task's place in the job and the bytes of its
 * inputs. So a test that kills processes sees by the last hash whether anything went a wrong way,
 * and the control plane runs under sanitizers that the kernels cannot run under.
 *
 * Words in the job's name say how a task shall behave:
 *   step-ms=N         each step takes N ms              bytes=N     size of large outputs
 *   fail=KIND:N       the first N attempts of KIND fail (retry)
 *   final=KIND        KIND fails for good               hang=KIND   KIND ignores cancel (attempt 1)
 *   die=KIND:N        the executor aborts in the first N attempts of KIND */
#include "worker/tasks/task.h"

#include "common/buf.h"
#include "common/crash.h"
#include "common/file.h"
#include "common/hash.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { GANG_TIMEOUT_MS = 30000, STEPS_DEFAULT = 2 };

/* ---- what is stood in for ---- */

struct npo_backend {
    int threads;
};

struct npo_task_cache {
    npo_backend *backend;
};

npo_err npo_backend_new(const npo_backend_options *options, npo_backend **ret_backend,
                        npo_error *error)
{
    if (strcmp(options->device, "cpu") != 0)
        return npo_error_set(error, NPO_E_NOT_FOUND, "device '%s': there is only 'cpu'",
                             options->device);
    npo_backend *backend = calloc(1, sizeof *backend);
    if (!backend)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    backend->threads = options->threads;
    *ret_backend = backend;
    return NPO_OK;
}

void npo_backend_free(npo_backend *backend)
{
    free(backend);
}

const char *npo_backend_class(const npo_backend *backend)
{
    return "cpu fake";
}

void npo_task_cache_set_memory(npo_task_cache *cache, size_t bytes)
{
}

npo_err npo_task_cache_new(npo_backend *backend_take, npo_task_cache **ret_cache)
{
    npo_task_cache *cache = calloc(1, sizeof *cache);
    if (!cache)
        return NPO_E_NOMEM;
    cache->backend = backend_take;
    *ret_cache = cache;
    return NPO_OK;
}

void npo_task_cache_free(npo_task_cache *cache)
{
    if (cache)
        npo_backend_free(cache->backend);
    free(cache);
}

bool npo_task_error_is_final(npo_err code)
{
    return code == NPO_E_DIVERGED || code == NPO_E_FORMAT;
}

const char *npo_task_input_path(const npo_task *task, const char *name)
{
    for (size_t i = 0; i < task->input_count; i++)
        if (strcmp(task->inputs[i].name, name) == 0)
            return task->inputs[i].path;
    return NULL;
}

/* ---- behaviour ---- */

typedef struct {
    const npo_task *task;
    const npo_task_services *services;
    npo_error *error;
    npo_hash seed; /* of everything that the outputs depend on */
} fake;

/* "fail=train:2" with key "fail" and the task's kind gives 2; 0 when it is not about this kind. */
static long word_of(const npo_task *task, const char *key)
{
    char pattern[64];
    snprintf(pattern, sizeof pattern, "%s=%s", key, task->kind);
    const char *at = strstr(task->spec->name, pattern);
    if (!at)
        return 0;
    at += strlen(pattern);
    return *at == ':' ? strtol(at + 1, NULL, 10) : *at == '\0' || *at == ' ';
}

static long number_of(const npo_task *task, const char *key, long fallback)
{
    char pattern[64];
    snprintf(pattern, sizeof pattern, "%s=", key);
    const char *at = strstr(task->spec->name, pattern);
    return at ? strtol(at + strlen(pattern), NULL, 10) : fallback;
}

static void wait_ms(long ms)
{
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    while (ms > 0 && nanosleep(&time, &time) < 0)
        ;
}

static npo_err misbehave(const fake *self)
{
    const npo_task *task = self->task;
    if (task->attempt <= word_of(task, "die"))
        abort();
    while (task->attempt <= word_of(task, "hang"))
        wait_ms(1000);
    if (task->attempt <= word_of(task, "fail"))
        return npo_error_set(self->error, NPO_E_LIBRARY, "told to fail in attempt %d",
                             task->attempt);
    if (word_of(task, "final"))
        return npo_error_set(self->error, NPO_E_DIVERGED, "told to fail for good");
    return NPO_OK;
}

/* ---- what outputs depend on ---- */

static npo_err hash_input(const char *path, npo_hasher *hasher, npo_error *error)
{
    npo_file_list list = {0};
    npo_hash hash;
    uint64_t size;
    if (npo_file_list_tree(path, 1000, &list, NULL)) { /* not a folder */
        NPO_TRY(npo_hash_file(path, &hash, &size, error));
        npo_hasher_add(hasher, &hash, sizeof hash);
        return NPO_OK;
    }
    npo_err err = NPO_OK;
    for (size_t i = 0; !err && i < list.count; i++) {
        char *file = npo_file_join(path, list.paths[i]);
        err = npo_hash_file(file, &hash, &size, error);
        npo_hasher_add(hasher, list.paths[i], strlen(list.paths[i]));
        npo_hasher_add(hasher, &hash, sizeof hash);
        free(file);
    }
    npo_file_list_fini(&list);
    return err;
}

static npo_err find_seed(fake *self)
{
    const npo_task *task = self->task;
    char place[160];
    npo_hasher *hasher = NULL;
    NPO_TRY(npo_hasher_new(&hasher));
    int n = snprintf(place, sizeof place, "%lld %s %lld %d/%d of %d", (long long)task->spec->seed,
                     task->kind, (long long)task->round, task->shard, task->shards, task->world);
    npo_hasher_add(hasher, place, (size_t)n);
    npo_err err = NPO_OK;
    for (size_t i = 0; !err && i < task->input_count; i++) {
        npo_hasher_add(hasher, task->inputs[i].name, strlen(task->inputs[i].name));
        err = hash_input(task->inputs[i].path, hasher, self->error);
    }
    self->seed = npo_hasher_digest(hasher);
    npo_hasher_free(hasher);
    return err;
}

/* Every rank contributes its seed, and gets the same sum: an allreduce by way of the store. */
static npo_err join_gang(fake *self)
{
    const npo_task *task = self->task;
    const npo_task_services *services = self->services;
    npo_hash sum = {{0}};
    char key[32];
    if (task->world == 1)
        return NPO_OK;
    snprintf(key, sizeof key, "rank.%d", task->rank);
    NPO_TRY(services->store_set(services->self, key, &self->seed, sizeof self->seed));
    npo_crash_point("train.allreduce");
    for (int rank = 0; rank < task->world; rank++) {
        npo_hash part;
        size_t len = 0;
        snprintf(key, sizeof key, "rank.%d", rank);
        npo_err err =
            services->store_get(services->self, key, GANG_TIMEOUT_MS, &part, sizeof part, &len);
        if (err || len != sizeof part)
            return npo_error_set(self->error, err ? err : NPO_E_PEER, "rank %d did not come: %s",
                                 rank, npo_err_text(err));
        for (size_t i = 0; i < sizeof part; i++)
            sum.bytes[i] = (uint8_t)(sum.bytes[i] + part.bytes[i]);
    }
    self->seed = sum;
    return NPO_OK;
}

/* ---- outputs ---- */

static npo_err write_file(fake *self, const char *file, const char *salt, size_t bytes)
{
    char *path = npo_file_join(self->task->out_dir, file), *data = malloc(bytes + 1);
    npo_hash block = npo_hash_bytes(salt, strlen(salt));
    for (size_t i = 0; i < sizeof block; i++)
        block.bytes[i] ^= self->seed.bytes[i];
    for (size_t at = 0; data && at < bytes; at += sizeof block) {
        size_t n = bytes - at < sizeof block ? bytes - at : sizeof block;
        memcpy(data + at, block.bytes, n);
        block = npo_hash_bytes(&block, sizeof block);
    }
    npo_err err = path && data ? npo_file_write(path, data, bytes, 0644, self->error) : NPO_E_NOMEM;
    free(data);
    free(path);
    return err;
}

static npo_err publish(fake *self, const char *name, const char *file)
{
    npo_crash_point("task.output");
    return self->services->output(self->services->self, name, file);
}

static npo_err write_output(fake *self, const char *name, size_t bytes)
{
    NPO_TRY(write_file(self, name, name, bytes));
    return publish(self, name, name);
}

static npo_err write_folder(fake *self, const char *name, const char *const *files)
{
    for (; *files; files++) {
        char file[128], *sub;
        snprintf(file, sizeof file, "%s/%s", name, *files);
        sub = npo_file_join(self->task->out_dir, file);
        *strrchr(sub, '/') = '\0';
        npo_err err = npo_file_make_dirs(sub, self->error);
        free(sub);
        if (!err)
            err = write_file(self, file, file, 1000);
        if (err)
            return err;
    }
    return publish(self, name, name);
}

static npo_err outputs_of_pool(fake *self)
{
    if (strcmp(self->task->kind, "truncate") == 0)
        NPO_TRY(write_output(self, "segment", 5000));
    return write_output(self, "pool", 3000);
}

static npo_err outputs_of_train(fake *self)
{
    const npo_task *task = self->task;
    char pool[32];
    if (npo_json_bool(task->params, "fused", false)) {
        snprintf(pool, sizeof pool, "pool.%d", task->rank);
        NPO_TRY(write_output(self, pool, 3000));
    }
    if (task->rank != 0)
        return NPO_OK;
    npo_crash_point("checkpoint.write");
    return write_output(self, "checkpoint", (size_t)number_of(task, "bytes", 20000));
}

static npo_err outputs_of_sample(fake *self)
{
    static const char *const files[] = {"image-00000.png", "image-00001.png", "grid.png", NULL};
    char name[64];
    if (!npo_json_bool(self->task->params, "preview", false))
        return write_folder(self, "images", files);
    snprintf(name, sizeof name, "preview-%lld.png",
             (long long)npo_json_int(self->task->params, "step", 0));
    return write_output(self, name, 800);
}

static npo_err outputs_of_export(fake *self)
{
    static const char *const files[] = {"unet/config.json",
                                        "unet/diffusion_pytorch_model.safetensors", NULL};
    return write_folder(self, "model", files);
}

static npo_err outputs_of_evaluate(fake *self)
{
    char name[32];
    snprintf(name, sizeof name, "features.%d", self->task->shard);
    return write_output(self, name, 4000);
}

static npo_err outputs_of_report(fake *self)
{
    static const char *const names[] = {"metrics.json", "report.html", "grid-0.png"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        NPO_TRY(write_output(self, names[i], 500));
    return NPO_OK;
}

static const struct {
    const char *kind;
    npo_err (*outputs)(fake *self);
} kinds[] = {
    {"generate", outputs_of_pool}, {"truncate", outputs_of_pool}, {"train", outputs_of_train},
    {"sample", outputs_of_sample}, {"export", outputs_of_export}, {"evaluate", outputs_of_evaluate},
    {"report", outputs_of_report},
};

/* ---- a task ---- */

static npo_err run_steps(fake *self)
{
    const npo_task *task = self->task;
    const npo_task_services *services = self->services;
    int64_t first = npo_json_int(task->params, "first_step", 0);
    int64_t steps = npo_json_int(task->params, "steps", STEPS_DEFAULT);
    for (int64_t step = 1; step <= steps; step++) {
        char line[96];
        npo_task_progress progress = {first + step, first + steps, task->kind, NAN, 100.0};
        if (services->is_cancelled(services->self))
            return npo_error_set(self->error, NPO_E_CANCELLED, "cancelled at step %lld",
                                 (long long)step);
        wait_ms(number_of(task, "step-ms", 1));
        if (strcmp(task->kind, "train") == 0) {
            progress.loss = 1.0 / (double)(first + step);
            snprintf(line, sizeof line, "{\"step\":%lld,\"loss\":%.6f}", (long long)(first + step),
                     progress.loss);
            if (task->rank == 0)
                services->metrics(services->self, line);
            npo_crash_point("train.step");
        }
        services->progress(services->self, &progress);
    }
    return NPO_OK;
}

npo_err npo_task_run(const npo_task *task, npo_task_cache *cache, const npo_task_services *services,
                     npo_error *error)
{
    fake self = {.task = task, .services = services, .error = error};
    char line[160];
    npo_crash_point("task.start");
    snprintf(line, sizeof line, "%s round %lld attempt %d", task->kind, (long long)task->round,
             task->attempt);
    services->log(services->self, line);
    NPO_TRY(misbehave(&self));
    NPO_TRY(find_seed(&self));
    NPO_TRY(join_gang(&self));
    NPO_TRY(run_steps(&self));
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(kinds[i].kind, task->kind) == 0)
            return kinds[i].outputs(&self);
    return npo_error_set(error, NPO_E_FORMAT, "no task is called '%s'", task->kind);
}
