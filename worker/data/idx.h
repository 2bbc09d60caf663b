/* IDX files, the format of MNIST and its relatives, plain or gzip-compressed.
 *
 *   bytes        content
 *   0..1         0
 *   2            element type; 0x08 (unsigned byte) is the only one read here
 *   3            number of dimensions d
 *   4..4+4d-1    the dimensions, u32 big endian, first varies slowest
 *   4+4d..       elements; nothing behind the last */
#ifndef NPO_WORKER_DATA_IDX_H
#define NPO_WORKER_DATA_IDX_H

#include "common/err.h"
#include <stddef.h>
#include <stdint.h>

#define NPO_IDX_DIMS_MAX  3
#define NPO_IDX_BYTES_MAX ((size_t)4 << 30) /* of elements */

typedef struct {
    int ndim;
    int64_t dims[NPO_IDX_DIMS_MAX];
    size_t count;  /* elements */
    uint8_t *data; /* owned */
} npo_idx;

/* Reads a file that must have `ndim` dimensions. Errors: NPO_E_NOT_FOUND, NPO_E_FORMAT (not IDX, of
 * another type or number of dimensions, shorter or longer than its header says), NPO_E_LIMIT,
 * NPO_E_NOMEM, NPO_E_IO. */
npo_err npo_idx_load(const char *path, int ndim, npo_idx *ret_idx, npo_error *error) NPO_MUST_CHECK;
void npo_idx_fini(npo_idx *idx);

#endif
