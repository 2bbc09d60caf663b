/* DDIM with eta = 0 (arXiv 2010.02502), as DDIMScheduler of diffusers; and the training method's
 * own grid. */
#include "worker/diffusion/solvers/solver.h"

#include <math.h>
#include <stdlib.h>

static void set_step(const npo_schedule *schedule, int64_t t, double alpha_bar_next,
                     npo_sampler_step *ret_step)
{
    *ret_step = (npo_sampler_step){
        .t = (float)t,
        .in = 1,
        .x0 = npo_schedule_x0_mix(schedule, t),
        .next = npo_schedule_step_mix(schedule, t, alpha_bar_next),
        .alpha_bar_next = alpha_bar_next,
    };
}

static npo_err plan_method(const npo_schedule *schedule, int64_t steps, npo_sampler_step *ret_steps,
                           npo_error *error)
{
    int32_t *grid = malloc((size_t)steps * sizeof *grid);
    if (!grid)
        return npo_error_set(error, NPO_E_NOMEM, "sampler: out of memory");
    npo_err err = npo_schedule_grid(schedule, steps, grid, error);
    for (int64_t k = 0; !err && k < steps; k++) {
        int64_t i = steps - 1 - k;
        set_step(schedule, grid[i], npo_schedule_alpha_bar(schedule, i > 0 ? grid[i - 1] : 0),
                 &ret_steps[k]);
    }
    free(grid);
    return err;
}

static npo_err plan(const npo_sampler_settings *settings, npo_sampler_step *ret_steps,
                    float *ret_start, npo_error *error)
{
    const npo_schedule *schedule = settings->schedule;
    const npo_schedule_config *config = npo_schedule_config_of(schedule);
    *ret_start = 1;
    if (settings->spacing == NPO_SPACING_METHOD)
        return plan_method(schedule, settings->steps, ret_steps, error);
    double last = config->set_alpha_to_one ? 1 : npo_schedule_alpha_bar(schedule, 0);
    for (int64_t k = 0; k < settings->steps; k++) {
        double place = 0;
        NPO_TRY(npo_solver_timestep(settings, settings->steps, k, &place, error));
        int64_t t = (int64_t)rint(place), next = t - config->train_steps / settings->steps;
        set_step(schedule, t, next >= 0 ? npo_schedule_alpha_bar(schedule, next) : last,
                 &ret_steps[k]);
    }
    return NPO_OK;
}

const npo_solver npo_solver_ddim = {
    .name = "ddim",
    .label = "DDIM",
    .spacing = NPO_SPACING_LEADING,
    .method_grid = true,
    .plan = plan,
};
