/* AdamW's two moments of every tensor of a layout, in f32 or in 8 bits.
 *
 * "adamw" has both moments in f32. "adamw8bit" has them as bitsandbytes' AdamW8bit: tensors of
 * NPO_MOMENTS_8BIT_MIN elements or more in blocks of 8-bit codes (kernels/dynamic_map.h), smaller
 * ones in f32; nothing of the size of the network is ever f32. */
#ifndef NPO_TRAIN_MOMENTS_H
#define NPO_TRAIN_MOMENTS_H

#include "kernels/params.h"
#include "kernels/vec.h"
#include "proto/job.h"

enum { NPO_MOMENTS_8BIT_MIN = 4096 };

typedef enum { NPO_EXP_AVG, NPO_EXP_AVG_SQ, NPO_MOMENTS_COUNT } npo_moment_kind;

typedef struct npo_moments npo_moments;

/* Zeroed. The layout is kept by reference. */
npo_err npo_moments_new(npo_layout *layout, npo_optimizer_kind kind,
                        npo_moments **ret_moments) NPO_MUST_CHECK;
void npo_moments_free(npo_moments *moments);
void npo_moments_clear(npo_moments *moments);
npo_layout *npo_moments_layout(const npo_moments *moments); /* borrowed */
npo_optimizer_kind npo_moments_optimizer(const npo_moments *moments);
/* What both moments of a layout take. */
size_t npo_moments_bytes(const npo_layout *layout, npo_optimizer_kind kind);

/* True where the optimizer keeps this tensor in 8 bits. */
bool npo_moments_is_8bit(npo_optimizer_kind kind, const npo_param_info *info);
/* One moment of tensor index: values where it is in f32, else blocks. Borrowed, to read or fill. */
typedef struct {
    float *values; /* [info->count] or NULL */
    npo_blockwise blocks;
} npo_moment;
npo_moment npo_moments_at(const npo_moments *moments, npo_moment_kind which, size_t index);

/* One optimizer step over flat buffers of the layout (update->grad, param, ema). */
void npo_moments_update(npo_moments *moments, npo_backend *be, const npo_update *update);

#endif
