#include "tests/unit/tasks/local.h"

#include "common/clock.h"
#include "common/file.h"
#include "kernels/comm/comm.h"
#include "server/expand.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATH_SIZE = 4096, INPUTS_MAX = 64, PRINT_MS = 2000 };

/* ---- services ---- */

static void on_progress(void *self, const npo_task_progress *progress)
{
    local_process *process = self;
    int64_t now = npo_clock_ms();
    if (!process->print || now - process->printed_ms < PRINT_MS)
        return;
    process->printed_ms = now;
    fprintf(stderr, "  %s %lld/%lld loss %.5f %.1f samples/s\n", progress->phase,
            (long long)progress->step, (long long)progress->steps, progress->loss,
            progress->samples_per_s);
}

static void on_metrics(void *self, const char *json_line)
{
    local_process *process = self;
    npo_buf_printf(&process->metrics, "%s\n", json_line);
}

static void on_log(void *self, const char *line)
{
    local_process *process = self;
    npo_buf_printf(&process->log, "%s\n", line);
    if (process->print)
        fprintf(stderr, "  %s\n", line);
}

static npo_err on_output(void *self, const char *name, const char *file)
{
    local_process *process = self;
    char target[PATH_SIZE], link[PATH_SIZE];
    if (process->fail_output)
        return NPO_E_FULL;
    snprintf(target, sizeof target, "%s/%s", process->out_dir, file);
    snprintf(link, sizeof link, "%s/%s", process->folder, name);
    if (!npo_file_exists(target))
        return NPO_E_NOT_FOUND;
    unlink(link);
    return symlink(target, link) == 0 ? NPO_OK : npo_err_from_errno(errno);
}

static bool on_is_cancelled(void *self)
{
    local_process *process = self;
    return ++process->checks == process->cancel_at;
}

static npo_err on_store_set(void *self, const char *key, const void *value, size_t len)
{
    npo_comm_store *store = ((local_process *)self)->store;
    return store->set(store->self, key, value, len);
}

static npo_err on_store_get(void *self, const char *key, int64_t timeout_ms, void *ret_value,
                            size_t size, size_t *ret_len)
{
    npo_comm_store *store = ((local_process *)self)->store;
    return store->get(store->self, key, timeout_ms, ret_value, size, ret_len);
}

npo_task_services local_services(local_process *process)
{
    return (npo_task_services){process,   on_progress,     on_metrics,   on_log,
                               on_output, on_is_cancelled, on_store_set, on_store_get};
}

/* ---- one rank of one task ---- */

typedef struct {
    const npo_job *job;
    const npo_expansion *expansion;
    const char *dir;
    const local_options *options;
    npo_task_cache *cache; /* world 1: kept between tasks */
} local_job;

static npo_err new_cache(const local_options *options, npo_task_cache **ret_cache, npo_error *error)
{
    npo_backend *backend = NULL;
    npo_backend_options backend_options = {.device = "cpu", .threads = options->threads};
    NPO_TRY(npo_backend_new(&backend_options, &backend, error));
    return npo_task_cache_new(backend, ret_cache);
}

/* A reference of the job file is a path already. */
static const char *path_of(const local_options *options, const char *hash)
{
    const char *const *pair = options->artifacts;
    for (; pair && pair[0]; pair += 2)
        if (strcmp(pair[0], hash) == 0)
            return pair[1];
    return hash;
}

static size_t collect_inputs(const local_job *l, const npo_expand_task *task, int rank,
                             npo_task_input *inputs, char (*paths)[PATH_SIZE])
{
    size_t count = 0;
    for (size_t i = 0; i < task->input_count && count < INPUTS_MAX; i++) {
        const npo_expand_input *input = &task->inputs[i];
        if (input->rank >= 0 && input->rank != rank)
            continue;
        if (input->hash)
            snprintf(paths[count], PATH_SIZE, "%s", path_of(l->options, input->hash));
        else
            snprintf(paths[count], PATH_SIZE, "%s/task-%lld/%s", l->dir, (long long)input->source,
                     input->output);
        inputs[count] = (npo_task_input){input->name, paths[count]};
        count++;
    }
    return count;
}

static void write_lines(const char *folder, const char *name, int rank, const npo_buf *lines)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/%s.%d", folder, name, rank);
    if (npo_file_write(path, lines->data ? lines->data : "", lines->len, 0644, NULL) != NPO_OK)
        fprintf(stderr, "cannot write '%s'\n", path);
}

static npo_err run_rank(const local_job *l, size_t index, int rank, npo_task_cache *cache,
                        npo_error *error)
{
    const npo_expand_task *from = &l->expansion->tasks[index];
    char folder[PATH_SIZE / 2], out_dir[PATH_SIZE], store_dir[PATH_SIZE];
    static char paths[INPUTS_MAX][PATH_SIZE];
    npo_task_input inputs[INPUTS_MAX];
    npo_comm_store store = {0};
    snprintf(folder, sizeof folder, "%s/task-%zu", l->dir, index);
    snprintf(out_dir, sizeof out_dir, "%s/rank-%d", folder, rank);
    snprintf(store_dir, sizeof store_dir, "%s/store", folder);
    NPO_TRY(npo_file_make_dirs(out_dir, error));
    NPO_TRY(npo_file_make_dirs(store_dir, error));
    NPO_TRY(npo_comm_store_new_dir(store_dir, &store, error));
    local_process process = {.folder = folder,
                             .out_dir = out_dir,
                             .store = &store,
                             .print = l->options->print && rank == 0};
    npo_task_services services = local_services(&process);
    cJSON *params = cJSON_Parse(from->params);
    npo_task task = {
        .task = (int64_t)index,
        .job = 1,
        .attempt = 1,
        .rank = rank,
        .world = from->world,
        .shard = from->shard,
        .shards = from->shards,
        .kind = from->kind,
        .round = from->round,
        .params = params,
        .spec = l->job,
        .inputs = inputs,
        .input_count = collect_inputs(l, from, rank, inputs, paths),
        .out_dir = out_dir,
    };
    npo_err err = npo_task_run(&task, cache, &services, error);
    write_lines(folder, "metrics", rank, &process.metrics);
    write_lines(folder, "log", rank, &process.log);
    npo_buf_fini(&process.metrics);
    npo_buf_fini(&process.log);
    npo_comm_store_fini_dir(&store);
    cJSON_Delete(params);
    return err;
}

/* A process of its own, with a backend of its own: threads do not survive a fork. */
static pid_t fork_rank(const local_job *l, size_t index, int rank)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    npo_task_cache *cache = NULL;
    npo_error error = {0};
    npo_err err = new_cache(l->options, &cache, &error);
    if (err == NPO_OK)
        err = run_rank(l, index, rank, cache, &error);
    if (err != NPO_OK)
        fprintf(stderr, "rank %d of task %zu: %s: %s\n", rank, index, npo_err_name(err),
                error.text);
    _exit(err == NPO_OK ? 0 : 1);
}

static npo_err run_forked(const local_job *l, size_t index, npo_error *error)
{
    int world = l->expansion->tasks[index].world, failed = 0;
    pid_t pids[64];
    for (int rank = 0; rank < world; rank++)
        pids[rank] = fork_rank(l, index, rank);
    for (int rank = 0; rank < world; rank++) {
        int status = 1;
        failed += pids[rank] < 0 || waitpid(pids[rank], &status, 0) < 0 || status != 0;
    }
    return failed ? npo_error_set(error, NPO_E_PEER, "%d of %d ranks of task %zu failed", failed,
                                  world, index)
                  : NPO_OK;
}

/* ---- jobs ---- */

static npo_err run_task(local_job *l, size_t index, npo_error *error)
{
    const npo_expand_task *task = &l->expansion->tasks[index];
    if (l->options->print)
        fprintf(stderr, "task %zu of %zu: %s round %lld shard %d/%d ranks %d %s\n", index,
                l->expansion->count, task->kind, (long long)task->round, task->shard, task->shards,
                task->world, task->params);
    if (l->expansion->workers > 1 || l->options->fork_all)
        return run_forked(l, index, error);
    if (l->options->fresh_cache) {
        npo_task_cache_free(l->cache);
        l->cache = NULL;
    }
    if (!l->cache)
        NPO_TRY(new_cache(l->options, &l->cache, error));
    return run_rank(l, index, 0, l->cache, error);
}

/* dir/last-NAME -> dir/task-i/NAME for what the task published. */
static void link_last(const local_job *l, size_t index)
{
    static const char *const names[] = {"checkpoint", "model", "metrics.json", "report.html",
                                        "images"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char target[PATH_SIZE], link[PATH_SIZE];
        snprintf(target, sizeof target, "%s/task-%zu/%s", l->dir, index, names[i]);
        snprintf(link, sizeof link, "%s/last-%s", l->dir, names[i]);
        if (!npo_file_exists(target))
            continue;
        unlink(link);
        if (symlink(target, link) != 0)
            fprintf(stderr, "cannot link '%s'\n", link);
    }
}

/* A local run takes paths where npod takes the hashes of what npoctl imported. */
static void take_paths(npo_job *job)
{
    npo_job_ref *refs[] = {&job->model, &job->negative, &job->positive, &job->data, &job->evaluate.classifier,
                           &job->evaluate.data};
    for (size_t i = 0; i < sizeof refs / sizeof *refs; i++)
        if (refs[i]->path)
            refs[i]->artifact = refs[i]->path;
}

npo_err local_job_run(cJSON *spec, const char *dir, const local_options *options, npo_error *error)
{
    npo_job job;
    npo_expansion expansion = {0};
    NPO_TRY(npo_job_read(spec, &job, error));
    take_paths(&job);
    char full[PATH_SIZE / 4];
    NPO_TRY(npo_file_make_dirs(dir, error));
    if (strlen(dir) >= sizeof full - 256 || !realpath(dir, full))
        return npo_error_set(error, NPO_E_LIMIT, "cannot use the folder '%s'", dir);
    NPO_TRY(npo_expand(&job, &expansion, error));
    local_job l = {&job, &expansion, full, options, NULL};
    npo_err err = NPO_OK;
    size_t count = expansion.count;
    if (options->only_tasks > 0 && (size_t)options->only_tasks < count)
        count = (size_t)options->only_tasks;
    for (size_t i = 0; err == NPO_OK && i < count; i++) {
        err = run_task(&l, i, error);
        if (err == NPO_OK)
            link_last(&l, i);
    }
    npo_task_cache_free(l.cache);
    npo_expansion_fini(&expansion);
    return err;
}
