/* theta_0 plus parts of offsets from it, tensor by tensor as they are written, and what rounding to
 * the file's precision does to the offset: it may be smaller than the spacing of half precision. */
#ifndef NPO_WORKER_TASKS_EXPORT_BLEND_H
#define NPO_WORKER_TASKS_EXPORT_BLEND_H

#include "worker/model/weight_view.h"

enum { NPO_BLEND_TERMS_MAX = 2 };

/* A network's offset from the base, or a LoRA's, and the part of it that is added. */
typedef struct {
    const npo_weight_view *view;
    double scale;
} npo_blend_term;

/* Over the whole network. */
typedef struct {
    double base, offset, error; /* sums of squares: theta_0, the exact offset, its rounding error */
    size_t moved, lost; /* elements with an offset, and those of them whose offset is gone */
} npo_blend_sums;

typedef struct {
    const npo_layout *layout;
    const npo_weight_view *base; /* NULL: only the first term's network itself, at scale 1 */
    npo_blend_term terms[NPO_BLEND_TERMS_MAX];
    size_t count;
    bool without_base;      /* the offset alone */
    npo_tensor_dtype dtype; /* that it will be rounded to */
    npo_blend_sums sums;    /* of what npo_blend_fill has made */
} npo_blend;

/* Elements [first, first + n), rounded to f32; what is read last for an element counts in sums. Has
 * the form of npo_weights_made's fill; user: an npo_blend. */
npo_err npo_blend_fill(void *user, size_t tensor, size_t first, size_t n, float *ret_values,
                       npo_error *error) NPO_MUST_CHECK;
/* x as it will be after a file of the dtype was written and read. */
float npo_blend_round(npo_tensor_dtype dtype, float x);

#endif
