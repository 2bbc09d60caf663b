/* Deterministic sampling (DDIM, eta = 0; Song et al., arXiv 2010.02502) with one or two networks.
 */
#ifndef NPO_DIFFUSION_SAMPLER_H
#define NPO_DIFFUSION_SAMPLER_H

#include "worker/diffusion/guidance.h"
#include "worker/diffusion/schedule.h"

/* One solver step. */
typedef struct {
    int32_t t;
    double alpha_bar_next;
} npo_sampler_step;

/* The steps of a spacing from noise to image, as diffusers' DDIMScheduler places them, or the
 * method's grid, whose last step goes to t = 0. ret_steps [steps]. Errors: NPO_E_RANGE where the
 * schedule has too few timesteps, or steps_offset leads beyond its end. */
npo_err npo_sampler_plan(const npo_schedule *schedule, npo_spacing spacing, int64_t steps,
                         npo_sampler_step *ret_steps, npo_error *error) NPO_MUST_CHECK;

typedef struct {
    const npo_schedule *schedule;
    npo_spacing spacing;
    int64_t steps;
    npo_guidance guidance;
    /* Guidance acts where t / train_steps lies in [interval_start, interval_end]; elsewhere the
     * plain conditional prediction (Kynkaanniemi et al., arXiv 2404.07724). 0, 1: always. */
    double interval_start, interval_end;
    /* After each step, with the state as it is then; may be NULL. A failure ends the sampling. */
    npo_err (*on_step)(void *self, int64_t step, int64_t n, const float *x, npo_error *error);
    void *on_step_self;
} npo_sampler_options;

/* x [n, sample_floats]: noise in, samples out. prompt, negative_prompt [n]; negative_prompt NULL:
 * the empty prompt. Errors: NPO_E_DIVERGED when a value is no longer finite. */
npo_err npo_sampler_run(const npo_sampler_options *options, int64_t n, float *x,
                        const int32_t *prompt, const int32_t *negative_prompt,
                        npo_error *error) NPO_MUST_CHECK;
/* Starting noise of image number `image` under a seed: the same for every network compared. */
void npo_sampler_noise(uint64_t seed, uint32_t image, size_t sample_floats, float *ret_x);

#endif
