/* The trajectories of some slots of a job, between two rounds or between generate and truncate. On
 * disk a safetensors file:
 *
 *   slot     I64 [n]       which slots of the job, ascending
 *   index    I32 [n]       grid index the next solver step starts from; -1: arrived at t = 0;
 *                          -2: nothing drawn yet
 *   lap      I32 [n]       trajectories that this slot has begun, less one
 *   segments I32 [n]       segments done in this lap
 *   prompt   I32 [n]       prompt id of this lap
 *   x        F32 [n,H,W,C] state at the grid point
 *   cut      F32 [n,H,W,C] end of the weakened branch; only where it is not x itself
 *   metadata "npo": "pool", "version": "1"
 *
 * A reader refuses another version; new members raise it. */
#ifndef NPO_WORKER_DIFFUSION_TRAJECTORY_POOL_H
#define NPO_WORKER_DIFFUSION_TRAJECTORY_POOL_H

#include "worker/diffusion/trajectory/segment.h"
#include <stdbool.h>

#define NPO_POOL_VERSION 1
#define NPO_POOL_ARRIVED ((int32_t)-1)
#define NPO_POOL_FRESH   ((int32_t)-2)

typedef struct {
    npo_latent_shape shape;
    int64_t count;
    int64_t *slot;
    int32_t *index, *lap, *segments, *prompt;
    float *x;
    float *cut; /* NULL: x is the cut */
} npo_pool;

/* Fresh trajectories for the given slots, ascending and each at most 2^32 - 1. with_cut: room for a
 * branch (npo_trajectory_has_branch). Errors: NPO_E_RANGE, NPO_E_NOMEM. */
npo_err npo_pool_init(npo_pool *pool, npo_latent_shape shape, int64_t count, const int64_t *slots,
                      bool with_cut) NPO_MUST_CHECK;
void npo_pool_fini(npo_pool *pool);
/* Durable; equal pools give equal bytes. */
npo_err npo_pool_save(const npo_pool *pool, const char *path, npo_error *error) NPO_MUST_CHECK;
/* Initialises ret_pool. Errors as npo_segment_load. */
npo_err npo_pool_load(const char *path, npo_latent_shape shape, npo_pool *ret_pool,
                      npo_error *error) NPO_MUST_CHECK;
/* A pool of `slots` (ascending) gathered from several: pools change their shards when a job goes on
 * with another number of workers. Errors: NPO_E_NOT_FOUND for a slot in none of them, NPO_E_SHAPE.
 */
npo_err npo_pool_gather(const npo_pool *pools, int64_t pool_count, int64_t count,
                        const int64_t *slots, npo_pool *ret_pool, npo_error *error) NPO_MUST_CHECK;

#endif
