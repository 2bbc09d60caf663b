#include "worker/train/moments.h"

#include <stdlib.h>
#include <string.h>

/* Of each kind one buffer: a tensor's f32 values, or its codes and behind them the blocks' largest
 * magnitudes. Tensors start on 64-byte boundaries. */
struct npo_moments {
    npo_layout *layout;
    npo_optimizer_kind kind;
    size_t *offsets; /* in bytes, [tensors] */
    size_t bytes;    /* of one buffer */
    uint8_t *data[NPO_MOMENTS_COUNT];
};

enum { ALIGN = 64 };

bool npo_moments_is_8bit(npo_optimizer_kind kind, const npo_param_info *info)
{
    return kind == NPO_OPTIMIZER_ADAMW8BIT && info->count >= NPO_MOMENTS_8BIT_MIN;
}

static size_t align_up(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

static size_t codes_bytes(const npo_param_info *info)
{
    return align_up(info->count);
}

/* Fits: a layout's floats are a fraction of the address space. */
static size_t tensor_bytes(npo_optimizer_kind kind, const npo_param_info *info)
{
    if (!npo_moments_is_8bit(kind, info))
        return align_up(info->count * sizeof(float));
    return codes_bytes(info) + align_up(npo_blockwise_blocks(info->count) * sizeof(float));
}

static npo_err place_tensors(npo_moments *moments)
{
    size_t tensors = npo_layout_count(moments->layout);
    moments->offsets = calloc(tensors + 1, sizeof *moments->offsets);
    if (!moments->offsets)
        return NPO_E_NOMEM;
    for (size_t i = 0; i < tensors; i++) {
        moments->offsets[i] = moments->bytes;
        moments->bytes += tensor_bytes(moments->kind, npo_layout_at(moments->layout, i));
    }
    return NPO_OK;
}

npo_err npo_moments_new(npo_layout *layout, npo_optimizer_kind kind, npo_moments **ret_moments)
{
    npo_moments *moments = calloc(1, sizeof *moments);
    if (!moments)
        return NPO_E_NOMEM;
    moments->layout = npo_layout_ref(layout);
    moments->kind = kind;
    npo_err err = place_tensors(moments);
    for (int i = 0; err == NPO_OK && i < NPO_MOMENTS_COUNT; i++) {
        moments->data[i] = aligned_alloc(ALIGN, moments->bytes ? moments->bytes : ALIGN);
        err = moments->data[i] ? NPO_OK : NPO_E_NOMEM;
    }
    if (err != NPO_OK) {
        npo_moments_free(moments);
        return err;
    }
    npo_moments_clear(moments);
    *ret_moments = moments;
    return NPO_OK;
}

void npo_moments_free(npo_moments *moments)
{
    if (!moments)
        return;
    for (int i = 0; i < NPO_MOMENTS_COUNT; i++)
        free(moments->data[i]);
    free(moments->offsets);
    npo_layout_unref(moments->layout);
    free(moments);
}

void npo_moments_clear(npo_moments *moments)
{
    for (int which = 0; which < NPO_MOMENTS_COUNT; which++) {
        memset(moments->data[which], 0, moments->bytes);
        for (size_t i = 0; i < npo_layout_count(moments->layout); i++) {
            npo_moment moment = npo_moments_at(moments, (npo_moment_kind)which, i);
            if (!moment.values)
                npo_blockwise_clear(npo_layout_at(moments->layout, i)->count, moment.blocks);
        }
    }
}

npo_layout *npo_moments_layout(const npo_moments *moments)
{
    return moments->layout;
}

npo_optimizer_kind npo_moments_optimizer(const npo_moments *moments)
{
    return moments->kind;
}

size_t npo_moments_bytes(const npo_layout *layout, npo_optimizer_kind kind)
{
    size_t bytes = 0;
    for (size_t i = 0; i < npo_layout_count(layout); i++)
        bytes += tensor_bytes(kind, npo_layout_at(layout, i));
    return bytes * NPO_MOMENTS_COUNT;
}

npo_moment npo_moments_at(const npo_moments *moments, npo_moment_kind which, size_t index)
{
    const npo_param_info *info = npo_layout_at(moments->layout, index);
    uint8_t *data = moments->data[which] + moments->offsets[index];
    if (!npo_moments_is_8bit(moments->kind, info))
        return (npo_moment){.values = (float *)data};
    return (npo_moment){
        .blocks = {which == NPO_EXP_AVG ? npo_dynamic_map_signed() : npo_dynamic_map_unsigned(),
                   data, (float *)(data + codes_bytes(info))}};
}

static void update_tensor(npo_moments *moments, npo_backend *be, const npo_update *update,
                          size_t index)
{
    const npo_param_info *info = npo_layout_at(moments->layout, index);
    npo_moment exp_avg = npo_moments_at(moments, NPO_EXP_AVG, index);
    npo_moment exp_avg_sq = npo_moments_at(moments, NPO_EXP_AVG_SQ, index);
    npo_update part = *update;
    part.grad += info->offset;
    part.param += info->offset;
    part.ema += info->offset;
    if (exp_avg.values)
        npo_vec_update(be, info->count, &part, exp_avg.values, exp_avg_sq.values);
    else
        npo_vec_update8(be, info->count, &part, exp_avg.blocks, exp_avg_sq.blocks);
}

void npo_moments_update(npo_moments *moments, npo_backend *be, const npo_update *update)
{
    /* All in f32 lies as the layout's flat buffers do. */
    if (moments->kind == NPO_OPTIMIZER_ADAMW) {
        npo_vec_update(be, npo_layout_floats(moments->layout), update,
                       (float *)moments->data[NPO_EXP_AVG], (float *)moments->data[NPO_EXP_AVG_SQ]);
        return;
    }
    for (size_t i = 0; i < npo_layout_count(moments->layout); i++)
        update_tensor(moments, be, update, i);
}
