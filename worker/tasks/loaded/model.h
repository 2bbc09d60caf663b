/* A loaded model folder with everything tasks run it with. Belongs to the executor's thread. */
#ifndef NPO_WORKER_TASKS_LOADED_MODEL_H
#define NPO_WORKER_TASKS_LOADED_MODEL_H

#include "common/hash.h"
#include "worker/diffusion/denoiser.h"
#include "worker/diffusion/schedule.h"
#include "worker/diffusion/trajectory/segment.h"
#include "worker/model/folder.h"
#include "worker/model/networks/lora_layout.h"
#include "worker/model/networks/network.h"
#include "worker/model/text_encoder.h"
#include "worker/model/vae.h"

typedef struct {
    npo_folder folder;
    npo_unet_config config;
    npo_layout *layout;
    npo_params *base; /* NULL until npo_model_need_base */
    npo_schedule *schedule;
    npo_backend *backend;   /* borrowed */
    npo_text_encoder *text; /* NULL once prompts are encoded, until there are others */
    /* Sizes of what it makes. */
    int64_t text_length, text_channels, text_pooled;
    int64_t pixel_factor; /* pixels a latent position on each side: of the VAE, 1 without one */
    /* Since npo_model_set_size. */
    npo_network_shape shape;
    npo_latent_shape latent;
    npo_latent_shape image; /* in pixels; without a VAE the same as latent */
    npo_network *network;
    /* A second one for the negative branch, so that neither packs its weights anew at every step.
     * NULL until npo_model_need_second. */
    npo_network *second;
    /* Of a LoRA beside the model: NULL until npo_model_set_lora, the network until it is needed. */
    npo_lora_options lora;
    npo_layout *lora_layout;
    npo_network *lora_network;
    npo_vae *vae; /* NULL until npo_model_need_vae */
    /* Of the prompts asked for last. */
    npo_prompts prompts;
    float *prompt_rows, *empty_row;
    npo_hash prompts_hash;
    bool has_prompts;
} npo_model;

/* backend is borrowed for the model's life. Errors: those of the parts; NPO_E_UNSUPPORTED for a
 * UNet whose output is shaped otherwise than its input; NPO_E_SHAPE for a VAE of other latents. */
npo_err npo_model_open(npo_backend *backend, const char *path, npo_model **ret_model,
                       npo_error *error) NPO_MUST_CHECK;
void npo_model_free(npo_model *model);
/* Networks for images of this size in pixels from now on; 0: as the model was trained. Errors:
 * NPO_E_SHAPE unless the VAE's factor divides it; NPO_E_UNSUPPORTED for 0 with a UNet that does not
 * say the size of its samples. */
npo_err npo_model_set_size(npo_model *model, npo_backend *backend, int64_t height, int64_t width,
                           npo_error *error) NPO_MUST_CHECK;
/* The folder has a VAE: model->folder.vae_config. */
npo_err npo_model_need_vae(npo_model *model, npo_backend *backend, npo_error *error) NPO_MUST_CHECK;
/* Whether the folder has weights; without it is one to train from scratch. */
bool npo_model_has_weights(const npo_model *model);
/* The base network's weights in memory; NULL where the folder has none. Training reads them from
 * their file (npo_folder_load_unet, npo_folder_view_unet) instead. */
npo_err npo_model_need_base(npo_model *model, const npo_params **ret_base,
                            npo_error *error) NPO_MUST_CHECK;
/* Gives the base's memory and the planned networks back; what was borrowed of them is lost. */
void npo_model_trim(npo_model *model);
npo_err npo_model_need_second(npo_model *model, npo_backend *backend,
                              npo_error *error) NPO_MUST_CHECK;
/* The layout of a LoRA beside the model, which must have weights, in model->lora_layout. */
npo_err npo_model_set_lora(npo_model *model, const npo_lora_options *options,
                           npo_error *error) NPO_MUST_CHECK;
/* The network that runs a set of the model's layout or of the LoRA's. */
npo_err npo_model_network_of(npo_model *model, npo_backend *backend, const npo_params *params,
                             npo_network **ret_network, npo_error *error) NPO_MUST_CHECK;
/* Embeddings of the prompts (ids by their order) and of the empty prompt, in model->prompts. The
 * time ids of a model with added conditioning say that images have, and had before any cropping,
 * the size of the latent in pixels. The text encoder leaves memory again. */
npo_err npo_model_encode(npo_model *model, const char *const *prompts, size_t count,
                         npo_error *error) NPO_MUST_CHECK;

#endif
