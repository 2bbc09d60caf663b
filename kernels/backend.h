/* A backend runs planned graphs on one device. "cpu" is oneDNN plus the vector kernels of
 * kernels/cpu; "cuda" will stand beside it. Chosen at run time from a device string. */
#ifndef NPO_KERNELS_BACKEND_H
#define NPO_KERNELS_BACKEND_H

#include "common/err.h"
#include <stdbool.h>
#include <stddef.h>

typedef struct npo_backend npo_backend;

typedef struct {
    const char *device;   /* "cpu" */
    int threads;          /* cpu threads of this process; 0: all cores */
    const char *isa;      /* NULL: best of this machine; "avx512", "avx2", "portable" */
    const char *products; /* who multiplies matrices: NULL or "auto": by size; "own", "gemm",
                             "winograd", "dnnl" */
} npo_backend_options;

/* Errors: NPO_E_NOT_FOUND for an unknown device or an ISA this machine lacks. */
npo_err npo_backend_new(const npo_backend_options *options, npo_backend **ret_backend,
                        npo_error *error) NPO_MUST_CHECK;
void npo_backend_free(npo_backend *backend);
/* "cpu avx512 dnnl-2.6.3 threads-1": part of a job's numeric class. Borrowed. */
const char *npo_backend_class(const npo_backend *backend);
/* Bytes of activations and scratch that its graphs share. */
size_t npo_backend_arena_bytes(const npo_backend *backend);

#endif
