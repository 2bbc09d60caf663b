#include "worker/tasks/sampling/drawer.h"

#include <assert.h>
#include <stdlib.h>

static npo_err new_denoiser(npo_drawer *drawer, npo_network *network, const npo_params *params,
                            npo_network_denoiser **ret_denoiser)
{
    return npo_network_denoiser_new(network, params, &drawer->setup->model->prompts,
                                    drawer->ctx->task->spec->sample.batch, ret_denoiser,
                                    drawer->ctx->error);
}

static npo_err add_second(npo_drawer *drawer, const npo_params *negative)
{
    npo_model *model = drawer->setup->model;
    NPO_TRY(
        npo_model_need_second(model, npo_loaded_backend(drawer->ctx->cache), drawer->ctx->error));
    NPO_TRY(new_denoiser(drawer, model->second, negative, &drawer->negative));
    npo_watch_init(&drawer->negative_watch, drawer->ctx, npo_network_denoiser_get(drawer->negative),
                   drawer->ctx->task->spec->sample.batch);
    return NPO_OK;
}

npo_err npo_drawer_init(npo_drawer *drawer, npo_context *ctx, const npo_setup *setup,
                        npo_spacing spacing, const npo_params *positive, const npo_params *negative)
{
    *drawer = (npo_drawer){.ctx = ctx,
                           .setup = setup,
                           .spacing = spacing,
                           .floats = npo_latent_floats(setup->model->latent)};
    NPO_TRY(npo_setup_check_pixels(ctx, setup->model));
    drawer->prompts = calloc((size_t)ctx->task->spec->sample.batch, sizeof *drawer->prompts);
    npo_err err = drawer->prompts ? NPO_OK : npo_context_fail(ctx, NPO_E_NOMEM, "prompts");
    if (err == NPO_OK)
        err = new_denoiser(drawer, setup->model->network, positive, &drawer->positive);
    if (err == NPO_OK) {
        npo_watch_init(&drawer->positive_watch, ctx, npo_network_denoiser_get(drawer->positive),
                       ctx->task->spec->sample.batch);
        if (negative)
            err = add_second(drawer, negative);
    }
    if (err != NPO_OK)
        npo_drawer_fini(drawer);
    return err;
}

void npo_drawer_fini(npo_drawer *drawer)
{
    npo_network_denoiser_free(drawer->positive);
    npo_network_denoiser_free(drawer->negative);
    free(drawer->prompts);
    drawer->positive = drawer->negative = NULL;
    drawer->prompts = NULL;
}

void npo_drawer_use_negative(npo_drawer *drawer, const npo_params *negative)
{
    npo_network_denoiser_use(drawer->negative, negative);
}

npo_err npo_drawer_run(npo_drawer *drawer, const npo_drawing *drawing, float *ret_x)
{
    const npo_job_sample *sample = &drawer->ctx->task->spec->sample;
    assert((!drawing->two || drawer->negative) && drawing->n <= sample->batch);
    npo_sampler_options options = {
        .settings = {drawer->setup->model->schedule, NPO_SAMPLER_DDIM, drawer->spacing, false,
                     sample->steps},
        .interval_start = sample->interval_start,
        .interval_end = sample->interval_end,
        .guidance =
            {
                .positive = &drawer->positive_watch.denoiser,
                .negative = drawing->two ? &drawer->negative_watch.denoiser
                                         : &drawer->positive_watch.denoiser,
                .w = (float)(drawing->scale - 1),
                .rescale = (float)sample->rescale,
            },
    };
    for (int64_t i = 0; i < drawing->n; i++) {
        int64_t image = drawing->first + i;
        drawer->prompts[i] = (int32_t)(image % (int64_t)drawer->setup->prompt_count);
        npo_sampler_noise(drawing->seed, (uint32_t)image, drawer->floats,
                          ret_x + (size_t)i * drawer->floats);
    }
    NPO_TRY(
        npo_sampler_run(&options, drawing->n, ret_x, drawer->prompts, NULL, drawer->ctx->error));
    for (size_t i = 0; i < (size_t)drawing->n * drawer->floats; i++)
        ret_x[i] = ret_x[i] < -1 ? -1 : ret_x[i] > 1 ? 1 : ret_x[i];
    return NPO_OK;
}
