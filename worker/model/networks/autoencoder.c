#include "worker/model/networks/autoencoder.h"

#include "worker/model/networks/modules.h"

/* diffusers fixes it for every norm of this class. */
#define NORM_EPS 1e-6f

typedef struct {
    npo_graph *graph;
    const npo_autoencoder_config *config;
} autoencoder;

static const npo_conv_options same = {1, 1, 1, 1, 1};
/* Halves a side: diffusers pads bottom and right by one. */
static const npo_conv_options halving = {2, 0, 0, 1, 1};

static npo_value norm(const autoencoder *a, const char *path, npo_value x, npo_act act)
{
    return npo_module_group_norm(a->graph, path, x, a->config->norm_groups, NORM_EPS, act);
}

/* ResnetBlock2D without a time embedding. */
static npo_value resnet(const autoencoder *a, const char *path, npo_value x, int64_t out)
{
    npo_graph *g = a->graph;
    char name[NPO_PATH_MAX];
    npo_module_path(g, name, "%s.norm1", path);
    npo_value h = norm(a, name, x, NPO_ACT_SILU);
    npo_module_path(g, name, "%s.conv1", path);
    h = npo_module_conv(g, name, h, out, 3, same);
    npo_module_path(g, name, "%s.norm2", path);
    h = norm(a, name, h, NPO_ACT_SILU);
    npo_module_path(g, name, "%s.conv2", path);
    h = npo_module_conv(g, name, h, out, 3, same);
    npo_module_path(g, name, "%s.conv_shortcut", path);
    if (npo_module_channels(g, x) != out)
        x = npo_module_pointwise(g, name, x, out);
    return npo_op_add(g, x, h);
}

static npo_value linear(const autoencoder *a, const char *path, const char *part, npo_value x)
{
    char name[NPO_PATH_MAX];
    npo_module_path(a->graph, name, "%s.%s", path, part);
    return npo_module_linear(a->graph, name, x, npo_module_channels(a->graph, x), true);
}

/* Attention of x [N,H,W,C] to itself with one head. */
static npo_value attention(const autoencoder *a, const char *path, npo_value x)
{
    npo_graph *g = a->graph;
    const npo_shape *shape = npo_graph_shape(g, x);
    char name[NPO_PATH_MAX];
    if (!shape)
        return NPO_VALUE_NONE;
    int64_t image[4] = {shape->dims[0], shape->dims[1], shape->dims[2], shape->dims[3]};
    int64_t tokens[3] = {image[0], image[1] * image[2], image[3]};
    npo_module_path(g, name, "%s.group_norm", path);
    npo_value h = npo_op_reshape(g, norm(a, name, x, NPO_ACT_NONE), 3, tokens);
    npo_value q = linear(a, path, "to_q", h);
    npo_value k = linear(a, path, "to_k", h);
    npo_value v = linear(a, path, "to_v", h);
    h = linear(a, path, "to_out.0", npo_op_attention(g, q, k, v, 1, false));
    return npo_op_add(g, x, npo_op_reshape(g, h, 4, image));
}

/* side: "encoder" or "decoder". */
static npo_value mid_block(const autoencoder *a, const char *side, npo_value x)
{
    npo_graph *g = a->graph;
    int64_t channels = a->config->channels[a->config->level_count - 1];
    char name[NPO_PATH_MAX];
    npo_module_path(g, name, "%s.mid_block.resnets.0", side);
    x = resnet(a, name, x, channels);
    npo_module_path(g, name, "%s.mid_block.attentions.0", side);
    if (a->config->mid_attention)
        x = attention(a, name, x);
    npo_module_path(g, name, "%s.mid_block.resnets.1", side);
    return resnet(a, name, x, channels);
}

npo_value npo_autoencoder_record_encoder(npo_graph *graph, const npo_autoencoder_config *config,
                                         npo_value x)
{
    autoencoder a = {graph, config};
    int64_t moments = 2 * config->latent_channels;
    char name[NPO_PATH_MAX];
    x = npo_module_conv(graph, "encoder.conv_in", x, config->channels[0], 3, same);
    for (int i = 0; i < config->level_count; i++) {
        for (int k = 0; k < config->layers; k++) {
            npo_module_path(graph, name, "encoder.down_blocks.%d.resnets.%d", i, k);
            x = resnet(&a, name, x, config->channels[i]);
        }
        npo_module_path(graph, name, "encoder.down_blocks.%d.downsamplers.0.conv", i);
        if (i < config->level_count - 1)
            x = npo_module_conv(graph, name, x, config->channels[i], 3, halving);
    }
    x = mid_block(&a, "encoder", x);
    x = norm(&a, "encoder.conv_norm_out", x, NPO_ACT_SILU);
    x = npo_module_conv(graph, "encoder.conv_out", x, moments, 3, same);
    return config->quant_conv ? npo_module_pointwise(graph, "quant_conv", x, moments) : x;
}

/* Twice as high and wide by nearest neighbour, then a convolution. */
static npo_value upsample(const autoencoder *a, const char *path, npo_value x, int64_t channels)
{
    const npo_shape *shape = npo_graph_shape(a->graph, x);
    if (!shape)
        return NPO_VALUE_NONE;
    x = npo_op_upsample(a->graph, x, 2 * shape->dims[1], 2 * shape->dims[2]);
    return npo_module_conv(a->graph, path, x, channels, 3, same);
}

npo_value npo_autoencoder_record_decoder(npo_graph *graph, const npo_autoencoder_config *config,
                                         npo_value z)
{
    autoencoder a = {graph, config};
    int last = config->level_count - 1;
    char name[NPO_PATH_MAX];
    npo_value x = config->post_quant_conv
                      ? npo_module_pointwise(graph, "post_quant_conv", z, config->latent_channels)
                      : z;
    x = npo_module_conv(graph, "decoder.conv_in", x, config->channels[last], 3, same);
    x = mid_block(&a, "decoder", x);
    for (int i = 0; i <= last; i++) {
        int64_t channels = config->channels[last - i];
        for (int k = 0; k <= config->layers; k++) {
            npo_module_path(graph, name, "decoder.up_blocks.%d.resnets.%d", i, k);
            x = resnet(&a, name, x, channels);
        }
        npo_module_path(graph, name, "decoder.up_blocks.%d.upsamplers.0.conv", i);
        if (i < last)
            x = upsample(&a, name, x, channels);
    }
    x = norm(&a, "decoder.conv_norm_out", x, NPO_ACT_SILU);
    return npo_module_conv(graph, "decoder.conv_out", x, NPO_AUTOENCODER_IMAGE_CHANNELS, 3, same);
}

static void record_layout(npo_graph *graph, const void *user)
{
    const npo_autoencoder_config *config = user;
    int64_t side = npo_autoencoder_config_factor(config);
    int64_t image[] = {1, side, side, NPO_AUTOENCODER_IMAGE_CHANNELS};
    int64_t latent[] = {1, 1, 1, config->latent_channels};
    npo_value x = npo_graph_input(graph, "image", NPO_F32, 4, image);
    npo_value z = npo_graph_input(graph, "latent", NPO_F32, 4, latent);
    npo_graph_output(graph, "moments", npo_autoencoder_record_encoder(graph, config, x));
    npo_graph_output(graph, "decoded", npo_autoencoder_record_decoder(graph, config, z));
}

npo_err npo_autoencoder_layout(npo_backend *backend, const npo_autoencoder_config *config,
                               npo_layout **ret_layout, npo_error *error)
{
    return npo_module_layout(backend, "the VAE", record_layout, config, ret_layout, error);
}
