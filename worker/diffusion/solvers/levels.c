#include "worker/diffusion/solvers/solver.h"

#include <math.h>

#define KARRAS_RHO 7.0
/* What diffusers puts for the zero at the end of a zero terminal SNR schedule: the smallest f16. */
#define ALPHA_BAR_MIN 0x1p-24

/* ---- timesteps ---- */

static double leading_t(const npo_schedule_config *config, int64_t steps, int64_t points, int64_t k)
{
    return (double)((points - 1 - k) * (config->train_steps / points) + config->steps_offset);
}

static double trailing_t(const npo_schedule_config *config, int64_t steps, int64_t points,
                         int64_t k)
{
    double ratio = (double)config->train_steps / (double)steps;
    return rint((double)config->train_steps - (double)k * ratio) - 1;
}

static double linspace_t(const npo_schedule_config *config, int64_t steps, int64_t points,
                         int64_t k)
{
    if (points == 1)
        return 0;
    double delta = (double)(config->train_steps - 1) / (double)(points - 1);
    return k == 0 ? (double)(config->train_steps - 1) : (double)(points - 1 - k) * delta;
}

static double (*const spacing_rules[])(const npo_schedule_config *, int64_t, int64_t, int64_t) = {
    [NPO_SPACING_LEADING] = leading_t,
    [NPO_SPACING_TRAILING] = trailing_t,
    [NPO_SPACING_LINSPACE] = linspace_t,
};

npo_err npo_solver_timestep(const npo_sampler_settings *settings, int64_t points, int64_t k,
                            double *ret_t, npo_error *error)
{
    const npo_schedule_config *config = npo_schedule_config_of(settings->schedule);
    double t = spacing_rules[settings->spacing](config, settings->steps, points, k);
    if (!(t >= 0 && t <= (double)(config->train_steps - 1)))
        return npo_error_set(error, NPO_E_RANGE,
                             "sampler: step %lld of %lld with 'steps_offset' %lld lies at timestep "
                             "%g, expected 0 to %lld",
                             (long long)k, (long long)settings->steps,
                             (long long)config->steps_offset, t,
                             (long long)config->train_steps - 1);
    *ret_t = t;
    return NPO_OK;
}

/* ---- noise levels ---- */

static double entry_sigma(const npo_schedule *schedule, int64_t t)
{
    double bar = fmax(npo_schedule_alpha_bar(schedule, t), ALPHA_BAR_MIN);
    return sqrt((1 - bar) / bar);
}

double npo_solver_sigma(const npo_schedule *schedule, double t)
{
    int64_t low = (int64_t)t;
    double part = t - (double)low, sigma = entry_sigma(schedule, low);
    return part > 0 ? sigma + part * (entry_sigma(schedule, low + 1) - sigma) : sigma;
}

/* The timestep whose sigma it is, interpolated in log sigma; the schedule's ends beyond them. */
static double timestep_of(const npo_schedule *schedule, double sigma)
{
    int64_t low = 0, high = npo_schedule_config_of(schedule)->train_steps - 1;
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        if (entry_sigma(schedule, middle) <= sigma)
            low = middle;
        else
            high = middle;
    }
    double from = log(entry_sigma(schedule, low)), to = log(entry_sigma(schedule, high));
    double part = high > low && to > from ? (log(sigma) - from) / (to - from) : 0;
    return (double)low + fmin(fmax(part, 0), 1) * (double)(high - low);
}

void npo_solver_karras(const npo_schedule *schedule, double sigma_max, double sigma_min,
                       int64_t count, npo_solver_level *ret_levels)
{
    double from = pow(sigma_max, 1 / KARRAS_RHO), to = pow(sigma_min, 1 / KARRAS_RHO);
    for (int64_t k = 0; k < count; k++) {
        double ramp = count > 1 ? (double)k / (double)(count - 1) : 0;
        ret_levels[k].sigma = pow(from + ramp * (to - from), KARRAS_RHO);
        ret_levels[k].t = timestep_of(schedule, ret_levels[k].sigma);
    }
}
