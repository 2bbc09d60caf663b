#include "worker/model/networks/unet.h"

#include "worker/model/networks/modules.h"

#include <string.h>

/* conv_in, and per level its layers and the downsampler. */
#define SKIPS_MAX (1 + NPO_UNET_LEVELS_MAX * (NPO_UNET_LAYERS_MAX + 1))

/* diffusers fixes these, whatever norm_eps says. */
#define TRANSFORMER_NORM_EPS 1e-6f
#define LAYER_NORM_EPS       1e-5f

typedef struct {
    npo_graph *graph;
    const npo_unet_config *config;
    bool name_modules;
    npo_value time;    /* silu(time embedding), [N,time_embed_channels] */
    npo_value context; /* [N,L,context] */
    npo_value skips[SKIPS_MAX];
    int skip_count;
} unet;

static void name_output(const unet *u, const char *path, npo_value value)
{
    char name[NPO_PATH_MAX];
    if (!u->name_modules)
        return;
    npo_module_path(u->graph, name, "out.%s", path);
    npo_graph_output(u->graph, name, value);
}

static npo_conv_options same_padding(int kernel)
{
    int pad = kernel / 2;
    return (npo_conv_options){1, pad, pad, pad, pad};
}

/* ---- residual block ---- */

/* ResnetBlock2D: silu(norm), convolution, time shift, silu(norm), convolution, shortcut. */
static npo_value resnet(unet *u, const char *path, npo_value x, int64_t out, float scale)
{
    npo_graph *g = u->graph;
    const npo_unet_config *c = u->config;
    char name[NPO_PATH_MAX];
    npo_module_path(g, name, "%s.norm1", path);
    npo_value h = npo_module_group_norm(g, name, x, c->norm_groups, c->norm_eps, NPO_ACT_SILU);
    npo_module_path(g, name, "%s.conv1", path);
    h = npo_module_conv(g, name, h, out, 3, same_padding(3));
    npo_module_path(g, name, "%s.time_emb_proj", path);
    h = npo_op_add_channels(g, h, npo_module_linear(g, name, u->time, out, true));
    npo_module_path(g, name, "%s.norm2", path);
    h = npo_module_group_norm(g, name, h, c->norm_groups, c->norm_eps, NPO_ACT_SILU);
    npo_module_path(g, name, "%s.conv2", path);
    h = npo_module_conv(g, name, h, out, 3, same_padding(3));
    npo_module_path(g, name, "%s.conv_shortcut", path);
    if (npo_module_channels(g, x) != out)
        x = npo_module_pointwise(g, name, x, out);
    x = npo_op_add(g, x, h);
    if (scale != 1)
        x = npo_op_scale(g, x, 1 / scale);
    name_output(u, path, x);
    return x;
}

/* ---- transformer ---- */

/* Attention of x [N,L,C] to `keys` [N,L',C']; to itself where they are x. */
static npo_value attention(unet *u, const char *path, npo_value x, npo_value keys, int heads)
{
    npo_graph *g = u->graph;
    int64_t inner = npo_module_channels(g, x);
    char name[NPO_PATH_MAX];
    npo_module_path(g, name, "%s.to_q", path);
    npo_value q = npo_module_linear(g, name, x, inner, false);
    npo_module_path(g, name, "%s.to_k", path);
    npo_value k = npo_module_linear(g, name, keys, inner, false);
    npo_module_path(g, name, "%s.to_v", path);
    npo_value v = npo_module_linear(g, name, keys, inner, false);
    npo_value h = npo_op_attention(g, q, k, v, heads, false);
    npo_module_path(g, name, "%s.to_out.0", path);
    return npo_module_linear(g, name, h, inner, true);
}

/* BasicTransformerBlock: self-attention, attention to the context, gated feed-forward. */
static npo_value transformer_block(unet *u, const char *path, npo_value x, int heads)
{
    npo_graph *g = u->graph;
    int64_t inner = npo_module_channels(g, x);
    char name[NPO_PATH_MAX];
    npo_module_path(g, name, "%s.norm1", path);
    npo_value h = npo_module_layer_norm(g, name, x, LAYER_NORM_EPS);
    npo_module_path(g, name, "%s.attn1", path);
    x = npo_op_add(g, x, attention(u, name, h, h, heads));
    npo_module_path(g, name, "%s.norm2", path);
    h = npo_module_layer_norm(g, name, x, LAYER_NORM_EPS);
    npo_module_path(g, name, "%s.attn2", path);
    x = npo_op_add(g, x, attention(u, name, h, u->context, heads));
    npo_module_path(g, name, "%s.norm3", path);
    h = npo_module_layer_norm(g, name, x, LAYER_NORM_EPS);
    npo_module_path(g, name, "%s.ff.net.0.proj", path);
    h = npo_op_geglu(g, npo_module_linear(g, name, h, 8 * inner, true));
    npo_module_path(g, name, "%s.ff.net.2", path);
    return npo_op_add(g, x, npo_module_linear(g, name, h, inner, true));
}

static npo_value project(unet *u, const char *path, npo_value x, int64_t out)
{
    return u->config->linear_projection ? npo_module_linear(u->graph, path, x, out, true)
                                        : npo_module_pointwise(u->graph, path, x, out);
}

/* Transformer2DModel on x [N,H,W,C]. */
static npo_value transformer(unet *u, const char *path, npo_value x, int heads, int depth)
{
    npo_graph *g = u->graph;
    const npo_shape *shape = npo_graph_shape(g, x);
    if (!shape)
        return NPO_VALUE_NONE;
    int64_t n = shape->dims[0], height = shape->dims[1], width = shape->dims[2];
    int64_t channels = shape->dims[3];
    int64_t inner = channels / heads * heads; /* heads need not divide the channels */
    char name[NPO_PATH_MAX];
    npo_graph_block(g);
    npo_module_path(g, name, "%s.norm", path);
    npo_value h = npo_module_group_norm(g, name, x, u->config->norm_groups, TRANSFORMER_NORM_EPS,
                                        NPO_ACT_NONE);
    npo_module_path(g, name, "%s.proj_in", path);
    h = project(u, name, h, inner);
    h = npo_op_reshape(g, h, 3, (int64_t[]){n, height * width, inner});
    for (int i = 0; i < depth; i++) {
        if (i > 0)
            npo_graph_block(g);
        npo_module_path(g, name, "%s.transformer_blocks.%d", path, i);
        h = transformer_block(u, name, h, heads);
    }
    h = npo_op_reshape(g, h, 4, (int64_t[]){n, height, width, inner});
    npo_module_path(g, name, "%s.proj_out", path);
    x = npo_op_add(g, project(u, name, h, channels), x);
    name_output(u, path, x);
    return x;
}

/* ---- blocks ---- */

static void push_skip(unet *u, npo_value x)
{
    u->skips[u->skip_count++] = x;
}

static npo_value pop_skip(unet *u)
{
    return u->skips[--u->skip_count];
}

static npo_value downsample(unet *u, const char *path, npo_value x, int64_t channels)
{
    bool symmetric = u->config->downsample_padding == 1;
    npo_graph_block(u->graph);
    npo_conv_options options = {2, symmetric, symmetric, 1, 1};
    return npo_module_conv(u->graph, path, x, channels, 3, options);
}

static npo_value down_block(unet *u, int index, npo_value x)
{
    npo_graph *g = u->graph;
    const npo_unet_level *level = &u->config->levels[index];
    char name[NPO_PATH_MAX];
    for (int i = 0; i < level->layers; i++) {
        npo_graph_block(g);
        npo_module_path(g, name, "down_blocks.%d.resnets.%d", index, i);
        x = resnet(u, name, x, level->channels, 1);
        npo_module_path(g, name, "down_blocks.%d.attentions.%d", index, i);
        if (level->down_attention)
            x = transformer(u, name, x, level->heads, level->down_depth[i]);
        push_skip(u, x);
    }
    npo_module_path(g, name, "down_blocks.%d.downsamplers.0.conv", index);
    if (index < u->config->level_count - 1) {
        x = downsample(u, name, x, level->channels);
        push_skip(u, x);
    }
    npo_module_path(g, name, "down_blocks.%d", index);
    name_output(u, name, x);
    return x;
}

static npo_value mid_block(unet *u, npo_value x)
{
    const npo_unet_config *c = u->config;
    const npo_unet_level *level = &c->levels[c->level_count - 1];
    if (c->mid == NPO_UNET_MID_NONE)
        return x;
    npo_graph_block(u->graph);
    x = resnet(u, "mid_block.resnets.0", x, level->channels, c->mid_scale);
    if (c->mid == NPO_UNET_MID_CROSS_ATTN) {
        x = transformer(u, "mid_block.attentions.0", x, level->heads, c->mid_depth);
        npo_graph_block(u->graph);
        x = resnet(u, "mid_block.resnets.1", x, level->channels, c->mid_scale);
    }
    name_output(u, "mid_block", x);
    return x;
}

/* To the size of the next skip, which is not twice x's where a side was odd. */
static npo_value upsample(unet *u, const char *path, npo_value x, int64_t channels)
{
    const npo_shape *next = npo_graph_shape(u->graph, u->skips[u->skip_count - 1]);
    if (!next)
        return NPO_VALUE_NONE;
    npo_graph_block(u->graph);
    x = npo_op_upsample(u->graph, x, next->dims[1], next->dims[2]);
    return npo_module_conv(u->graph, path, x, channels, 3, same_padding(3));
}

/* index: 0 is the deepest level, as diffusers counts. */
static npo_value up_block(unet *u, int index, npo_value x)
{
    npo_graph *g = u->graph;
    const npo_unet_level *level = &u->config->levels[u->config->level_count - 1 - index];
    char name[NPO_PATH_MAX];
    for (int i = 0; i <= level->layers; i++) {
        npo_graph_block(g);
        x = npo_op_concat(g, x, pop_skip(u));
        npo_module_path(g, name, "up_blocks.%d.resnets.%d", index, i);
        x = resnet(u, name, x, level->channels, 1);
        npo_module_path(g, name, "up_blocks.%d.attentions.%d", index, i);
        if (level->up_attention)
            x = transformer(u, name, x, level->heads, level->up_depth[i]);
    }
    npo_module_path(g, name, "up_blocks.%d.upsamplers.0.conv", index);
    if (index < u->config->level_count - 1)
        x = upsample(u, name, x, level->channels);
    npo_module_path(g, name, "up_blocks.%d", index);
    name_output(u, name, x);
    return x;
}

/* ---- the network ---- */

/* TimestepEmbedding: linear, silu, linear. */
static npo_value embed(unet *u, const char *path, npo_value e)
{
    npo_graph *g = u->graph;
    int64_t channels = u->config->time_embed_channels;
    char name[NPO_PATH_MAX];
    npo_module_path(g, name, "%s.linear_1", path);
    e = npo_op_activation(g, npo_module_linear(g, name, e, channels, true), NPO_ACT_SILU);
    npo_module_path(g, name, "%s.linear_2", path);
    e = npo_module_linear(g, name, e, channels, true);
    name_output(u, path, e);
    return e;
}

static npo_value sinusoid(unet *u, npo_value t, int64_t channels)
{
    const npo_unet_config *c = u->config;
    return npo_op_timestep(u->graph, t, channels, c->flip_sin_to_cos, c->freq_shift);
}

/* The pooled text and the sinusoids of the time ids, embedded. */
static npo_value added_embedding(unet *u, npo_unet_inputs inputs)
{
    npo_graph *g = u->graph;
    int64_t channels = u->config->time_id_channels;
    const npo_shape *shape = npo_graph_shape(g, inputs.time_ids);
    if (!shape)
        return NPO_VALUE_NONE;
    int64_t n = shape->dims[0], count = n * NPO_UNET_TIME_IDS;
    npo_value ids = npo_op_reshape(g, inputs.time_ids, 1, &count);
    ids = npo_op_reshape(g, sinusoid(u, ids, channels), 2,
                         (int64_t[]){n, NPO_UNET_TIME_IDS * channels});
    return embed(u, "add_embedding", npo_op_concat(g, inputs.pooled, ids));
}

static npo_value time_embedding(unet *u, npo_unet_inputs inputs)
{
    npo_value e = embed(u, "time_embedding", sinusoid(u, inputs.t, u->config->time_channels));
    if (u->config->pooled_channels)
        e = npo_op_add(u->graph, e, added_embedding(u, inputs));
    return npo_op_activation(u->graph, e, NPO_ACT_SILU); /* every resnet begins with it */
}

npo_unet_inputs npo_unet_declare(npo_graph *graph, const npo_unet_config *config, int64_t n,
                                 int64_t height, int64_t width, int64_t context_len)
{
    int64_t context = npo_unet_config_context(config);
    const int64_t x[] = {n, height, width, config->in_channels};
    npo_unet_inputs inputs = {
        .context = NPO_VALUE_NONE, .pooled = NPO_VALUE_NONE, .time_ids = NPO_VALUE_NONE};
    inputs.x = npo_graph_input(graph, "x", NPO_F32, 4, x);
    inputs.t = npo_graph_input(graph, "t", NPO_F32, 1, &n);
    if (context)
        inputs.context =
            npo_graph_input(graph, "context", NPO_F32, 3, (int64_t[]){n, context_len, context});
    if (config->pooled_channels) {
        inputs.pooled =
            npo_graph_input(graph, "pooled", NPO_F32, 2, (int64_t[]){n, config->pooled_channels});
        inputs.time_ids =
            npo_graph_input(graph, "time_ids", NPO_F32, 2, (int64_t[]){n, NPO_UNET_TIME_IDS});
    }
    return inputs;
}

void npo_unet_split_added(const npo_unet_config *config, const float *added, float *ret_pooled,
                          float *ret_time_ids)
{
    size_t pooled = (size_t)config->pooled_channels;
    memcpy(ret_pooled, added, pooled * sizeof *added);
    memcpy(ret_time_ids, added + pooled, NPO_UNET_TIME_IDS * sizeof *added);
}

npo_value npo_unet_record(npo_graph *graph, const npo_unet_config *config, npo_unet_inputs inputs,
                          const npo_unet_options *options)
{
    unet u = {.graph = graph,
              .config = config,
              .name_modules = options && options->name_modules,
              .context = inputs.context};
    u.time = time_embedding(&u, inputs);
    npo_value x = npo_module_conv(graph, "conv_in", inputs.x, config->levels[0].channels,
                                  config->conv_in_kernel, same_padding(config->conv_in_kernel));
    name_output(&u, "conv_in", x);
    push_skip(&u, x);
    for (int i = 0; i < config->level_count; i++)
        x = down_block(&u, i, x);
    x = mid_block(&u, x);
    for (int i = 0; i < config->level_count; i++)
        x = up_block(&u, i, x);
    npo_graph_block(graph);
    x = npo_module_group_norm(graph, "conv_norm_out", x, config->norm_groups, config->norm_eps,
                              NPO_ACT_SILU);
    return npo_module_conv(graph, "conv_out", x, config->out_channels, config->conv_out_kernel,
                           same_padding(config->conv_out_kernel));
}

static void record_layout(npo_graph *graph, const void *user)
{
    const npo_unet_config *config = user;
    int64_t side = (int64_t)1 << config->level_count;
    npo_unet_inputs inputs = npo_unet_declare(graph, config, 1, side, side, 1);
    npo_graph_output(graph, "y", npo_unet_record(graph, config, inputs, NULL));
}

npo_err npo_unet_layout(npo_backend *backend, const npo_unet_config *config,
                        npo_layout **ret_layout, npo_error *error)
{
    return npo_module_layout(backend, "the network", record_layout, config, ret_layout, error);
}
