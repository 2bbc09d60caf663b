/* A task, as the executor runs it: one function per kind, in a table. A task reads input files,
 * writes output files, and reports; it knows nothing of leases, sockets or the coordinator. All
 * randomness comes from the job's seed and the slot numbers, so that a repeated attempt gives the
 * same bytes. */
#ifndef NPO_WORKER_TASKS_TASK_H
#define NPO_WORKER_TASKS_TASK_H

#include "common/err.h"
#include "kernels/backend.h"
#include "proto/job.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const char *name; /* "model", "checkpoint", "pool.0", "segment.1", "data" */
    const char *path; /* a file, or a folder where the artifact is a manifest */
} npo_task_input;

typedef struct {
    int64_t task, job;
    int attempt;
    int rank, world;   /* of this process within the task's gang */
    int shard, shards; /* which part of the slots a single-rank task covers */
    const char
        *kind; /* "generate", "truncate", "train", "sample", "evaluate", "report", "export" */
    int64_t round;
    const cJSON *params; /* the task's own settings, see server/expand.c */
    const npo_job *spec;
    const npo_task_input *inputs;
    size_t input_count;
    const char *out_dir; /* exists, empty; outputs are written here */
} npo_task;

typedef struct {
    int64_t step, steps; /* 0, 0: not counted in steps */
    const char *phase;   /* "generate", "train", "sample" ... */
    double loss;         /* NaN: none yet */
    double samples_per_s;
} npo_task_progress;

/* What a task may ask of the process around it. All functions may be called from the task's thread
 * only; self is theirs. */
typedef struct npo_task_services {
    void *self;
    void (*progress)(void *self, const npo_task_progress *progress);
    void (*metrics)(void *self, const char *json_line); /* without the newline */
    void (*log)(void *self, const char *line);
    /* Publishes out_dir/file (a file, or a folder which becomes a manifest) as output `name`. */
    npo_err (*output)(void *self, const char *name, const char *file);
    bool (*is_cancelled)(void *self);
    /* Rendezvous of a gang, scoped to this attempt. get waits until the key is set or timeout_ms.
     */
    npo_err (*store_set)(void *self, const char *key, const void *value, size_t len);
    npo_err (*store_get)(void *self, const char *key, int64_t timeout_ms, void *ret_value,
                         size_t size, size_t *ret_len);
} npo_task_services;

/* Lives as long as the executor: backend, loaded models, planned graphs, text embeddings. Opaque.
 */
typedef struct npo_task_cache npo_task_cache;

npo_err npo_task_cache_new(npo_backend *backend_take, npo_task_cache **ret_cache) NPO_MUST_CHECK;
/* Bytes that the process may use, 0 as at first: what the machine has. */
void npo_task_cache_set_memory(npo_task_cache *cache, size_t bytes);
void npo_task_cache_free(npo_task_cache *cache);

/* Runs one task to its end. NPO_E_CANCELLED when is_cancelled() said so. Which errors are final
 * (the same inputs would fail again) is npo_task_error_is_final. */
npo_err npo_task_run(const npo_task *task, npo_task_cache *cache, const npo_task_services *services,
                     npo_error *error) NPO_MUST_CHECK;
bool npo_task_error_is_final(npo_err code);

/* Path of an input by name, or NULL. */
const char *npo_task_input_path(const npo_task *task, const char *name);

#endif
