#include "worker/train/offset.h"

#include "kernels/vec.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

typedef struct {
    double offset, base; /* sums of squares */
} block_sums;

/* "down_blocks.0" of "down_blocks.0.resnets.0.conv1.weight", "conv_in" of "conv_in.weight": the
 * first part of the name, and the second where it is a number. */
static void block_name(const char *tensor, char ret_name[NPO_OFFSET_NAME_MAX])
{
    size_t len = strcspn(tensor, ".");
    const char *second = tensor[len] ? tensor + len + 1 : "";
    if (isdigit((unsigned char)*second))
        len += 1 + strcspn(second, ".");
    if (len >= NPO_OFFSET_NAME_MAX)
        len = NPO_OFFSET_NAME_MAX - 1;
    memcpy(ret_name, tensor, len);
    ret_name[len] = '\0';
}

/* Index of the block, added when it is new; the last one takes what has no room. */
static size_t find_block(npo_offset_norms *norms, const char *name)
{
    for (size_t i = 0; i < norms->count; i++)
        if (strcmp(norms->blocks[i].name, name) == 0)
            return i;
    if (norms->count == NPO_OFFSET_BLOCKS_MAX) {
        strcpy(norms->blocks[NPO_OFFSET_BLOCKS_MAX - 1].name, "rest");
        return NPO_OFFSET_BLOCKS_MAX - 1;
    }
    strcpy(norms->blocks[norms->count].name, name);
    return norms->count++;
}

static double relative(block_sums sums)
{
    if (sums.base > 0)
        return sqrt(sums.offset / sums.base);
    return sums.offset > 0 ? NAN : 0;
}

typedef struct {
    npo_offset_norms norms;
    block_sums sums[NPO_OFFSET_BLOCKS_MAX];
} measure;

static void add(measure *m, const char *tensor, block_sums part)
{
    char name[NPO_OFFSET_NAME_MAX];
    block_name(tensor, name);
    size_t block = find_block(&m->norms, name);
    m->sums[block].offset += part.offset;
    m->sums[block].base += part.base;
}

static void finish(measure *m, npo_offset_norms *ret_norms)
{
    block_sums total = {0};
    for (size_t i = 0; i < m->norms.count; i++) {
        m->norms.blocks[i].relative = relative(m->sums[i]);
        total.offset += m->sums[i].offset;
        total.base += m->sums[i].base;
    }
    m->norms.total = relative(total);
    *ret_norms = m->norms;
}

static double square(npo_backend *backend, const npo_params *params, const npo_param_info *info)
{
    double norm = npo_vec_norm(backend, info->count, npo_params_data(params) + info->offset);
    return norm * norm;
}

/* |up down|^2 by the small products of each side: the sum of (up^T up) * (down down^T). */
static double square_of_product(const npo_params *lora, const npo_param_info *down,
                                const npo_param_info *up)
{
    const float *a = npo_params_data(lora) + down->offset, *b = npo_params_data(lora) + up->offset;
    size_t rank = (size_t)down->dims[0], in = down->count / rank, out = (size_t)up->dims[0];
    double sum = 0;
    for (size_t i = 0; i < rank; i++)
        for (size_t k = 0; k < rank; k++) {
            double left = 0, right = 0;
            for (size_t x = 0; x < out; x++)
                left += (double)b[x * rank + i] * (double)b[x * rank + k];
            for (size_t x = 0; x < in; x++)
                right += (double)a[i * in + x] * (double)a[k * in + x];
            sum += left * right;
        }
    return sum > 0 ? sum : 0;
}

/* Names of a LoRA's tensors stand in pairs, down and up. */
static void measure_lora(npo_backend *backend, const npo_params *lora, npo_offset_norms *ret_norms)
{
    const npo_layout *layout = npo_params_layout(lora), *whole = npo_layout_base(layout);
    double scale = (double)npo_layout_scale(layout);
    measure m = {0};
    for (size_t i = 0; i < npo_layout_count(whole); i++) {
        const npo_param_info *info = npo_layout_at(whole, i);
        add(&m, info->name, (block_sums){.base = square(backend, npo_params_base(lora), info)});
    }
    for (size_t i = 0; i + 1 < npo_layout_count(layout); i += 2) {
        const npo_param_info *down = npo_layout_at(layout, i), *up = npo_layout_at(layout, i + 1);
        double offset = scale * scale * square_of_product(lora, down, up);
        add(&m, down->name, (block_sums){.offset = offset});
    }
    finish(&m, ret_norms);
}

static npo_err read_set(void *self, size_t tensor, float *ret_values, npo_error *error)
{
    const npo_params *params = self;
    const npo_param_info *info = npo_layout_at(npo_params_layout(params), tensor);
    memcpy(ret_values, npo_params_data(params) + info->offset, info->count * sizeof *ret_values);
    return NPO_OK;
}

npo_offset_base npo_offset_base_of(const npo_params *params)
{
    return (npo_offset_base){read_set, (void *)params};
}

static npo_err read_view(void *self, size_t tensor, float *ret_values, npo_error *error)
{
    const npo_weight_view *view = self;
    size_t count = npo_layout_at(npo_weight_view_layout(view), tensor)->count;
    NPO_TRY(npo_weight_view_read(view, tensor, 0, count, ret_values, error));
    npo_weight_view_release(view, tensor);
    return NPO_OK;
}

npo_offset_base npo_offset_base_in(const npo_weight_view *view)
{
    return (npo_offset_base){read_view, (void *)view};
}

/* Sums of one tensor; values: room for it. */
static npo_err measure_tensor(npo_backend *backend, const float *student, size_t tensor,
                              size_t count, const npo_offset_base *base, float *values,
                              block_sums *ret_sums, npo_error *error)
{
    NPO_TRY(base->read(base->self, tensor, values, error));
    double whole = npo_vec_norm(backend, count, values);
    npo_vec_axpy(backend, count, -1, student, values);
    double offset = npo_vec_norm(backend, count, values);
    *ret_sums = (block_sums){offset * offset, whole * whole};
    return NPO_OK;
}

npo_err npo_offset_measure(npo_backend *backend, const npo_params *student,
                           const npo_offset_base *base, npo_params *scratch,
                           npo_offset_norms *ret_norms, npo_error *error)
{
    const npo_layout *layout = npo_params_layout(student);
    measure m = {0};
    if (npo_params_base(student)) {
        measure_lora(backend, student, ret_norms);
        return NPO_OK;
    }
    float *values = npo_params_edit(scratch);
    for (size_t i = 0; i < npo_layout_count(layout); i++) {
        const npo_param_info *info = npo_layout_at(layout, i);
        block_sums sums;
        NPO_TRY(measure_tensor(backend, npo_params_data(student) + info->offset, i, info->count,
                               base, values + info->offset, &sums, error));
        add(&m, info->name, sums);
    }
    finish(&m, ret_norms);
    return NPO_OK;
}
