#include "worker/tasks/training/roll.h"

#include <stdlib.h>

bool npo_roll_needs_data(const npo_job *job)
{
    return job->generate.starts == NPO_STARTS_LATENTS;
}

static npo_err get_latent(void *self, int64_t index, float *ret_x, int32_t *ret_prompt,
                          npo_error *error)
{
    const npo_roll *roll = self;
    if (!roll->setup->data)
        return npo_error_set(error, NPO_E_STATE, "a trajectory starts in a task without images");
    *ret_prompt = npo_dataset_prompt_of(roll->setup->data, index);
    return npo_setup_sample(roll->setup, index, ret_x, error);
}

static void set_options(npo_roll *roll, const npo_setup *setup)
{
    const npo_job *job = roll->ctx->task->spec;
    roll->options = (npo_trajectory_options){
        .schedule = setup->model->schedule,
        .solver_steps = job->generate.solver_steps,
        .segment_steps = job->generate.segment_steps,
        .w = job->generate.w_gen,
        .starts = (npo_starts)job->generate.starts,
        .stagger = job->generate.stagger,
        .seed = (uint64_t)job->seed,
        .prompt_count = (int64_t)setup->prompt_count,
        .rms_ratio_max = NPO_TRAJECTORY_RMS_RATIO_MAX,
    };
    if (roll->options.starts != NPO_STARTS_LATENTS)
        return;
    /* Cutting starts no trajectory, so truncate has no images: its source is there to say so. */
    roll->source =
        (npo_latent_source){roll, setup->data ? npo_dataset_count(setup->data) : 1, get_latent};
    roll->options.latents = &roll->source;
}

npo_err npo_roll_init(npo_roll *roll, npo_context *ctx, const npo_setup *setup, int64_t micro_batch,
                      const npo_params *params)
{
    npo_model *model = setup->model;
    npo_network *network = NULL;
    *roll = (npo_roll){.ctx = ctx, .setup = setup, .shape = model->latent};
    set_options(roll, setup);
    npo_err err =
        npo_trajectory_new(&roll->options, model->latent, micro_batch * NPO_ROLL_MICRO_BATCHES,
                           &roll->trajectory, ctx->error);
    if (err == NPO_OK)
        err = npo_model_network_of(model, npo_loaded_backend(ctx->cache), params, &network,
                                   ctx->error);
    if (err == NPO_OK)
        err = npo_network_denoiser_new(network, params, &model->prompts, micro_batch,
                                       &roll->network_denoiser, ctx->error);
    if (err == NPO_OK)
        npo_network_set_plan(network, npo_setup_plan(ctx, ctx->task->spec->train.compute));
    if (err != NPO_OK) {
        npo_roll_fini(roll);
        return err;
    }
    npo_watch_init(&roll->watch, ctx, npo_network_denoiser_get(roll->network_denoiser),
                   micro_batch);
    return NPO_OK;
}

void npo_roll_fini(npo_roll *roll)
{
    npo_network_denoiser_free(roll->network_denoiser);
    npo_trajectory_free(roll->trajectory);
    roll->network_denoiser = NULL;
    roll->trajectory = NULL;
}

/* ---- pool ---- */

static npo_err load_pools(const npo_roll *roll, size_t count, npo_pool *pools)
{
    for (size_t i = 0; i < count; i++)
        NPO_TRY(npo_pool_load(npo_context_input_at(roll->ctx, "pool", i), roll->shape, &pools[i],
                              roll->ctx->error));
    return NPO_OK;
}

static npo_err fresh_pool(const npo_roll *roll, const npo_slots *slots, npo_pool *ret_pool)
{
    npo_err err = npo_pool_init(ret_pool, roll->shape, slots->count, slots->slots,
                                npo_trajectory_has_branch(&roll->options));
    return err == NPO_OK ? err : npo_context_fail(roll->ctx, err, "pool");
}

npo_err npo_roll_pool(const npo_roll *roll, const npo_slots *slots, npo_pool *ret_pool)
{
    size_t count = npo_context_input_count(roll->ctx, "pool");
    if (count == 0)
        return fresh_pool(roll, slots, ret_pool);
    npo_pool *pools = calloc(count, sizeof *pools);
    if (!pools)
        return npo_context_fail(roll->ctx, NPO_E_NOMEM, "pool");
    npo_err err = load_pools(roll, count, pools);
    if (err == NPO_OK)
        err = npo_pool_gather(pools, (int64_t)count, slots->count, slots->slots, ret_pool,
                              roll->ctx->error);
    for (size_t i = 0; i < count; i++)
        npo_pool_fini(&pools[i]);
    free(pools);
    return err;
}

npo_err npo_roll_generate(npo_roll *roll, npo_pool *pool, int64_t first, int64_t n)
{
    return npo_trajectory_generate(roll->trajectory, &roll->watch.denoiser, pool, first, n,
                                   roll->ctx->error);
}

npo_err npo_roll_truncate(npo_roll *roll, const npo_pool *pool, int64_t first, int64_t n,
                          npo_segment *segment)
{
    return npo_trajectory_truncate(roll->trajectory, &roll->watch.denoiser, pool, first, n, segment,
                                   roll->ctx->error);
}

void npo_roll_report(npo_roll *roll, const char *phase)
{
    npo_buf line = NPO_BUF_INIT;
    npo_buf_printf(&line,
                   "{\"phase\": \"%s\", \"round\": %lld, \"conditional\": %lld, "
                   "\"unconditional\": %lld}",
                   phase, (long long)roll->ctx->task->round, (long long)roll->watch.conditional,
                   (long long)roll->watch.unconditional);
    npo_context_metrics(roll->ctx, &line);
    npo_buf_fini(&line);
}

npo_err npo_roll_target(npo_context *ctx, const npo_setup *setup, const npo_params **ret_params)
{
    const char *checkpoint = npo_task_input_path(ctx->task, "checkpoint");
    if (checkpoint)
        return npo_loaded_weights(ctx->cache, checkpoint, NPO_LOADED_EMA, ret_params, ctx->error);
    NPO_TRY(npo_model_need_base(setup->model, ret_params, ctx->error));
    if (!*ret_params)
        return npo_error_set(ctx->error, NPO_E_NOT_FOUND,
                             "model '%s' has no weights, expected a trained model to start from",
                             setup->model->folder.root);
    return NPO_OK;
}
