/* schedule.json: entries of Stable Diffusion's noise schedule and the training method's grid.
 * sampling.safetensors, sampling.json: trajectories x_T -> NAME.i (state after step i) of several
 * samplers at guidance 5, NAME-two with the network of negative-unet.safetensors as the
 * unconditional one. */
#include "tests/reference/case_pipeline.h"

#include "common/file.h"
#include "worker/diffusion/sampler.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GUIDANCE_SCALE 5.0f

/* Samplers of the file. */
static const struct {
    const char *settings; /* key in sampling.json */
    const char *states;   /* tensors of the file */
    npo_sampler_kind kind;
    bool karras;
    bool two_networks;
} samplers[] = {
    {"ddim", "ddim", NPO_SAMPLER_DDIM, false, false},
    {"ddim", "ddim-two", NPO_SAMPLER_DDIM, false, true},
    {"ddim-trailing", "ddim-trailing", NPO_SAMPLER_DDIM, false, false},
    {"dpmpp2m", "dpmpp2m", NPO_SAMPLER_DPMPP_2M, false, false},
    {"dpmpp2m", "dpmpp2m-two", NPO_SAMPLER_DPMPP_2M, false, true},
    {"dpmpp2m-karras", "dpmpp2m-karras", NPO_SAMPLER_DPMPP_2M, true, false},
    {"euler", "euler", NPO_SAMPLER_EULER, false, false},
};

typedef struct {
    case_pipeline pipeline;
    npo_safetensors *file;
    cJSON *settings;
    npo_params *negative;
    npo_network_denoiser *denoisers[2]; /* positive, negative */
    float *x_T;
    int64_t n;
} sampling_case;

/* What on_step compares. */
typedef struct {
    const sampling_case *c;
    const char *states;
    case_worst worst;
} comparison;

static npo_err compare_state(void *self, int64_t step, int64_t n, const float *x, npo_error *error)
{
    comparison *compared = self;
    char name[64];
    snprintf(name, sizeof name, "%s.%lld", compared->states, (long long)step);
    const npo_tensor *expected = npo_safetensors_find(compared->c->file, name);
    if (!expected)
        return NPO_OK; /* the file keeps some of the steps */
    npo_latent_shape latent = compared->c->pipeline.latent;
    const npo_shape shape = {NPO_F32, 4, {n, latent.height, latent.width, latent.channels}};
    return case_compare_tensor(&compared->worst, expected, &shape, x, error);
}

static npo_err load_negative(sampling_case *c, const case_env *env, npo_error *error)
{
    char *path = npo_file_join(env->dir, "negative-unet.safetensors");
    if (!path)
        return NPO_E_NOMEM;
    npo_err err = npo_params_new(c->pipeline.layout, &c->negative);
    if (!err)
        err = npo_weights_load(path, NULL, c->negative, error);
    free(path);
    return err;
}

static npo_err load(sampling_case *c, const case_env *env, npo_error *error)
{
    const npo_tensor *x_T = NULL;
    NPO_TRY(case_open(env, env->file, &c->file, error));
    NPO_TRY(case_find(c->file, "x_T", &x_T, error));
    NPO_TRY(case_pipeline_init(&c->pipeline, env, x_T, error));
    NPO_TRY(load_negative(c, env, error));
    NPO_TRY(case_read(x_T, &c->x_T, error));
    c->n = x_T->dims[0];
    char *path = npo_file_join(env->dir, "sampling.json");
    npo_err err = path ? npo_schedule_json_load(path, &c->settings, error) : NPO_E_NOMEM;
    free(path);
    const npo_params *const sets[2] = {c->pipeline.params, c->negative};
    for (int i = 0; !err && i < 2; i++)
        err = npo_network_denoiser_new(c->pipeline.network, sets[i], &c->pipeline.prompts, c->n,
                                       &c->denoisers[i], error);
    return err;
}

static void unload(sampling_case *c)
{
    npo_network_denoiser_free(c->denoisers[0]);
    npo_network_denoiser_free(c->denoisers[1]);
    npo_params_free(c->negative);
    case_pipeline_fini(&c->pipeline);
    npo_safetensors_close(c->file);
    cJSON_Delete(c->settings);
    free(c->x_T);
}

/* The public library's timesteps against ours. */
static npo_err check_timesteps(const npo_sampler_options *options, const cJSON *timesteps,
                               npo_error *error)
{
    const npo_sampler_settings *settings = &options->settings;
    npo_sampler_step steps[1000];
    float start = 0;
    if (settings->steps < 1 || settings->steps > 1000)
        return npo_error_set(error, NPO_E_FORMAT, "sampling.json: no timesteps");
    NPO_TRY(npo_sampler_plan(settings, steps, &start, error));
    for (int64_t k = 0; k < settings->steps; k++) {
        double expected = cJSON_GetNumberValue(cJSON_GetArrayItem(timesteps, (int)k));
        if (steps[k].t != expected)
            return npo_error_set(error, NPO_E_RANGE, "step %lld lies at timestep %g, expected %g",
                                 (long long)k, (double)steps[k].t, expected);
    }
    return NPO_OK;
}

static npo_err sample(sampling_case *c, const npo_sampler_options *options, npo_error *error)
{
    static const int32_t prompts[] = {0, 2};
    size_t values = (size_t)c->n * npo_latent_floats(c->pipeline.latent);
    if (c->n != 2)
        return npo_error_set(error, NPO_E_SHAPE, "'x_T' holds %lld samples, expected 2",
                             (long long)c->n);
    float *x = malloc(values * sizeof *x);
    if (!x)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    memcpy(x, c->x_T, values * sizeof *x);
    npo_err err = npo_sampler_run(options, c->n, x, prompts, NULL, error);
    free(x);
    return err;
}

static npo_err run_sampler(sampling_case *c, case_env *env, size_t row, npo_error *error)
{
    const cJSON *entry = cJSON_GetObjectItemCaseSensitive(c->settings, samplers[row].settings);
    const cJSON *timesteps = cJSON_GetObjectItemCaseSensitive(entry, "timesteps");
    npo_schedule_config config;
    npo_schedule *schedule = NULL;
    NPO_TRY(npo_schedule_config_read(cJSON_GetObjectItemCaseSensitive(entry, "config"),
                                     "'sampling.json'", &config, error));
    NPO_TRY(npo_schedule_new(&config, &schedule, error));
    comparison compared = {.c = c, .states = samplers[row].states};
    const npo_sampler_options options = {
        .settings = {schedule, samplers[row].kind, (npo_spacing)config.spacing,
                     samplers[row].karras, cJSON_GetArraySize(timesteps)},
        .guidance = {.positive = npo_network_denoiser_get(c->denoisers[0]),
                     .negative = npo_network_denoiser_get(c->denoisers[samplers[row].two_networks]),
                     .w = GUIDANCE_SCALE - 1},
        .interval_end = 1,
        .on_step = compare_state,
        .on_step_self = &compared};
    npo_err err = check_timesteps(&options, timesteps, error);
    if (!err)
        err = sample(c, &options, error);
    if (!err) {
        char suffix[64];
        snprintf(suffix, sizeof suffix, "-%s", samplers[row].states);
        case_report(env, suffix, &compared.worst, CASE_OUTPUT_TOLERANCE);
    }
    npo_schedule_free(schedule);
    return err;
}

npo_err case_run_sampling(case_env *env, npo_error *error)
{
    sampling_case c = {0};
    npo_err err = load(&c, env, error);
    for (size_t row = 0; !err && row < sizeof samplers / sizeof samplers[0]; row++)
        err = run_sampler(&c, env, row, error);
    unload(&c);
    return err;
}

/* ---- the schedule ---- */

static float beta_of(const npo_schedule *schedule, int64_t t)
{
    double before = t > 0 ? npo_schedule_alpha_bar(schedule, t - 1) : 1;
    return (float)(1 - npo_schedule_alpha_bar(schedule, t) / before);
}

/* betas: the first and the last five. */
static void compare_betas(const npo_schedule *schedule, const cJSON *betas, case_worst *worst)
{
    int count = cJSON_GetArraySize(betas);
    int64_t train_steps = npo_schedule_config_of(schedule)->train_steps;
    for (int i = 0; i < count; i++) {
        float computed = beta_of(schedule, i < count / 2 ? i : train_steps - count + i);
        float expected = (float)cJSON_GetNumberValue(cJSON_GetArrayItem(betas, i));
        case_compare(worst, "betas", &computed, &expected, 1);
    }
}

static npo_err compare_schedule(const npo_schedule *schedule, const cJSON *json, case_worst *worst,
                                npo_error *error)
{
    const cJSON *grid = cJSON_GetObjectItemCaseSensitive(json, "grid"), *entry = NULL;
    int32_t t[1000];
    int steps = cJSON_GetArraySize(grid);
    compare_betas(schedule, cJSON_GetObjectItemCaseSensitive(json, "betas"), worst);
    cJSON_ArrayForEach(entry, cJSON_GetObjectItemCaseSensitive(json, "alphas_cumprod"))
    {
        float computed = (float)npo_schedule_alpha_bar(schedule, atoi(entry->string));
        float expected = (float)cJSON_GetNumberValue(entry);
        case_compare(worst, "alphas_cumprod", &computed, &expected, 1);
    }
    NPO_TRY(npo_schedule_grid(schedule, steps, t, error));
    for (int i = 0; i < steps; i++) {
        float computed = (float)t[i];
        float expected = (float)cJSON_GetNumberValue(cJSON_GetArrayItem(grid, i));
        case_compare(worst, "grid", &computed, &expected, 1);
    }
    return NPO_OK;
}

npo_err case_run_schedule(case_env *env, npo_error *error)
{
    const npo_schedule_config config = {.train_steps = 1000,
                                        .beta_start = 0.00085,
                                        .beta_end = 0.012,
                                        .betas = NPO_BETAS_SCALED_LINEAR};
    npo_schedule *schedule = NULL;
    cJSON *json = NULL;
    case_worst worst = {0};
    char *path = npo_file_join(env->dir, env->file);
    npo_err err = path ? npo_schedule_json_load(path, &json, error) : NPO_E_NOMEM;
    if (!err)
        err = npo_schedule_new(&config, &schedule, error);
    if (!err)
        err = compare_schedule(schedule, json, &worst, error);
    if (!err)
        case_report(env, "", &worst, CASE_OUTPUT_TOLERANCE);
    npo_schedule_free(schedule);
    cJSON_Delete(json);
    free(path);
    return err;
}
