/* Parameter sets to and from safetensors files. */
#ifndef NPO_WORKER_MODEL_FILES_WEIGHTS_H
#define NPO_WORKER_MODEL_FILES_WEIGHTS_H

#include "kernels/params.h"
#include "worker/model/files/safetensors.h"
#include "worker/model/files/single_name.h"

/* A part of tensor names that older files write otherwise: ".to_q." was ".query.". */
typedef struct {
    const char *part, *older;
} npo_weights_older;

/* How a file's tensors differ from the layout's. All members may be zero. */
typedef struct {
    const char *const *ignore;   /* NULL-terminated names that may stand in the file unused */
    const char *optional_prefix; /* "text_model.": the file may leave it out of every name */
    /* Ends with a NULL part; no two parts stand in one name. A tensor under an older name may have
     * the shape of a 1x1 convolution, [O,I,1,1] for [O,I]. */
    const npo_weights_older *older;
    /* A layout tensor stored with another shape over the same row-major elements. */
    const char *reshaped; /* its name, or NULL */
    int reshaped_ndim;
    int64_t reshaped_dims[NPO_PARAM_DIMS_MAX];
    /* The file is a single-file checkpoint, of which this part is read: names lead to the file's,
     * `ignore` has them without the part's prefix, and shapes may differ by ones at the end. */
    const npo_single_names *single;
} npo_weights_map;

/* Fills params (every tensor of its layout) from the file; f16 and bf16 are widened. Otherwise
 * names every missing, unexpected and misshaped tensor, as far as the sentence has room ("and 12
 * more"), and leaves params as they are. map may be NULL. Errors: NPO_E_SHAPE, NPO_E_NOT_FOUND,
 * NPO_E_USAGE (unexpected), NPO_E_TYPE (an integer tensor); NPO_E_RANGE for a value that is not
 * finite, found while reading: params are filled in part then. */
npo_err npo_weights_read(const npo_safetensors *file, const npo_weights_map *map,
                         npo_params *params, npo_error *error) NPO_MUST_CHECK;
/* The file's tensor for each of the layout, [npo_layout_count], so that their values can be read
 * when they are needed: they are not looked at here. For networks whose tensors are whole in
 * single-file checkpoints (UNets; asserted). Errors: those of npo_weights_read but for values. */
npo_err npo_weights_find(const npo_safetensors *file, const npo_weights_map *map,
                         const npo_layout *layout, const npo_tensor **ret_tensors,
                         npo_error *error) NPO_MUST_CHECK;
/* npo_safetensors_open, npo_weights_read. */
npo_err npo_weights_load(const char *path, const npo_weights_map *map, npo_params *params,
                         npo_error *error) NPO_MUST_CHECK;
/* Tensors of more bytes are written in shards, as diffusers does. */
#define NPO_WEIGHTS_SHARD_BYTES ((uint64_t)10000000000)

/* Values that are made while they are written. */
typedef struct {
    const npo_layout *layout;
    /* Elements [first, first + n) of a tensor of the layout, asked for once and in order; tensors
     * come in any. */
    npo_err (*fill)(void *user, size_t tensor, size_t first, size_t n, float *ret_values,
                    npo_error *error);
    void *user;
} npo_weights_made;

/* One tensor of them; npo_weights_fill is its npo_tensor_fill, the tensor itself its user. */
typedef struct {
    const npo_weights_made *weights;
    size_t tensor;
} npo_weights_made_tensor;

npo_err npo_weights_fill(void *user, size_t first, size_t n, float *ret_values,
                         npo_error *error) NPO_MUST_CHECK;
npo_weights_made npo_weights_of(const npo_params *params); /* those of a set, borrowed */

/* Durable. dtype: F32, F16 or BF16 for all tensors. Metadata {"format": "pt"}, which transformers
 * and diffusers look for. path: as npo_safetensors_write_shards has it. */
npo_err npo_weights_write(const char *path, const npo_weights_made *weights, npo_tensor_dtype dtype,
                          const npo_weights_map *map, npo_error *error) NPO_MUST_CHECK;
/* The same of a set. */
npo_err npo_weights_save(const char *path, const npo_params *params, npo_tensor_dtype dtype,
                         const npo_weights_map *map, npo_error *error) NPO_MUST_CHECK;

#endif
