#include "worker/tasks/training/slots.h"

#include <stdlib.h>

static npo_err check(npo_context *ctx, const npo_slots *s, int parts)
{
    const npo_job *job = ctx->task->spec;
    if (s->first_step < 0 || s->steps < 1 || s->steps > job->round_steps)
        return npo_error_set(
            ctx->error, NPO_E_USAGE,
            "task '%s' is to do %lld steps from step %lld, expected 1 to %lld steps "
            "from 0 or later",
            ctx->task->kind, (long long)s->steps, (long long)s->first_step,
            (long long)job->round_steps);
    if (job->train.batch % parts != 0 || s->local % s->micro_batch != 0)
        return npo_error_set(
            ctx->error, NPO_E_USAGE,
            "a batch of %lld cannot be shared by %d ranks in micro-batches of %lld",
            (long long)job->train.batch, parts, (long long)s->micro_batch);
    return NPO_OK;
}

npo_err npo_slots_init(npo_context *ctx, int part, int parts, npo_slots *ret_slots)
{
    const npo_job *job = ctx->task->spec;
    npo_slots s = {
        .local = job->train.batch / parts,
        .round_steps = job->round_steps,
        .first_step = npo_json_int(ctx->task->params, "first_step", -1),
        .steps = npo_json_int(ctx->task->params, "steps", -1),
    };
    s.micro_batch = job->train.micro_batch ? job->train.micro_batch : s.local;
    NPO_TRY(check(ctx, &s, parts));
    s.count = job->round_steps * s.local;
    s.slots = calloc((size_t)s.count, sizeof *s.slots);
    if (!s.slots)
        return npo_context_fail(ctx, NPO_E_NOMEM, "slots");
    for (int64_t i = 0; i < s.count; i++)
        s.slots[i] = i / s.local * job->train.batch + part * s.local + i % s.local;
    *ret_slots = s;
    return NPO_OK;
}

void npo_slots_fini(npo_slots *slots)
{
    free(slots->slots);
    *slots = (npo_slots){0};
}

int64_t npo_slots_row(const npo_slots *slots, int64_t step)
{
    return step % slots->round_steps * slots->local;
}

void npo_slots_used(const npo_slots *slots, int64_t *ret_slots)
{
    int64_t first = slots->first_step % slots->round_steps, at = 0;
    for (int64_t row = 0; row < slots->round_steps; row++) {
        int64_t after = (row - first + slots->round_steps) % slots->round_steps;
        for (int64_t i = 0; after < slots->steps && i < slots->local; i++)
            ret_slots[at++] = slots->slots[row * slots->local + i];
    }
}
