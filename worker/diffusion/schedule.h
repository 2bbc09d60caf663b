/* Noise schedule: x_t = a[t] x0 + s[t] eps with a = sqrt(alpha_bar), s = sqrt(1 - alpha_bar), as
 * diffusers' schedulers define it (Ho et al., arXiv 2006.11239; zero terminal SNR: Lin et al.,
 * arXiv 2305.08891). Everything is computed in f64 and rounded once. Immutable, so it can be
 * shared. */
#ifndef NPO_DIFFUSION_SCHEDULE_H
#define NPO_DIFFUSION_SCHEDULE_H

#include "common/json.h"

#define NPO_SCHEDULE_STEPS_MAX 100000 /* training timesteps */

typedef enum { NPO_BETAS_LINEAR, NPO_BETAS_SCALED_LINEAR } npo_betas;
typedef enum { NPO_PREDICT_EPSILON, NPO_PREDICT_V } npo_prediction;
/* Where a sampler's timesteps lie. DEFAULT is each sampler's own; METHOD is the training method's
 * own grid (npo_schedule_grid). */
typedef enum {
    NPO_SPACING_LEADING,
    NPO_SPACING_TRAILING,
    NPO_SPACING_LINSPACE,
    NPO_SPACING_METHOD,
    NPO_SPACING_DEFAULT
} npo_spacing;

/* The keys of scheduler_config.json that matter here, with diffusers' defaults where a key is
 * missing (clip_sample: false, as every Stable Diffusion pipeline has it). */
typedef struct {
    int64_t train_steps;
    double beta_start, beta_end;
    int betas;              /* npo_betas */
    int prediction;         /* npo_prediction */
    int spacing;            /* npo_spacing, METHOD excepted; DEFAULT where the key is missing */
    int64_t steps_offset;   /* LEADING */
    bool set_alpha_to_one;  /* alpha_bar behind the last step: 1, else entry 0 */
    bool zero_terminal_snr; /* "rescale_betas_zero_snr" */
    bool clip_sample;       /* x0 is clamped to +-clip_range while sampling */
    double clip_range;
} npo_schedule_config;

/* Unknown keys are ignored (other schedulers' options); keys that would change the computation in a
 * way not computed here are refused. name stands in sentences. Errors: NPO_E_UNSUPPORTED,
 * NPO_E_TYPE, NPO_E_RANGE, NPO_E_USAGE. */
npo_err npo_schedule_config_read(const cJSON *json, const char *name,
                                 npo_schedule_config *ret_config, npo_error *error) NPO_MUST_CHECK;
npo_err npo_schedule_config_load(const char *path, npo_schedule_config *ret_config,
                                 npo_error *error) NPO_MUST_CHECK;

/* npo_json_load for what Python's json module writes: -Infinity and Infinity outside strings, which
 * some schedulers have among their options, become null. */
npo_err npo_schedule_json_load(const char *path, cJSON **ret_json, npo_error *error) NPO_MUST_CHECK;

typedef struct npo_schedule npo_schedule;

/* Errors: NPO_E_RANGE (betas outside (0,1)), NPO_E_UNSUPPORTED (zero terminal SNR with epsilon
 * prediction, which cannot be inverted there), NPO_E_NOMEM. */
npo_err npo_schedule_new(const npo_schedule_config *config, npo_schedule **ret_schedule,
                         npo_error *error) NPO_MUST_CHECK;
void npo_schedule_free(npo_schedule *schedule);
const npo_schedule_config *npo_schedule_config_of(const npo_schedule *schedule); /* borrowed */
/* t in 0 .. train_steps-1 (asserted). */
double npo_schedule_alpha_bar(const npo_schedule *schedule, int64_t t);
float npo_schedule_a(const npo_schedule *schedule, int64_t t);
float npo_schedule_s(const npo_schedule *schedule, int64_t t);

/* Solver grid of the method: t_i = floor((i+1) train_steps / steps) - 1, i = 0 .. steps-1; for 25
 * of 1000 t_i = (i+1) 40 - 1. Errors: NPO_E_RANGE unless 1 <= steps <= train_steps. */
npo_err npo_schedule_grid(const npo_schedule *schedule, int64_t steps, int32_t *ret_t,
                          npo_error *error) NPO_MUST_CHECK;

/* Both the x0 prediction and a deterministic (DDIM, eta = 0) solver step are linear in the noised
 * sample and the network's output: y = x * cx + out * co. Computed in f64, rounded once. */
typedef struct {
    float cx, co;
} npo_mix;

npo_mix npo_schedule_x0_mix(const npo_schedule *schedule, int64_t t);
npo_mix npo_schedule_eps_mix(const npo_schedule *schedule, int64_t t);
/* From t to a point of the given alpha_bar; lower noise or the same (asserted to be in [0,1]). */
npo_mix npo_schedule_step_mix(const npo_schedule *schedule, int64_t t, double alpha_bar_next);
/* From a cut at t_cut back up to t >= t_cut: x_t = x_cut * cx + noise * co, cx = a[t] / a[t_cut],
 * co = sqrt(s[t]^2 - cx^2 s[t_cut]^2). Source: Self-NPO, arXiv 2505.11777. */
npo_mix npo_schedule_renoise_mix(const npo_schedule *schedule, int64_t t_cut, int64_t t);
/* What the network is trained to output at t for a sample x0 and its noise: x0 * cx + noise * co.
 */
npo_mix npo_schedule_output_mix(const npo_schedule *schedule, int64_t t);

/* ret[i] = x[i] * cx + out[i] * co; ret may be x or out. */
void npo_mix_apply(npo_mix mix, size_t n, const float *x, const float *out, float *ret);

#endif
