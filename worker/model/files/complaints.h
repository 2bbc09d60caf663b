/* What is wrong with a file, tensor by tensor, in one sentence: as many as it has room for, the
 * rest counted ("; and 12 more"). */
#ifndef NPO_WORKER_MODEL_FILES_COMPLAINTS_H
#define NPO_WORKER_MODEL_FILES_COMPLAINTS_H

#include "common/buf.h"
#include "worker/model/files/safetensors.h"

/* Zeroed: none. */
typedef struct {
    npo_buf text;
    size_t left_out;
    npo_err code; /* of the first */
} npo_complaints;

void npo_complain(npo_complaints *all, npo_err code, const char *format, ...) NPO_PRINTF(3, 4);
/* "'name': shape [1,2], expected [2,1]". */
void npo_complain_shape(npo_complaints *all, const char *name, int ndim, const int64_t *dims,
                        int expected_ndim, const int64_t *expected);
/* "'name': missing" where tensor is NULL, npo_complain_shape where its shape is wrong, "'name':
 * dtype I64, expected F32, F16 or BF16", or nothing where it is as it should be. */
void npo_complain_tensor(npo_complaints *all, const char *name, const npo_tensor *tensor,
                         bool right_shape, int expected_ndim, const int64_t *expected);
/* The first one's code with "cannot load 'a': missing; ... in 'path'", or NPO_OK where there are
 * none. Frees what is collected. */
npo_err npo_complaints_finish(npo_complaints *all, const char *path,
                              npo_error *error) NPO_MUST_CHECK;

#endif
