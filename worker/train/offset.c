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

void npo_offset_measure(npo_backend *backend, const npo_params *student, const npo_params *base,
                        npo_params *scratch, npo_offset_norms *ret_norms)
{
    const npo_layout *layout = npo_params_layout(base);
    npo_offset_norms norms = {0};
    block_sums sums[NPO_OFFSET_BLOCKS_MAX] = {{0}}, total = {0};
    npo_params_copy(scratch, student);
    float *delta = npo_params_edit(scratch);
    npo_vec_axpy(backend, npo_layout_floats(layout), -1, npo_params_data(base), delta);
    for (size_t i = 0; i < npo_layout_count(layout); i++) {
        const npo_param_info *info = npo_layout_at(layout, i);
        char name[NPO_OFFSET_NAME_MAX];
        block_name(info->name, name);
        size_t block = find_block(&norms, name);
        double offset = npo_vec_norm(backend, info->count, delta + info->offset);
        double whole = npo_vec_norm(backend, info->count, npo_params_data(base) + info->offset);
        sums[block].offset += offset * offset;
        sums[block].base += whole * whole;
    }
    for (size_t i = 0; i < norms.count; i++) {
        norms.blocks[i].relative = relative(sums[i]);
        total.offset += sums[i].offset;
        total.base += sums[i].base;
    }
    norms.total = relative(total);
    *ret_norms = norms;
}
