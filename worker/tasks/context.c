#include "worker/tasks/context.h"

#include "common/clock.h"
#include "common/crash.h"
#include "common/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *npo_task_input_path(const npo_task *task, const char *name)
{
    for (size_t i = 0; i < task->input_count; i++)
        if (strcmp(task->inputs[i].name, name) == 0)
            return task->inputs[i].path;
    return NULL;
}

npo_err npo_context_input(npo_context *ctx, const char *name, const char **ret_path)
{
    const char *path = npo_task_input_path(ctx->task, name);
    if (!path)
        return npo_error_set(ctx->error, NPO_E_USAGE, "task '%s' of round %lld has no input '%s'",
                             ctx->task->kind, (long long)ctx->task->round, name);
    *ret_path = path;
    return NPO_OK;
}

static bool is_called(const char *input, const char *name)
{
    size_t len = strlen(name);
    return strncmp(input, name, len) == 0 && (input[len] == 0 || input[len] == '.');
}

size_t npo_context_input_count(const npo_context *ctx, const char *name)
{
    size_t count = 0;
    for (size_t i = 0; i < ctx->task->input_count; i++)
        count += is_called(ctx->task->inputs[i].name, name);
    return count;
}

const char *npo_context_input_at(const npo_context *ctx, const char *name, size_t index)
{
    for (size_t i = 0; i < ctx->task->input_count; i++)
        if (is_called(ctx->task->inputs[i].name, name) && index-- == 0)
            return ctx->task->inputs[i].path;
    return NULL;
}

npo_err npo_context_out(npo_context *ctx, const char *file, char **ret_path)
{
    char *path = npo_file_join(ctx->task->out_dir, file);
    if (!path)
        return npo_context_fail(ctx, NPO_E_NOMEM, file);
    *ret_path = path;
    return NPO_OK;
}

npo_err npo_context_publish(npo_context *ctx, const char *name, const char *file)
{
    npo_crash_point("task.output");
    npo_err err = ctx->services->output(ctx->services->self, name, file);
    if (err != NPO_OK)
        npo_error_set(ctx->error, err, "cannot publish output '%s': %s", name, npo_err_text(err));
    return err;
}

npo_err npo_context_check(npo_context *ctx)
{
    if (ctx->services->is_cancelled(ctx->services->self))
        return npo_error_set(ctx->error, NPO_E_CANCELLED, "task '%s' was cancelled",
                             ctx->task->kind);
    return NPO_OK;
}

void npo_context_start(npo_context *ctx)
{
    ctx->started_ms = npo_clock_ms();
}

double npo_context_progress(npo_context *ctx, const char *phase, int64_t step, int64_t steps,
                            double loss, int64_t samples)
{
    int64_t ms = npo_clock_ms() - ctx->started_ms;
    npo_task_progress progress = {
        .step = step,
        .steps = steps,
        .phase = phase,
        .loss = loss,
        .samples_per_s = ms > 0 ? (double)samples * 1000 / (double)ms : 0,
    };
    ctx->services->progress(ctx->services->self, &progress);
    return progress.samples_per_s;
}

void npo_context_log(npo_context *ctx, const char *format, ...)
{
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    ctx->services->log(ctx->services->self, line);
}

void npo_context_metrics(npo_context *ctx, npo_buf *line)
{
    if (npo_buf_err(line) == NPO_OK && line->len > 0)
        ctx->services->metrics(ctx->services->self, line->data);
    else
        npo_context_log(ctx, "a line of metrics is missing: %s", npo_err_text(npo_buf_err(line)));
}

npo_err npo_context_fail(npo_context *ctx, npo_err code, const char *what)
{
    return npo_error_set(ctx->error, code, "task '%s' failed at '%s': %s", ctx->task->kind, what,
                         npo_err_text(code));
}
