/* Artifacts on the worker's disk, under their hashes, the least recently used going first.
 *
 *   DIR/lock            held while the cache is open
 *   DIR/files/HASH      bytes of an artifact, read-only, verified before it got its name
 *   DIR/folders/HASH/   a manifest's folder: hard links to files
 *
 * The disk is the only index: what has a name is whole, its access time is when it was last used.
 * Modification times stay, since executors tell by them what they have loaded already. Not thread
 * safe: belongs to the thread that moves files. */
#ifndef NPO_WORKER_SUPERVISOR_IO_CACHE_H
#define NPO_WORKER_SUPERVISOR_IO_CACHE_H

#include "proto/transfer.h"

typedef struct npo_cache npo_cache;

/* Creates dir and clears what an interrupted process left. bytes_max is kept by npo_cache_trim;
 * what the current task uses may pass it. Errors: NPO_E_BUSY where another process has it open. */
npo_err npo_cache_open(const char *dir, uint64_t bytes_max, npo_cache **ret_cache,
                       npo_error *error) NPO_MUST_CHECK;
void npo_cache_close(npo_cache *cache); /* NULL allowed */
/* A new task begins: what is got or added from here on is not evicted before the next begins. */
void npo_cache_begin(npo_cache *cache);
/* Path (caller frees) of the artifact, a file or a folder; fetched when it is not there. */
npo_err npo_cache_get(npo_cache *cache, const npo_transfer *transfer, const npo_hash *hash,
                      char **ret_path, npo_error *error) NPO_MUST_CHECK;
/* Adds a finished file or folder under its hash, by hard links (copies, where the cache is on
 * another file system): path must not be written any more. Errors: NPO_E_CORRUPT where a folder is
 * not the artifact. */
npo_err npo_cache_add(npo_cache *cache, const npo_artifact *artifact, const char *path,
                      npo_error *error) NPO_MUST_CHECK;
/* Evicts down to the bound: only what npod confirms it has. */
npo_err npo_cache_trim(npo_cache *cache, const npo_transfer *transfer,
                       npo_error *error) NPO_MUST_CHECK;
/* Bytes of all files, counted anew. */
npo_err npo_cache_bytes(npo_cache *cache, uint64_t *ret_bytes, npo_error *error) NPO_MUST_CHECK;

#endif
