/* Images to latents and back: the VAE of a model folder, ready to run. One image a call.
 * Everything is computed in f32, so that SDXL's VAE cannot overflow. Belongs to one thread. */
#ifndef NPO_MODEL_VAE_H
#define NPO_MODEL_VAE_H

#include "kernels/backend.h"
#include "worker/model/folder.h"

typedef struct npo_vae npo_vae;

/* backend is borrowed for the VAE's life, folder for the call. Errors: NPO_E_NOT_FOUND for a folder
 * without vae/, those of its config and weights. */
npo_err npo_vae_open(npo_backend *backend, const npo_folder *folder, npo_vae **ret_vae,
                     npo_error *error) NPO_MUST_CHECK;
void npo_vae_free(npo_vae *vae);
int64_t npo_vae_factor(const npo_vae *vae);   /* pixels a latent position on each side, 8 */
int64_t npo_vae_channels(const npo_vae *vae); /* of the latent, 4 */

/* Bytes that a run may take for activations, the picture included; the weights are there anyway. 0,
 * as it is at first: no limit. What does not fit as a whole is computed in tiles, the largest that
 * do, blended where they overlap (worker/model/vae_tiles.h). */
void npo_vae_limit_memory(npo_vae *vae, size_t bytes);
/* Tiles of this side in latent positions, a multiple of NPO_VAE_TILE_MULTIPLE, whatever fits; 0, as
 * it is at first: as the limit wants it. */
void npo_vae_set_tile(npo_vae *vae, int64_t side);
/* Side of the last run's tiles in latent positions; 0: it ran as a whole. For the caller's log. */
int64_t npo_vae_tile(const npo_vae *vae);

/* Errors of what follows: NPO_E_NOMEM where the smallest tiles do not fit the limit either. */

/* latent [height,width,channels] as the UNet has it (scaling and shift are undone here) ->
 * ret_image [height*f,width*f,3], about -1..1, not clamped. */
npo_err npo_vae_decode(npo_vae *vae, const float *latent, int64_t height, int64_t width,
                       float *ret_image, npo_error *error) NPO_MUST_CHECK;
/* image [height,width,3] in -1..1 -> ret_latent [height/f,width/f,channels]: the mean, scaled and
 * shifted as the UNet wants it. NPO_E_SHAPE unless the factor divides height and width. */
npo_err npo_vae_encode(npo_vae *vae, const float *image, int64_t height, int64_t width,
                       float *ret_latent, npo_error *error) NPO_MUST_CHECK;
/* The distribution that npo_vae_encode takes the mean of, not scaled: ret_mean and ret_logvar
 * (clamped to -30..20, as diffusers does) [height/f,width/f,channels]; either may be NULL. */
npo_err npo_vae_moments(npo_vae *vae, const float *image, int64_t height, int64_t width,
                        float *ret_mean, float *ret_logvar, npo_error *error) NPO_MUST_CHECK;

#endif
