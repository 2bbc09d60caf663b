/* Shape of a UNet2DConditionModel, read from the config.json that diffusers writes beside its
 * weights. Options that change the computation and that this program does not compute are refused
 * with a sentence; options without effect on the supported blocks are accepted. */
#ifndef NPO_WORKER_MODEL_NETWORKS_UNET_CONFIG_H
#define NPO_WORKER_MODEL_NETWORKS_UNET_CONFIG_H

#include "common/json.h"

#define NPO_UNET_LEVELS_MAX 8
#define NPO_UNET_LAYERS_MAX 8  /* resnets of a down block; an up block has one more */
#define NPO_UNET_DEPTH_MAX  32 /* transformer blocks in one attention */
#define NPO_UNET_TIME_IDS   6  /* original height, width; crop top, left; target height, width */

/* Level 0 is the full resolution; its up block is the last of up_blocks. */
typedef struct {
    int64_t channels;
    int layers;          /* resnets of the down block */
    bool down_attention; /* CrossAttnDownBlock2D, else DownBlock2D */
    bool up_attention;   /* CrossAttnUpBlock2D, else UpBlock2D */
    int heads;           /* "attention_head_dim": for this class the number of heads */
    int64_t context;     /* channels of the text embedding */
    int down_depth[NPO_UNET_LAYERS_MAX]; /* transformer blocks of each attention */
    int up_depth[NPO_UNET_LAYERS_MAX + 1];
} npo_unet_level;

typedef enum {
    NPO_UNET_MID_NONE,       /* "mid_block_type": null */
    NPO_UNET_MID_RESNET,     /* UNetMidBlock2D: one resnet */
    NPO_UNET_MID_CROSS_ATTN, /* UNetMidBlock2DCrossAttn: resnet, attention, resnet */
} npo_unet_mid;

typedef struct {
    int64_t in_channels, out_channels;
    int64_t sample_height, sample_width; /* "sample_size", 0 where the config has none */
    int level_count;
    npo_unet_level levels[NPO_UNET_LEVELS_MAX];
    npo_unet_mid mid;
    int mid_depth;
    float mid_scale;       /* "mid_block_scale_factor": sums of the mid block are divided by it */
    int64_t time_channels; /* of the sinusoid: channels of level 0 */
    int64_t time_embed_channels;
    bool flip_sin_to_cos;
    float freq_shift;
    int norm_groups;
    float norm_eps;
    int downsample_padding; /* 0: diffusers pads bottom and right by one */
    int conv_in_kernel, conv_out_kernel;
    /* "addition_embed_type": "text_time", SDXL's conditioning on a pooled text embedding and the
     * time ids in pixels; 0 without it. */
    int64_t pooled_channels;  /* of the pooled text embedding */
    int64_t time_id_channels; /* of the sinusoid of each time id */
    bool linear_projection;   /* proj_in, proj_out stored as [out,in] instead of [out,in,1,1] */
} npo_unet_config;

/* json: the parsed config; name stands in sentences ("'models/a/unet/config.json'"). Errors:
 * NPO_E_UNSUPPORTED for an option not computed here, NPO_E_TYPE, NPO_E_RANGE, NPO_E_USAGE for a
 * malformed one. */
npo_err npo_unet_config_read(const cJSON *json, const char *name, npo_unet_config *ret_config,
                             npo_error *error) NPO_MUST_CHECK;
npo_err npo_unet_config_load(const char *path, npo_unet_config *ret_config,
                             npo_error *error) NPO_MUST_CHECK;
/* Channels of the text embedding, 0 for a network without cross attention. Levels that attend share
 * one context, so they agree (checked while reading). */
int64_t npo_unet_config_context(const npo_unet_config *config);
/* Values a sample's added conditioning has, the pooled text embedding and the time ids; 0 without
 * it. */
int64_t npo_unet_config_added(const npo_unet_config *config);

#endif
