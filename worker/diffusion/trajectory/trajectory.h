/* Generate and truncate: the training samples of Self-NPO (arXiv 2505.11777).
 *
 * generate advances trajectories by one segment of up to segment_steps solver steps with the
 * weakened prediction cond + w (cond - uncond); truncate predicts x0 at the cut, the regression
 * target. Starts:
 *
 *   NOISE    rolling: from fresh noise to t = 0 in segments, then a new lap. The first segment of a
 *            lap takes 1 + draw steps, so that cuts fall on every grid index. With stagger, lap 0
 *            of slot i is first rolled to grid index last - (i mod solver_steps). Where w < -1 the
 *            trajectory rolls with the plain conditional prediction and each segment's weakened
 *            steps branch off it.
 *   LATENTS  each segment starts anew from an image of the data, noised to a random grid index.
 *   FULL     each segment starts anew from noise and takes every step.
 *
 * The step from grid index 0 goes to t = 0; a trajectory that is there takes no step, is cut at
 * t = 0 and has its target predicted there. Evaluations a segment: segment_steps + 1 (6), with a
 * branch 2 segment_steps + 1 (11), FULL solver_steps + 1.
 *
 * Draws are keyed by (seed, purpose, slot, lap): results do not depend on how slots are spread over
 * pools, calls or batches. */
#ifndef NPO_WORKER_DIFFUSION_TRAJECTORY_TRAJECTORY_H
#define NPO_WORKER_DIFFUSION_TRAJECTORY_TRAJECTORY_H

#include "proto/job.h"
#include "worker/diffusion/denoiser.h"
#include "worker/diffusion/schedule.h"
#include "worker/diffusion/trajectory/pool.h"

/* A cut whose RMS is this many times that of the schedule for unit-variance data has diverged. */
#define NPO_TRAJECTORY_RMS_RATIO_MAX 5.0

/* Data of LATENTS: image `index` as [sample_floats] and its prompt id. */
typedef struct {
    void *self;
    int64_t count;
    npo_err (*get)(void *self, int64_t index, float *ret_x, int32_t *ret_prompt, npo_error *error);
} npo_latent_source;

typedef struct {
    const npo_schedule *schedule;
    int64_t solver_steps, segment_steps;
    double w; /* the job's w_gen */
    npo_starts starts;
    bool stagger; /* NOISE */
    uint64_t seed;
    int64_t prompt_count;             /* ids 0 .. prompt_count-1 */
    const npo_latent_source *latents; /* LATENTS, else NULL */
    double rms_ratio_max;             /* 0: never stop */
} npo_trajectory_options;

typedef struct npo_trajectory npo_trajectory;

/* Scratch for `rows_max` trajectories at a time; larger ranges are taken in pieces. What options
 * points to is borrowed. Errors: NPO_E_RANGE, NPO_E_NOMEM. */
npo_err npo_trajectory_new(const npo_trajectory_options *options, npo_latent_shape shape,
                           int64_t rows_max, npo_trajectory **ret_trajectory,
                           npo_error *error) NPO_MUST_CHECK;
void npo_trajectory_free(npo_trajectory *trajectory);
/* True where a pool of these options needs a `cut` of its own. */
bool npo_trajectory_has_branch(const npo_trajectory_options *options);

/* Advances rows [first, first + n) of the pool by one segment. Rows that are fresh, or arrived in
 * their last segment, begin a new lap. On failure the pool is unusable. */
npo_err npo_trajectory_generate(npo_trajectory *trajectory, const npo_denoiser *target,
                                npo_pool *pool, int64_t first, int64_t n,
                                npo_error *error) NPO_MUST_CHECK;
/* Cuts rows [first, first + n) of the pool, as generate left them, and writes the same rows of
 * segment (initialised, with pool->count rows). Errors: NPO_E_DIVERGED naming the slot and the two
 * RMS values. */
npo_err npo_trajectory_truncate(npo_trajectory *trajectory, const npo_denoiser *target,
                                const npo_pool *pool, int64_t first, int64_t n,
                                npo_segment *segment, npo_error *error) NPO_MUST_CHECK;

/* RMS of the cuts of a segment and of the schedule there, sqrt(a^2 + s^2) = 1 for unit-variance
 * data. */
typedef struct {
    double rms;       /* over all values of the segment */
    double ratio_max; /* largest RMS of one cut over the schedule's */
    int64_t worst_slot;
} npo_trajectory_rms;

npo_trajectory_rms npo_trajectory_measure(const npo_segment *segment);

#endif
