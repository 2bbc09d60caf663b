#include "worker/diffusion/trajectory/trajectory.h"

#include "common/rng.h"
#include "worker/diffusion/guidance.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct npo_trajectory {
    npo_trajectory_options options;
    npo_latent_shape shape;
    size_t floats;
    int64_t rows_max;
    int32_t *grid; /* [solver_steps] */
    /* Scratch of rows_max rows. */
    float *x, *out, *mixed;      /* [rows_max, floats] the rows that take a step, packed */
    int32_t *t, *prompt, *empty; /* [rows_max] */
    float *times;                /* [rows_max] t as the network takes it */
    int64_t *active;             /* [rows_max] pool rows that take this step */
    int32_t *index, *left;       /* [rows_max] grid index and steps to take */
};

bool npo_trajectory_has_branch(const npo_trajectory_options *options)
{
    return options->starts == NPO_STARTS_NOISE && options->w < -1;
}

static npo_err check_options(const npo_trajectory_options *options, npo_error *error)
{
    int64_t train_steps = npo_schedule_config_of(options->schedule)->train_steps;
    if (options->solver_steps < 1 || options->solver_steps >= train_steps)
        return npo_error_set(error, NPO_E_RANGE, "trajectories of %lld steps, expected 1 to %lld",
                             (long long)options->solver_steps, (long long)train_steps - 1);
    if (options->segment_steps < 1 || options->segment_steps > options->solver_steps)
        return npo_error_set(error, NPO_E_RANGE, "segments of %lld steps, expected 1 to %lld",
                             (long long)options->segment_steps, (long long)options->solver_steps);
    if (!isfinite(options->w))
        return npo_error_set(error, NPO_E_RANGE, "generation weight %g, expected a finite number",
                             options->w);
    if (options->starts == NPO_STARTS_LATENTS && (!options->latents || options->latents->count < 1))
        return npo_error_set(error, NPO_E_RANGE, "starts from latents need images, found none");
    if (options->prompt_count < 1)
        return npo_error_set(error, NPO_E_RANGE, "trajectories need prompts, found none");
    return NPO_OK;
}

static npo_err alloc_scratch(npo_trajectory *trajectory)
{
    size_t rows = (size_t)trajectory->rows_max, values = 0;
    if (__builtin_mul_overflow(rows, trajectory->floats, &values))
        return NPO_E_RANGE;
    trajectory->grid = calloc((size_t)trajectory->options.solver_steps, sizeof *trajectory->grid);
    trajectory->x = calloc(values, sizeof *trajectory->x);
    trajectory->out = calloc(values, sizeof *trajectory->out);
    trajectory->mixed = calloc(values, sizeof *trajectory->mixed);
    trajectory->t = calloc(rows, sizeof *trajectory->t);
    trajectory->times = calloc(rows, sizeof *trajectory->times);
    trajectory->prompt = calloc(rows, sizeof *trajectory->prompt);
    trajectory->empty = calloc(rows, sizeof *trajectory->empty);
    trajectory->active = calloc(rows, sizeof *trajectory->active);
    trajectory->index = calloc(rows, sizeof *trajectory->index);
    trajectory->left = calloc(rows, sizeof *trajectory->left);
    bool is_complete = trajectory->grid && trajectory->x && trajectory->out && trajectory->mixed &&
                       trajectory->t && trajectory->times && trajectory->prompt &&
                       trajectory->empty && trajectory->active && trajectory->index &&
                       trajectory->left;
    for (size_t i = 0; is_complete && i < rows; i++)
        trajectory->empty[i] = NPO_PROMPT_EMPTY;
    return is_complete ? NPO_OK : NPO_E_NOMEM;
}

npo_err npo_trajectory_new(const npo_trajectory_options *options, npo_latent_shape shape,
                           int64_t rows_max, npo_trajectory **ret_trajectory, npo_error *error)
{
    NPO_TRY(check_options(options, error));
    if (rows_max < 1)
        return npo_error_set(error, NPO_E_RANGE,
                             "trajectories: room for %lld rows, expected 1 or more",
                             (long long)rows_max);
    npo_trajectory *trajectory = calloc(1, sizeof *trajectory);
    if (!trajectory)
        return npo_error_set(error, NPO_E_NOMEM, "trajectories: out of memory");
    trajectory->options = *options;
    trajectory->shape = shape;
    trajectory->floats = npo_latent_floats(shape);
    trajectory->rows_max = rows_max;
    npo_err err = alloc_scratch(trajectory);
    if (err)
        npo_error_set(error, err, "trajectories: no memory for %lld rows", (long long)rows_max);
    else
        err = npo_schedule_grid(options->schedule, options->solver_steps, trajectory->grid, error);
    if (err) {
        npo_trajectory_free(trajectory);
        return err;
    }
    *ret_trajectory = trajectory;
    return NPO_OK;
}

void npo_trajectory_free(npo_trajectory *trajectory)
{
    if (!trajectory)
        return;
    free(trajectory->grid);
    free(trajectory->x);
    free(trajectory->out);
    free(trajectory->mixed);
    free(trajectory->t);
    free(trajectory->times);
    free(trajectory->prompt);
    free(trajectory->empty);
    free(trajectory->active);
    free(trajectory->index);
    free(trajectory->left);
    free(trajectory);
}

static npo_rng stream(const npo_trajectory *trajectory, const npo_pool *pool, int64_t row,
                      npo_rng_purpose purpose)
{
    return npo_rng_stream(trajectory->options.seed, purpose, (uint32_t)pool->slot[row],
                          (uint32_t)pool->lap[row]);
}

static uint64_t draw_below(const npo_trajectory *trajectory, const npo_pool *pool, int64_t row,
                           npo_rng_purpose purpose, int64_t bound)
{
    npo_rng rng = stream(trajectory, pool, row, purpose);
    return npo_rng_below(&rng, 0, (uint64_t)bound);
}

/* Timestep of a grid index; behind the grid lies t = 0. */
static int32_t timestep_at(const npo_trajectory *trajectory, int32_t index)
{
    return index >= 0 ? trajectory->grid[index] : 0;
}

/* ---- beginning a lap ---- */

static void begin_noise(npo_trajectory *trajectory, npo_pool *pool, int64_t row)
{
    npo_rng noise = stream(trajectory, pool, row, NPO_RNG_X_T);
    npo_rng_gaussians(&noise, trajectory->floats, pool->x + (size_t)row * trajectory->floats);
    pool->prompt[row] = (int32_t)draw_below(trajectory, pool, row, NPO_RNG_PROMPT,
                                            trajectory->options.prompt_count);
    pool->index[row] = (int32_t)trajectory->options.solver_steps - 1;
}

static npo_err begin_latent(npo_trajectory *trajectory, npo_pool *pool, int64_t row,
                            npo_error *error)
{
    const npo_latent_source *latents = trajectory->options.latents;
    const npo_schedule *schedule = trajectory->options.schedule;
    float *x = pool->x + (size_t)row * trajectory->floats;
    int64_t image =
        (int64_t)draw_below(trajectory, pool, row, NPO_RNG_START_LATENT, latents->count);
    NPO_TRY(latents->get(latents->self, image, x, &pool->prompt[row], error));
    pool->index[row] = (int32_t)draw_below(trajectory, pool, row, NPO_RNG_START_INDEX,
                                           trajectory->options.solver_steps);
    int32_t t = timestep_at(trajectory, pool->index[row]);
    npo_rng noise = stream(trajectory, pool, row, NPO_RNG_X_T);
    npo_rng_gaussians(&noise, trajectory->floats, trajectory->x);
    npo_mix forward = {npo_schedule_a(schedule, t), npo_schedule_s(schedule, t)};
    npo_mix_apply(forward, trajectory->floats, x, trajectory->x, x);
    return NPO_OK;
}

static npo_err begin_laps(npo_trajectory *trajectory, npo_pool *pool, int64_t first, int64_t n,
                          npo_error *error)
{
    npo_starts starts = trajectory->options.starts;
    for (int64_t row = first; row < first + n; row++) {
        bool is_fresh = pool->index[row] == NPO_POOL_FRESH;
        if (!is_fresh && starts == NPO_STARTS_NOISE && pool->index[row] != NPO_POOL_ARRIVED)
            continue;
        pool->lap[row] = is_fresh ? 0 : pool->lap[row] + 1;
        pool->segments[row] = 0;
        if (starts == NPO_STARTS_LATENTS)
            NPO_TRY(begin_latent(trajectory, pool, row, error));
        else
            begin_noise(trajectory, pool, row);
    }
    return NPO_OK;
}

/* ---- solver steps ---- */

/* Gathers the rows that still have steps to take. */
static int64_t gather_active(npo_trajectory *trajectory, const npo_pool *pool, int64_t first,
                             int64_t n, const float *states)
{
    size_t floats = trajectory->floats;
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (trajectory->left[i] == 0)
            continue;
        trajectory->active[count] = i;
        trajectory->t[count] = timestep_at(trajectory, trajectory->index[i]);
        trajectory->prompt[count] = pool->prompt[first + i];
        memcpy(trajectory->x + (size_t)count * floats, states + (size_t)(first + i) * floats,
               floats * sizeof *states);
        count++;
    }
    return count;
}

static npo_err predict(npo_trajectory *trajectory, const npo_denoiser *target, double w, int64_t n,
                       npo_error *error)
{
    for (int64_t i = 0; i < n; i++)
        trajectory->times[i] = (float)trajectory->t[i];
    const npo_guidance guidance = {.positive = target, .negative = target, .w = (float)w};
    const npo_guidance_input input = {.n = n,
                                      .x = trajectory->x,
                                      .t = trajectory->times,
                                      .prompt = trajectory->prompt,
                                      .negative_prompt = trajectory->empty,
                                      .scratch = trajectory->mixed};
    return npo_guidance_predict(&guidance, &input, trajectory->out, error);
}

/* Takes left[i] steps from index[i] in the states of pool rows first + i (x or cut), with the
 * mixture w; both count as they go. */
static npo_err advance(npo_trajectory *trajectory, const npo_denoiser *target, double w,
                       const npo_pool *pool, int64_t first, int64_t n, float *states,
                       npo_error *error)
{
    const npo_schedule *schedule = trajectory->options.schedule;
    size_t floats = trajectory->floats;
    int64_t count = 0;
    while ((count = gather_active(trajectory, pool, first, n, states)) > 0) {
        NPO_TRY(predict(trajectory, target, w, count, error));
        for (int64_t k = 0; k < count; k++) {
            int64_t i = trajectory->active[k];
            int32_t next = timestep_at(trajectory, trajectory->index[i] - 1);
            npo_mix step = npo_schedule_step_mix(schedule, trajectory->t[k],
                                                 npo_schedule_alpha_bar(schedule, next));
            npo_mix_apply(step, floats, trajectory->x + (size_t)k * floats,
                          trajectory->out + (size_t)k * floats,
                          states + (size_t)(first + i) * floats);
            trajectory->index[i]--;
            trajectory->left[i]--;
        }
    }
    return NPO_OK;
}

/* The mixture a rolling trajectory moves with between its cuts. */
static double rolling_w(const npo_trajectory_options *options)
{
    return npo_trajectory_has_branch(options) ? 0 : options->w;
}

/* Lap 0 begins at grid index last - (slot mod steps): slots are rolled there, so that every noise
 * level is in every batch from the first round. */
static npo_err roll_to_stagger(npo_trajectory *trajectory, const npo_denoiser *target,
                               npo_pool *pool, int64_t first, int64_t n, npo_error *error)
{
    const npo_trajectory_options *options = &trajectory->options;
    if (options->starts != NPO_STARTS_NOISE || !options->stagger)
        return NPO_OK;
    for (int64_t i = 0; i < n; i++) {
        int64_t row = first + i;
        bool is_new = pool->lap[row] == 0 && pool->segments[row] == 0;
        int32_t start =
            (int32_t)(options->solver_steps - 1 - pool->slot[row] % options->solver_steps);
        trajectory->index[i] = pool->index[row];
        trajectory->left[i] = is_new && pool->index[row] > start ? pool->index[row] - start : 0;
    }
    NPO_TRY(advance(trajectory, target, rolling_w(options), pool, first, n, pool->x, error));
    for (int64_t i = 0; i < n; i++)
        pool->index[first + i] = trajectory->index[i];
    return NPO_OK;
}

/* Steps of the segment that begins at a pool row. */
static int32_t segment_length(const npo_trajectory *trajectory, const npo_pool *pool, int64_t row)
{
    const npo_trajectory_options *options = &trajectory->options;
    int64_t steps = options->segment_steps, available = pool->index[row] + 1;
    if (options->starts == NPO_STARTS_FULL)
        return (int32_t)available;
    if (options->starts == NPO_STARTS_NOISE && pool->segments[row] == 0)
        steps = 1 + (int64_t)draw_below(trajectory, pool, row, NPO_RNG_FIRST_SEGMENT, steps);
    return (int32_t)(steps < available ? steps : available);
}

static void prepare_segment(npo_trajectory *trajectory, const npo_pool *pool, int64_t first,
                            int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        trajectory->index[i] = pool->index[first + i];
        trajectory->left[i] = segment_length(trajectory, pool, first + i);
    }
}

static npo_err generate_rows(npo_trajectory *trajectory, const npo_denoiser *target, npo_pool *pool,
                             int64_t first, int64_t n, npo_error *error)
{
    const npo_trajectory_options *options = &trajectory->options;
    size_t floats = trajectory->floats;
    NPO_TRY(begin_laps(trajectory, pool, first, n, error));
    NPO_TRY(roll_to_stagger(trajectory, target, pool, first, n, error));
    if (pool->cut) {
        memcpy(pool->cut + (size_t)first * floats, pool->x + (size_t)first * floats,
               (size_t)n * floats * sizeof *pool->x);
        prepare_segment(trajectory, pool, first, n);
        NPO_TRY(advance(trajectory, target, options->w, pool, first, n, pool->cut, error));
    }
    prepare_segment(trajectory, pool, first, n);
    NPO_TRY(advance(trajectory, target, rolling_w(options), pool, first, n, pool->x, error));
    for (int64_t i = 0; i < n; i++) {
        pool->index[first + i] = trajectory->index[i];
        pool->segments[first + i]++;
    }
    return NPO_OK;
}

static npo_err check_pool(const npo_trajectory *trajectory, const npo_pool *pool, int64_t first,
                          int64_t n, npo_error *error)
{
    const npo_trajectory_options *options = &trajectory->options;
    assert(first >= 0 && n >= 0 && first + n <= pool->count);
    if (memcmp(&pool->shape, &trajectory->shape, sizeof pool->shape) != 0)
        return npo_error_set(error, NPO_E_SHAPE,
                             "trajectory pool: another latent shape than the job's");
    if (npo_trajectory_has_branch(options) != (pool->cut != NULL))
        return npo_error_set(
            error, NPO_E_STATE,
            "trajectory pool: %s a branch for the cuts, which generation weight %g %s",
            pool->cut ? "has" : "lacks", options->w, pool->cut ? "does not use" : "needs");
    for (int64_t row = first; row < first + n; row++) {
        if (pool->index[row] >= options->solver_steps)
            return npo_error_set(
                error, NPO_E_RANGE,
                "trajectory pool: slot %lld is at grid index %d, expected at most %lld",
                (long long)pool->slot[row], pool->index[row], (long long)options->solver_steps - 1);
        if (pool->prompt[row] >= options->prompt_count)
            return npo_error_set(
                error, NPO_E_RANGE,
                "trajectory pool: slot %lld has prompt %d, expected less than %lld",
                (long long)pool->slot[row], pool->prompt[row], (long long)options->prompt_count);
    }
    return NPO_OK;
}

npo_err npo_trajectory_generate(npo_trajectory *trajectory, const npo_denoiser *target,
                                npo_pool *pool, int64_t first, int64_t n, npo_error *error)
{
    NPO_TRY(check_pool(trajectory, pool, first, n, error));
    for (int64_t end = first + n; first < end; first += trajectory->rows_max) {
        int64_t rows = end - first < trajectory->rows_max ? end - first : trajectory->rows_max;
        NPO_TRY(generate_rows(trajectory, target, pool, first, rows, error));
    }
    return NPO_OK;
}

/* ---- cuts ---- */

static double rms(size_t n, const float *x)
{
    double squares = 0;
    for (size_t i = 0; i < n; i++)
        squares += (double)x[i] * x[i];
    return sqrt(squares / (double)n);
}

static npo_err check_cut(const npo_trajectory *trajectory, const npo_segment *segment, int64_t row,
                         npo_error *error)
{
    size_t floats = trajectory->floats, at = (size_t)row * floats;
    double limit = trajectory->options.rms_ratio_max;
    double cut = rms(floats, segment->x_cut + at), target = rms(floats, segment->x0_target + at);
    if (isfinite(cut) && isfinite(target) && (limit == 0 || cut <= limit))
        return NPO_OK;
    return npo_error_set(error, NPO_E_DIVERGED,
                         "trajectory of slot %lld diverged: its cut at timestep %d has RMS %g, the "
                         "schedule 1 (at most %g times that is allowed), its x0 prediction RMS %g",
                         (long long)segment->slot[row], segment->t_cut[row], cut, limit, target);
}

static npo_err truncate_rows(npo_trajectory *trajectory, const npo_denoiser *target,
                             const npo_pool *pool, int64_t first, int64_t n, npo_segment *segment,
                             npo_error *error)
{
    size_t floats = trajectory->floats;
    const float *cuts = pool->cut ? pool->cut : pool->x;
    memcpy(trajectory->x, cuts + (size_t)first * floats, (size_t)n * floats * sizeof *cuts);
    for (int64_t i = 0; i < n; i++) {
        trajectory->t[i] = timestep_at(trajectory, pool->index[first + i]);
        trajectory->prompt[i] = pool->prompt[first + i];
    }
    NPO_TRY(predict(trajectory, target, trajectory->options.w, n, error));
    for (int64_t i = 0; i < n; i++) {
        int64_t row = first + i;
        segment->slot[row] = pool->slot[row];
        segment->lap[row] = pool->lap[row];
        segment->prompt[row] = pool->prompt[row];
        segment->t_cut[row] = trajectory->t[i];
        const float *x = trajectory->x + (size_t)i * floats;
        memcpy(segment->x_cut + (size_t)row * floats, x, floats * sizeof *x);
        npo_mix_apply(npo_schedule_x0_mix(trajectory->options.schedule, trajectory->t[i]), floats,
                      x, trajectory->out + (size_t)i * floats,
                      segment->x0_target + (size_t)row * floats);
        NPO_TRY(check_cut(trajectory, segment, row, error));
    }
    return NPO_OK;
}

npo_err npo_trajectory_truncate(npo_trajectory *trajectory, const npo_denoiser *target,
                                const npo_pool *pool, int64_t first, int64_t n,
                                npo_segment *segment, npo_error *error)
{
    NPO_TRY(check_pool(trajectory, pool, first, n, error));
    assert(segment->count == pool->count);
    for (int64_t row = first; row < first + n; row++)
        if (pool->index[row] == NPO_POOL_FRESH)
            return npo_error_set(
                error, NPO_E_STATE,
                "trajectory pool: slot %lld has nothing to cut, it was never generated",
                (long long)pool->slot[row]);
    for (int64_t end = first + n; first < end; first += trajectory->rows_max) {
        int64_t rows = end - first < trajectory->rows_max ? end - first : trajectory->rows_max;
        NPO_TRY(truncate_rows(trajectory, target, pool, first, rows, segment, error));
    }
    return NPO_OK;
}

npo_trajectory_rms npo_trajectory_measure(const npo_segment *segment)
{
    size_t floats = npo_latent_floats(segment->shape);
    npo_trajectory_rms result = {.worst_slot = -1};
    double squares = 0;
    for (int64_t row = 0; row < segment->count; row++) {
        double cut = rms(floats, segment->x_cut + (size_t)row * floats);
        squares += cut * cut;
        if (result.worst_slot < 0 || cut > result.ratio_max) {
            result.ratio_max = cut;
            result.worst_slot = segment->slot[row];
        }
    }
    result.rms = segment->count ? sqrt(squares / (double)segment->count) : 0;
    return result;
}
