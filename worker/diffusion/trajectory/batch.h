/* What one optimizer step of one rank is trained on, and the two ways to make it. The prediction
 * compared with `target` is ca x + cb output, so that one recorded graph serves both objectives:
 *
 *   x0 regression at a cut   ca, cb: the predicted x0     target: the weakened x0 of the cut
 *   diffusion loss           ca = 0, cb = 1               target: eps or v */
#ifndef NPO_WORKER_DIFFUSION_TRAJECTORY_BATCH_H
#define NPO_WORKER_DIFFUSION_TRAJECTORY_BATCH_H

#include "worker/diffusion/schedule.h"
#include "worker/diffusion/trajectory/segment.h"

typedef struct {
    int64_t n;
    size_t sample_floats;
    float *x;        /* [n, sample_floats] the network's input */
    float *t;        /* [n] timesteps */
    float *target;   /* [n, sample_floats] */
    float *ca, *cb;  /* [n] */
    int32_t *prompt; /* [n] ids, NPO_PROMPT_EMPTY for the empty one */
} npo_batch;

npo_err npo_batch_init(npo_batch *batch, int64_t n, size_t sample_floats) NPO_MUST_CHECK;
void npo_batch_fini(npo_batch *batch);

/* Draws of a training sample, keyed by its slot and the optimizer step. */
typedef struct {
    const npo_schedule *schedule;
    uint64_t seed;
    int64_t step;              /* optimizer step, from 0 */
    double empty_prompt_share; /* of samples that see the empty prompt */
} npo_batch_draws;

/* Re-noises cuts: draws t uniformly from t_cut+1 .. train_steps-1 and noise, and fills rows 0 ..
 * n-1 of the batch from rows[0 .. n-1] of a segment. Errors: NPO_E_RANGE for a cut at the last
 * timestep. */
npo_err npo_batch_renoise(npo_batch *batch, const npo_batch_draws *draws,
                          const npo_segment *segment, const int64_t *rows,
                          npo_error *error) NPO_MUST_CHECK;
/* Fills row `row` for the diffusion loss: x0 [sample_floats] noised at t drawn uniformly from
 * 0 .. train_steps-1. slot: the sample's place in the global batch. */
void npo_batch_diffusion(npo_batch *batch, const npo_batch_draws *draws, int64_t row, int64_t slot,
                         const float *x0, int32_t prompt);

/* The two steps with the draws given (reference cases). t [n], noise [n, sample_floats]. */
npo_err npo_batch_renoise_given(npo_batch *batch, const npo_schedule *schedule,
                                const npo_segment *segment, const int64_t *rows, const int32_t *t,
                                const float *noise, npo_error *error) NPO_MUST_CHECK;

#endif
