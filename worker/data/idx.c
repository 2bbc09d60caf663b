#include "worker/data/idx.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <zlib.h>

enum { TYPE_U8 = 0x08, READ_BYTES_MAX = 1 << 26 };

/* Exactly len bytes, or the sentence why not. */
static npo_err read_all(gzFile file, const char *path, uint8_t *ret_data, size_t len,
                        npo_error *error)
{
    size_t got = 0;
    while (got < len) {
        size_t want = len - got < READ_BYTES_MAX ? len - got : READ_BYTES_MAX;
        int n = gzread(file, ret_data + got, (unsigned)want);
        if (n < 0) {
            int code = Z_OK;
            const char *text = gzerror(file, &code);
            return npo_error_set(error, code == Z_ERRNO ? NPO_E_IO : NPO_E_FORMAT,
                                 "cannot read '%s': %s", path, text);
        }
        if (n == 0)
            return npo_error_set(error, NPO_E_FORMAT,
                                 "cannot read '%s': found %zu of %zu bytes, the file ends early",
                                 path, got, len);
        got += (size_t)n;
    }
    return NPO_OK;
}

static npo_err read_header(gzFile file, const char *path, int ndim, npo_idx *ret_idx,
                           npo_error *error)
{
    uint8_t head[4];
    NPO_TRY(read_all(file, path, head, sizeof head, error));
    if (head[0] || head[1] || head[2] != TYPE_U8 || head[3] != ndim)
        return npo_error_set(error, NPO_E_FORMAT,
                             "cannot read '%s': found header %02x %02x %02x %02x, expected an IDX "
                             "file of bytes with %d dimensions (00 00 08 %02x)",
                             path, head[0], head[1], head[2], head[3], ndim, (unsigned)ndim);
    ret_idx->ndim = ndim;
    ret_idx->count = 1;
    for (int i = 0; i < ndim; i++) {
        uint8_t d[4];
        NPO_TRY(read_all(file, path, d, sizeof d, error));
        uint32_t dim = (uint32_t)d[0] << 24 | (uint32_t)d[1] << 16 | (uint32_t)d[2] << 8 | d[3];
        ret_idx->dims[i] = dim;
        if (dim == 0)
            return npo_error_set(error, NPO_E_FORMAT,
                                 "cannot read '%s': dimension %d is 0, expected at least 1", path,
                                 i);
        if (dim > NPO_IDX_BYTES_MAX / ret_idx->count)
            return npo_error_set(error, NPO_E_LIMIT,
                                 "cannot read '%s': the header asks for more than %zu bytes", path,
                                 NPO_IDX_BYTES_MAX);
        ret_idx->count *= dim;
    }
    return NPO_OK;
}

static npo_err read_body(gzFile file, const char *path, npo_idx *idx, npo_error *error)
{
    idx->data = malloc(idx->count);
    if (!idx->data)
        return npo_error_set(error, NPO_E_NOMEM, "cannot read '%s': no memory for %zu bytes", path,
                             idx->count);
    NPO_TRY(read_all(file, path, idx->data, idx->count, error));
    uint8_t more;
    if (gzread(file, &more, 1) == 1)
        return npo_error_set(error, NPO_E_FORMAT,
                             "cannot read '%s': found bytes behind the %zu its header asks for",
                             path, idx->count);
    return NPO_OK;
}

npo_err npo_idx_load(const char *path, int ndim, npo_idx *ret_idx, npo_error *error)
{
    assert(ndim >= 1 && ndim <= NPO_IDX_DIMS_MAX);
    gzFile file = gzopen(path, "rb");
    if (!file)
        return npo_error_errno(error, errno ? errno : ENOMEM, "cannot open '%s'", path);
    npo_idx idx = {0};
    npo_err err = read_header(file, path, ndim, &idx, error);
    if (err == NPO_OK)
        err = read_body(file, path, &idx, error);
    gzclose(file);
    if (err != NPO_OK) {
        npo_idx_fini(&idx);
        return err;
    }
    *ret_idx = idx;
    return NPO_OK;
}

void npo_idx_fini(npo_idx *idx)
{
    free(idx->data);
    *idx = (npo_idx){0};
}
