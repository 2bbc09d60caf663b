#include "worker/diffusion/sampler.h"

#include "common/rng.h"

#include <math.h>
#include <stdlib.h>

void npo_sampler_noise(uint64_t seed, uint32_t image, size_t sample_floats, float *ret_x)
{
    npo_rng rng = npo_rng_stream(seed, NPO_RNG_SAMPLE_NOISE, image, 0);
    npo_rng_gaussians(&rng, sample_floats, ret_x);
}

/* ---- placing the steps ---- */

/* Timestep k of a spacing, k = 0 the noisiest, as numpy computes it in diffusers (rounding half to
 * even). */
static int64_t leading_t(const npo_schedule_config *config, int64_t steps, int64_t k)
{
    return (steps - 1 - k) * (config->train_steps / steps) + config->steps_offset;
}

static int64_t trailing_t(const npo_schedule_config *config, int64_t steps, int64_t k)
{
    double ratio = (double)config->train_steps / (double)steps;
    return (int64_t)rint((double)config->train_steps - (double)k * ratio) - 1;
}

static int64_t linspace_t(const npo_schedule_config *config, int64_t steps, int64_t k)
{
    if (steps == 1)
        return 0;
    double delta = (double)(config->train_steps - 1) / (double)(steps - 1);
    int64_t i = steps - 1 - k;
    return k == 0 ? config->train_steps - 1 : (int64_t)rint((double)i * delta);
}

static int64_t (*const spacing_rules[])(const npo_schedule_config *, int64_t, int64_t) = {
    [NPO_SPACING_LEADING] = leading_t,
    [NPO_SPACING_TRAILING] = trailing_t,
    [NPO_SPACING_LINSPACE] = linspace_t,
};

static npo_err plan_method(const npo_schedule *schedule, int64_t steps, npo_sampler_step *ret_steps,
                           npo_error *error)
{
    int32_t *grid = malloc((size_t)steps * sizeof *grid);
    if (!grid)
        return npo_error_set(error, NPO_E_NOMEM, "sampler: out of memory");
    npo_err err = npo_schedule_grid(schedule, steps, grid, error);
    for (int64_t k = 0; !err && k < steps; k++) {
        int64_t i = steps - 1 - k;
        ret_steps[k].t = grid[i];
        ret_steps[k].alpha_bar_next = npo_schedule_alpha_bar(schedule, i > 0 ? grid[i - 1] : 0);
    }
    free(grid);
    return err;
}

npo_err npo_sampler_plan(const npo_schedule *schedule, npo_spacing spacing, int64_t steps,
                         npo_sampler_step *ret_steps, npo_error *error)
{
    const npo_schedule_config *config = npo_schedule_config_of(schedule);
    if (steps < 1 || steps > config->train_steps)
        return npo_error_set(error, NPO_E_RANGE, "sampler: %lld steps, expected 1 to %lld",
                             (long long)steps, (long long)config->train_steps);
    if (spacing == NPO_SPACING_METHOD)
        return plan_method(schedule, steps, ret_steps, error);
    double last = config->set_alpha_to_one ? 1 : npo_schedule_alpha_bar(schedule, 0);
    for (int64_t k = 0; k < steps; k++) {
        int64_t t = spacing_rules[spacing](config, steps, k);
        if (t < 0 || t >= config->train_steps)
            return npo_error_set(error, NPO_E_RANGE,
                                 "sampler: step %lld of %lld with 'steps_offset' %lld lies at "
                                 "timestep %lld, expected 0 to %lld",
                                 (long long)k, (long long)steps, (long long)config->steps_offset,
                                 (long long)t, (long long)config->train_steps - 1);
        int64_t next = t - config->train_steps / steps;
        ret_steps[k].t = (int32_t)t;
        ret_steps[k].alpha_bar_next = next >= 0 ? npo_schedule_alpha_bar(schedule, next) : last;
    }
    return NPO_OK;
}

/* ---- running them ---- */

typedef struct {
    const npo_sampler_options *options;
    int64_t n;
    float *out, *scratch;
    int32_t *t, *empty;
    npo_sampler_step *steps;
} run;

static void run_fini(run *r)
{
    free(r->out);
    free(r->scratch);
    free(r->t);
    free(r->empty);
    free(r->steps);
}

static npo_err run_init(run *r, npo_error *error)
{
    size_t n = (size_t)r->n + 1, floats = r->options->guidance.positive->sample_floats;
    r->out = calloc(n * floats, sizeof *r->out);
    r->scratch = calloc(n * floats, sizeof *r->scratch);
    r->t = calloc(n, sizeof *r->t);
    r->empty = calloc(n, sizeof *r->empty);
    r->steps = calloc((size_t)r->options->steps, sizeof *r->steps);
    if (!r->out || !r->scratch || !r->t || !r->empty || !r->steps)
        return npo_error_set(error, NPO_E_NOMEM, "sampler: out of memory");
    for (int64_t i = 0; i < r->n; i++)
        r->empty[i] = NPO_PROMPT_EMPTY;
    return npo_sampler_plan(r->options->schedule, r->options->spacing, r->options->steps, r->steps,
                            error);
}

/* x0 is clamped and the noise estimate kept, as DDIMScheduler without use_clipped_model_output. */
static void step_clipped(const npo_schedule *schedule, const npo_sampler_step *step, size_t n,
                         const float *out, float *x)
{
    float range = (float)npo_schedule_config_of(schedule)->clip_range;
    npo_mix x0_mix = npo_schedule_x0_mix(schedule, step->t);
    npo_mix eps_mix = npo_schedule_eps_mix(schedule, step->t);
    float a = (float)sqrt(step->alpha_bar_next), s = (float)sqrt(1 - step->alpha_bar_next);
    for (size_t i = 0; i < n; i++) {
        float x0 = x[i] * x0_mix.cx + out[i] * x0_mix.co;
        float eps = x[i] * eps_mix.cx + out[i] * eps_mix.co;
        x0 = x0 > range ? range : x0 < -range ? -range : x0;
        x[i] = a * x0 + s * eps;
    }
}

static bool all_finite(size_t n, const float *x)
{
    bool finite = true;
    for (size_t i = 0; i < n; i++)
        finite &= isfinite(x[i]) != 0;
    return finite;
}

static npo_err run_step(run *r, const npo_sampler_step *step, float *x, const int32_t *prompt,
                        const int32_t *negative_prompt, npo_error *error)
{
    const npo_sampler_options *options = r->options;
    const npo_schedule_config *config = npo_schedule_config_of(options->schedule);
    size_t values = (size_t)r->n * options->guidance.positive->sample_floats;
    for (int64_t i = 0; i < r->n; i++)
        r->t[i] = step->t;
    npo_guidance guidance = options->guidance;
    double place = (double)step->t / (double)config->train_steps;
    if (place < options->interval_start || place > options->interval_end) {
        guidance.w = 0;
        guidance.rescale = 0;
    }
    const npo_guidance_input input = {.n = r->n,
                                      .x = x,
                                      .t = r->t,
                                      .prompt = prompt,
                                      .negative_prompt =
                                          negative_prompt ? negative_prompt : r->empty,
                                      .scratch = r->scratch};
    NPO_TRY(npo_guidance_predict(&guidance, &input, r->out, error));
    if (config->clip_sample)
        step_clipped(options->schedule, step, values, r->out, x);
    else
        npo_mix_apply(npo_schedule_step_mix(options->schedule, step->t, step->alpha_bar_next),
                      values, x, r->out, x);
    if (!all_finite(values, x))
        return npo_error_set(error, NPO_E_DIVERGED,
                             "sampling at timestep %d gave a value that is not finite", step->t);
    return NPO_OK;
}

npo_err npo_sampler_run(const npo_sampler_options *options, int64_t n, float *x,
                        const int32_t *prompt, const int32_t *negative_prompt, npo_error *error)
{
    if (options->steps < 1)
        return npo_error_set(error, NPO_E_RANGE, "sampler: %lld steps, expected 1 or more",
                             (long long)options->steps);
    run r = {.options = options, .n = n};
    npo_err err = run_init(&r, error);
    for (int64_t k = 0; !err && k < options->steps; k++) {
        err = run_step(&r, &r.steps[k], x, prompt, negative_prompt, error);
        if (!err && options->on_step)
            err = options->on_step(options->on_step_self, k, n, x, error);
    }
    run_fini(&r);
    return err;
}
