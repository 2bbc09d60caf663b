/* Tables of per-slot columns as safetensors files: what the pool and segment formats share. Columns
 * are [n] integers or [n, H, W, C] f32; everything is checked against one table of columns. */
#ifndef NPO_WORKER_DIFFUSION_TRAJECTORY_SHARD_H
#define NPO_WORKER_DIFFUSION_TRAJECTORY_SHARD_H

#include "worker/diffusion/trajectory/segment.h"
#include "worker/model/files/safetensors.h"
#include <stdbool.h>

/* One column of a struct that holds a pointer to it. */
typedef struct {
    const char *name;
    npo_tensor_dtype dtype; /* I32 and I64: [n]; F32: [n,H,W,C], finite */
    size_t offset;          /* offsetof(struct, pointer) */
    bool optional;          /* a NULL pointer is not written, and may be missing in a file */
    int64_t min, max;       /* of an integer column */
} npo_shard_column;

typedef struct {
    const char *kind;    /* metadata "npo" */
    const char *version; /* metadata "version" */
    const npo_shard_column *columns;
    size_t count;
} npo_shard_format;

/* Allocates the columns of *self (zeroed; optional ones where with_optional), n rows. Free with
 * npo_shard_fini also after a failure. */
npo_err npo_shard_init(const npo_shard_format *format, npo_latent_shape shape, int64_t n,
                       bool with_optional, void *self) NPO_MUST_CHECK;
void npo_shard_fini(const npo_shard_format *format, void *self);
npo_err npo_shard_save(const npo_shard_format *format, npo_latent_shape shape, int64_t n,
                       const void *self, const char *path, npo_error *error) NPO_MUST_CHECK;
/* Rows and an empty *self in; allocates and fills the columns. On failure *self is finished. */
npo_err npo_shard_load(const npo_shard_format *format, npo_latent_shape shape, const char *path,
                       void *self, int64_t *ret_count, npo_error *error) NPO_MUST_CHECK;

#endif
