/* Growable byte buffer. Failure is sticky: after an allocation fails or the limit is passed,
 * further calls do nothing and npo_buf_err() says why, so a run of appends needs one check.
 * Always NUL-terminated behind `len`, so that `data` is also a C string once anything was added. */
#ifndef NPO_COMMON_BUF_H
#define NPO_COMMON_BUF_H

#include "common/err.h"
#include <stddef.h>

typedef struct {
    char *data; /* owned; NULL while empty */
    size_t len; /* bytes used, without the NUL */
    size_t cap;
    size_t limit; /* bytes; 0 = none */
    npo_err err;
} npo_buf;

#define NPO_BUF_INIT                                                                               \
    {                                                                                              \
        0                                                                                          \
    }

void npo_buf_init(npo_buf *buf, size_t limit);
void npo_buf_fini(npo_buf *buf);
void npo_buf_clear(npo_buf *buf); /* keeps the memory, forgets a failure */
void npo_buf_add(npo_buf *buf, const void *bytes, size_t len);
void npo_buf_str(npo_buf *buf, const char *text);
void npo_buf_printf(npo_buf *buf, const char *format, ...) NPO_PRINTF(2, 3);
/* Makes room for len more bytes and returns where they go (caller then adds to len), or NULL. */
void *npo_buf_reserve(npo_buf *buf, size_t len);
npo_err npo_buf_err(const npo_buf *buf) NPO_MUST_CHECK;
/* Hands the memory (malloc'ed, NUL-terminated) to the caller and leaves an empty buffer. NULL only
 * after a failure or when nothing was ever added. */
char *npo_buf_take(npo_buf *buf);

#endif
