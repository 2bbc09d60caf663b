/* Content hash: XXH3-128 (seed 0, canonical big-endian bytes), written as 32 lower-case hex digits.
 * Names artifacts; finds accidents (disk, network), not attackers. */
#ifndef NPO_COMMON_HASH_H
#define NPO_COMMON_HASH_H

#include "common/err.h"
#include <stddef.h>
#include <stdint.h>

#define NPO_HASH_BYTES     16
#define NPO_HASH_TEXT_SIZE 33 /* 32 digits and NUL */

typedef struct {
    uint8_t bytes[NPO_HASH_BYTES];
} npo_hash;

typedef struct npo_hasher npo_hasher;

npo_hash npo_hash_bytes(const void *data, size_t len);
npo_err npo_hash_file(const char *path, npo_hash *ret_hash, uint64_t *ret_size,
                      npo_error *error) NPO_MUST_CHECK;
int npo_hash_equal(const npo_hash *a, const npo_hash *b);
void npo_hash_format(const npo_hash *hash, char ret_text[NPO_HASH_TEXT_SIZE]);
/* Exactly 32 lower-case hex digits. Errors: NPO_E_FORMAT. */
npo_err npo_hash_parse(const char *text, npo_hash *ret_hash) NPO_MUST_CHECK;

npo_err npo_hasher_new(npo_hasher **ret_hasher) NPO_MUST_CHECK;
void npo_hasher_free(npo_hasher *hasher);
void npo_hasher_add(npo_hasher *hasher, const void *data, size_t len);
npo_hash npo_hasher_digest(const npo_hasher *hasher);

#endif
