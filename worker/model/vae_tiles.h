/* A VAE's direction run in overlapping tiles, blended where they overlap, as diffusers'
 * AutoencoderKL does it with enable_tiling and an overlap of a quarter. The result differs a little
 * from the whole: each tile has its own means and its own attention.
 *
 * Sides and places are counted in latent positions; scales are elements a position on each side. */
#ifndef NPO_MODEL_VAE_TILES_H
#define NPO_MODEL_VAE_TILES_H

#include "common/err.h"
#include <stdbool.h>
#include <stdint.h>

enum { NPO_VAE_TILE_MULTIPLE = 4 }; /* of a tile's side, so that a quarter is whole */

typedef struct {
    int64_t height, width; /* of the whole */
    int64_t tile;          /* side, a multiple of NPO_VAE_TILE_MULTIPLE */
    int64_t in_scale, in_channels, out_scale, out_channels;
    /* in [height*in_scale, width*in_scale, in_channels] -> ret_out alike; at most a tile. */
    npo_err (*run)(void *self, const float *in, int64_t height, int64_t width, float *ret_out,
                   npo_error *error);
    void *self;
} npo_vae_tiling;

/* Whether diffusers would tile: one side is longer than a tile. */
bool npo_vae_tiling_needed(const npo_vae_tiling *tiling);
/* in and ret_out of the whole. Errors: NPO_E_NOMEM and those of run. */
npo_err npo_vae_tiling_run(const npo_vae_tiling *tiling, const float *in, float *ret_out,
                           npo_error *error) NPO_MUST_CHECK;

#endif
