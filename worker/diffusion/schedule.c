#include "worker/diffusion/schedule.h"

#include "worker/model/files/part_file.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_BYTES_MAX ((size_t)1 << 20)

struct npo_schedule {
    npo_schedule_config config;
    double *alpha_bar; /* [train_steps] */
};

/* What the file may say; config_read turns it into npo_schedule_config. */
typedef struct {
    npo_schedule_config config;
    const cJSON *trained_betas;
    bool thresholding;
} raw_config;

static const char *const beta_names[] = {"linear", "scaled_linear", NULL};
static const char *const prediction_names[] = {"epsilon", "v_prediction", NULL};
static const char *const spacing_names[] = {"leading", "trailing", "linspace", NULL};

#define FIELD(name, kind, member, ...)                                                             \
    {                                                                                              \
        .key = name, .type = NPO_JSON_##kind, .offset = offsetof(raw_config, member), __VA_ARGS__  \
    }

static const npo_json_field fields[] = {
    FIELD("num_train_timesteps", INT, config.train_steps, .min = 1, .max = NPO_SCHEDULE_STEPS_MAX),
    FIELD("beta_start", NUMBER, config.beta_start),
    FIELD("beta_end", NUMBER, config.beta_end),
    FIELD("beta_schedule", ENUM, config.betas, .choices = beta_names),
    FIELD("prediction_type", ENUM, config.prediction, .choices = prediction_names),
    FIELD("timestep_spacing", ENUM, config.spacing, .choices = spacing_names),
    FIELD("steps_offset", INT, config.steps_offset, .min = 0, .max = NPO_SCHEDULE_STEPS_MAX),
    FIELD("set_alpha_to_one", BOOL, config.set_alpha_to_one),
    FIELD("rescale_betas_zero_snr", BOOL, config.zero_terminal_snr),
    FIELD("clip_sample", BOOL, config.clip_sample),
    FIELD("clip_sample_range", NUMBER, config.clip_range),
    FIELD("trained_betas", ANY, trained_betas),
    FIELD("thresholding", BOOL, thresholding),
};

npo_err npo_schedule_config_read(const cJSON *json, const char *name,
                                 npo_schedule_config *ret_config, npo_error *error)
{
    raw_config raw = {.config = {.train_steps = 1000,
                                 .beta_start = 1e-4,
                                 .beta_end = 0.02,
                                 .betas = NPO_BETAS_LINEAR,
                                 .prediction = NPO_PREDICT_EPSILON,
                                 .spacing = NPO_SPACING_DEFAULT,
                                 .set_alpha_to_one = true,
                                 .clip_range = 1.0}};
    npo_err err =
        npo_json_read(json, "", fields, sizeof fields / sizeof fields[0], true, &raw, error);
    if (err)
        return npo_error_prefix(error, err, "noise schedule %s", name);
    if (raw.trained_betas && !cJSON_IsNull(raw.trained_betas))
        return npo_error_set(error, NPO_E_UNSUPPORTED,
                             "noise schedule %s: found 'trained_betas', expected a 'beta_schedule'",
                             name);
    if (raw.thresholding)
        return npo_error_set(error, NPO_E_UNSUPPORTED,
                             "noise schedule %s: 'thresholding' is true, only false is computed",
                             name);
    *ret_config = raw.config;
    return NPO_OK;
}

/* Overwrites the words that JSON does not have, with null and spaces. */
static void replace_constants(char *text)
{
    static const char *const words[] = {"-Infinity", "Infinity"};
    bool in_string = false;
    for (char *at = text; *at; at++) {
        if (*at == '"')
            in_string = !in_string;
        else if (in_string && *at == '\\' && at[1])
            at++;
        for (size_t i = 0; !in_string && i < sizeof words / sizeof words[0]; i++) {
            size_t len = strlen(words[i]);
            if (strncmp(at, words[i], len) != 0)
                continue;
            memset(at, ' ', len);
            memcpy(at, "null", 4);
        }
    }
}

npo_err npo_schedule_json_load(const char *path, cJSON **ret_json, npo_error *error)
{
    npo_buf text = NPO_BUF_INIT;
    char name[NPO_ERROR_TEXT_MAX / 2];
    snprintf(name, sizeof name, "'%s'", path);
    npo_err err = npo_part_file_read(path, CONFIG_BYTES_MAX, &text, error);
    if (!err && text.len) {
        replace_constants(text.data);
        err = npo_json_parse(text.data, text.len, name, ret_json, error);
    } else if (!err) {
        err = npo_error_set(error, NPO_E_FORMAT, "%s: not JSON: empty", name);
    }
    npo_buf_fini(&text);
    return err;
}

npo_err npo_schedule_config_load(const char *path, npo_schedule_config *ret_config,
                                 npo_error *error)
{
    cJSON *json = NULL;
    NPO_TRY(npo_schedule_json_load(path, &json, error));
    char name[NPO_ERROR_TEXT_MAX / 2];
    snprintf(name, sizeof name, "'%s'", path);
    npo_err err = npo_schedule_config_read(json, name, ret_config, error);
    cJSON_Delete(json);
    return err;
}

/* torch.linspace of beta, or of sqrt(beta), as diffusers' "linear" and "scaled_linear". */
static double beta_at(const npo_schedule_config *config, int64_t t)
{
    bool scaled = config->betas == NPO_BETAS_SCALED_LINEAR;
    double from = scaled ? sqrt(config->beta_start) : config->beta_start;
    double to = scaled ? sqrt(config->beta_end) : config->beta_end;
    double part = config->train_steps > 1 ? (double)t / (double)(config->train_steps - 1) : 0;
    double value = from + (to - from) * part;
    return scaled ? value * value : value;
}

/* Shifts and scales sqrt(alpha_bar) so that its last entry is 0 and its first unchanged (algorithm
 * 1 of arXiv 2305.08891). */
static void rescale_to_zero_snr(double *alpha_bar, int64_t n)
{
    double first = sqrt(alpha_bar[0]), last = sqrt(alpha_bar[n - 1]);
    for (int64_t t = 0; t < n; t++) {
        double root = (sqrt(alpha_bar[t]) - last) * (first / (first - last));
        alpha_bar[t] = root * root;
    }
    alpha_bar[n - 1] = 0;
}

static npo_err check_config(const npo_schedule_config *config, npo_error *error)
{
    if (config->train_steps < 1 || config->train_steps > NPO_SCHEDULE_STEPS_MAX)
        return npo_error_set(error, NPO_E_RANGE, "noise schedule: %lld timesteps, expected 1 to %d",
                             (long long)config->train_steps, NPO_SCHEDULE_STEPS_MAX);
    const double betas[2] = {config->beta_start, config->beta_end};
    for (int i = 0; i < 2; i++)
        if (!(betas[i] > 0 && betas[i] < 1))
            return npo_error_set(error, NPO_E_RANGE,
                                 "noise schedule: '%s' is %g, expected a number between 0 and 1",
                                 i ? "beta_end" : "beta_start", betas[i]);
    if (config->clip_sample && !(config->clip_range > 0))
        return npo_error_set(error, NPO_E_RANGE,
                             "noise schedule: 'clip_sample_range' is %g, expected more than 0",
                             config->clip_range);
    if (config->zero_terminal_snr && config->prediction == NPO_PREDICT_EPSILON)
        return npo_error_set(error, NPO_E_UNSUPPORTED,
                             "noise schedule: 'rescale_betas_zero_snr' with 'prediction_type' "
                             "epsilon, expected v_prediction");
    if (config->zero_terminal_snr && config->train_steps < 2)
        return npo_error_set(error, NPO_E_RANGE,
                             "noise schedule: 'rescale_betas_zero_snr' with one timestep");
    return NPO_OK;
}

/* Extreme betas round the table to 0, or leave nothing between its ends to rescale by. */
static npo_err check_alpha_bar(const npo_schedule_config *config, const double *alpha_bar,
                               npo_error *error)
{
    int64_t last = config->train_steps - 1;
    for (int64_t t = 0; t <= last; t++)
        if (!(alpha_bar[t] > 0 && alpha_bar[t] <= 1) && !(config->zero_terminal_snr && t == last))
            return npo_error_set(error, NPO_E_RANGE,
                                 "noise schedule: betas %g to %g give alpha_bar %g at timestep "
                                 "%lld, expected more than 0 and at most 1",
                                 config->beta_start, config->beta_end, alpha_bar[t], (long long)t);
    return NPO_OK;
}

npo_err npo_schedule_new(const npo_schedule_config *config, npo_schedule **ret_schedule,
                         npo_error *error)
{
    NPO_TRY(check_config(config, error));
    npo_schedule *schedule = calloc(1, sizeof *schedule);
    double *alpha_bar = calloc((size_t)config->train_steps, sizeof *alpha_bar);
    if (!schedule || !alpha_bar) {
        free(schedule);
        free(alpha_bar);
        return npo_error_set(error, NPO_E_NOMEM, "noise schedule: out of memory");
    }
    double product = 1;
    for (int64_t t = 0; t < config->train_steps; t++) {
        product *= 1 - beta_at(config, t);
        alpha_bar[t] = product;
    }
    if (config->zero_terminal_snr)
        rescale_to_zero_snr(alpha_bar, config->train_steps);
    schedule->config = *config;
    schedule->alpha_bar = alpha_bar;
    npo_err err = check_alpha_bar(config, alpha_bar, error);
    if (err)
        npo_schedule_free(schedule);
    else
        *ret_schedule = schedule;
    return err;
}

void npo_schedule_free(npo_schedule *schedule)
{
    if (!schedule)
        return;
    free(schedule->alpha_bar);
    free(schedule);
}

const npo_schedule_config *npo_schedule_config_of(const npo_schedule *schedule)
{
    return &schedule->config;
}

double npo_schedule_alpha_bar(const npo_schedule *schedule, int64_t t)
{
    assert(t >= 0 && t < schedule->config.train_steps);
    return schedule->alpha_bar[t];
}

float npo_schedule_a(const npo_schedule *schedule, int64_t t)
{
    return (float)sqrt(npo_schedule_alpha_bar(schedule, t));
}

float npo_schedule_s(const npo_schedule *schedule, int64_t t)
{
    return (float)sqrt(1 - npo_schedule_alpha_bar(schedule, t));
}

npo_err npo_schedule_grid(const npo_schedule *schedule, int64_t steps, int32_t *ret_t,
                          npo_error *error)
{
    int64_t train_steps = schedule->config.train_steps;
    if (steps < 1 || steps > train_steps)
        return npo_error_set(error, NPO_E_RANGE, "solver grid: %lld steps, expected 1 to %lld",
                             (long long)steps, (long long)train_steps);
    for (int64_t i = 0; i < steps; i++)
        ret_t[i] = (int32_t)((i + 1) * train_steps / steps - 1);
    return NPO_OK;
}

/* ---- mixtures ---- */

static npo_mix mix(double cx, double co)
{
    return (npo_mix){.cx = (float)cx, .co = (float)co};
}

npo_mix npo_schedule_x0_mix(const npo_schedule *schedule, int64_t t)
{
    double bar = npo_schedule_alpha_bar(schedule, t), a = sqrt(bar), s = sqrt(1 - bar);
    return schedule->config.prediction == NPO_PREDICT_V ? mix(a, -s) : mix(1 / a, -s / a);
}

npo_mix npo_schedule_eps_mix(const npo_schedule *schedule, int64_t t)
{
    double bar = npo_schedule_alpha_bar(schedule, t), a = sqrt(bar), s = sqrt(1 - bar);
    return schedule->config.prediction == NPO_PREDICT_V ? mix(s, a) : mix(0, 1);
}

npo_mix npo_schedule_step_mix(const npo_schedule *schedule, int64_t t, double alpha_bar_next)
{
    assert(alpha_bar_next >= 0 && alpha_bar_next <= 1);
    double bar = npo_schedule_alpha_bar(schedule, t), a = sqrt(bar), s = sqrt(1 - bar);
    double a_next = sqrt(alpha_bar_next), s_next = sqrt(1 - alpha_bar_next);
    if (schedule->config.prediction == NPO_PREDICT_V)
        return mix(a_next * a + s_next * s, s_next * a - a_next * s);
    return mix(a_next / a, s_next - a_next * (s / a));
}

npo_mix npo_schedule_renoise_mix(const npo_schedule *schedule, int64_t t_cut, int64_t t)
{
    assert(t >= t_cut);
    /* s[t]^2 - r^2 s[t_cut]^2 with r^2 = bar / bar_cut is 1 - r^2: no cancellation, and right where
     * bar is 0. */
    double ratio = npo_schedule_alpha_bar(schedule, t) / npo_schedule_alpha_bar(schedule, t_cut);
    return mix(sqrt(ratio), sqrt(1 - ratio));
}

npo_mix npo_schedule_output_mix(const npo_schedule *schedule, int64_t t)
{
    double bar = npo_schedule_alpha_bar(schedule, t);
    if (schedule->config.prediction == NPO_PREDICT_V)
        return mix(-sqrt(1 - bar), sqrt(bar));
    return mix(0, 1);
}

void npo_mix_apply(npo_mix by, size_t n, const float *x, const float *out, float *ret)
{
    for (size_t i = 0; i < n; i++)
        ret[i] = x[i] * by.cx + out[i] * by.co;
}
