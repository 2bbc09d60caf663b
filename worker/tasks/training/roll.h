/* Generating and truncating trajectories with one network: what the tasks generate and truncate do
 * for a round, and fused training inside each step. The same calls in the same micro-batches, so
 * that both give the same bytes. */
#ifndef NPO_WORKER_TASKS_TRAINING_ROLL_H
#define NPO_WORKER_TASKS_TRAINING_ROLL_H

#include "worker/diffusion/trajectory/trajectory.h"
#include "worker/tasks/setup.h"
#include "worker/tasks/training/slots.h"
#include "worker/tasks/watch.h"

typedef struct {
    npo_context *ctx;
    npo_latent_source source;
    npo_trajectory_options options;
    npo_trajectory *trajectory;
    npo_network_denoiser *network_denoiser;
    npo_watch watch;
    const npo_setup *setup;
    npo_latent_shape shape;
} npo_roll;

/* Trajectories start from images. */
bool npo_roll_needs_data(const npo_job *job);
/* params: the target network's weights. Borrows all; *roll must stay where it is. setup has its
 * data where npo_roll_needs_data and trajectories are generated. */
npo_err npo_roll_init(npo_roll *roll, npo_context *ctx, const npo_setup *setup, int64_t micro_batch,
                      const npo_params *params) NPO_MUST_CHECK;
void npo_roll_fini(npo_roll *roll);

/* The pool of `slots`: gathered from the inputs pool.*, or fresh where there are none. */
npo_err npo_roll_pool(const npo_roll *roll, const npo_slots *slots,
                      npo_pool *ret_pool) NPO_MUST_CHECK;
/* Rows that one call advances together: where some of them have arrived, the others fill up the
 * micro-batches. A sample's bytes do not depend on its company. */
enum { NPO_ROLL_MICRO_BATCHES = 8 };

/* One segment for rows [first, first + n); then their cuts into the same rows of segment. */
npo_err npo_roll_generate(npo_roll *roll, npo_pool *pool, int64_t first, int64_t n) NPO_MUST_CHECK;
npo_err npo_roll_truncate(npo_roll *roll, const npo_pool *pool, int64_t first, int64_t n,
                          npo_segment *segment) NPO_MUST_CHECK;
/* A line of metrics: {"phase", "round", "conditional", "unconditional"}: evaluations so far. */
void npo_roll_report(npo_roll *roll, const char *phase);

/* Weights of the target network of a staged round: the checkpoint's EMA, without one the base. */
npo_err npo_roll_target(npo_context *ctx, const npo_setup *setup,
                        const npo_params **ret_params) NPO_MUST_CHECK;

#endif
