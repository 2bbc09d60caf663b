#include "worker/model/networks/autoencoder_config.h"

#include "worker/model/networks/config.h"

#include <stdio.h>
#include <string.h>

enum {
    CHANNELS_MAX = 1 << 16,
    LAYERS_MAX = 8,
};

typedef struct {
    npo_config_reader in;
    npo_autoencoder_config *config;
} reader;

static const npo_config_fixed fixed[] = {
    {"act_fn", "\"silu\""},  {"in_channels", "3"},  {"latents_mean", "null"},
    {"latents_std", "null"}, {"out_channels", "3"}, {NULL, NULL},
};

static const char *const without_effect[] = {
    "force_upcast", /* everything is computed in f32 */
    "sample_size",
    NULL,
};

static const char *const read_below[] = {
    "block_out_channels",      "down_block_types",    "latent_channels", "layers_per_block",
    "mid_block_add_attention", "norm_num_groups",     "scaling_factor",  "shift_factor",
    "up_block_types",          "use_post_quant_conv", "use_quant_conv",  NULL,
};

static const npo_config_keys keys = {
    .class_name = "AutoencoderKL",
    .fixed = fixed,
    .without_effect = without_effect,
    .read = read_below,
};

/* One block of the only type for each level; diffusers' default has one level. */
static npo_err check_types(reader *r, const char *key, const char *type)
{
    char expected[96];
    const cJSON *item = npo_config_get(&r->in, key);
    int count = r->config->level_count;
    bool fits = item ? cJSON_IsArray(item) && cJSON_GetArraySize(item) == count : count == 1;
    snprintf(expected, sizeof expected, "a list of %d, each \"%s\"", count, type);
    if (!fits)
        return npo_config_refuse(&r->in, NPO_E_RANGE, key, item, expected);
    for (int i = 0; item && i < count; i++) {
        const char *found = cJSON_GetStringValue(cJSON_GetArrayItem(item, i));
        if (!found || strcmp(found, type) != 0)
            return npo_config_refuse(&r->in, NPO_E_UNSUPPORTED, key, item, expected);
    }
    return NPO_OK;
}

static npo_err read_levels(reader *r)
{
    static const int64_t fallback[] = {64};
    npo_autoencoder_config *c = r->config;
    int64_t layers;
    NPO_TRY(npo_config_list(&r->in, "block_out_channels", fallback, 1, NPO_AUTOENCODER_LEVELS_MAX,
                            CHANNELS_MAX, c->channels, &c->level_count));
    NPO_TRY(check_types(r, "down_block_types", "DownEncoderBlock2D"));
    NPO_TRY(check_types(r, "up_block_types", "UpDecoderBlock2D"));
    NPO_TRY(npo_config_int(&r->in, "layers_per_block", 1, 1, LAYERS_MAX, &layers));
    c->layers = (int)layers;
    return NPO_OK;
}

static npo_err read_scalars(reader *r)
{
    npo_autoencoder_config *c = r->config;
    int64_t groups;
    NPO_TRY(npo_config_int(&r->in, "latent_channels", 4, 1, CHANNELS_MAX, &c->latent_channels));
    NPO_TRY(npo_config_int(&r->in, "norm_num_groups", 32, 1, CHANNELS_MAX, &groups));
    NPO_TRY(npo_config_bool(&r->in, "mid_block_add_attention", true, &c->mid_attention));
    NPO_TRY(npo_config_bool(&r->in, "use_quant_conv", true, &c->quant_conv));
    NPO_TRY(npo_config_bool(&r->in, "use_post_quant_conv", true, &c->post_quant_conv));
    NPO_TRY(npo_config_float(&r->in, "scaling_factor", 0.18215, 1e-6, &c->latent_scale));
    NPO_TRY(npo_config_float(&r->in, "shift_factor", 0, -1e6, &c->latent_shift));
    c->norm_groups = (int)groups;
    for (int i = 0; i < c->level_count; i++)
        if (c->channels[i] % groups)
            return npo_error_set(r->in.error, NPO_E_RANGE,
                                 "block_out_channels: level %d has %lld channels, expected a "
                                 "multiple of norm_num_groups %d",
                                 i, (long long)c->channels[i], c->norm_groups);
    return NPO_OK;
}

npo_err npo_autoencoder_config_read(const cJSON *json, const char *name,
                                    npo_autoencoder_config *ret_config, npo_error *error)
{
    npo_autoencoder_config config = {0};
    reader r = {{json, error}, &config};
    npo_err err = npo_config_check_keys(&r.in, &keys);
    if (!err)
        err = read_levels(&r);
    if (!err)
        err = read_scalars(&r);
    if (err)
        return npo_error_prefix(error, err, "%s", name);
    *ret_config = config;
    return NPO_OK;
}

npo_err npo_autoencoder_config_load(const char *path, npo_autoencoder_config *ret_config,
                                    npo_error *error)
{
    cJSON *json = NULL;
    char name[NPO_CONFIG_NAME_MAX];
    NPO_TRY(npo_config_open(path, &json, name, error));
    npo_err err = npo_autoencoder_config_read(json, name, ret_config, error);
    cJSON_Delete(json);
    return err;
}

int64_t npo_autoencoder_config_factor(const npo_autoencoder_config *config)
{
    return (int64_t)1 << (config->level_count - 1);
}
