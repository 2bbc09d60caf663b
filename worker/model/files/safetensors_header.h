/* Parses and checks the JSON header of a safetensors file: a strict scanner for this one shape of
 * object, whose memory is bounded by the header's length. */
#ifndef NPO_WORKER_MODEL_FILES_SAFETENSORS_HEADER_H
#define NPO_WORKER_MODEL_FILES_SAFETENSORS_HEADER_H

#include "worker/model/files/safetensors.h"

typedef struct {
    npo_tensor tensor; /* data is NULL until the file's reader sets it */
    uint64_t begin, end;
} npo_tensor_entry;

typedef struct {
    npo_tensor_entry *entries; /* in the order of their data */
    size_t count;
    npo_tensor_metadata *metadata;
    size_t metadata_count;
    char *strings; /* backs names, keys and values */
} npo_tensor_header;

/* json: [len]; data_bytes: what follows the header in the file. Errors: NPO_E_FORMAT, NPO_E_LIMIT,
 * NPO_E_UNSUPPORTED, NPO_E_NOMEM. */
npo_err npo_tensor_header_parse(const char *json, size_t len, uint64_t data_bytes,
                                npo_tensor_header *ret_header, npo_error *error) NPO_MUST_CHECK;
void npo_tensor_header_fini(npo_tensor_header *header);

#endif
