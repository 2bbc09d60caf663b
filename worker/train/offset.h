/* How far the student has moved from the base: |student - base| / |base| by block of the network;
 * NaN for one that has moved from all zeros. */
#ifndef NPO_TRAIN_OFFSET_H
#define NPO_TRAIN_OFFSET_H

#include "kernels/backend.h"
#include "kernels/params.h"
#include "worker/model/weight_view.h"

#define NPO_OFFSET_BLOCKS_MAX 32
#define NPO_OFFSET_NAME_MAX   32

/* Blocks as the tensors' names begin, in the layout's order: conv_in, time_embedding,
 * down_blocks.0, ..., mid_block, up_blocks.0, ..., conv_norm_out, conv_out. */
typedef struct {
    size_t count;
    struct {
        char name[NPO_OFFSET_NAME_MAX];
        double relative;
    } blocks[NPO_OFFSET_BLOCKS_MAX];
    double total; /* over the whole network */
} npo_offset_norms;

/* Where the base's weights come from. */
typedef struct {
    /* All elements of a tensor of the layout. */
    npo_err (*read)(void *self, size_t tensor, float *ret_values, npo_error *error);
    void *self;
} npo_offset_base;

npo_offset_base npo_offset_base_of(const npo_params *params);    /* a set, borrowed */
npo_offset_base npo_offset_base_in(const npo_weight_view *view); /* a file, tensor by tensor */

/* student and scratch, which is overwritten, have the base's layout. Or student is a LoRA, measured
 * beside its own base, and neither base nor scratch is used. Errors: those of reading. */
npo_err npo_offset_measure(npo_backend *backend, const npo_params *student,
                           const npo_offset_base *base, npo_params *scratch,
                           npo_offset_norms *ret_norms, npo_error *error) NPO_MUST_CHECK;

#endif
