#include "worker/diffusion/trajectory/batch.h"

#include "common/rng.h"
#include "worker/diffusion/denoiser.h"

#include <stdlib.h>
#include <string.h>

npo_err npo_batch_init(npo_batch *batch, int64_t n, size_t sample_floats)
{
    size_t rows = (size_t)n, values = 0;
    *batch = (npo_batch){.n = n, .sample_floats = sample_floats};
    if (n < 1 || __builtin_mul_overflow(rows, sample_floats, &values))
        return NPO_E_RANGE;
    batch->x = calloc(values, sizeof *batch->x);
    batch->target = calloc(values, sizeof *batch->target);
    batch->t = calloc(rows, sizeof *batch->t);
    batch->ca = calloc(rows, sizeof *batch->ca);
    batch->cb = calloc(rows, sizeof *batch->cb);
    batch->prompt = calloc(rows, sizeof *batch->prompt);
    if (batch->x && batch->target && batch->t && batch->ca && batch->cb && batch->prompt)
        return NPO_OK;
    npo_batch_fini(batch);
    return NPO_E_NOMEM;
}

void npo_batch_fini(npo_batch *batch)
{
    free(batch->x);
    free(batch->target);
    free(batch->t);
    free(batch->ca);
    free(batch->cb);
    free(batch->prompt);
    *batch = (npo_batch){0};
}

static npo_rng stream(const npo_batch_draws *draws, npo_rng_purpose purpose, int64_t slot)
{
    return npo_rng_stream(draws->seed, purpose, (uint32_t)slot, (uint32_t)draws->step);
}

static int32_t student_prompt(const npo_batch_draws *draws, int64_t slot, int32_t prompt)
{
    if (draws->empty_prompt_share <= 0)
        return prompt;
    npo_rng rng = stream(draws, NPO_RNG_EMPTY_PROMPT, slot);
    return npo_rng_uniform(&rng, 0) < draws->empty_prompt_share ? NPO_PROMPT_EMPTY : prompt;
}

static npo_err check_cut(const npo_schedule *schedule, const npo_segment *segment, int64_t row,
                         npo_error *error)
{
    int64_t last = npo_schedule_config_of(schedule)->train_steps - 1;
    if (segment->t_cut[row] < last)
        return NPO_OK;
    return npo_error_set(error, NPO_E_RANGE,
                         "cut of slot %lld lies at timestep %d, expected at most %lld",
                         (long long)segment->slot[row], segment->t_cut[row], (long long)last - 1);
}

/* Row i of the batch from a cut; on entry x holds the noise. */
static void fill_regression(npo_batch *batch, int64_t i, const npo_schedule *schedule,
                            const npo_segment *segment, int64_t row, int64_t t)
{
    size_t floats = batch->sample_floats;
    float *x = batch->x + (size_t)i * floats;
    const float *x_cut = segment->x_cut + (size_t)row * floats;
    npo_mix renoise = npo_schedule_renoise_mix(schedule, segment->t_cut[row], t);
    npo_mix x0 = npo_schedule_x0_mix(schedule, t);
    npo_mix_apply(renoise, floats, x_cut, x, x);
    memcpy(batch->target + (size_t)i * floats, segment->x0_target + (size_t)row * floats,
           floats * sizeof *batch->target);
    batch->t[i] = (float)t;
    batch->ca[i] = x0.cx;
    batch->cb[i] = x0.co;
}

npo_err npo_batch_renoise(npo_batch *batch, const npo_batch_draws *draws,
                          const npo_segment *segment, const int64_t *rows, npo_error *error)
{
    int64_t last = npo_schedule_config_of(draws->schedule)->train_steps - 1;
    for (int64_t i = 0; i < batch->n; i++) {
        int64_t row = rows[i], slot = segment->slot[row];
        NPO_TRY(check_cut(draws->schedule, segment, row, error));
        npo_rng timestep = stream(draws, NPO_RNG_TIMESTEP, slot);
        npo_rng noise = stream(draws, NPO_RNG_NOISE, slot);
        int64_t t_cut = segment->t_cut[row];
        int64_t t = t_cut + 1 + (int64_t)npo_rng_below(&timestep, 0, (uint64_t)(last - t_cut));
        npo_rng_gaussians(&noise, batch->sample_floats,
                          batch->x + (size_t)i * batch->sample_floats);
        fill_regression(batch, i, draws->schedule, segment, row, t);
        batch->prompt[i] = student_prompt(draws, slot, segment->prompt[row]);
    }
    return NPO_OK;
}

npo_err npo_batch_renoise_given(npo_batch *batch, const npo_schedule *schedule,
                                const npo_segment *segment, const int64_t *rows, const int32_t *t,
                                const float *noise, npo_error *error)
{
    size_t floats = batch->sample_floats;
    int64_t last = npo_schedule_config_of(schedule)->train_steps - 1;
    for (int64_t i = 0; i < batch->n; i++) {
        NPO_TRY(check_cut(schedule, segment, rows[i], error));
        if (t[i] <= segment->t_cut[rows[i]] || t[i] > last)
            return npo_error_set(
                error, NPO_E_RANGE, "timestep %d of slot %lld, expected %d to %lld", t[i],
                (long long)segment->slot[rows[i]], segment->t_cut[rows[i]] + 1, (long long)last);
        memcpy(batch->x + (size_t)i * floats, noise + (size_t)i * floats, floats * sizeof *noise);
        fill_regression(batch, i, schedule, segment, rows[i], t[i]);
        batch->prompt[i] = segment->prompt[rows[i]];
    }
    return NPO_OK;
}

void npo_batch_diffusion(npo_batch *batch, const npo_batch_draws *draws, int64_t row, int64_t slot,
                         const float *x0, int32_t prompt)
{
    const npo_schedule *schedule = draws->schedule;
    size_t floats = batch->sample_floats;
    float *x = batch->x + (size_t)row * floats, *target = batch->target + (size_t)row * floats;
    npo_rng timestep = stream(draws, NPO_RNG_TIMESTEP, slot);
    npo_rng noise = stream(draws, NPO_RNG_NOISE, slot);
    uint64_t train_steps = (uint64_t)npo_schedule_config_of(schedule)->train_steps;
    int64_t t = (int64_t)npo_rng_below(&timestep, 0, train_steps);
    npo_rng_gaussians(&noise, floats, x);
    npo_mix_apply(npo_schedule_output_mix(schedule, t), floats, x0, x, target);
    npo_mix forward = {npo_schedule_a(schedule, t), npo_schedule_s(schedule, t)};
    npo_mix_apply(forward, floats, x0, x, x);
    batch->t[row] = (float)t;
    batch->ca[row] = 0;
    batch->cb[row] = 1;
    batch->prompt[row] = student_prompt(draws, slot, prompt);
}
