#include "worker/tasks/loaded/latents.h"

#include <stdlib.h>
#include <string.h>

struct npo_latents {
    npo_vae *vae;
    const npo_dataset *data;
    size_t floats; /* of a latent */
    float *image;
    float **rows; /* [images], NULL: not encoded yet */
};

npo_err npo_latents_new(npo_vae *vae, const npo_dataset *data, npo_latents **ret_latents,
                        npo_error *error)
{
    int64_t factor = npo_vae_factor(vae);
    npo_latents *latents = calloc(1, sizeof *latents);
    if (latents) {
        latents->vae = vae;
        latents->data = data;
        latents->floats = (size_t)(npo_dataset_height(data) / factor *
                                   (npo_dataset_width(data) / factor) * npo_vae_channels(vae));
        latents->image = calloc(npo_dataset_floats(data), sizeof *latents->image);
        latents->rows = calloc((size_t)npo_dataset_count(data), sizeof *latents->rows);
    }
    if (!latents || !latents->image || !latents->rows) {
        npo_latents_free(latents);
        return npo_error_set(error, NPO_E_NOMEM, "no memory for the latents of %lld images",
                             (long long)npo_dataset_count(data));
    }
    *ret_latents = latents;
    return NPO_OK;
}

void npo_latents_free(npo_latents *latents)
{
    if (!latents)
        return;
    for (int64_t i = 0; latents->rows && i < npo_dataset_count(latents->data); i++)
        free(latents->rows[i]);
    free(latents->rows);
    free(latents->image);
    free(latents);
}

static npo_err encode(npo_latents *latents, int64_t index, npo_error *error)
{
    float *row = calloc(latents->floats, sizeof *row);
    if (!row)
        return npo_error_set(error, NPO_E_NOMEM, "no memory for the latent of image %lld",
                             (long long)index);
    npo_dataset_image(latents->data, index, latents->image);
    npo_err err = npo_vae_encode(latents->vae, latents->image, npo_dataset_height(latents->data),
                                 npo_dataset_width(latents->data), row, error);
    if (err) {
        free(row);
        return npo_error_prefix(error, err, "cannot encode image %lld", (long long)index);
    }
    latents->rows[index] = row;
    return NPO_OK;
}

npo_err npo_latents_get(npo_latents *latents, int64_t index, float *ret_x, npo_error *error)
{
    if (!latents->rows[index])
        NPO_TRY(encode(latents, index, error));
    memcpy(ret_x, latents->rows[index], latents->floats * sizeof *ret_x);
    return NPO_OK;
}
