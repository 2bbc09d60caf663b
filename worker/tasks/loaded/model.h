/* A loaded model folder with everything tasks run it with. Belongs to the executor's thread. */
#ifndef NPO_WORKER_TASKS_LOADED_MODEL_H
#define NPO_WORKER_TASKS_LOADED_MODEL_H

#include "common/hash.h"
#include "worker/diffusion/denoiser.h"
#include "worker/diffusion/schedule.h"
#include "worker/diffusion/trajectory/segment.h"
#include "worker/model/folder.h"
#include "worker/model/networks/network.h"
#include "worker/model/text_encoder.h"

typedef struct {
    npo_folder folder;
    npo_unet_config config;
    npo_layout *layout;
    npo_params *base; /* NULL: the folder has no weights, it is one to train from scratch */
    npo_schedule *schedule;
    npo_text_encoder *text;
    npo_network_shape shape;
    npo_latent_shape latent;
    int64_t pixel_factor; /* pixels a latent position on each side: of the VAE, 1 without one */
    npo_network *network;
    /* A second one for the negative branch, so that neither packs its weights anew at every step.
     * NULL until npo_model_need_second. */
    npo_network *second;
    /* Of the prompts asked for last. */
    npo_prompts prompts;
    float *prompt_rows, *empty_row;
    npo_hash prompts_hash;
    bool has_prompts;
} npo_model;

/* backend is borrowed for the model's life. Errors: those of the parts; NPO_E_UNSUPPORTED for a
 * UNet that does not say the size of its samples, or whose output is shaped otherwise than its
 * input. */
npo_err npo_model_open(npo_backend *backend, const char *path, npo_model **ret_model,
                       npo_error *error) NPO_MUST_CHECK;
void npo_model_free(npo_model *model);
npo_err npo_model_need_second(npo_model *model, npo_backend *backend,
                              npo_error *error) NPO_MUST_CHECK;
/* Embeddings of the prompts (ids by their order) and of the empty prompt, in model->prompts. The
 * time ids of a model with added conditioning say that images have, and had before any cropping,
 * the size of the latent in pixels. */
npo_err npo_model_encode(npo_model *model, const char *const *prompts, size_t count,
                         npo_error *error) NPO_MUST_CHECK;

#endif
