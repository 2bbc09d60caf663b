/* What the coordinator's logic wants done with files: asked for by npo_server_handle, run by
 * npo_effect_run on any thread after the commit, reported back by npo_server_effect_done. Effects
 * with the same key must run in the order in which they were asked for, one at a time.
 *
 * Files below the state folder:
 *   artifacts/ab/abcdef...     published, named by hash
 *   uploads/abcdef....part     arriving
 *   streams/JOB/TASK.ATTEMPT.RANK.log (.metrics) */
#ifndef NPO_SERVER_EFFECT_H
#define NPO_SERVER_EFFECT_H

#include "common/buf.h"
#include "common/err.h"
#include "common/hash.h"
#include "proto/frame.h"
#include <stdbool.h>
#include <stdint.h>

typedef enum {
    NPO_EFFECT_WRITE,   /* data at offset of the upload, which is removed when the disk is full */
    NPO_EFFECT_PUBLISH, /* verify the upload, sync, give it its name; again: fine */
    NPO_EFFECT_READ,    /* size bytes at offset of an artifact */
    NPO_EFFECT_UNLINK,  /* an artifact */
    NPO_EFFECT_DISCARD, /* an upload */
    NPO_EFFECT_STREAM_APPEND,  /* data at offset of a stream */
    NPO_EFFECT_STREAM_READ,    /* size bytes at offset of a stream */
    NPO_EFFECT_STREAMS_REMOVE, /* all of a job */
    NPO_EFFECT_COUNT
} npo_effect_kind;

typedef struct npo_effect {
    struct npo_effect *next; /* in whatever list holds it */
    npo_effect_kind kind;
    uint64_t key; /* effects of one key run one after the other; 0: with anything */
    npo_hash hash;
    int64_t job, task, attempt, rank;
    const char *stream; /* "log", "metrics"; static */
    uint64_t offset, size;
    const void *data; /* size bytes, borrowed from the request until it is answered */
    /* The request that waits for it, if any. */
    void *to; /* the caller's */
    npo_message message;
    uint64_t boot, request;
    /* What came of it. */
    npo_error error;
    npo_buf bytes;        /* read */
    uint64_t result_size; /* of the artifact or stream */
    bool is_folder;       /* PUBLISH: the bytes are a manifest */
    npo_hash *children;   /* PUBLISH: hashes of a manifest; owned */
    size_t child_count;
} npo_effect;

void npo_effect_free(npo_effect *effect); /* NULL allowed; not to */
/* Makes the folders. */
npo_err npo_effect_prepare(const char *state_dir, npo_error *error) NPO_MUST_CHECK;
/* Runs it; effect->error tells how it went. Any thread. */
void npo_effect_run(const char *state_dir, npo_effect *effect);
/* Calls found(self, hash, size) for every upload that was interrupted, and removes what is no
 * upload. */
npo_err npo_effect_list_uploads(const char *state_dir,
                                void (*found)(void *self, const npo_hash *hash, uint64_t size),
                                void *self, npo_error *error) NPO_MUST_CHECK;
/* Removes artifacts for which is_known(self, hash) is false: published, but the commit never came.
 */
npo_err npo_effect_sweep(const char *state_dir, bool (*is_known)(void *self, const char *hash),
                         void *self, npo_error *error) NPO_MUST_CHECK;
/* The same for the streams of jobs: removed, but npod was killed before the files were. */
npo_err npo_effect_sweep_streams(const char *state_dir, bool (*is_job)(void *self, int64_t job),
                                 void *self, npo_error *error) NPO_MUST_CHECK;

#endif
