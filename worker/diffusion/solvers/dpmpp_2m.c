/* DPM-Solver++ of order 2, multistep, midpoint (arXiv 2211.01095, algorithm 2), as
 * DPMSolverMultistepScheduler of diffusers: the first step and the last, which goes to sigma = 0,
 * are of order 1. */
#include "worker/diffusion/solvers/solver.h"

#include <math.h>
#include <stdlib.h>

/* The steps' levels; a last point at t = 0 is left out. Timesteps are whole: Karras' are rounded,
 * their sigmas kept. */
static npo_err place(const npo_sampler_settings *settings, npo_solver_level *ret_levels,
                     npo_error *error)
{
    const npo_schedule *schedule = settings->schedule;
    int64_t last = npo_schedule_config_of(schedule)->train_steps - 1;
    if (settings->karras)
        npo_solver_karras(schedule, npo_solver_sigma(schedule, (double)last),
                          npo_solver_sigma(schedule, 0), settings->steps, ret_levels);
    for (int64_t k = 0; k < settings->steps; k++) {
        if (!settings->karras)
            NPO_TRY(npo_solver_timestep(settings, settings->steps + 1, k, &ret_levels[k].t, error));
        ret_levels[k].t = rint(ret_levels[k].t);
        if (!settings->karras)
            ret_levels[k].sigma = npo_solver_sigma(schedule, ret_levels[k].t);
    }
    return NPO_OK;
}

static void x0_of(npo_prediction prediction, double sigma, double *ret_cx, double *ret_co)
{
    double a = 1 / sqrt(1 + sigma * sigma), s = sigma * a;
    *ret_cx = prediction == NPO_PREDICT_V ? a : 1 / a;
    *ret_co = prediction == NPO_PREDICT_V ? -s : -s / a;
}

/* before: sigma of the step before, 0 for a step of order 1. With lambda = -log sigma and
 * h = lambda' - lambda: x' = (s' / s) x + A (x0 + (x0 - x0_before) h / (2 h_before)),
 * A = a' (1 - exp(-h)) and exp(-h) = sigma' / sigma. */
static void set_step(npo_prediction prediction, const npo_solver_level *at, double sigma_next,
                     double before, npo_sampler_step *ret_step)
{
    double a = 1 / sqrt(1 + at->sigma * at->sigma);
    double a_next = 1 / sqrt(1 + sigma_next * sigma_next);
    double amount = a_next * (1 - sigma_next / at->sigma), x0_cx, x0_co, half = 0;
    if (before > at->sigma)
        half = 0.5 * log(at->sigma / sigma_next) / log(before / at->sigma);
    x0_of(prediction, at->sigma, &x0_cx, &x0_co);
    double ratio = sigma_next * a_next / (at->sigma * a);
    *ret_step = (npo_sampler_step){
        .t = (float)at->t,
        .in = 1,
        .x0 = {(float)x0_cx, (float)x0_co},
        .next = {(float)(ratio + amount * (1 + half) * x0_cx),
                 (float)(amount * (1 + half) * x0_co)},
        .previous = (float)(-amount * half),
        .alpha_bar_next = a_next * a_next,
    };
}

static npo_err plan(const npo_sampler_settings *settings, npo_sampler_step *ret_steps,
                    float *ret_start, npo_error *error)
{
    npo_prediction prediction =
        (npo_prediction)npo_schedule_config_of(settings->schedule)->prediction;
    int64_t last = settings->steps - 1;
    npo_solver_level *levels = calloc((size_t)settings->steps, sizeof *levels);
    if (!levels)
        return npo_error_set(error, NPO_E_NOMEM, "sampler: out of memory");
    npo_err err = place(settings, levels, error);
    for (int64_t k = 0; !err && k <= last; k++)
        set_step(prediction, &levels[k], k < last ? levels[k + 1].sigma : 0,
                 k > 0 && k < last ? levels[k - 1].sigma : 0, &ret_steps[k]);
    free(levels);
    *ret_start = 1;
    return err;
}

const npo_solver npo_solver_dpmpp_2m = {
    .name = "dpmpp-2m",
    .label = "DPM++ 2M",
    .karras = "DPM++ 2M Karras",
    .spacing = NPO_SPACING_LINSPACE,
    .multistep = true,
    .plan = plan,
};
