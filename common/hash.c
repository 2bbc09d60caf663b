#include "common/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

struct npo_hasher {
    XXH3_state_t *state;
};

static npo_hash canonical(XXH128_hash_t value)
{
    npo_hash hash;
    XXH128_canonical_t bytes;
    XXH128_canonicalFromHash(&bytes, value);
    memcpy(hash.bytes, bytes.digest, sizeof hash.bytes);
    return hash;
}

npo_hash npo_hash_bytes(const void *data, size_t len)
{
    return canonical(XXH3_128bits(data, len));
}

int npo_hash_equal(const npo_hash *a, const npo_hash *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

void npo_hash_format(const npo_hash *hash, char ret_text[NPO_HASH_TEXT_SIZE])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < NPO_HASH_BYTES; i++) {
        ret_text[2 * i] = digits[hash->bytes[i] >> 4];
        ret_text[2 * i + 1] = digits[hash->bytes[i] & 15];
    }
    ret_text[2 * NPO_HASH_BYTES] = '\0';
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

npo_err npo_hash_parse(const char *text, npo_hash *ret_hash)
{
    npo_hash hash;
    if (strlen(text) != 2 * NPO_HASH_BYTES)
        return NPO_E_FORMAT;
    for (int i = 0; i < NPO_HASH_BYTES; i++) {
        int high = digit_value(text[2 * i]), low = digit_value(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return NPO_E_FORMAT;
        hash.bytes[i] = (uint8_t)(high << 4 | low);
    }
    *ret_hash = hash;
    return NPO_OK;
}

npo_err npo_hasher_new(npo_hasher **ret_hasher)
{
    npo_hasher *hasher = malloc(sizeof *hasher);
    if (!hasher)
        return NPO_E_NOMEM;
    hasher->state = XXH3_createState();
    if (!hasher->state) {
        free(hasher);
        return NPO_E_NOMEM;
    }
    XXH3_128bits_reset(hasher->state);
    *ret_hasher = hasher;
    return NPO_OK;
}

void npo_hasher_free(npo_hasher *hasher)
{
    if (!hasher)
        return;
    XXH3_freeState(hasher->state);
    free(hasher);
}

void npo_hasher_add(npo_hasher *hasher, const void *data, size_t len)
{
    XXH3_128bits_update(hasher->state, data, len);
}

npo_hash npo_hasher_digest(const npo_hasher *hasher)
{
    return canonical(XXH3_128bits_digest(hasher->state));
}

npo_err npo_hash_file(const char *path, npo_hash *ret_hash, uint64_t *ret_size, npo_error *error)
{
    enum { BLOCK = 1 << 20 };
    npo_err err = NPO_OK;
    npo_hasher *hasher = NULL;
    char *block = malloc(BLOCK);
    uint64_t size = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        err = npo_error_errno(error, errno, "cannot open '%s'", path);
        goto out;
    }
    if (!block || npo_hasher_new(&hasher)) {
        err = npo_error_set(error, NPO_E_NOMEM, "cannot hash '%s': out of memory", path);
        goto out;
    }
    for (;;) {
        ssize_t n = read(fd, block, BLOCK);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            err = npo_error_errno(error, errno, "cannot read '%s'", path);
            goto out;
        }
        if (n == 0)
            break;
        npo_hasher_add(hasher, block, (size_t)n);
        size += (uint64_t)n;
    }
    *ret_hash = npo_hasher_digest(hasher);
    *ret_size = size;
out:
    if (fd >= 0)
        close(fd);
    npo_hasher_free(hasher);
    free(block);
    return err;
}
