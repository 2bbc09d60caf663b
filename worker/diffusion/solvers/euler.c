/* Euler steps of the probability flow, and with noise added back (arXiv 2206.00364, as k-diffusion
 * wrote them), as EulerDiscreteScheduler and EulerAncestralDiscreteScheduler of diffusers. The
 * state is x0 + sigma eps; the network sees it at unit variance. */
#include "worker/diffusion/solvers/solver.h"

#include <math.h>
#include <stdlib.h>

/* Levels at the spacing's timesteps, which need not be whole; Karras' lie between the first and the
 * last of them. */
static npo_err place(const npo_sampler_settings *settings, npo_solver_level *ret_levels,
                     npo_error *error)
{
    int64_t steps = settings->steps;
    for (int64_t k = 0; k < steps; k++) {
        double t = 0;
        NPO_TRY(npo_solver_timestep(settings, steps, k, &t, error));
        ret_levels[k].t = (float)t; /* as diffusers keeps them */
        ret_levels[k].sigma = npo_solver_sigma(settings->schedule, ret_levels[k].t);
    }
    if (settings->karras)
        npo_solver_karras(settings->schedule, ret_levels[0].sigma, ret_levels[steps - 1].sigma,
                          steps, ret_levels);
    return NPO_OK;
}

/* x' = x + (x - x0) / sigma * (down - sigma), and noise of deviation `up` on top. */
static void set_step(npo_prediction prediction, const npo_solver_level *at, double down, double up,
                     double sigma_next, npo_sampler_step *ret_step)
{
    double sigma = at->sigma, variance = 1 + sigma * sigma, change = down - sigma;
    npo_mix next = {1, (float)change};
    if (prediction == NPO_PREDICT_V) {
        /* x0 = x / variance - out sigma / sqrt(variance); 1 + change sigma / variance is this. */
        next.cx = (float)((1 + down * sigma) / variance);
        next.co = (float)(change / sqrt(variance));
    }
    *ret_step = (npo_sampler_step){
        .t = (float)at->t,
        .in = (float)(1 / sqrt(variance)),
        .next = next,
        .noise = (float)up,
        .alpha_bar_next = 1 / (1 + sigma_next * sigma_next),
    };
}

static void set_steps(const npo_sampler_settings *settings, const npo_solver_level *levels,
                      bool ancestral, npo_sampler_step *ret_steps)
{
    npo_prediction prediction =
        (npo_prediction)npo_schedule_config_of(settings->schedule)->prediction;
    for (int64_t k = 0; k < settings->steps; k++) {
        double sigma = levels[k].sigma, next = k + 1 < settings->steps ? levels[k + 1].sigma : 0;
        double down = ancestral ? next * next / sigma : next;
        double up = ancestral ? next * sqrt(fmax(1 - next * next / (sigma * sigma), 0)) : 0;
        set_step(prediction, &levels[k], down, up, next, &ret_steps[k]);
    }
}

static npo_err plan_steps(const npo_sampler_settings *settings, bool ancestral,
                          npo_sampler_step *ret_steps, float *ret_start, npo_error *error)
{
    npo_solver_level *levels = calloc((size_t)settings->steps, sizeof *levels);
    if (!levels)
        return npo_error_set(error, NPO_E_NOMEM, "sampler: out of memory");
    npo_err err = place(settings, levels, error);
    if (!err) {
        set_steps(settings, levels, ancestral, ret_steps);
        double sigma = levels[0].sigma;
        *ret_start =
            (float)(settings->spacing == NPO_SPACING_LEADING ? sqrt(sigma * sigma + 1) : sigma);
    }
    free(levels);
    return err;
}

static npo_err plan_plain(const npo_sampler_settings *settings, npo_sampler_step *ret_steps,
                          float *ret_start, npo_error *error)
{
    return plan_steps(settings, false, ret_steps, ret_start, error);
}

static npo_err plan_ancestral(const npo_sampler_settings *settings, npo_sampler_step *ret_steps,
                              float *ret_start, npo_error *error)
{
    return plan_steps(settings, true, ret_steps, ret_start, error);
}

const npo_solver npo_solver_euler = {
    .name = "euler",
    .label = "Euler",
    .karras = "Euler Karras",
    .spacing = NPO_SPACING_LINSPACE,
    .plan = plan_plain,
};

const npo_solver npo_solver_euler_ancestral = {
    .name = "euler-ancestral",
    .label = "Euler a",
    .karras = "Euler a Karras",
    .spacing = NPO_SPACING_LINSPACE,
    .draws_noise = true,
    .plan = plan_ancestral,
};
