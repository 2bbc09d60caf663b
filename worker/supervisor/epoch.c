#include "worker/supervisor/epoch.h"

#include "common/file.h"

#include <stdio.h>
#include <string.h>

enum { TEXT_MAX = 24 };

/* Digits alone; strtoull would take signs, spaces and what does not fit. */
static npo_err parse(const char *text, size_t len, uint64_t *ret_epoch)
{
    uint64_t epoch = 0;
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits + 1 != len || text[digits] != '\n')
        return NPO_E_FORMAT;
    for (size_t i = 0; i < digits; i++)
        if (__builtin_mul_overflow(epoch, 10, &epoch) ||
            __builtin_add_overflow(epoch, (uint64_t)(text[i] - '0'), &epoch))
            return NPO_E_FORMAT;
    *ret_epoch = epoch;
    return NPO_OK;
}

npo_err npo_epoch_load(const char *path, uint64_t *ret_epoch, npo_error *error)
{
    npo_buf text = NPO_BUF_INIT;
    npo_err err = NPO_OK;
    *ret_epoch = 0;
    if (!npo_file_exists(path))
        return NPO_OK;
    err = npo_file_read(path, TEXT_MAX, &text, error);
    if (!err && parse(text.data ? text.data : "", text.len, ret_epoch))
        err = npo_error_set(error, NPO_E_FORMAT,
                            "'%s' holds no epoch, expected a number: remove it only if npod is the "
                            "one that this worker shall obey",
                            path);
    npo_buf_fini(&text);
    return err;
}

npo_err npo_epoch_save(const char *path, uint64_t epoch, npo_error *error)
{
    char text[TEXT_MAX];
    int len = snprintf(text, sizeof text, "%llu\n", (unsigned long long)epoch);
    return npo_file_write(path, text, (size_t)len, 0644, error);
}
