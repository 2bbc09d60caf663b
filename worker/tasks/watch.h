/* A denoiser that asks before each micro-batch whether the task was cancelled, and counts what it
 * does. */
#ifndef NPO_WORKER_TASKS_WATCH_H
#define NPO_WORKER_TASKS_WATCH_H

#include "worker/tasks/context.h"

typedef struct {
    npo_denoiser denoiser; /* what callers use; its self is this struct */
    const npo_denoiser *inner;
    npo_context *ctx;
    int64_t micro_batch;
    int64_t conditional, unconditional; /* samples evaluated with a prompt and with the empty one */
} npo_watch;

/* *watch must stay where it is while its denoiser is used. Borrows all. micro_batch: that of inner.
 */
void npo_watch_init(npo_watch *watch, npo_context *ctx, const npo_denoiser *inner,
                    int64_t micro_batch);

#endif
