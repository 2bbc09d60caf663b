#include "tests/unit/diffusion/small_unet.h"

#include "common/rng.h"
#include "tests/unit/cmocka.h"
#include "worker/model/networks/unet.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char config_text[] =
    "{\"sample_size\": 8, \"in_channels\": 2, \"out_channels\": 2, \"layers_per_block\": 1,"
    "\"down_block_types\": [\"DownBlock2D\", \"CrossAttnDownBlock2D\"],"
    "\"up_block_types\": [\"CrossAttnUpBlock2D\", \"UpBlock2D\"],"
    "\"block_out_channels\": [8, 16], \"norm_num_groups\": 4, \"cross_attention_dim\": 8,"
    "\"attention_head_dim\": 2, \"addition_embed_type\": %s, \"addition_time_embed_dim\": 4,"
    "\"projection_class_embeddings_input_dim\": 29}";

/* Weights of a matrix at 1 / sqrt(inputs), vectors near 1 for scales and near 0 for biases. */
static void fill(small_unet *unet, uint64_t seed)
{
    float *data = npo_params_edit(unet->params);
    for (size_t i = 0; i < npo_layout_count(unet->layout); i++) {
        const npo_param_info *info = npo_layout_at(unet->layout, i);
        npo_rng rng = npo_rng_stream(seed, NPO_RNG_WEIGHTS, (uint32_t)i, 0);
        bool is_bias = strstr(info->name, "bias") != NULL;
        float scale = info->ndim > 1 ? 1 / sqrtf((float)info->count / (float)info->dims[0]) : 0.1f;
        npo_rng_gaussians(&rng, info->count, data + info->offset);
        for (size_t k = 0; k < info->count; k++)
            data[info->offset + k] =
                (info->ndim == 1 && !is_bias ? 1.0f : 0.0f) + scale * data[info->offset + k];
    }
}

static void init(small_unet *unet, const char *addition, uint64_t seed)
{
    char config[sizeof config_text + 16];
    npo_error error = {0};
    *unet = (small_unet){.shape = {SMALL_SIDE, SMALL_SIDE, SMALL_TOKENS},
                         .latent = {SMALL_SIDE, SMALL_SIDE, SMALL_CHANNELS}};
    const npo_backend_options options = {.device = "cpu", .threads = 1};
    assert_int_equal(npo_backend_new(&options, &unet->backend, &error), NPO_OK);
    snprintf(config, sizeof config, config_text, addition);
    cJSON *json = cJSON_Parse(config);
    npo_err err = npo_unet_config_read(json, "small", &unet->config, &error);
    cJSON_Delete(json);
    if (err)
        fail_msg("%s", error.text);
    assert_int_equal(npo_unet_layout(unet->backend, &unet->config, &unet->layout, &error), NPO_OK);
    assert_int_equal(npo_params_new(unet->layout, &unet->params), NPO_OK);
    fill(unet, seed);
    npo_rng rng = npo_rng_stream(seed, NPO_RNG_SAMPLE_NOISE, 0, 0);
    npo_rng_gaussians(&rng, sizeof unet->embeddings / sizeof *unet->embeddings, unet->embeddings);
    size_t floats = SMALL_TOKENS * SMALL_CONTEXT + (size_t)npo_unet_config_added(&unet->config);
    unet->prompts = (npo_prompts){.rows = unet->embeddings,
                                  .count = SMALL_PROMPTS,
                                  .empty = unet->embeddings + SMALL_PROMPTS * floats,
                                  .floats = floats};
}

void small_unet_init(small_unet *unet, uint64_t seed)
{
    init(unet, "null", seed);
}

void small_unet_init_added(small_unet *unet, uint64_t seed)
{
    init(unet, "\"text_time\"", seed);
}

void small_unet_fini(small_unet *unet)
{
    npo_params_free(unet->params);
    npo_layout_unref(unet->layout);
    npo_backend_free(unet->backend);
}
