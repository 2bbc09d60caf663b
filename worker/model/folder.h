/* A model folder as diffusers lays out a Stable Diffusion or Stable Diffusion XL pipeline:
 *
 *   model_index.json                                   optional
 *   unet/config.json, diffusion_pytorch_model.safetensors
 *   text_encoder/config.json, model.safetensors
 *   tokenizer/vocab.json, merges.txt, tokenizer_config.json
 *   text_encoder_2, tokenizer_2                        XL: the same again
 *   scheduler/scheduler_config.json
 *   vae/config.json, diffusion_pytorch_model.safetensors optional
 *
 * Weights may carry a variant (".fp16.safetensors") or be sharded (".safetensors.index.json"). A
 * folder that has only unet/config.json and no weights is one to train from scratch.
 *
 * A single-file checkpoint (files/single_file.h) is a model too: the file itself, with the built-in
 * configurations, tokenizers and schedule of its family; or a folder without UNet weights that has
 * one such file at its root, whose other parts come before the built-in ones. */
#ifndef NPO_MODEL_FOLDER_H
#define NPO_MODEL_FOLDER_H

#include "worker/model/files/weights.h"
#include "worker/model/weight_view.h"
#include "worker/model/networks/autoencoder_config.h"
#include "worker/model/networks/clip_text.h"
#include "worker/model/networks/unet_config.h"

/* Owned strings; NULL: the folder has none. */
typedef struct {
    char *root;
    char *single_file; /* the weights of every part; NULL: each has a file of its own */
    char *unet_config, *unet_weights;
    char *text_config, *text_weights;
    char *tokenizer; /* folder */
    bool is_xl;      /* Stable Diffusion XL; then the second text encoder is there too */
    char *text_config_2, *text_weights_2, *tokenizer_2;
    bool zero_empty_prompt; /* zeros stand for the empty prompt: XL, unless model_index.json has
                               "force_zeros_for_empty_prompt": false */
    char *scheduler_config;
    char *vae_config, *vae_weights;
} npo_folder;

/* Locates the parts. Errors: NPO_E_NOT_FOUND when unet/config.json, a text encoder, a tokenizer or
 * the scheduler is not there; NPO_E_UNSUPPORTED for another pipeline class than
 * StableDiffusionPipeline and StableDiffusionXLPipeline; those of npo_single_file_family. */
npo_err npo_folder_open(const char *root, npo_folder *ret_folder, npo_error *error) NPO_MUST_CHECK;
void npo_folder_fini(npo_folder *folder);

/* Reads unet/config.json and creates the layout. */
npo_err npo_folder_unet(const npo_folder *folder, npo_backend *backend, npo_unet_config *ret_config,
                        npo_layout **ret_layout, npo_error *error) NPO_MUST_CHECK;
/* How the UNet's file differs from its layout, for npo_weights_read and npo_weights_find.
 * *ret_names is borrowed by the map. */
npo_weights_map npo_folder_unet_map(const npo_folder *folder, const npo_layout *layout,
                                    npo_single_names *ret_names);
/* Fills params, whose layout is the UNet's. NPO_E_NOT_FOUND for a folder without weights. */
npo_err npo_folder_load_unet(const npo_folder *folder, npo_params *params,
                             npo_error *error) NPO_MUST_CHECK;
/* The UNet's weights where they lie in their file. NPO_E_NOT_FOUND for a folder without weights. */
npo_err npo_folder_view_unet(const npo_folder *folder, const npo_layout *layout,
                             npo_weight_view **ret_view, npo_error *error) NPO_MUST_CHECK;
/* Reads text_encoder/config.json, creates the layout and a filled set. */
npo_err npo_folder_load_text(const npo_folder *folder, npo_backend *backend,
                             npo_clip_text_config *ret_config, npo_layout **ret_layout,
                             npo_params **ret_params, npo_error *error) NPO_MUST_CHECK;
/* The same for text_encoder_2, which has a projection. Only for an XL model. */
npo_err npo_folder_load_text_2(const npo_folder *folder, npo_backend *backend,
                               npo_clip_text_config *ret_config, npo_layout **ret_layout,
                               npo_params **ret_params, npo_error *error) NPO_MUST_CHECK;
/* Reads vae/config.json, creates the layout and a filled set. NPO_E_NOT_FOUND for a folder without
 * a VAE. */
npo_err npo_folder_load_vae(const npo_folder *folder, npo_backend *backend,
                            npo_autoencoder_config *ret_config, npo_layout **ret_layout,
                            npo_params **ret_params, npo_error *error) NPO_MUST_CHECK;

/* Writes <dir>/config.json (a copy of the folder's unet/config.json) and
 * <dir>/diffusion_pytorch_model.safetensors, durably; dir is created. */
npo_err npo_folder_save_unet(const npo_folder *folder, const npo_weights_made *weights,
                             npo_tensor_dtype dtype, const char *dir,
                             npo_error *error) NPO_MUST_CHECK;
/* Writes a whole model folder: the other parts copied, the UNet from weights. That of a single-file
 * checkpoint has the checkpoint under its name, or model.safetensors where it was a file alone. */
npo_err npo_folder_save(const npo_folder *folder, const npo_weights_made *weights,
                        npo_tensor_dtype dtype, const char *root, npo_error *error) NPO_MUST_CHECK;

#endif
