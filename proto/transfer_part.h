/* What uploads and downloads share. Inside of transfer.c, upload.c, download.c. */
#ifndef NPO_PROTO_TRANSFER_PART_H
#define NPO_PROTO_TRANSFER_PART_H

#include "proto/transfer.h"

enum { NPO_TRANSFER_TRIES_MAX = 5 }; /* openings of one upload, or fetches of one artifact */

/* {"hash": HASH}, or NULL when out of memory. */
cJSON *npo_transfer_body(const npo_hash *hash);
/* npo_crash_point(name); NULL: none. */
void npo_transfer_crash_point(const char *name);
void npo_transfer_report(const npo_transfer *transfer, const char *path, uint64_t done,
                         uint64_t size);
npo_err npo_transfer_no_memory(const char *path, npo_error *error);

#endif
