/* Sampling with one or two networks. Every sampler is a row of a table: it plans its steps, and
 * each step is the same linear mixture of the state, the network's output, the previous step's x0
 * and fresh noise. They compute what diffusers' scheduler of the same name does. Sources: DDIM
 * (Song et al., arXiv 2010.02502, eta = 0); DPM-Solver++ 2M (Lu et al., arXiv 2211.01095); Euler
 * and Euler ancestral, and Karras' noise levels (Karras et al., arXiv 2206.00364). */
#ifndef NPO_DIFFUSION_SAMPLER_H
#define NPO_DIFFUSION_SAMPLER_H

#include "worker/diffusion/guidance.h"
#include "worker/diffusion/schedule.h"

typedef enum {
    NPO_SAMPLER_DDIM,
    NPO_SAMPLER_DPMPP_2M,
    NPO_SAMPLER_EULER,
    NPO_SAMPLER_EULER_ANCESTRAL,
    NPO_SAMPLER_COUNT
} npo_sampler_kind;

/* What decides the steps. */
typedef struct {
    const npo_schedule *schedule;
    npo_sampler_kind kind;
    npo_spacing spacing; /* DEFAULT: the sampler's own; METHOD: DDIM only */
    bool karras;         /* noise levels of arXiv 2206.00364, rho 7; not with DDIM */
    int64_t steps;
} npo_sampler_settings;

/* One solver step: out = network(x * in, t), x' = x * next.cx + out * next.co + previous * (x0 of
 * the step before) + noise * (a Gaussian). The Euler samplers' x is the sample at unit signal, x0 +
 * sigma eps; the others' is that of the noise schedule. */
typedef struct {
    float t; /* Euler's need not be whole */
    float in;
    npo_mix x0;   /* the step's x0 of x and out: what the next one, or clamping, takes */
    npo_mix next; /* where x0 is not clamped */
    float previous, noise;
    double alpha_bar_next; /* of the state behind the step; 1: no noise is left */
} npo_sampler_step;

/* The steps from noise to image (METHOD: on the method's grid, whose last step goes to t = 0).
 * ret_steps [steps]; ret_start: factor of the standard Gaussian that sampling starts from. Errors:
 * NPO_E_RANGE where the schedule has too few timesteps, or steps_offset leads beyond its end;
 * NPO_E_UNSUPPORTED for settings that the sampler does not have. */
npo_err npo_sampler_plan(const npo_sampler_settings *settings, npo_sampler_step *ret_steps,
                         float *ret_start, npo_error *error) NPO_MUST_CHECK;

/* "DPM++ 2M Karras": the name that other programs have for it. */
const char *npo_sampler_label(npo_sampler_kind kind, bool karras);
/* True where a run needs options->noise. */
bool npo_sampler_draws_noise(npo_sampler_kind kind);

typedef struct {
    npo_sampler_settings settings;
    npo_guidance guidance;
    /* Guidance acts where t / train_steps lies in [interval_start, interval_end]; elsewhere the
     * plain conditional prediction (Kynkaanniemi et al., arXiv 2404.07724). 0, 1: always. */
    double interval_start, interval_end;
    /* The noise that a step adds to sample i of the run, [sample_floats]. NULL for a sampler that
     * adds none. */
    void (*noise)(void *self, int64_t step, int64_t i, size_t sample_floats, float *ret_noise);
    void *noise_self;
    /* After each step, with the state as it is then; may be NULL. A failure ends the sampling. */
    npo_err (*on_step)(void *self, int64_t step, int64_t n, const float *x, npo_error *error);
    void *on_step_self;
} npo_sampler_options;

/* x [n, sample_floats]: standard Gaussians in, samples out. prompt, negative_prompt [n];
 * negative_prompt NULL: the empty prompt. Errors: those of planning; NPO_E_DIVERGED when a value is
 * no longer finite; NPO_E_USAGE where the sampler draws noise and options->noise is missing. */
npo_err npo_sampler_run(const npo_sampler_options *options, int64_t n, float *x,
                        const int32_t *prompt, const int32_t *negative_prompt,
                        npo_error *error) NPO_MUST_CHECK;
/* Starting noise of image number `image` under a seed: the same for every network compared. */
void npo_sampler_noise(uint64_t seed, uint32_t image, size_t sample_floats, float *ret_x);
/* Noise that step number `step` adds to that image. */
void npo_sampler_step_noise(uint64_t seed, uint32_t image, uint32_t step, size_t sample_floats,
                            float *ret_noise);

#endif
