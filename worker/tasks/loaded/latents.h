/* The latents of a dataset's images: each is encoded by the VAE when it is first asked for, and
 * kept in memory (a latent is a twelfth of its image's bytes at a factor of 8). */
#ifndef NPO_WORKER_TASKS_LOADED_LATENTS_H
#define NPO_WORKER_TASKS_LOADED_LATENTS_H

#include "worker/data/dataset.h"
#include "worker/model/vae.h"

typedef struct npo_latents npo_latents;

/* Borrows both for its life; the images are three-channel and of a size that the VAE takes. */
npo_err npo_latents_new(npo_vae *vae, const npo_dataset *data, npo_latents **ret_latents,
                        npo_error *error) NPO_MUST_CHECK;
void npo_latents_free(npo_latents *latents);
/* ret_x: [height / factor, width / factor, channels], the scaled mean. */
npo_err npo_latents_get(npo_latents *latents, int64_t index, float *ret_x,
                        npo_error *error) NPO_MUST_CHECK;

#endif
