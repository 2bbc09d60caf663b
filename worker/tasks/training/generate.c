#include "worker/tasks/kinds.h"
#include "worker/tasks/training/roll.h"

#include <math.h>
#include <stdlib.h>

/* Steps of the task whose slots are advanced together: neighbours in the pool, as many as fill a
 * call. */
static int64_t steps_together(const npo_slots *slots, int64_t done)
{
    int64_t row = (slots->first_step + done) % slots->round_steps;
    int64_t count = slots->micro_batch * NPO_ROLL_MICRO_BATCHES / slots->local;
    count = count < 1 ? 1 : count;
    count = count < slots->steps - done ? count : slots->steps - done;
    return count < slots->round_steps - row ? count : slots->round_steps - row;
}

static npo_err advance(npo_roll *roll, const npo_slots *slots, npo_pool *pool)
{
    npo_context_start(roll->ctx);
    for (int64_t done = 0; done < slots->steps;) {
        int64_t count = steps_together(slots, done);
        int64_t row = npo_slots_row(slots, slots->first_step + done);
        NPO_TRY(npo_roll_generate(roll, pool, row, count * slots->local));
        done += count;
        npo_context_progress(roll->ctx, "generate", done, slots->steps, NAN, done * slots->local);
    }
    npo_roll_report(roll, "generate");
    return NPO_OK;
}

static npo_err save(npo_context *ctx, const npo_pool *pool)
{
    char *path = NULL;
    NPO_TRY(npo_context_out(ctx, "pool.safetensors", &path));
    npo_err err = npo_pool_save(pool, path, ctx->error);
    free(path);
    return err == NPO_OK ? npo_context_publish(ctx, "pool", "pool.safetensors") : err;
}

npo_err npo_kind_generate(npo_context *ctx)
{
    npo_setup setup = {0};
    npo_slots slots = {0};
    npo_roll roll = {0};
    npo_pool pool = {0};
    const npo_params *target = NULL;
    npo_err err = npo_setup_open(ctx, npo_roll_needs_data(ctx->task->spec), &setup);
    if (err == NPO_OK)
        err = npo_slots_init(ctx, ctx->task->shard, ctx->task->shards, &slots);
    if (err == NPO_OK)
        err = npo_roll_target(ctx, &setup, &target);
    if (err == NPO_OK)
        err = npo_roll_init(&roll, ctx, &setup, slots.micro_batch, target);
    if (err == NPO_OK)
        err = npo_roll_pool(&roll, &slots, &pool);
    if (err == NPO_OK)
        err = advance(&roll, &slots, &pool);
    if (err == NPO_OK)
        err = save(ctx, &pool);
    npo_pool_fini(&pool);
    npo_roll_fini(&roll);
    npo_slots_fini(&slots);
    npo_setup_fini(&setup);
    return err;
}
