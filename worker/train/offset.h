/* How far the student has moved from the base: |student - base| / |base| by block of the network;
 * NaN for one that has moved from all zeros. */
#ifndef NPO_TRAIN_OFFSET_H
#define NPO_TRAIN_OFFSET_H

#include "kernels/backend.h"
#include "kernels/params.h"

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

/* All sets of one layout; scratch is overwritten. Or student is a LoRA beside base, and scratch is
 * not used. */
void npo_offset_measure(npo_backend *backend, const npo_params *student, const npo_params *base,
                        npo_params *scratch, npo_offset_norms *ret_norms);

#endif
