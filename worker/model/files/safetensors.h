/* The safetensors file format, reading and writing.
 *
 *   bytes            content
 *   0..7             header length n, u64 little endian, n <= NPO_SAFETENSORS_HEADER_BYTES_MAX
 *   8..8+n-1         JSON object, may end in spaces: name -> {"dtype", "shape", "data_offsets"},
 *                    "__metadata__" -> {string: string}
 *   8+n..            tensor data, little endian, row major; data_offsets [begin,end) count from
 * here
 *
 * Tensors cover the data exactly: no hole, no overlap, nothing behind the last. A file that breaks
 * a rule is refused whole, before any tensor of it can be read. Files written here have the bytes
 * that the reference implementation (safetensors, Rust and Python) writes for the same content. */
#ifndef NPO_WORKER_MODEL_FILES_SAFETENSORS_H
#define NPO_WORKER_MODEL_FILES_SAFETENSORS_H

#include "common/bounds.h"
#include "common/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* In the reference's order: its writer sorts by descending dtype, then by name. */
typedef enum {
    NPO_TENSOR_U8,
    NPO_TENSOR_F16,
    NPO_TENSOR_BF16,
    NPO_TENSOR_I32,
    NPO_TENSOR_F32,
    NPO_TENSOR_I64,
    NPO_TENSOR_DTYPES,
} npo_tensor_dtype;

const char *npo_tensor_dtype_name(npo_tensor_dtype dtype); /* "F32" */
size_t npo_tensor_dtype_bytes(npo_tensor_dtype dtype);     /* of one element */

/* A tensor of an open file; everything is borrowed from it. */
typedef struct {
    const char *name;
    npo_tensor_dtype dtype;
    int ndim; /* 0: scalar */
    int64_t dims[NPO_TENSOR_DIMS_MAX];
    size_t count;        /* elements */
    const uint8_t *data; /* count elements, possibly unaligned */
    size_t bytes;
} npo_tensor;

typedef struct npo_safetensors npo_safetensors;

/* Maps one .safetensors file, or all shards of a "*.safetensors.index.json". Errors: NPO_E_FORMAT,
 * NPO_E_LIMIT, NPO_E_UNSUPPORTED (a dtype not listed above), NPO_E_NOT_FOUND, NPO_E_IO; the
 * sentence names the file, the tensor, what was found and what was expected. */
npo_err npo_safetensors_open(const char *path, npo_safetensors **ret_file,
                             npo_error *error) NPO_MUST_CHECK;
void npo_safetensors_close(npo_safetensors *file);
const char *npo_safetensors_path(const npo_safetensors *file);
size_t npo_safetensors_count(const npo_safetensors *file);
const npo_tensor *npo_safetensors_at(const npo_safetensors *file, size_t index); /* by name order */
const npo_tensor *npo_safetensors_find(const npo_safetensors *file, const char *name); /* or NULL */
/* Value of a key of "__metadata__", or NULL. Of several shards: the first that has it. */
const char *npo_safetensors_metadata(const npo_safetensors *file, const char *key);

/* Elements [first, first + n) as f32; i64 and i32 beyond 2^24 are rounded. */
void npo_tensor_read_f32(const npo_tensor *tensor, size_t first, size_t n, float *ret_values);
/* The same, of F32, F16 or BF16, where every value is finite. Otherwise NPO_E_RANGE, and
 * ret_values holds what it may. */
npo_err npo_tensor_read_finite(const npo_tensor *tensor, size_t first, size_t n, float *ret_values,
                               npo_error *error) NPO_MUST_CHECK;
bool npo_tensor_is_float(const npo_tensor *tensor); /* F32, F16 or BF16 */
/* Gives back the memory of pages that lie wholly in the tensor's data; touched again, they are read
 * from the file again. So reading a file takes as much memory as its largest tensor. */
void npo_tensor_release(const npo_tensor *tensor);
/* The same as integers; an integer dtype is asserted. */
void npo_tensor_read_i64(const npo_tensor *tensor, size_t first, size_t n, int64_t *ret_values);

/* Values that are made while they are written: elements [first, first + n) as f32. Asked for once,
 * in order. */
typedef npo_err (*npo_tensor_fill)(void *user, size_t first, size_t n, float *ret_values,
                                   npo_error *error);

/* A tensor to write. Its values: `data`, or where that is NULL `from`, or `fill`. */
typedef struct {
    const char *name;
    npo_tensor_dtype dtype; /* in the file */
    int ndim;
    int64_t dims[NPO_TENSOR_DIMS_MAX];
    /* F32, F16, BF16: f32 in memory, rounded to nearest even on the way out. U8, I32, I64: as in
     * the file. */
    const void *data;
    const npo_tensor *from; /* of an open file: copied byte by byte, of the same dtype and count */
    npo_tensor_fill fill;   /* for F32, F16, BF16 */
    void *user;             /* passed to fill */
} npo_tensor_source;

typedef struct {
    const char *key, *value;
} npo_tensor_metadata;

/* Durable, atomic replace. Tensors may come in any order; equal content gives equal bytes. metadata
 * is written in the order given. Streams: needs memory for the header and one block only. Errors:
 * NPO_E_RANGE where a finite f32 does not fit f16, NPO_E_EXISTS for a name that stands twice,
 * NPO_E_FULL, NPO_E_IO, NPO_E_NOMEM. */
npo_err npo_safetensors_write(const char *path, const npo_tensor_source *tensors, size_t count,
                              const npo_tensor_metadata *metadata, size_t metadata_count,
                              npo_error *error) NPO_MUST_CHECK;

/* As diffusers and transformers save big models: one file at path ("dir/model.fp16.safetensors")
 * where the tensors have at most shard_bytes, else shards of at most that ("dir/model.fp16-00001-
 * of-00003.safetensors", cut in the order given) and then their index
 * ("dir/model.safetensors.index.fp16.json"). Replaces what stands at path by either; after a
 * failure no shard stays. */
npo_err npo_safetensors_write_shards(const char *path, const npo_tensor_source *tensors,
                                     size_t count, const npo_tensor_metadata *metadata,
                                     size_t metadata_count, uint64_t shard_bytes,
                                     npo_error *error) NPO_MUST_CHECK;
/* Bytes of a tensor in a file. */
uint64_t npo_tensor_source_bytes(const npo_tensor_source *source);

#endif
