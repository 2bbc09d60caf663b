#include "worker/tasks/sampling/drawer.h"

#include <assert.h>
#include <stdlib.h>

static npo_err new_denoiser(npo_drawer *drawer, npo_network *network, const npo_params *params,
                            npo_network_denoiser **ret_denoiser)
{
    npo_context *ctx = drawer->ctx;
    npo_network_set_plan(network, npo_setup_plan(ctx, ctx->task->spec->sample.compute));
    return npo_network_denoiser_new(network, params, &drawer->setup->model->prompts, drawer->batch,
                                    ret_denoiser, ctx->error);
}

static npo_err add_second(npo_drawer *drawer, const npo_params *negative)
{
    npo_model *model = drawer->setup->model;
    NPO_TRY(
        npo_model_need_second(model, npo_loaded_backend(drawer->ctx->cache), drawer->ctx->error));
    NPO_TRY(new_denoiser(drawer, model->second, negative, &drawer->negative));
    npo_watch_init(&drawer->negative_watch, drawer->ctx, npo_network_denoiser_get(drawer->negative),
                   drawer->batch);
    return NPO_OK;
}

static_assert((int)NPO_JOB_SAMPLER_DDIM == (int)NPO_SAMPLER_DDIM &&
                  (int)NPO_JOB_SAMPLER_DPMPP_2M == (int)NPO_SAMPLER_DPMPP_2M &&
                  (int)NPO_JOB_SAMPLER_EULER == (int)NPO_SAMPLER_EULER &&
                  (int)NPO_JOB_SAMPLER_EULER_ANCESTRAL == (int)NPO_SAMPLER_EULER_ANCESTRAL,
              "samplers of the job file are numbered as the samplers are");
static_assert((int)NPO_JOB_SPACING_LEADING == (int)NPO_SPACING_LEADING &&
                  (int)NPO_JOB_SPACING_TRAILING == (int)NPO_SPACING_TRAILING &&
                  (int)NPO_JOB_SPACING_LINSPACE == (int)NPO_SPACING_LINSPACE &&
                  (int)NPO_JOB_SPACING_METHOD == (int)NPO_SPACING_METHOD &&
                  (int)NPO_JOB_SPACING_DEFAULT == (int)NPO_SPACING_DEFAULT,
              "spacings of the job file are numbered as the spacings are");

/* The method's grid is for DDIM; other samplers then go by the model's scheduler. */
static npo_sampler_settings settings_of(const npo_job_sample *sample, const npo_schedule *schedule,
                                        npo_spacing spacing)
{
    npo_sampler_settings settings = {schedule, (npo_sampler_kind)sample->sampler,
                                     (npo_spacing)sample->spacing, sample->karras, sample->steps};
    bool given = settings.spacing != NPO_SPACING_DEFAULT;
    if (!given && spacing == NPO_SPACING_METHOD && settings.kind == NPO_SAMPLER_DDIM)
        settings.spacing = spacing;
    else if (!given)
        settings.spacing = (npo_spacing)npo_schedule_config_of(schedule)->spacing;
    return settings;
}

static npo_err check_pictures(const npo_drawer *drawer)
{
    const npo_model *model = drawer->setup->model;
    int64_t channels = model->image.channels;
    if (channels == 1 || channels == 3)
        return NPO_OK;
    return npo_error_set(drawer->ctx->error, NPO_E_UNSUPPORTED,
                         "model '%s' has samples of %lld channels and no VAE, expected 1 or 3 "
                         "channels, or a VAE that makes pictures of them",
                         model->folder.root, (long long)channels);
}

/* A batch is computed whole, so a sample job has none larger than its images. */
static int64_t choose_batch(const npo_job *job, npo_latent_shape latent)
{
    bool small = latent.height * latent.width <= NPO_DRAWER_BATCH_POSITIONS;
    int64_t batch = job->sample.batch ? job->sample.batch : small ? NPO_DRAWER_BATCH : 1;
    return job->recipe == NPO_RECIPE_SAMPLE && job->sample.count < batch ? job->sample.count
                                                                         : batch;
}

static npo_err alloc(npo_drawer *drawer)
{
    size_t batch = (size_t)drawer->batch;
    const npo_model *model = drawer->setup->model;
    drawer->prompts = calloc(batch, sizeof *drawer->prompts);
    drawer->negative_prompts = calloc(batch, sizeof *drawer->negative_prompts);
    drawer->noise = calloc(batch, sizeof *drawer->noise);
    if (model->vae)
        drawer->latents = calloc(batch, npo_latent_floats(model->latent) * sizeof(float));
    bool complete = drawer->prompts && drawer->negative_prompts && drawer->noise &&
                    (drawer->latents || !model->vae);
    return complete ? NPO_OK : npo_context_fail(drawer->ctx, NPO_E_NOMEM, "prompts");
}

static npo_err open_networks(npo_drawer *drawer, const npo_params *positive,
                             const npo_params *negative)
{
    NPO_TRY(new_denoiser(drawer, drawer->setup->model->network, positive, &drawer->positive));
    npo_watch_init(&drawer->positive_watch, drawer->ctx, npo_network_denoiser_get(drawer->positive),
                   drawer->batch);
    return negative ? add_second(drawer, negative) : NPO_OK;
}

npo_err npo_drawer_init(npo_drawer *drawer, npo_context *ctx, const npo_setup *setup,
                        npo_spacing spacing, const npo_params *positive, const npo_params *negative)
{
    npo_model *model = setup->model;
    *drawer =
        (npo_drawer){.ctx = ctx,
                     .setup = setup,
                     .settings = settings_of(&ctx->task->spec->sample, model->schedule, spacing),
                     .batch = choose_batch(ctx->task->spec, model->latent),
                     .floats = npo_latent_floats(model->image)};
    npo_err err = check_pictures(drawer);
    if (err == NPO_OK && model->folder.vae_config)
        err = npo_loaded_need_vae(ctx->cache, ctx->error);
    if (err == NPO_OK)
        err = alloc(drawer);
    if (err == NPO_OK)
        err = open_networks(drawer, positive, negative);
    if (err != NPO_OK)
        npo_drawer_fini(drawer);
    return err;
}

void npo_drawer_fini(npo_drawer *drawer)
{
    npo_network_denoiser_free(drawer->positive);
    npo_network_denoiser_free(drawer->negative);
    free(drawer->prompts);
    free(drawer->negative_prompts);
    free(drawer->noise);
    free(drawer->latents);
    *drawer = (npo_drawer){0};
}

void npo_drawer_use_negative(npo_drawer *drawer, const npo_params *negative)
{
    npo_network_denoiser_use(drawer->negative, negative);
}

/* ---- drawing ---- */

npo_drawer_noise npo_drawer_noise_of(const npo_job *job, size_t prompt_count, uint64_t seed,
                                     int64_t image)
{
    const cJSON *seeds = job->sample.seeds;
    int64_t prompts = (int64_t)prompt_count;
    if (!seeds)
        return (npo_drawer_noise){seed, (uint32_t)image};
    const cJSON *own = cJSON_GetArrayItem(seeds, (int)(image % prompts));
    return (npo_drawer_noise){(uint64_t)own->valuedouble, (uint32_t)(image / prompts)};
}

static void step_noise(void *self, int64_t step, int64_t i, size_t sample_floats, float *ret_noise)
{
    const npo_drawer *drawer = self;
    npo_sampler_step_noise(drawer->noise[i].seed, drawer->noise[i].number, (uint32_t)step,
                           sample_floats, ret_noise);
}

static npo_sampler_options options_of(npo_drawer *drawer, const npo_drawing *drawing)
{
    const npo_job_sample *sample = &drawer->ctx->task->spec->sample;
    return (npo_sampler_options){
        .settings = drawer->settings,
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
        .noise = step_noise,
        .noise_self = drawer,
    };
}

/* Noise and prompts of the drawing's images. */
static void begin(npo_drawer *drawer, const npo_drawing *drawing, float *ret_x)
{
    const npo_setup *setup = drawer->setup;
    size_t floats = npo_latent_floats(setup->model->latent);
    for (int64_t i = 0; i < drawing->n; i++) {
        int64_t image = drawing->first + i, prompt = image % (int64_t)setup->prompt_count;
        drawer->noise[i] =
            npo_drawer_noise_of(drawer->ctx->task->spec, setup->prompt_count, drawing->seed, image);
        drawer->prompts[i] = (int32_t)prompt;
        drawer->negative_prompts[i] = setup->negative[prompt];
        npo_sampler_noise(drawer->noise[i].seed, drawer->noise[i].number, floats,
                          ret_x + (size_t)i * floats);
    }
}

static void tell_tiles(npo_drawer *drawer)
{
    const npo_vae *vae = drawer->setup->model->vae;
    long long side = npo_vae_tile(vae) * npo_vae_factor(vae);
    if (!side || drawer->told_tiles)
        return;
    drawer->told_tiles = true;
    npo_context_log(drawer->ctx,
                    "memory is short: pictures are decoded in tiles of %lld x %lld pixels, which "
                    "differ a little from those decoded as a whole",
                    side, side);
}

static npo_err decode(npo_drawer *drawer, int64_t n, float *ret_images)
{
    const npo_model *model = drawer->setup->model;
    size_t floats = npo_latent_floats(model->latent);
    for (int64_t i = 0; i < n; i++) {
        NPO_TRY(npo_context_check(drawer->ctx));
        NPO_TRY(npo_vae_decode(model->vae, drawer->latents + (size_t)i * floats,
                               model->latent.height, model->latent.width,
                               ret_images + (size_t)i * drawer->floats, drawer->ctx->error));
        tell_tiles(drawer);
    }
    return NPO_OK;
}

npo_err npo_drawer_run(npo_drawer *drawer, const npo_drawing *drawing, float *ret_images)
{
    const npo_sampler_options options = options_of(drawer, drawing);
    float *x = drawer->latents ? drawer->latents : ret_images;
    assert((!drawing->two || drawer->negative) && drawing->n <= drawer->batch);
    begin(drawer, drawing, x);
    NPO_TRY(npo_sampler_run(&options, drawing->n, x, drawer->prompts, drawer->negative_prompts,
                            drawer->ctx->error));
    if (drawer->latents)
        NPO_TRY(decode(drawer, drawing->n, ret_images));
    for (size_t i = 0; i < (size_t)drawing->n * drawer->floats; i++)
        ret_images[i] = ret_images[i] < -1 ? -1 : ret_images[i] > 1 ? 1 : ret_images[i];
    return NPO_OK;
}
