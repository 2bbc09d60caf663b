/* Shape of an AutoencoderKL, read from the config.json that diffusers writes beside its weights.
 * Unsupported options are refused with a sentence, as those of a UNet. */
#ifndef NPO_WORKER_MODEL_NETWORKS_AUTOENCODER_CONFIG_H
#define NPO_WORKER_MODEL_NETWORKS_AUTOENCODER_CONFIG_H

#include "common/json.h"

#define NPO_AUTOENCODER_LEVELS_MAX 8

/* Channels of the images it encodes and decodes. */
enum { NPO_AUTOENCODER_IMAGE_CHANNELS = 3 };

typedef struct {
    int level_count; /* level 0 is the image's resolution, each further one half of it */
    int64_t channels[NPO_AUTOENCODER_LEVELS_MAX];
    int layers; /* resnets of an encoder's level; a decoder's level has one more */
    int64_t latent_channels;
    int norm_groups;
    bool mid_attention;
    bool quant_conv, post_quant_conv; /* 1x1 after the encoder, before the decoder */
    /* The UNet's latent is (mean - shift) * scale. */
    float latent_scale, latent_shift;
} npo_autoencoder_config;

/* json: the parsed config; name stands in sentences. Errors as npo_unet_config_read. */
npo_err npo_autoencoder_config_read(const cJSON *json, const char *name,
                                    npo_autoencoder_config *ret_config,
                                    npo_error *error) NPO_MUST_CHECK;
npo_err npo_autoencoder_config_load(const char *path, npo_autoencoder_config *ret_config,
                                    npo_error *error) NPO_MUST_CHECK;
/* Pixels a latent position on each side: 2^(levels - 1). */
int64_t npo_autoencoder_config_factor(const npo_autoencoder_config *config);

#endif
