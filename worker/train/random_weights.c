#include "worker/train/random_weights.h"

#include "common/rng.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool ends_in(const char *name, const char *ending)
{
    size_t len = strlen(name), tail = strlen(ending);
    return len > tail && strcmp(name + len - tail, ending) == 0;
}

/* The weight of the layer that a tensor belongs to: itself, or the bias's neighbour. */
static const npo_param_info *weight_of(const npo_layout *layout, const npo_param_info *info)
{
    char name[NPO_PARAM_NAME_MAX + 8];
    if (ends_in(info->name, ".weight"))
        return info;
    if (!ends_in(info->name, ".bias"))
        return NULL;
    int stem = (int)(strlen(info->name) - strlen(".bias"));
    snprintf(name, sizeof name, "%.*s.weight", stem, info->name);
    return npo_layout_find(layout, name);
}

static void fill(float *values, size_t count, float value)
{
    for (size_t i = 0; i < count; i++)
        values[i] = value;
}

static void draw_uniform(float *values, size_t count, double bound, const npo_rng *rng)
{
    for (size_t i = 0; i < count; i++)
        values[i] = (float)((2 * npo_rng_uniform(rng, (uint32_t)i) - 1) * bound);
}

npo_err npo_random_weights(npo_params *params, uint64_t seed, npo_error *error)
{
    npo_layout *layout = npo_params_layout(params);
    float *values = npo_params_edit(params);
    for (size_t i = 0; i < npo_layout_count(layout); i++) {
        const npo_param_info *info = npo_layout_at(layout, i);
        const npo_param_info *weight = weight_of(layout, info);
        if (!weight)
            return npo_error_set(error, NPO_E_UNSUPPORTED,
                                 "cannot draw '%s': found no weight of a layer that it belongs to",
                                 info->name);
        if (weight->ndim == 1) {
            fill(values + info->offset, info->count, info == weight ? 1 : 0);
            continue;
        }
        npo_rng rng = npo_rng_stream(seed, NPO_RNG_WEIGHTS, (uint32_t)i, 0);
        double fan_in = (double)(weight->count / (size_t)weight->dims[0]);
        draw_uniform(values + info->offset, info->count, 1 / sqrt(fan_in), &rng);
    }
    return NPO_OK;
}
