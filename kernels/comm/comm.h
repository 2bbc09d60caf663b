/* Collectives between the ranks of a gang. A communicator belongs to one thread; all ranks call the
 * same operations with the same sizes in the same order. Sums are taken in rank order, ((r0 + r1) +
 * r2) ..., element by element, so that the same ranks give the same bytes on every rank, whatever
 * the timing.
 *
 * Every operation ends within its time limit. After the first failure a communicator is broken:
 * every later call returns NPO_E_STATE, and the only thing left to do is npo_comm_free. */
#ifndef NPO_KERNELS_COMM_COMM_H
#define NPO_KERNELS_COMM_COMM_H

#include "common/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NPO_COMM_BUCKET_BYTES ((size_t)4 << 20) /* an allreduce travels in pieces of this size */

typedef struct npo_comm npo_comm;

/* One transport. Errors: NPO_E_TIMEOUT, NPO_E_PEER (a rank left or failed),
 * NPO_E_NOMEM; the sentence names the rank that was waited for, and the first one to
 * fail where that is known. */
typedef struct {
    npo_err (*allreduce_sum)(npo_comm *comm, float *x, size_t n, npo_error *error);
    npo_err (*barrier)(npo_comm *comm, npo_error *error);
    void (*free)(npo_comm *comm);
} npo_comm_ops;

/* First member of every transport's struct. */
struct npo_comm {
    const npo_comm_ops *ops;
    int rank, world;
    bool broken;
    const char *name; /* "self", "gloo" */
};

static inline int npo_comm_world(const npo_comm *comm)
{
    return comm->world;
}

/* x [n] in place: the sum over ranks, the same bytes on every rank. */
npo_err npo_comm_allreduce_sum(npo_comm *comm, float *x, size_t n, npo_error *error) NPO_MUST_CHECK;
/* Returns when every rank has called it. */
npo_err npo_comm_barrier(npo_comm *comm, npo_error *error) NPO_MUST_CHECK;
/* Closes the connections at once; peers that still wait for this rank get NPO_E_PEER, or wait until
 * their time limit when it left in the middle of what they read: after work that went well every
 * rank calls npo_comm_barrier first. NULL is fine. */
void npo_comm_free(npo_comm *comm);

/* A gang of one: every operation is the identity. */
npo_err npo_comm_new_self(npo_comm **ret_comm) NPO_MUST_CHECK;

/* Where ranks find each other: a small table shared by all of them and by nobody else. Called from
 * the thread that calls npo_comm_new_gloo or, after a failure, from the one that met it. */
typedef struct {
    void *self;
    npo_err (*set)(void *self, const char *key, const void *value, size_t len);
    /* Waits until the key is set, at most timeout_ms (0: just looks). A value longer than `size` is
     * NPO_E_LIMIT. */
    npo_err (*get)(void *self, const char *key, int64_t timeout_ms, void *ret_value, size_t size,
                   size_t *ret_len);
} npo_comm_store;

typedef struct {
    int rank, world;             /* 0 <= rank < world <= NPO_GANG_MAX */
    const npo_comm_store *store; /* borrowed for the communicator's life */
    const char *host;            /* address to listen on, NULL: 127.0.0.1 */
    const char *interface;       /* network interface instead of host, or NULL */
    int64_t connect_timeout_ms;  /* of the rendezvous; 0: 60 s */
    int64_t timeout_ms;          /* of each operation; 0: 60 s */
} npo_comm_gloo_options;

/* Full mesh over TCP with gloo. The store must be fresh: keys of an earlier rendezvous would be
 * found. world 1 gives a gang of one and needs no store. Starts a thread: call after every fork.
 * Ignores SIGPIPE for the process where it has no handler. Errors: NPO_E_RANGE, NPO_E_NOT_FOUND
 * (host or interface), NPO_E_TIMEOUT (names the rank that did not come), NPO_E_UNREACHABLE,
 * NPO_E_NOMEM, the store's. */
npo_err npo_comm_new_gloo(const npo_comm_gloo_options *options, npo_comm **ret_comm,
                          npo_error *error) NPO_MUST_CHECK;

/* A store in a folder that all ranks see (tests, one machine): one file a key, named by the key. */
npo_err npo_comm_store_new_dir(const char *dir, npo_comm_store *ret_store,
                               npo_error *error) NPO_MUST_CHECK;
void npo_comm_store_fini_dir(npo_comm_store *store);

#endif
