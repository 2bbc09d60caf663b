/* Cuts with their regression targets: what truncate hands to train. On disk a safetensors file:
 *
 *   slot      I64 [n]          trajectory slot
 *   lap       I32 [n]
 *   prompt    I32 [n]          prompt id
 *   t_cut     I32 [n]          timestep of the cut, 0 when the trajectory has arrived
 *   x_cut     F32 [n,H,W,C]
 *   x0_target F32 [n,H,W,C]    the weakened x0 prediction at the cut
 *   metadata  "npo": "segment", "version": "1"
 *
 * A reader refuses another version; new members raise it. */
#ifndef NPO_WORKER_DIFFUSION_TRAJECTORY_SEGMENT_H
#define NPO_WORKER_DIFFUSION_TRAJECTORY_SEGMENT_H

#include "common/err.h"
#include <stddef.h>
#include <stdint.h>

#define NPO_SEGMENT_VERSION 1

/* Latent shape; pixels where the model has no VAE. */
typedef struct {
    int64_t height, width, channels;
} npo_latent_shape;

size_t npo_latent_floats(npo_latent_shape shape);

typedef struct {
    npo_latent_shape shape;
    int64_t count;
    int64_t *slot;
    int32_t *lap, *prompt, *t_cut;
    float *x_cut, *x0_target; /* [count, H, W, C] */
} npo_segment;

npo_err npo_segment_init(npo_segment *segment, npo_latent_shape shape,
                         int64_t count) NPO_MUST_CHECK;
void npo_segment_fini(npo_segment *segment);
/* Row of a slot, or -1. */
int64_t npo_segment_find(const npo_segment *segment, int64_t slot);
/* Durable. */
npo_err npo_segment_save(const npo_segment *segment, const char *path,
                         npo_error *error) NPO_MUST_CHECK;
/* Initialises ret_segment. shape: what is expected. Errors: NPO_E_FORMAT, NPO_E_SHAPE,
 * NPO_E_VERSION, NPO_E_RANGE (a timestep or slot out of range, a value that is not finite). */
npo_err npo_segment_load(const char *path, npo_latent_shape shape, npo_segment *ret_segment,
                         npo_error *error) NPO_MUST_CHECK;

#endif
