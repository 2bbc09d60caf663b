#include "worker/tasks/loaded/model.h"

#include <stdlib.h>
#include <string.h>

static npo_err check_channels(npo_model *model, npo_error *error)
{
    const npo_unet_config *config = &model->config;
    if (config->in_channels != config->out_channels)
        return npo_error_set(error, NPO_E_UNSUPPORTED,
                             "'%s': found %lld input and %lld output channels, expected as many of "
                             "each",
                             model->folder.unet_config, (long long)config->in_channels,
                             (long long)config->out_channels);
    return NPO_OK;
}

static npo_err read_pixel_factor(npo_model *model, npo_error *error)
{
    npo_autoencoder_config config;
    model->pixel_factor = 1;
    if (!model->folder.vae_config)
        return NPO_OK;
    NPO_TRY(npo_autoencoder_config_load(model->folder.vae_config, &config, error));
    if (config.latent_channels != model->config.in_channels)
        return npo_error_set(error, NPO_E_SHAPE,
                             "'%s': found latents of %lld channels, expected %lld as '%s' has",
                             model->folder.vae_config, (long long)config.latent_channels,
                             (long long)model->config.in_channels, model->folder.unet_config);
    model->pixel_factor = npo_autoencoder_config_factor(&config);
    return NPO_OK;
}

static npo_err open_text(npo_model *model, npo_error *error)
{
    if (model->text)
        return NPO_OK;
    NPO_TRY(npo_text_encoder_new(model->backend, &model->folder, &model->text, error));
    model->text_length = npo_text_encoder_length(model->text);
    model->text_channels = npo_text_encoder_channels(model->text);
    model->text_pooled = npo_text_encoder_pooled(model->text);
    return NPO_OK;
}

static void close_text(npo_model *model)
{
    npo_text_encoder_free(model->text);
    model->text = NULL;
}

/* The network's conditioning must be what the text encoder makes. */
static npo_err check_text(const npo_model *model, npo_error *error)
{
    const npo_unet_config *config = &model->config;
    int64_t context = npo_unet_config_context(config);
    int64_t channels = model->text_channels, pooled = model->text_pooled;
    if (context && context != channels)
        return npo_error_set(error, NPO_E_SHAPE,
                             "'%s': found cross_attention_dim %lld, expected %lld as the text "
                             "embeddings have",
                             model->folder.unet_config, (long long)context, (long long)channels);
    if (config->pooled_channels != pooled)
        return npo_error_set(error, NPO_E_SHAPE,
                             "'%s': found added conditioning on a pooled text of %lld channels, "
                             "expected %lld as the text encoder has",
                             model->folder.unet_config, (long long)config->pooled_channels,
                             (long long)pooled);
    return NPO_OK;
}

bool npo_model_has_weights(const npo_model *model)
{
    return model->folder.unet_weights != NULL;
}

npo_err npo_model_need_base(npo_model *model, const npo_params **ret_base, npo_error *error)
{
    npo_params *base = NULL;
    if (!npo_model_has_weights(model) || model->base) {
        *ret_base = model->base;
        return NPO_OK;
    }
    npo_err err = npo_params_new(model->layout, &base);
    if (err != NPO_OK)
        return npo_error_set(error, err, "cannot load '%s': %s", model->folder.unet_weights,
                             npo_err_text(err));
    err = npo_folder_load_unet(&model->folder, base, error);
    if (err != NPO_OK) {
        npo_params_free(base);
        return err;
    }
    *ret_base = model->base = base;
    return NPO_OK;
}

void npo_model_trim(npo_model *model)
{
    npo_params_free(model->base);
    model->base = NULL;
    if (model->network)
        npo_network_trim(model->network);
    if (model->second)
        npo_network_trim(model->second);
    if (model->lora_network)
        npo_network_trim(model->lora_network);
}

static npo_err load(npo_model *model, npo_backend *backend, const char *path, npo_error *error)
{
    npo_schedule_config schedule;
    model->backend = backend;
    NPO_TRY(npo_folder_open(path, &model->folder, error));
    NPO_TRY(npo_folder_unet(&model->folder, backend, &model->config, &model->layout, error));
    NPO_TRY(npo_schedule_config_load(model->folder.scheduler_config, &schedule, error));
    NPO_TRY(npo_schedule_new(&schedule, &model->schedule, error));
    NPO_TRY(open_text(model, error));
    NPO_TRY(check_channels(model, error));
    NPO_TRY(check_text(model, error));
    return read_pixel_factor(model, error);
}

npo_err npo_model_open(npo_backend *backend, const char *path, npo_model **ret_model,
                       npo_error *error)
{
    npo_model *model = calloc(1, sizeof *model);
    if (!model)
        return npo_error_set(error, NPO_E_NOMEM, "cannot load model '%s': out of memory", path);
    npo_err err = load(model, backend, path, error);
    if (err != NPO_OK) {
        npo_model_free(model);
        return err;
    }
    *ret_model = model;
    return NPO_OK;
}

void npo_model_free(npo_model *model)
{
    if (!model)
        return;
    free(model->prompt_rows);
    free(model->empty_row);
    npo_network_free(model->network);
    npo_network_free(model->second);
    npo_network_free(model->lora_network);
    npo_layout_unref(model->lora_layout);
    npo_vae_free(model->vae);
    close_text(model);
    npo_schedule_free(model->schedule);
    npo_params_free(model->base);
    npo_layout_unref(model->layout);
    npo_folder_fini(&model->folder);
    free(model);
}

/* ---- size ---- */

/* One side in latent positions. */
static npo_err choose_side(const npo_model *model, const char *name, int64_t pixels, int64_t own,
                           int64_t *ret_side, npo_error *error)
{
    int64_t factor = model->pixel_factor;
    if (pixels == 0 && own < 1)
        return npo_error_set(error, NPO_E_UNSUPPORTED,
                             "'%s': found no \"sample_size\", expected the side of a sample, or "
                             "'%s' in the job",
                             model->folder.unet_config, name);
    if (pixels % factor != 0)
        return npo_error_set(error, NPO_E_SHAPE,
                             "%s: found %lld pixels, expected a multiple of %lld as the VAE of "
                             "model '%s' needs",
                             name, (long long)pixels, (long long)factor, model->folder.root);
    *ret_side = pixels ? pixels / factor : own;
    return NPO_OK;
}

static void set_shapes(npo_model *model, int64_t height, int64_t width)
{
    int64_t channels = model->config.in_channels, factor = model->pixel_factor;
    model->latent = (npo_latent_shape){height, width, channels};
    model->image =
        (npo_latent_shape){height * factor, width * factor,
                           model->folder.vae_config ? NPO_AUTOENCODER_IMAGE_CHANNELS : channels};
    model->shape = (npo_network_shape){height, width, model->text_length};
}

npo_err npo_model_set_size(npo_model *model, npo_backend *backend, int64_t height, int64_t width,
                           npo_error *error)
{
    const npo_unet_config *config = &model->config;
    int64_t rows = 0, columns = 0;
    NPO_TRY(choose_side(model, "height", height, config->sample_height, &rows, error));
    NPO_TRY(choose_side(model, "width", width, config->sample_width, &columns, error));
    if (model->network && model->latent.height == rows && model->latent.width == columns)
        return NPO_OK;
    npo_network_free(model->network);
    npo_network_free(model->second);
    npo_network_free(model->lora_network);
    model->network = model->second = model->lora_network = NULL;
    set_shapes(model, rows, columns);
    return npo_network_new(backend, model->layout, config, &model->shape, &model->network, error);
}

npo_err npo_model_need_vae(npo_model *model, npo_backend *backend, npo_error *error)
{
    return model->vae ? NPO_OK : npo_vae_open(backend, &model->folder, &model->vae, error);
}

npo_err npo_model_need_second(npo_model *model, npo_backend *backend, npo_error *error)
{
    if (model->second)
        return NPO_OK;
    return npo_network_new(backend, model->layout, &model->config, &model->shape, &model->second,
                           error);
}

npo_err npo_model_set_lora(npo_model *model, const npo_lora_options *options, npo_error *error)
{
    const npo_lora_options *own = &model->lora;
    const npo_params *base = NULL;
    NPO_TRY(npo_model_need_base(model, &base, error));
    if (model->lora_layout && own->rank == options->rank && own->alpha == options->alpha &&
        own->targets == options->targets)
        return NPO_OK;
    if (!base)
        return npo_error_set(error, NPO_E_NOT_FOUND,
                             "model '%s' has no weights, expected a trained model that a LoRA "
                             "stands beside",
                             model->folder.root);
    npo_network_free(model->lora_network);
    npo_layout_unref(model->lora_layout);
    model->lora_network = NULL;
    model->lora_layout = NULL;
    NPO_TRY(npo_lora_layout(model->layout, options, &model->lora_layout, error));
    model->lora = *options;
    return NPO_OK;
}

npo_err npo_model_network_of(npo_model *model, npo_backend *backend, const npo_params *params,
                             npo_network **ret_network, npo_error *error)
{
    bool is_lora = npo_layout_base(npo_params_layout(params)) != NULL;
    if (is_lora && !model->lora_network)
        NPO_TRY(npo_network_new(backend, model->lora_layout, &model->config, &model->shape,
                                &model->lora_network, error));
    *ret_network = is_lora ? model->lora_network : model->network;
    return NPO_OK;
}

typedef struct {
    size_t context, added; /* values of a row's two parts */
    float time_ids[NPO_UNET_TIME_IDS];
} row_shape;

static row_shape shape_of(const npo_model *model)
{
    float height = (float)(model->latent.height * model->pixel_factor);
    float width = (float)(model->latent.width * model->pixel_factor);
    return (row_shape){
        .context = (size_t)(model->text_length * model->text_channels),
        .added = (size_t)npo_unet_config_added(&model->config),
        .time_ids = {height, width, 0, 0, height, width},
    };
}

static npo_err hash_prompts(const row_shape *shape, const char *const *prompts, size_t count,
                            npo_hash *ret_hash)
{
    npo_hasher *hasher;
    NPO_TRY(npo_hasher_new(&hasher));
    npo_hasher_add(hasher, shape->time_ids, sizeof shape->time_ids);
    for (size_t i = 0; i < count; i++)
        npo_hasher_add(hasher, prompts[i], strlen(prompts[i]) + 1);
    *ret_hash = npo_hasher_digest(hasher);
    npo_hasher_free(hasher);
    return NPO_OK;
}

/* prompt: NULL for the empty one. */
static npo_err encode_row(npo_text_encoder *text, const row_shape *shape, const char *prompt,
                          float *ret_row, npo_error *error)
{
    float *pooled = ret_row + shape->context;
    if (shape->added)
        memcpy(pooled + shape->added - NPO_UNET_TIME_IDS, shape->time_ids, sizeof shape->time_ids);
    if (!prompt)
        return npo_text_encoder_encode_empty(text, ret_row, pooled, error);
    return npo_text_encoder_encode(text, &prompt, 1, ret_row, pooled, error);
}

static npo_err encode_rows(npo_model *model, const row_shape *shape, const char *const *prompts,
                           size_t count, npo_error *error)
{
    size_t floats = shape->context + shape->added;
    float *rows = calloc(count ? count : 1, floats * sizeof *rows);
    float *empty = calloc(floats, sizeof *empty);
    npo_err err = NPO_OK;
    if (!rows || !empty)
        err =
            npo_error_set(error, NPO_E_NOMEM, "no memory for the embeddings of %zu prompts", count);
    for (size_t i = 0; err == NPO_OK && i < count; i++)
        err = encode_row(model->text, shape, prompts[i], rows + i * floats, error);
    if (err == NPO_OK)
        err = encode_row(model->text, shape, NULL, empty, error);
    if (err != NPO_OK) {
        free(rows);
        free(empty);
        return err;
    }
    free(model->prompt_rows);
    free(model->empty_row);
    model->prompt_rows = rows;
    model->empty_row = empty;
    model->prompts = (npo_prompts){rows, (int64_t)count, empty, floats};
    return NPO_OK;
}

npo_err npo_model_encode(npo_model *model, const char *const *prompts, size_t count,
                         npo_error *error)
{
    npo_hash hash;
    row_shape shape = shape_of(model);
    npo_err err = hash_prompts(&shape, prompts, count, &hash);
    if (err != NPO_OK)
        return npo_error_set(error, err, "cannot encode prompts: %s", npo_err_text(err));
    if (model->has_prompts && npo_hash_equal(&hash, &model->prompts_hash))
        return NPO_OK;
    err = open_text(model, error);
    if (err == NPO_OK)
        err = encode_rows(model, &shape, prompts, count, error);
    close_text(model);
    if (err != NPO_OK)
        return err;
    model->prompts_hash = hash;
    model->has_prompts = true;
    return NPO_OK;
}
