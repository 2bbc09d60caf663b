/* Parameter layout and parameter sets.
 *
 * A layout is the ordered list of a network's tensors (name as in the published files, shape, place
 * in one flat f32 buffer). Recording a network on a graph fills the layout; loading, saving, the
 * optimizer, the EMA and the allreduce then work on the flat buffer or on the list. A set is one
 * buffer in that layout: student, EMA, base, gradients and optimizer moments are all sets, and one
 * recorded graph can run with any of them.
 *
 * Tensors keep the published order (OIHW, [out, in]); each starts on a 64-byte boundary and the
 * padding between them is zero, so that flat kernels may run over it. */
#ifndef NPO_KERNELS_PARAMS_H
#define NPO_KERNELS_PARAMS_H

#include "common/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NPO_PARAM_NAME_MAX 200 /* bytes with NUL */
#define NPO_PARAM_DIMS_MAX 4

typedef struct {
    char name[NPO_PARAM_NAME_MAX];
    int ndim;
    int64_t dims[NPO_PARAM_DIMS_MAX];
    size_t offset; /* in floats, multiple of 16 */
    size_t count;  /* elements */
} npo_param_info;

typedef struct npo_layout npo_layout;
typedef struct npo_params npo_params;

npo_err npo_layout_new(npo_layout **ret_layout) NPO_MUST_CHECK;
/* Reference counted: sets and graphs hold their layout. */
npo_layout *npo_layout_ref(npo_layout *layout);
void npo_layout_unref(npo_layout *layout);
/* Adds a tensor, or finds it again when another graph of the same network declares it: then the
 * shape must agree. Errors: NPO_E_SHAPE, NPO_E_NOMEM, NPO_E_LIMIT; NPO_E_STATE when a set exists
 * already and the name is new. */
npo_err npo_layout_add(npo_layout *layout, const char *name, int ndim, const int64_t *dims,
                       size_t *ret_index, npo_error *error) NPO_MUST_CHECK;
size_t npo_layout_count(const npo_layout *layout);                                 /* tensors */
const npo_param_info *npo_layout_at(const npo_layout *layout, size_t index);       /* borrowed */
const npo_param_info *npo_layout_find(const npo_layout *layout, const char *name); /* or NULL */
size_t npo_layout_floats(const npo_layout *layout); /* of the flat buffer, padding included */

/* A layout of an adapter: few tensors that are trained beside a frozen base, whose layout it keeps
 * by reference. A graph of such a layout takes tensors that the base has from the base of the set
 * it runs with, and wants no gradients of them. scale: what the adapter's part is multiplied by. */
npo_err npo_layout_new_adapter(npo_layout *base, float scale,
                               npo_layout **ret_layout) NPO_MUST_CHECK;
npo_layout *npo_layout_base(const npo_layout *layout); /* borrowed; NULL for a whole network's */
float npo_layout_scale(const npo_layout *layout);      /* of an adapter */

/* Zeroed, 64-byte aligned. Freezes the layout. */
npo_err npo_params_new(npo_layout *layout, npo_params **ret_params) NPO_MUST_CHECK;
void npo_params_free(npo_params *params);
npo_layout *npo_params_layout(const npo_params *params); /* borrowed */
const float *npo_params_data(const npo_params *params);  /* flat buffer */
/* Flat buffer for writing; raises the version, so that a graph that holds packed weights of this
 * set packs them again at its next run. Call it anew before each batch of writes. */
float *npo_params_edit(npo_params *params);
uint64_t npo_params_version(const npo_params *params); /* unique over all sets of the process */
/* Of an adapter's set: the frozen weights beside it, of the layout's base (asserted). Borrowed for
 * the set's life. Raises the version. */
void npo_params_set_base(npo_params *params, const npo_params *base);
const npo_params *npo_params_base(const npo_params *params);  /* NULL: none */
void npo_params_copy(npo_params *to, const npo_params *from); /* same layout, asserted */

#endif
