#include "worker/model/networks/unet_config.h"

#include "worker/model/networks/config.h"

#include <stdio.h>
#include <string.h>

enum {
    CHANNELS_MAX = 1 << 16,
    SIZE_MAX_PIXELS = 1 << 16,
    KERNEL_MAX = 15,
};

typedef struct {
    npo_config_reader in;
    npo_unet_config *config;
} reader;

/* ---- options with one supported value ---- */

static const npo_config_fixed fixed[] = {
    {"act_fn", "\"silu\""},
    {"attention_type", "\"default\""},
    {"center_input_sample", "false"},
    {"class_embed_type", "null"},
    {"class_embeddings_concat", "false"},
    {"cross_attention_norm", "null"},
    {"dropout", "0"},
    {"dual_cross_attention", "false"},
    {"encoder_hid_dim", "null"},
    {"encoder_hid_dim_type", "null"},
    {"num_attention_heads", "null"}, /* diffusers refuses it too: see npo_unet_level.heads */
    {"num_class_embeds", "null"},
    {"resnet_time_scale_shift", "\"default\""},
    {"time_cond_proj_dim", "null"},
    {"time_embedding_act_fn", "null"},
    {"time_embedding_type", "\"positional\""},
    {"timestep_post_act", "null"},
    {NULL, NULL},
};

/* Options that diffusers does not apply to the block types supported here, or that do nothing in
 * f32. */
static const char *const without_effect[] = {
    "addition_embed_type_num_heads",
    "mid_block_only_cross_attention",
    "resnet_out_scale_factor",
    "resnet_skip_time_act",
    "upcast_attention",
    NULL,
};

static const char *const read_below[] = {
    "addition_embed_type",
    "addition_time_embed_dim",
    "attention_head_dim",
    "block_out_channels",
    "conv_in_kernel",
    "conv_out_kernel",
    "cross_attention_dim",
    "down_block_types",
    "downsample_padding",
    "flip_sin_to_cos",
    "freq_shift",
    "in_channels",
    "layers_per_block",
    "mid_block_scale_factor",
    "mid_block_type",
    "norm_eps",
    "norm_num_groups",
    "only_cross_attention",
    "out_channels",
    "projection_class_embeddings_input_dim",
    "reverse_transformer_layers_per_block",
    "sample_size",
    "time_embedding_dim",
    "transformer_layers_per_block",
    "up_block_types",
    "use_linear_projection",
    NULL,
};

static const npo_config_keys keys = {
    .class_name = "UNet2DConditionModel",
    .fixed = fixed,
    .without_effect = without_effect,
    .read = read_below,
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- a value per level ---- */

/* One number for all levels, or a list with one for each. */
static npo_err read_level_ints(reader *r, const char *key, int64_t fallback, int64_t max,
                               int64_t ret_values[NPO_UNET_LEVELS_MAX])
{
    char expected[64];
    const cJSON *item = npo_config_get(&r->in, key);
    int count = r->config->level_count;
    if (cJSON_IsArray(item) && cJSON_GetArraySize(item) != count) {
        snprintf(expected, sizeof expected, "a number or a list of %d", count);
        return npo_config_refuse(&r->in, NPO_E_RANGE, key, item, expected);
    }
    for (int i = 0; i < count; i++) {
        const cJSON *one = cJSON_IsArray(item) ? cJSON_GetArrayItem(item, i) : item;
        ret_values[i] = fallback;
        if (one)
            NPO_TRY(npo_config_to_int(&r->in, key, one, 1, max, &ret_values[i]));
    }
    return NPO_OK;
}

static npo_err read_channels(reader *r)
{
    static const int64_t fallback[] = {320, 640, 1280, 1280};
    int64_t channels[NPO_UNET_LEVELS_MAX];
    NPO_TRY(npo_config_list(&r->in, "block_out_channels", fallback, COUNT(fallback),
                            NPO_UNET_LEVELS_MAX, CHANNELS_MAX, channels, &r->config->level_count));
    for (int i = 0; i < r->config->level_count; i++)
        r->config->levels[i].channels = channels[i];
    return NPO_OK;
}

/* A list of block types, `plain` or `attending`; older files put "UNetRes" before them. fallback:
 * bit i says that block i of diffusers' default attends. */
static npo_err read_types(reader *r, const char *key, const char *plain, const char *attending,
                          unsigned fallback, bool ret_attends[NPO_UNET_LEVELS_MAX])
{
    char expected[96];
    int count = r->config->level_count;
    const cJSON *item = npo_config_get(&r->in, key);
    snprintf(expected, sizeof expected, "a list of %d, each \"%s\" or \"%s\"", count, plain,
             attending);
    if (item ? !cJSON_IsArray(item) || cJSON_GetArraySize(item) != count : count != 4)
        return npo_config_refuse(&r->in, NPO_E_RANGE, key, item, expected);
    for (int i = 0; i < count; i++) {
        const char *type = item ? cJSON_GetStringValue(cJSON_GetArrayItem(item, i)) : NULL;
        ret_attends[i] = fallback >> i & 1;
        if (!item)
            continue;
        if (type && strncmp(type, "UNetRes", 7) == 0)
            type += 7;
        ret_attends[i] = type && strcmp(type, attending) == 0;
        if (!ret_attends[i] && !(type && strcmp(type, plain) == 0))
            return npo_config_refuse(&r->in, NPO_E_UNSUPPORTED, key, item, expected);
    }
    return NPO_OK;
}

static npo_err read_blocks(reader *r)
{
    npo_unet_config *c = r->config;
    bool down[NPO_UNET_LEVELS_MAX], up[NPO_UNET_LEVELS_MAX];
    int64_t layers[NPO_UNET_LEVELS_MAX], heads[NPO_UNET_LEVELS_MAX], context[NPO_UNET_LEVELS_MAX];
    NPO_TRY(read_types(r, "down_block_types", "DownBlock2D", "CrossAttnDownBlock2D", 0x7, down));
    NPO_TRY(read_types(r, "up_block_types", "UpBlock2D", "CrossAttnUpBlock2D", 0xE, up));
    NPO_TRY(read_level_ints(r, "layers_per_block", 2, NPO_UNET_LAYERS_MAX, layers));
    NPO_TRY(read_level_ints(r, "attention_head_dim", 8, CHANNELS_MAX, heads));
    NPO_TRY(read_level_ints(r, "cross_attention_dim", 1280, CHANNELS_MAX, context));
    for (int i = 0; i < c->level_count; i++) {
        npo_unet_level *level = &c->levels[i];
        level->down_attention = down[i];
        level->up_attention = up[c->level_count - 1 - i];
        level->layers = (int)layers[i];
        level->heads = (int)heads[i];
        level->context = context[i];
    }
    return NPO_OK;
}

/* ---- transformer blocks of each attention ---- */

/* A number for all attentions of a block, or a list with one for each. */
static npo_err read_depths(reader *r, const char *key, const cJSON *item, int count,
                           int *ret_depths)
{
    if (cJSON_IsArray(item) && cJSON_GetArraySize(item) != count)
        return npo_config_refuse(&r->in, NPO_E_RANGE, key, item,
                                 "one number for each attention of the block");
    for (int i = 0; i < count; i++) {
        int64_t depth = 1;
        const cJSON *one = cJSON_IsArray(item) ? cJSON_GetArrayItem(item, i) : item;
        if (one)
            NPO_TRY(npo_config_to_int(&r->in, key, one, 1, NPO_UNET_DEPTH_MAX, &depth));
        ret_depths[i] = (int)depth;
    }
    return NPO_OK;
}

static npo_err read_transformers(reader *r)
{
    static const char down_key[] = "transformer_layers_per_block";
    static const char up_key[] = "reverse_transformer_layers_per_block";
    npo_unet_config *c = r->config;
    const cJSON *down = npo_config_get(&r->in, down_key), *up = npo_config_get(&r->in, up_key);
    int count = c->level_count;
    if (cJSON_IsArray(down) && cJSON_GetArraySize(down) != count)
        return npo_config_refuse(&r->in, NPO_E_RANGE, down_key, down,
                                 "a number or one item per level");
    if (up && (!cJSON_IsArray(up) || cJSON_GetArraySize(up) != count))
        return npo_config_refuse(&r->in, NPO_E_RANGE, up_key, up, "null or one item per level");
    for (int i = 0; i < count; i++) {
        npo_unet_level *level = &c->levels[i];
        const cJSON *item = cJSON_IsArray(down) ? cJSON_GetArrayItem(down, i) : down;
        const cJSON *up_item = up ? cJSON_GetArrayItem(up, count - 1 - i) : item;
        if (!up && cJSON_IsArray(item))
            return npo_config_refuse(&r->in, NPO_E_RANGE, up_key, up,
                                     "a list, since the down blocks have one each");
        NPO_TRY(read_depths(r, down_key, item, level->layers, level->down_depth));
        NPO_TRY(read_depths(r, up_key, up_item, level->layers + 1, level->up_depth));
    }
    c->mid_depth = c->levels[count - 1].down_depth[0];
    return NPO_OK;
}

/* ---- the rest ---- */

static npo_err read_mid(reader *r)
{
    static const struct {
        const char *name;
        npo_unet_mid mid;
    } types[] = {{"UNetMidBlock2DCrossAttn", NPO_UNET_MID_CROSS_ATTN},
                 {"UNetMidBlock2D", NPO_UNET_MID_RESNET}};
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(r->in.json, "mid_block_type");
    r->config->mid = cJSON_IsNull(item) ? NPO_UNET_MID_NONE : NPO_UNET_MID_CROSS_ATTN;
    if (!item || cJSON_IsNull(item))
        return NPO_OK;
    for (size_t i = 0; i < COUNT(types); i++)
        if (cJSON_IsString(item) && strcmp(item->valuestring, types[i].name) == 0) {
            r->config->mid = types[i].mid;
            return NPO_OK;
        }
    return npo_config_refuse(&r->in, NPO_E_UNSUPPORTED, "mid_block_type", item,
                             "\"UNetMidBlock2DCrossAttn\", \"UNetMidBlock2D\" or null");
}

/* The embedding's input is the pooled text and the sinusoids of all time ids, one behind the other;
 * diffusers' configs give its width. */
static npo_err read_added(reader *r)
{
    static const char type_key[] = "addition_embed_type";
    static const char dim_key[] = "addition_time_embed_dim";
    static const char width_key[] = "projection_class_embeddings_input_dim";
    npo_unet_config *c = r->config;
    const cJSON *type = npo_config_get(&r->in, type_key);
    int64_t dim, width;
    if (!type)
        return NPO_OK;
    if (!cJSON_IsString(type) || strcmp(type->valuestring, "text_time") != 0)
        return npo_config_refuse(&r->in, NPO_E_UNSUPPORTED, type_key, type,
                                 "null or \"text_time\" (other values are not supported)");
    NPO_TRY(
        npo_config_to_int(&r->in, dim_key, npo_config_get(&r->in, dim_key), 2, CHANNELS_MAX, &dim));
    NPO_TRY(npo_config_to_int(&r->in, width_key, npo_config_get(&r->in, width_key),
                              NPO_UNET_TIME_IDS * dim + 1, (int64_t)8 * CHANNELS_MAX, &width));
    c->time_id_channels = dim;
    c->pooled_channels = width - NPO_UNET_TIME_IDS * dim;
    return NPO_OK;
}

static npo_err read_sample_size(reader *r)
{
    const cJSON *item = npo_config_get(&r->in, "sample_size");
    bool pair = cJSON_IsArray(item) && cJSON_GetArraySize(item) == 2;
    const cJSON *height = pair ? cJSON_GetArrayItem(item, 0) : item;
    const cJSON *width = pair ? cJSON_GetArrayItem(item, 1) : item;
    if (!item)
        return NPO_OK;
    NPO_TRY(npo_config_to_int(&r->in, "sample_size", height, 1, SIZE_MAX_PIXELS,
                              &r->config->sample_height));
    return npo_config_to_int(&r->in, "sample_size", width, 1, SIZE_MAX_PIXELS,
                             &r->config->sample_width);
}

static npo_err check_self_attention(reader *r)
{
    const cJSON *item = npo_config_get(&r->in, "only_cross_attention");
    bool attends_to_itself = !item || cJSON_IsFalse(item) || cJSON_IsArray(item);
    for (int i = 0; cJSON_IsArray(item) && i < cJSON_GetArraySize(item); i++)
        attends_to_itself = attends_to_itself && cJSON_IsFalse(cJSON_GetArrayItem(item, i));
    return attends_to_itself ? NPO_OK
                             : npo_config_refuse(&r->in, NPO_E_UNSUPPORTED, "only_cross_attention",
                                                 item, "false (other values are not supported)");
}

static npo_err read_kernel(reader *r, const char *key, int *ret_kernel)
{
    int64_t kernel;
    NPO_TRY(npo_config_int(&r->in, key, 3, 1, KERNEL_MAX, &kernel));
    *ret_kernel = (int)kernel;
    return kernel % 2 ? NPO_OK
                      : npo_config_refuse(&r->in, NPO_E_UNSUPPORTED, key,
                                          npo_config_get(&r->in, key), "an odd number");
}

static npo_err read_scalars(reader *r)
{
    npo_unet_config *c = r->config;
    int64_t groups, padding;
    NPO_TRY(npo_config_int(&r->in, "in_channels", 4, 1, CHANNELS_MAX, &c->in_channels));
    NPO_TRY(npo_config_int(&r->in, "out_channels", 4, 1, CHANNELS_MAX, &c->out_channels));
    NPO_TRY(npo_config_int(&r->in, "norm_num_groups", 32, 1, CHANNELS_MAX, &groups));
    NPO_TRY(npo_config_int(&r->in, "downsample_padding", 1, 0, 1, &padding));
    NPO_TRY(npo_config_int(&r->in, "time_embedding_dim", 4 * c->levels[0].channels, 1, CHANNELS_MAX,
                           &c->time_embed_channels));
    NPO_TRY(read_kernel(r, "conv_in_kernel", &c->conv_in_kernel));
    NPO_TRY(read_kernel(r, "conv_out_kernel", &c->conv_out_kernel));
    NPO_TRY(npo_config_float(&r->in, "norm_eps", 1e-5, 0, &c->norm_eps));
    NPO_TRY(npo_config_float(&r->in, "freq_shift", 0, 0, &c->freq_shift));
    NPO_TRY(npo_config_float(&r->in, "mid_block_scale_factor", 1, 1e-6, &c->mid_scale));
    NPO_TRY(npo_config_bool(&r->in, "flip_sin_to_cos", true, &c->flip_sin_to_cos));
    NPO_TRY(npo_config_bool(&r->in, "use_linear_projection", false, &c->linear_projection));
    c->norm_groups = (int)groups;
    c->downsample_padding = (int)padding;
    c->time_channels = c->levels[0].channels;
    const cJSON *norm = cJSON_GetObjectItemCaseSensitive(r->in.json, "norm_num_groups");
    return cJSON_IsNull(norm)
               ? npo_config_refuse(&r->in, NPO_E_UNSUPPORTED, "norm_num_groups", norm, "a number")
               : NPO_OK;
}

/* ---- consistency ---- */

static bool level_attends(const npo_unet_config *config, int i)
{
    bool mid = i == config->level_count - 1 && config->mid == NPO_UNET_MID_CROSS_ATTN;
    return config->levels[i].down_attention || config->levels[i].up_attention || mid;
}

static npo_err check_levels(reader *r)
{
    const npo_unet_config *c = r->config;
    int64_t context = npo_unet_config_context(c);
    for (int i = 0; i < c->level_count; i++) {
        const npo_unet_level *level = &c->levels[i];
        if (level->channels % c->norm_groups)
            return npo_error_set(r->in.error, NPO_E_RANGE,
                                 "block_out_channels: level %d has %lld channels, expected a "
                                 "multiple of norm_num_groups %d",
                                 i, (long long)level->channels, c->norm_groups);
        if (!level_attends(c, i))
            continue;
        if (level->heads > level->channels)
            return npo_error_set(r->in.error, NPO_E_RANGE,
                                 "attention_head_dim: level %d has %d heads, expected at most its "
                                 "%lld channels",
                                 i, level->heads, (long long)level->channels);
        if (level->context != context)
            return npo_error_set(r->in.error, NPO_E_UNSUPPORTED,
                                 "cross_attention_dim: level %d has %lld, expected %lld as the "
                                 "other levels",
                                 i, (long long)level->context, (long long)context);
    }
    return NPO_OK;
}

static npo_err read_all(reader *r)
{
    static npo_err (*const steps[])(reader *) = {
        read_channels,    read_blocks,          read_transformers, read_mid,    read_added,
        read_sample_size, check_self_attention, read_scalars,      check_levels};
    NPO_TRY(npo_config_check_keys(&r->in, &keys));
    for (size_t i = 0; i < COUNT(steps); i++)
        NPO_TRY(steps[i](r));
    return NPO_OK;
}

npo_err npo_unet_config_read(const cJSON *json, const char *name, npo_unet_config *ret_config,
                             npo_error *error)
{
    npo_unet_config config = {0};
    reader r = {{json, error}, &config};
    npo_err err = read_all(&r);
    if (err)
        return npo_error_prefix(error, err, "%s", name);
    *ret_config = config;
    return NPO_OK;
}

npo_err npo_unet_config_load(const char *path, npo_unet_config *ret_config, npo_error *error)
{
    cJSON *json = NULL;
    char name[NPO_CONFIG_NAME_MAX];
    NPO_TRY(npo_config_open(path, &json, name, error));
    npo_err err = npo_unet_config_read(json, name, ret_config, error);
    cJSON_Delete(json);
    return err;
}

int64_t npo_unet_config_context(const npo_unet_config *config)
{
    for (int i = 0; i < config->level_count; i++)
        if (level_attends(config, i))
            return config->levels[i].context;
    return 0;
}

int64_t npo_unet_config_added(const npo_unet_config *config)
{
    return config->pooled_channels ? config->pooled_channels + NPO_UNET_TIME_IDS : 0;
}
