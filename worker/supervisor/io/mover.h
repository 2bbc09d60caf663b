/* Moves a task's files on a thread of its own, in the order asked: inputs into the cache, outputs
 * to npod. Results come back on the loop. Waits as long as npod is away; a task that is dropped
 * ends its transfers at once. */
#ifndef NPO_WORKER_SUPERVISOR_IO_MOVER_H
#define NPO_WORKER_SUPERVISOR_IO_MOVER_H

#include "common/hash.h"
#include "proto/connection.h"
#include "proto/transfer.h"
#include <uv.h>

typedef struct npo_mover npo_mover;

typedef struct {
    char *name; /* owned */
    npo_hash hash;
    char *path; /* owned; NULL until fetched */
} npo_mover_input;

typedef struct {
    npo_err err; /* NPO_E_CANCELLED: the task was dropped */
    npo_error error;
    uint64_t ticket;
    bool is_upload;
    /* fetched */
    const npo_mover_input *inputs;
    size_t input_count;
    /* uploaded */
    const char *name;
    npo_artifact artifact;
} npo_mover_result;

typedef struct {
    const char *address; /* control address of npod */
    npo_identity *identity;
    const char *cache_dir;
    uint64_t cache_bytes_max;
    void *self;
    void (*moved)(void *self, const npo_mover_result *result); /* on the loop's thread */
} npo_mover_options;

npo_err npo_mover_start(uv_loop_t *loop, const npo_mover_options *options, npo_mover **ret_mover,
                        npo_error *error) NPO_MUST_CHECK;
/* Ends transfers, waits for the thread, frees the mover once the loop has run on. NULL allowed. */
void npo_mover_stop(npo_mover *mover);
/* inputs_take: the array and what it owns. */
npo_err npo_mover_fetch(npo_mover *mover, uint64_t ticket, const npo_transfer_fence *fence,
                        npo_mover_input *inputs_take, size_t count,
                        npo_error *error) NPO_MUST_CHECK;
/* A file or folder that is not written any more; both enter the cache. */
npo_err npo_mover_upload(npo_mover *mover, uint64_t ticket, const npo_transfer_fence *fence,
                         const char *name, const char *path, npo_error *error) NPO_MUST_CHECK;
/* Forgets what was asked for the ticket: no more results of it come. */
void npo_mover_drop(npo_mover *mover, uint64_t ticket);
void npo_mover_inputs_free(npo_mover_input *inputs, size_t count);

#endif
