#include "worker/tasks/kinds.h"
#include "worker/tasks/training/roll.h"

#include <math.h>
#include <stdlib.h>

/* The segment has the slots of this task's steps alone, as part, which is gathered from the pool.
 */
static npo_err cut(npo_roll *roll, const npo_slots *slots, const npo_pool *part,
                   npo_segment *segment)
{
    npo_context_start(roll->ctx);
    for (int64_t i = 0; i < slots->steps; i++) {
        NPO_TRY(npo_roll_truncate(roll, part, i * slots->local, slots->local, segment));
        npo_context_progress(roll->ctx, "truncate", i + 1, slots->steps, NAN,
                             (i + 1) * slots->local);
    }
    npo_roll_report(roll, "truncate");
    npo_trajectory_rms rms = npo_trajectory_measure(segment);
    npo_context_log(
        roll->ctx,
        "round %lld: RMS of the cuts %.4f, at most %.3f times the schedule's (slot %lld)",
        (long long)roll->ctx->task->round, rms.rms, rms.ratio_max, (long long)rms.worst_slot);
    return NPO_OK;
}

static npo_err save(npo_context *ctx, const npo_segment *segment, const npo_pool *pool)
{
    char *segment_path = NULL, *pool_path = NULL;
    npo_err err = npo_context_out(ctx, "segment.safetensors", &segment_path);
    if (err == NPO_OK)
        err = npo_context_out(ctx, "pool.safetensors", &pool_path);
    if (err == NPO_OK)
        err = npo_segment_save(segment, segment_path, ctx->error);
    if (err == NPO_OK)
        err = npo_pool_save(pool, pool_path, ctx->error);
    if (err == NPO_OK)
        err = npo_context_publish(ctx, "segment", "segment.safetensors");
    if (err == NPO_OK)
        err = npo_context_publish(ctx, "pool", "pool.safetensors");
    free(segment_path);
    free(pool_path);
    return err;
}

static npo_err gather_used(npo_context *ctx, const npo_slots *slots, const npo_pool *pool,
                           npo_pool *ret_part)
{
    int64_t count = slots->steps * slots->local;
    int64_t *used = calloc((size_t)count, sizeof *used);
    if (!used)
        return npo_context_fail(ctx, NPO_E_NOMEM, "slots");
    npo_slots_used(slots, used);
    npo_err err = npo_pool_gather(pool, 1, count, used, ret_part, ctx->error);
    free(used);
    return err;
}

static npo_err truncate_round(npo_context *ctx, npo_roll *roll, const npo_slots *slots)
{
    npo_pool pool = {0}, part = {0};
    npo_segment segment = {0};
    npo_err err = npo_roll_pool(roll, slots, &pool);
    if (err == NPO_OK)
        err = gather_used(ctx, slots, &pool, &part);
    if (err == NPO_OK && npo_segment_init(&segment, roll->shape, part.count) != NPO_OK)
        err = npo_context_fail(ctx, NPO_E_NOMEM, "segment");
    if (err == NPO_OK)
        err = cut(roll, slots, &part, &segment);
    if (err == NPO_OK)
        err = save(ctx, &segment, &pool);
    npo_segment_fini(&segment);
    npo_pool_fini(&part);
    npo_pool_fini(&pool);
    return err;
}

npo_err npo_kind_truncate(npo_context *ctx)
{
    npo_setup setup = {0};
    npo_slots slots = {0};
    npo_roll roll = {0};
    const npo_params *target = NULL;
    const char *pool = NULL;
    npo_err err = npo_context_input(ctx, "pool", &pool);
    if (err == NPO_OK)
        err = npo_setup_open(ctx, false, &setup);
    if (err == NPO_OK)
        err = npo_slots_init(ctx, ctx->task->shard, ctx->task->shards, &slots);
    if (err == NPO_OK)
        err = npo_roll_target(ctx, &setup, &target);
    if (err == NPO_OK)
        err = npo_roll_init(&roll, ctx, &setup, slots.micro_batch, target);
    if (err == NPO_OK)
        err = truncate_round(ctx, &roll, &slots);
    npo_roll_fini(&roll);
    npo_slots_fini(&slots);
    npo_setup_fini(&setup);
    return err;
}
