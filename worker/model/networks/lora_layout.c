#include "worker/model/networks/lora_layout.h"

#include "common/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WEIGHT ".weight"
#define DOWN   ".lora_A.weight"
#define UP     ".lora_B.weight"

static bool ends_with(const char *text, size_t len, const char *end)
{
    size_t end_len = strlen(end);
    return len >= end_len && memcmp(text + len - end_len, end, end_len) == 0;
}

static bool is_attention(const npo_param_info *info, size_t module_len)
{
    static const char *const ends[] = {".to_q", ".to_k", ".to_v", ".to_out.0"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends_with(info->name, module_len, ends[i]))
            return true;
    return false;
}

static bool is_linear(const npo_param_info *info, size_t module_len)
{
    return info->ndim == 2;
}

static bool is_layer(const npo_param_info *info, size_t module_len)
{
    return info->ndim == 2 || info->ndim == 4;
}

static bool (*const adapts[])(const npo_param_info *info, size_t module_len) = {
    [NPO_LORA_ATTENTION] = is_attention,
    [NPO_LORA_LINEAR] = is_linear,
    [NPO_LORA_ALL] = is_layer,
};

/* Bytes of the module's name; 0 for a tensor that is no weight. */
static size_t module_of(const npo_param_info *info, const char *end)
{
    size_t len = strlen(info->name);
    return ends_with(info->name, len, end) ? len - strlen(end) : 0;
}

static npo_err add_part(npo_layout *layout, const npo_param_info *weight, size_t module_len,
                        const char *end, const int64_t dims[NPO_PARAM_DIMS_MAX], npo_error *error)
{
    char name[NPO_PARAM_NAME_MAX + sizeof DOWN];
    size_t index;
    snprintf(name, sizeof name, "%.*s%s", (int)module_len, weight->name, end);
    return npo_layout_add(layout, name, weight->ndim, dims, &index, error);
}

static npo_err add_layer(npo_layout *layout, const npo_param_info *weight, size_t module_len,
                         int64_t rank, npo_error *error)
{
    int64_t down[NPO_PARAM_DIMS_MAX], up[NPO_PARAM_DIMS_MAX] = {weight->dims[0], rank, 1, 1};
    memcpy(down, weight->dims, sizeof down);
    down[0] = rank;
    NPO_TRY(add_part(layout, weight, module_len, DOWN, down, error));
    return add_part(layout, weight, module_len, UP, up, error);
}

static npo_err add_layers(npo_layout *base, const npo_lora_options *options, npo_layout *layout,
                          npo_error *error)
{
    for (size_t i = 0; i < npo_layout_count(base); i++) {
        const npo_param_info *info = npo_layout_at(base, i);
        size_t module_len = module_of(info, WEIGHT);
        if (module_len && adapts[options->targets](info, module_len))
            NPO_TRY(add_layer(layout, info, module_len, options->rank, error));
    }
    if (npo_layout_count(layout) == 0)
        return npo_error_set(
            error, NPO_E_RANGE,
            "LoRA: found no layers of the network to adapt, expected at least one");
    return NPO_OK;
}

npo_err npo_lora_layout(npo_layout *base, const npo_lora_options *options, npo_layout **ret_layout,
                        npo_error *error)
{
    npo_layout *layout = NULL;
    npo_err err =
        npo_layout_new_adapter(base, (float)(options->alpha / (double)options->rank), &layout);
    if (err)
        return npo_error_set(error, err, "LoRA: out of memory");
    err = add_layers(base, options, layout, error);
    if (err) {
        npo_layout_unref(layout);
        return err;
    }
    *ret_layout = layout;
    return NPO_OK;
}

void npo_lora_begin(npo_params *params, uint64_t seed)
{
    const npo_layout *layout = npo_params_layout(params);
    float *data = npo_params_edit(params);
    for (size_t i = 0; i < npo_layout_count(layout); i++) {
        const npo_param_info *info = npo_layout_at(layout, i);
        float *values = data + info->offset;
        memset(values, 0, info->count * sizeof *values);
        if (!module_of(info, DOWN))
            continue;
        npo_rng rng = npo_rng_stream(seed, NPO_RNG_WEIGHTS, (uint32_t)i, 0);
        double bound = 1 / sqrt((double)(info->count / (size_t)info->dims[0]));
        for (size_t k = 0; k < info->count; k++)
            values[k] = (float)(bound * (2 * npo_rng_uniform(&rng, (uint32_t)k) - 1));
    }
}

/* ---- as layers of a file ---- */

static npo_err copy_values(const npo_params *params, const npo_param_info *info, float **ret_values)
{
    float *values = malloc(info->count * sizeof *values);
    if (!values)
        return NPO_E_NOMEM;
    memcpy(values, npo_params_data(params) + info->offset, info->count * sizeof *values);
    *ret_values = values;
    return NPO_OK;
}

/* The weight that the layer adapts has the shape of down but for as many rows as up has. */
static npo_err copy_layer(const npo_params *params, const npo_param_info *down, size_t module_len,
                          npo_lora_layer *ret_layer)
{
    char name[NPO_PARAM_NAME_MAX + sizeof UP];
    const npo_layout *layout = npo_params_layout(params);
    snprintf(name, sizeof name, "%.*s%s", (int)module_len, down->name, UP);
    const npo_param_info *up = npo_layout_find(layout, name);
    *ret_layer = (npo_lora_layer){.rank = down->dims[0],
                                  .alpha = npo_layout_scale(layout) * (float)down->dims[0],
                                  .ndim = down->ndim};
    memcpy(ret_layer->module, down->name, module_len);
    memcpy(ret_layer->dims, down->dims, sizeof down->dims);
    ret_layer->dims[0] = up->dims[0];
    NPO_TRY(copy_values(params, down, &ret_layer->down));
    return copy_values(params, up, &ret_layer->up);
}

static npo_err copy_layers(const npo_params *params, npo_lora *lora)
{
    const npo_layout *layout = npo_params_layout(params);
    lora->layers = calloc(npo_layout_count(layout) + 1, sizeof *lora->layers);
    if (!lora->layers)
        return NPO_E_NOMEM;
    for (size_t i = 0; i < npo_layout_count(layout); i++) {
        const npo_param_info *info = npo_layout_at(layout, i);
        size_t module_len = module_of(info, DOWN);
        if (module_len)
            NPO_TRY(copy_layer(params, info, module_len, &lora->layers[lora->count++]));
    }
    return NPO_OK;
}

npo_err npo_lora_of_params(const npo_params *params, npo_lora *ret_lora, npo_error *error)
{
    npo_lora lora = {0};
    npo_err err = copy_layers(params, &lora);
    if (err) {
        npo_lora_fini(&lora);
        return npo_error_set(error, err, "LoRA: out of memory");
    }
    *ret_lora = lora;
    return NPO_OK;
}
