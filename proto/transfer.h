/* Moving artifacts between files and npod. Every function waits (see npo_client), starts where an
 * earlier one was interrupted, and checks what it moved against its hash. */
#ifndef NPO_PROTO_TRANSFER_H
#define NPO_PROTO_TRANSFER_H

#include "common/hash.h"
#include "proto/client.h"
#include "proto/manifest.h"

/* On whose behalf: a worker's task (pins the hash to it), or a client (all 0). */
typedef struct {
    int64_t worker, task;
    int attempt, rank;
} npo_transfer_fence;

typedef struct {
    npo_hash hash;
    uint64_t size;  /* bytes of the artifact itself: the file, or the text of the manifest */
    uint64_t bytes; /* of the file, or of all files of the folder */
    bool is_folder;
} npo_artifact;

typedef struct {
    npo_client *client;
    npo_transfer_fence fence;
    /* Called after every chunk; NULL: not wanted. */
    void (*progress)(void *self, const char *path, uint64_t done, uint64_t size);
    void *self;
    const char *crash_point_chunk, *crash_point_done; /* npo_crash_point names, NULL: none */
} npo_transfer;

/* Publishes a file, or a folder (its files, then its manifest). Only what npod lacks is sent. The
 * file must not change meanwhile: that is found out and is NPO_E_CORRUPT. */
npo_err npo_upload(const npo_transfer *transfer, const char *path, npo_artifact *ret_artifact,
                   npo_error *error) NPO_MUST_CHECK;
/* Name and size of what npo_upload would publish, without a coordinator. */
npo_err npo_upload_describe(const char *path, npo_artifact *ret_artifact,
                            npo_error *error) NPO_MUST_CHECK;
/* Fetches one artifact's bytes to path by way of `path.part`, which a later call goes on with. The
 * file appears whole and verified; an existing one is replaced. */
npo_err npo_download_file(const npo_transfer *transfer, const npo_hash *hash, const char *path,
                          uint64_t *ret_size, npo_error *error) NPO_MUST_CHECK;
/* Fetches an artifact and, when it is a manifest, its files too, to path: a file or a folder, which
 * must not exist yet. Interrupted, it leaves `path.part-*`, which a later call goes on with. */
npo_err npo_download(const npo_transfer *transfer, const npo_hash *hash, const char *path,
                     npo_artifact *ret_artifact, npo_error *error) NPO_MUST_CHECK;
/* Which of the hashes npod lacks: ret_missing[i] is set. Asked in parts that fit a message. */
npo_err npo_transfer_missing(const npo_transfer *transfer, const npo_hash *hashes, size_t count,
                             bool *ret_missing, npo_error *error) NPO_MUST_CHECK;

#endif
