#include "worker/tasks/export/blend.h"

#include "worker/model/files/half.h"

#include <string.h>

enum { BLOCK = 2048 };

/* A range of one tensor in f64: offsets of f32 weights are exact in it. */
typedef struct {
    size_t tensor, first, n;
    float base[BLOCK], read[BLOCK];
    double offset[BLOCK];
} block;

float npo_blend_round(npo_tensor_dtype dtype, float x)
{
    if (dtype == NPO_TENSOR_F16)
        return npo_f32_from_f16(npo_f32_to_f16(x));
    return dtype == NPO_TENSOR_BF16 ? npo_f32_from_bf16(npo_f32_to_bf16(x)) : x;
}

static npo_err add_term(const npo_blend_term *term, block *b, npo_error *error)
{
    NPO_TRY(npo_weight_view_read(term->view, b->tensor, b->first, b->n, b->read, error));
    bool is_offset = npo_weight_view_is_offset(term->view);
    for (size_t i = 0; i < b->n; i++)
        b->offset[i] += term->scale * ((double)b->read[i] - (is_offset ? 0 : (double)b->base[i]));
    return NPO_OK;
}

static npo_err read_block(const npo_blend *blend, block *b, npo_error *error)
{
    memset(b->base, 0, sizeof b->base);
    memset(b->offset, 0, sizeof b->offset);
    if (blend->base)
        NPO_TRY(npo_weight_view_read(blend->base, b->tensor, b->first, b->n, b->base, error));
    for (size_t i = 0; i < blend->count; i++)
        NPO_TRY(add_term(&blend->terms[i], b, error));
    return NPO_OK;
}

static void count(npo_blend *blend, const block *b, const float *values)
{
    npo_blend_sums *sums = &blend->sums;
    for (size_t i = 0; i < b->n; i++) {
        double base = (double)b->base[i], kept = blend->without_base ? 0 : base;
        double rounded = (double)npo_blend_round(blend->dtype, values[i]);
        double error = rounded - (kept + b->offset[i]);
        bool moved = b->offset[i] != 0;
        sums->base += base * base;
        sums->offset += b->offset[i] * b->offset[i];
        sums->error += error * error;
        sums->moved += moved;
        sums->lost += moved && rounded == (double)npo_blend_round(blend->dtype, (float)kept);
    }
}

npo_err npo_blend_fill(void *user, size_t tensor, size_t first, size_t n, float *ret_values,
                       npo_error *error)
{
    npo_blend *blend = user;
    block b;
    for (size_t done = 0; done < n; done += b.n) {
        b.tensor = tensor;
        b.first = first + done;
        b.n = n - done < BLOCK ? n - done : (size_t)BLOCK;
        NPO_TRY(read_block(blend, &b, error));
        for (size_t i = 0; i < b.n; i++)
            ret_values[done + i] =
                (float)(b.offset[i] + (blend->without_base ? 0 : (double)b.base[i]));
        count(blend, &b, ret_values + done);
    }
    return NPO_OK;
}
