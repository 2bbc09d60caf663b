/* The artifact half of npod in memory, on a thread of its own, with faults to order: what transfers
 * are tested against. One artifact's bytes are malloc'ed under its hash. */
#ifndef NPO_TESTS_UNIT_PROTO_MEMORY_NPOD_H
#define NPO_TESTS_UNIT_PROTO_MEMORY_NPOD_H

#include "common/hash.h"
#include <stdatomic.h>
#include <stdbool.h>

typedef struct memory_npod memory_npod;

/* Faults: counts that go down to 0 as they happen. Counters: since the start. */
typedef struct {
    atomic_int corrupt_closes;  /* closes that answer CORRUPT and forget the bytes */
    atomic_int forget_at_chunk; /* the nth chunk from now finds the upload forgotten (NOT_FOUND) */
    atomic_int refuse_chunks;   /* chunks that are not taken: answered with what is there */
    atomic_int corrupt_downloads; /* ranges sent with a bit turned over */
    atomic_int silent_at_chunk;   /* from the nth chunk or range on nothing is answered any more */
    atomic_int silent_fd;         /* eventfd written to once, when that happens; 0: none */
    atomic_int epoch;             /* that answers carry */
    atomic_int opens, chunks, closes, downloads, missings;
    atomic_size_t taken_bytes; /* of chunks that were taken */
    atomic_int last_task;      /* of the last upload_open; 0: a client */
} memory_npod_faults;

memory_npod *memory_npod_start(const char *address);
void memory_npod_stop(memory_npod *npod);
memory_npod_faults *memory_npod_faults_of(memory_npod *npod);
/* After stop of clients only: the bytes published, or NULL. */
const void *memory_npod_find(memory_npod *npod, const npo_hash *hash, size_t *ret_len);
/* Bytes received of an upload that is still open. */
size_t memory_npod_received(memory_npod *npod, const npo_hash *hash);
npo_hash memory_npod_put(memory_npod *npod, const void *bytes, size_t len);

#endif
