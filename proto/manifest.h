/* A folder as an artifact: canonical JSON that names every file by its hash; its own hash names the
 * folder. {"files":[{"hash","path","size"}...],"format":"npo-manifest-1"}, sorted by path (bytes).
 * Paths are relative, with '/' between, without "." and ".." and empty parts. */
#ifndef NPO_PROTO_MANIFEST_H
#define NPO_PROTO_MANIFEST_H

#include "common/buf.h"
#include "common/hash.h"
#include <stdbool.h>

typedef struct {
    char *path; /* owned */
    npo_hash hash;
    uint64_t size; /* bytes */
} npo_manifest_file;

typedef struct {
    npo_manifest_file *files; /* sorted by path, no path twice, none a folder of another */
    size_t count;
} npo_manifest;

/* Lists and hashes the files below dir (no hidden names, no links; of a diffusers pipeline its
 * components only). An empty folder is refused. */
npo_err npo_manifest_build(const char *dir, npo_manifest *ret_manifest,
                           npo_error *error) NPO_MUST_CHECK;
/* Canonical text, appended to ret_text; *ret_hash (NULL allowed) is the folder's name. */
npo_err npo_manifest_print(const npo_manifest *manifest, npo_buf *ret_text, npo_hash *ret_hash,
                           npo_error *error) NPO_MUST_CHECK;
/* Reads text and refuses what npo_manifest_print would not have written (another order, unsafe or
 * duplicate paths, unknown keys). name stands in the sentence. Errors: NPO_E_FORMAT, NPO_E_LIMIT.
 */
npo_err npo_manifest_parse(const char *text, size_t len, const char *name,
                           npo_manifest *ret_manifest, npo_error *error) NPO_MUST_CHECK;
void npo_manifest_fini(npo_manifest *manifest); /* a zeroed one is fine */
/* True when the file holds a manifest (by its first bytes): what tells a folder from a file where
 * only a hash is known. */
bool npo_manifest_is_at(const char *path);
/* As npo_manifest_is_at for bytes in memory. */
bool npo_manifest_is_text(const void *bytes, size_t len);
/* Makes the folder dir with every file as a hard link to (or, across file systems, a copy of)
 * source(self, hash). Written beside dir and renamed, so dir is whole or absent; an existing dir is
 * left as it is. */
npo_err npo_manifest_materialise(const npo_manifest *manifest, const char *dir,
                                 npo_err (*source)(void *self, const npo_hash *hash,
                                                   char **ret_path, npo_error *error),
                                 void *self, npo_error *error) NPO_MUST_CHECK;

#endif
