#include "common/buf.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void npo_buf_init(npo_buf *buf, size_t limit)
{
    *buf = (npo_buf){.limit = limit};
}

void npo_buf_fini(npo_buf *buf)
{
    free(buf->data);
    *buf = (npo_buf){.limit = buf->limit};
}

void npo_buf_clear(npo_buf *buf)
{
    buf->len = 0;
    buf->err = NPO_OK;
    if (buf->data)
        buf->data[0] = '\0';
}

void *npo_buf_reserve(npo_buf *buf, size_t len)
{
    if (buf->err)
        return NULL;
    if (len > SIZE_MAX - buf->len - 1 || (buf->limit && len > buf->limit - buf->len)) {
        buf->err = NPO_E_LIMIT;
        return NULL;
    }
    size_t need = buf->len + len + 1;
    if (need > buf->cap) {
        size_t cap = buf->cap ? buf->cap : 64;
        while (cap < need)
            cap = cap > SIZE_MAX / 2 ? need : cap * 2;
        char *data = realloc(buf->data, cap);
        if (!data) {
            buf->err = NPO_E_NOMEM;
            return NULL;
        }
        buf->data = data;
        buf->cap = cap;
    }
    return buf->data + buf->len;
}

void npo_buf_add(npo_buf *buf, const void *bytes, size_t len)
{
    char *to = npo_buf_reserve(buf, len);
    if (!to)
        return;
    if (len)
        memcpy(to, bytes, len);
    buf->len += len;
    buf->data[buf->len] = '\0';
}

void npo_buf_str(npo_buf *buf, const char *text)
{
    npo_buf_add(buf, text, strlen(text));
}

void npo_buf_printf(npo_buf *buf, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *to = n < 0 ? NULL : npo_buf_reserve(buf, (size_t)n);
    if (to) {
        vsnprintf(to, (size_t)n + 1, format, again);
        buf->len += (size_t)n;
    }
    va_end(again);
}

npo_err npo_buf_err(const npo_buf *buf)
{
    return buf->err;
}

char *npo_buf_take(npo_buf *buf)
{
    char *data = buf->err ? NULL : buf->data;
    if (data)
        *buf = (npo_buf){.limit = buf->limit};
    return data;
}
