/* The executor process: owns the device, keeps models loaded from task to task, runs one task at a
 * time by npo_task_run (worker/tasks). It knows nothing of npod: what it needs is fetched for it,
 * what it makes is published for it. */
#ifndef NPO_WORKER_EXECUTOR_EXECUTOR_H
#define NPO_WORKER_EXECUTOR_EXECUTOR_H

#include "common/err.h"
#include <stddef.h>

typedef struct {
    const char *device; /* "cpu" */
    const char *isa;    /* NULL: best of this machine */
    int threads;
    size_t memory_bytes; /* 0: what the machine has */
    const char *state_dir;
} npo_executor_options;

/* Runs until the supervisor is gone; returns only on failure. Errors: no backend, device lock. */
npo_err npo_executor_run(const npo_executor_options *options, npo_error *error) NPO_MUST_CHECK;

#endif
