/* The rows of the samplers' table, and what their plans share: where the steps lie. Internal to
 * worker/diffusion. */
#ifndef NPO_DIFFUSION_SOLVERS_SOLVER_H
#define NPO_DIFFUSION_SOLVERS_SOLVER_H

#include "worker/diffusion/sampler.h"

typedef struct {
    const char *name;           /* in sentences */
    const char *label, *karras; /* npo_sampler_label; karras NULL: has no such noise levels */
    npo_spacing spacing;        /* where neither the caller nor the model says one */
    bool multistep;             /* steps take the x0 of the one before */
    bool draws_noise;
    bool method_grid; /* NPO_SPACING_METHOD is meaningful */
    /* settings->spacing is not DEFAULT; ret_steps [steps] all zero. */
    npo_err (*plan)(const npo_sampler_settings *settings, npo_sampler_step *ret_steps,
                    float *ret_start, npo_error *error);
} npo_solver;

extern const npo_solver npo_solver_ddim, npo_solver_dpmpp_2m, npo_solver_euler,
    npo_solver_euler_ancestral;

/* Timestep of point k (0 the noisiest) of `steps` steps, of which `points` are placed: a sampler
 * that leaves the last one out has points = steps + 1. Not rounded for linspace. As numpy computes
 * it in diffusers. Errors: NPO_E_RANGE outside the schedule. */
npo_err npo_solver_timestep(const npo_sampler_settings *settings, int64_t points, int64_t k,
                            double *ret_t, npo_error *error) NPO_MUST_CHECK;

/* A step's noise level: sigma = sqrt(1 / alpha_bar - 1). */
typedef struct {
    double sigma, t;
} npo_solver_level;

/* Noise level of a timestep, between whole ones interpolated. Zero terminal SNR has 2^-24 for the
 * last alpha_bar, as diffusers, so that sigma is finite. */
double npo_solver_sigma(const npo_schedule *schedule, double t);
/* Karras' levels from sigma_max down to sigma_min, with the timesteps whose sigma they are.
 * Source: arXiv 2206.00364, equation 5, rho 7. */
void npo_solver_karras(const npo_schedule *schedule, double sigma_max, double sigma_min,
                       int64_t count, npo_solver_level *ret_levels);

#endif
