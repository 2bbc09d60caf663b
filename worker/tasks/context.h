/* What every task kind gets, and the few things all of them do: look up inputs and settings,
 * report, publish, stop when cancelled. Internal to worker/tasks. */
#ifndef NPO_WORKER_TASKS_CONTEXT_H
#define NPO_WORKER_TASKS_CONTEXT_H

#include "common/buf.h"
#include "worker/tasks/loaded/loaded.h"
#include "worker/tasks/task.h"

typedef struct {
    const npo_task *task;
    npo_task_cache *cache;
    const npo_task_services *services;
    npo_error *error;
    int64_t started_ms; /* of the phase that progress counts */
} npo_context;

/* Path of an input that must be there. Errors: NPO_E_USAGE. */
npo_err npo_context_input(npo_context *ctx, const char *name, const char **ret_path) NPO_MUST_CHECK;
/* Inputs called "<name>" or "<name>.<anything>", in the order given: their number, and the i-th. */
size_t npo_context_input_count(const npo_context *ctx, const char *name);
const char *npo_context_input_at(const npo_context *ctx, const char *name, size_t index);

/* "<out_dir>/<file>", malloc'ed. Errors: NPO_E_NOMEM. */
npo_err npo_context_out(npo_context *ctx, const char *file, char **ret_path) NPO_MUST_CHECK;
/* Publishes out_dir/file as output `name`. */
npo_err npo_context_publish(npo_context *ctx, const char *name, const char *file) NPO_MUST_CHECK;

/* NPO_E_CANCELLED once the process around wants the task to stop. */
npo_err npo_context_check(npo_context *ctx) NPO_MUST_CHECK;
/* Begins a phase: samples a second are counted from here. */
void npo_context_start(npo_context *ctx);
/* samples: done since npo_context_start. Returns samples a second, 0 where no time has passed. */
double npo_context_progress(npo_context *ctx, const char *phase, int64_t step, int64_t steps,
                            double loss, int64_t samples);
void npo_context_log(npo_context *ctx, const char *format, ...) NPO_PRINTF(2, 3);
/* One line of metrics; what did not fit into memory is left out with a line in the log. */
void npo_context_metrics(npo_context *ctx, npo_buf *line);

/* ctx->error with the text of a bare code: `what` names the thing. */
npo_err npo_context_fail(npo_context *ctx, npo_err code, const char *what) NPO_MUST_CHECK;

#endif
