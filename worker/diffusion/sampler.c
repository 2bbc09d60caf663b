#include "worker/diffusion/sampler.h"

#include "common/rng.h"
#include "worker/diffusion/solvers/solver.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const npo_solver *const solvers[] = {
    [NPO_SAMPLER_DDIM] = &npo_solver_ddim,
    [NPO_SAMPLER_DPMPP_2M] = &npo_solver_dpmpp_2m,
    [NPO_SAMPLER_EULER] = &npo_solver_euler,
    [NPO_SAMPLER_EULER_ANCESTRAL] = &npo_solver_euler_ancestral,
};
static_assert(sizeof solvers / sizeof *solvers == NPO_SAMPLER_COUNT, "one solver per sampler");

const char *npo_sampler_label(npo_sampler_kind kind, bool karras)
{
    return karras && solvers[kind]->karras ? solvers[kind]->karras : solvers[kind]->label;
}

bool npo_sampler_draws_noise(npo_sampler_kind kind)
{
    return solvers[kind]->draws_noise;
}

void npo_sampler_noise(uint64_t seed, uint32_t image, size_t sample_floats, float *ret_x)
{
    npo_rng rng = npo_rng_stream(seed, NPO_RNG_SAMPLE_NOISE, image, 0);
    npo_rng_gaussians(&rng, sample_floats, ret_x);
}

void npo_sampler_step_noise(uint64_t seed, uint32_t image, uint32_t step, size_t sample_floats,
                            float *ret_noise)
{
    npo_rng rng = npo_rng_stream(seed, NPO_RNG_SAMPLE_STEP, image, step);
    npo_rng_gaussians(&rng, sample_floats, ret_noise);
}

/* ---- planning ---- */

npo_err npo_sampler_plan(const npo_sampler_settings *settings, npo_sampler_step *ret_steps,
                         float *ret_start, npo_error *error)
{
    const npo_solver *solver = solvers[settings->kind];
    int64_t train_steps = npo_schedule_config_of(settings->schedule)->train_steps;
    npo_sampler_settings resolved = *settings;
    if (settings->steps < 1 || settings->steps > train_steps)
        return npo_error_set(error, NPO_E_RANGE, "sampler: %lld steps, expected 1 to %lld",
                             (long long)settings->steps, (long long)train_steps);
    if (settings->karras && !solver->karras)
        return npo_error_set(error, NPO_E_UNSUPPORTED,
                             "sampler '%s' has no Karras noise levels, expected dpmpp-2m, euler or "
                             "euler-ancestral",
                             solver->name);
    if (settings->spacing == NPO_SPACING_METHOD && !solver->method_grid)
        return npo_error_set(error, NPO_E_UNSUPPORTED,
                             "sampler '%s' does not run on the method's grid, expected ddim",
                             solver->name);
    if (settings->spacing == NPO_SPACING_DEFAULT)
        resolved.spacing = solver->spacing;
    return solver->plan(&resolved, ret_steps, ret_start, error);
}

/* ---- running ---- */

typedef struct {
    const npo_sampler_options *options;
    int64_t n;
    float *out, *scratch, *scaled;
    float *x0, *noise; /* of samplers that take them */
    float *t;
    int32_t *empty;
    npo_sampler_step *steps;
    float start;
} run;

static void run_fini(run *r)
{
    free(r->out);
    free(r->scratch);
    free(r->scaled);
    free(r->x0);
    free(r->noise);
    free(r->t);
    free(r->empty);
    free(r->steps);
}

static npo_err run_init(run *r, npo_error *error)
{
    const npo_sampler_options *options = r->options;
    const npo_solver *solver = solvers[options->settings.kind];
    size_t n = (size_t)r->n + 1, floats = options->guidance.positive->sample_floats;
    if (options->settings.steps < 1)
        return npo_error_set(error, NPO_E_RANGE, "sampler: %lld steps, expected 1 or more",
                             (long long)options->settings.steps);
    if (solver->draws_noise && !options->noise)
        return npo_error_set(error, NPO_E_USAGE, "sampler '%s' needs noise for its steps",
                             solver->name);
    r->out = calloc(n * floats, sizeof *r->out);
    r->scratch = calloc(n * floats, sizeof *r->scratch);
    r->scaled = calloc(n * floats, sizeof *r->scaled);
    r->x0 = calloc(solver->multistep ? n * floats : 1, sizeof *r->x0);
    r->noise = calloc(solver->draws_noise ? floats : 1, sizeof *r->noise);
    r->t = calloc(n, sizeof *r->t);
    r->empty = calloc(n, sizeof *r->empty);
    r->steps = calloc((size_t)options->settings.steps, sizeof *r->steps);
    if (!r->out || !r->scratch || !r->scaled || !r->x0 || !r->noise || !r->t || !r->empty ||
        !r->steps)
        return npo_error_set(error, NPO_E_NOMEM, "sampler: out of memory");
    for (int64_t i = 0; i < r->n; i++)
        r->empty[i] = NPO_PROMPT_EMPTY;
    return npo_sampler_plan(&options->settings, r->steps, &r->start, error);
}

/* x0 is clamped and the noise estimate kept, as DDIMScheduler without use_clipped_model_output. */
static void step_clipped(const npo_schedule *schedule, const npo_sampler_step *step, size_t n,
                         const float *out, float *x)
{
    float range = (float)npo_schedule_config_of(schedule)->clip_range;
    npo_mix eps_mix = npo_schedule_eps_mix(schedule, (int64_t)step->t);
    float a = (float)sqrt(step->alpha_bar_next), s = (float)sqrt(1 - step->alpha_bar_next);
    for (size_t i = 0; i < n; i++) {
        float x0 = x[i] * step->x0.cx + out[i] * step->x0.co;
        float eps = x[i] * eps_mix.cx + out[i] * eps_mix.co;
        x0 = x0 > range ? range : x0 < -range ? -range : x0;
        x[i] = a * x0 + s * eps;
    }
}

/* The new state, and the step's x0 in the place of the one before. */
static void step_multistep(const npo_sampler_step *step, size_t n, const float *out, float *x0,
                           float *x)
{
    for (size_t i = 0; i < n; i++) {
        float now = x[i] * step->x0.cx + out[i] * step->x0.co;
        x[i] = x[i] * step->next.cx + out[i] * step->next.co + x0[i] * step->previous;
        x0[i] = now;
    }
}

static void add_noise(run *r, int64_t k, float *x)
{
    size_t floats = r->options->guidance.positive->sample_floats;
    float amount = r->steps[k].noise;
    for (int64_t i = 0; amount != 0 && i < r->n; i++) {
        float *sample = x + (size_t)i * floats;
        r->options->noise(r->options->noise_self, k, i, floats, r->noise);
        for (size_t at = 0; at < floats; at++)
            sample[at] += amount * r->noise[at];
    }
}

static void update(run *r, int64_t k, float *x)
{
    const npo_sampler_settings *settings = &r->options->settings;
    const npo_sampler_step *step = &r->steps[k];
    size_t values = (size_t)r->n * r->options->guidance.positive->sample_floats;
    bool clips = settings->kind == NPO_SAMPLER_DDIM &&
                 npo_schedule_config_of(settings->schedule)->clip_sample;
    if (clips)
        step_clipped(settings->schedule, step, values, r->out, x);
    else if (solvers[settings->kind]->multistep)
        step_multistep(step, values, r->out, r->x0, x);
    else
        npo_mix_apply(step->next, values, x, r->out, x);
    add_noise(r, k, x);
}

static bool all_finite(size_t n, const float *x)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++)
        finite &= isfinite(x[i]) != 0;
    return finite;
}

/* The network's input: x, or x at unit variance. */
static const float *scale_input(run *r, const npo_sampler_step *step, size_t values, const float *x)
{
    if (step->in == 1)
        return x;
    for (size_t i = 0; i < values; i++)
        r->scaled[i] = x[i] * step->in;
    return r->scaled;
}

static npo_err run_step(run *r, int64_t k, float *x, const int32_t *prompt,
                        const int32_t *negative_prompt, npo_error *error)
{
    const npo_sampler_options *options = r->options;
    const npo_sampler_step *step = &r->steps[k];
    int64_t train_steps = npo_schedule_config_of(options->settings.schedule)->train_steps;
    size_t values = (size_t)r->n * options->guidance.positive->sample_floats;
    for (int64_t i = 0; i < r->n; i++)
        r->t[i] = step->t;
    npo_guidance guidance = options->guidance;
    double place = (double)step->t / (double)train_steps;
    if (place < options->interval_start || place > options->interval_end) {
        guidance.w = 0;
        guidance.rescale = 0;
    }
    const npo_guidance_input input = {.n = r->n,
                                      .x = scale_input(r, step, values, x),
                                      .t = r->t,
                                      .prompt = prompt,
                                      .negative_prompt =
                                          negative_prompt ? negative_prompt : r->empty,
                                      .scratch = r->scratch};
    NPO_TRY(npo_guidance_predict(&guidance, &input, r->out, error));
    update(r, k, x);
    if (!all_finite(values, x))
        return npo_error_set(error, NPO_E_DIVERGED,
                             "sampling at timestep %g gave a value that is not finite",
                             (double)step->t);
    return NPO_OK;
}

npo_err npo_sampler_run(const npo_sampler_options *options, int64_t n, float *x,
                        const int32_t *prompt, const int32_t *negative_prompt, npo_error *error)
{
    run r = {.options = options, .n = n};
    npo_err err = run_init(&r, error);
    size_t values = (size_t)n * options->guidance.positive->sample_floats;
    for (size_t i = 0; !err && r.start != 1 && i < values; i++)
        x[i] *= r.start;
    for (int64_t k = 0; !err && k < options->settings.steps; k++) {
        err = run_step(&r, k, x, prompt, negative_prompt, error);
        if (!err && options->on_step)
            err = options->on_step(options->on_step_self, k, n, x, error);
    }
    run_fini(&r);
    return err;
}
