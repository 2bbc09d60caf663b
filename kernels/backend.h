/* A backend runs planned graphs on one device. "cpu" is oneDNN plus the vector kernels of
 * kernels/cpu; "cuda" will stand beside it. Chosen at run time from a device string. */
#ifndef NPO_KERNELS_BACKEND_H
#define NPO_KERNELS_BACKEND_H

#include "common/err.h"
#include <stdbool.h>

typedef struct npo_backend npo_backend;

typedef struct {
    const char *device; /* "cpu" */
    int threads;        /* cpu threads of this process; 0: all cores */
    const char *isa;    /* NULL: best of this machine; "avx512", "avx2", "portable" */
    const char *products; /* who multiplies matrices: NULL or "auto": by size; "own", "dnnl" */
} npo_backend_options;

/* Errors: NPO_E_NOT_FOUND for an unknown device or an ISA this machine lacks. */
npo_err npo_backend_new(const npo_backend_options *options, npo_backend **ret_backend,
                        npo_error *error) NPO_MUST_CHECK;
void npo_backend_free(npo_backend *backend);
/* Precision of convolutions and linear layers; everything else, and all sums, are f32. */
typedef enum {
    NPO_COMPUTE_F32,
    NPO_COMPUTE_BF16X3, /* each factor as the sum of two bf16: 16 bits of it, close to f32 */
    NPO_COMPUTE_BF16,   /* each factor rounded to bf16 */
    NPO_COMPUTE_COUNT
} npo_compute;

const char *npo_compute_name(npo_compute compute); /* "f32", "bf16x3", "bf16" */
/* Whether graphs can be planned with it here. f32 always; on the CPU the others need AMX. */
bool npo_backend_computes(const npo_backend *backend, npo_compute compute);

/* "cpu avx512 dnnl-2.6.3 threads-1": part of a job's numeric class. Borrowed. */
const char *npo_backend_class(const npo_backend *backend);

#endif
