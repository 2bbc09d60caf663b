#include "common/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    const char *text;
} rows[NPO_E_COUNT] = {
    [NPO_OK] = {"OK", "ok"},
#define NPO_ERROR(name, text) [NPO_E_##name] = {#name, text},
#include "common/errors.def"
#undef NPO_ERROR
};

const char *npo_err_name(npo_err code)
{
    return (unsigned)code < NPO_E_COUNT ? rows[code].name : "UNKNOWN";
}

const char *npo_err_text(npo_err code)
{
    return (unsigned)code < NPO_E_COUNT ? rows[code].text : "unknown error";
}

npo_err npo_err_from_name(const char *name)
{
    for (int i = 0; i < NPO_E_COUNT; i++)
        if (strcmp(rows[i].name, name) == 0)
            return (npo_err)i;
    return NPO_E_LIBRARY;
}

npo_err npo_err_from_errno(int errnum)
{
    static const struct {
        int errnum;
        npo_err code;
    } table[] = {
        {ENOMEM, NPO_E_NOMEM},  {ENOSPC, NPO_E_FULL},
        {EDQUOT, NPO_E_FULL},   {ENOENT, NPO_E_NOT_FOUND},
        {EEXIST, NPO_E_EXISTS}, {ETIMEDOUT, NPO_E_TIMEOUT},
        {EBUSY, NPO_E_BUSY},    {EADDRINUSE, NPO_E_BUSY},
        {EAGAIN, NPO_E_BUSY},   {ECONNREFUSED, NPO_E_UNREACHABLE},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (table[i].errnum == errnum)
            return table[i].code;
    return NPO_E_IO;
}

npo_err npo_error_set(npo_error *error, npo_err code, const char *format, ...)
{
    if (!error)
        return code;
    va_list args;
    va_start(args, format);
    error->code = code;
    vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    return code;
}

npo_err npo_error_prefix(npo_error *error, npo_err code, const char *format, ...)
{
    if (!error)
        return code;
    char front[NPO_ERROR_TEXT_MAX], back[NPO_ERROR_TEXT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(front, sizeof front, format, args);
    va_end(args);
    if (error->code == NPO_OK)
        snprintf(error->text, sizeof error->text, "%s", npo_err_text(code));
    memcpy(back, error->text, sizeof back);
    int n = snprintf(error->text, sizeof error->text, "%s: ", front);
    if (n >= 0 && (size_t)n < sizeof error->text)
        snprintf(error->text + n, sizeof error->text - (size_t)n, "%s", back);
    if (error->code == NPO_OK)
        error->code = code;
    return error->code;
}

npo_err npo_error_errno(npo_error *error, int errnum, const char *format, ...)
{
    npo_err code = npo_err_from_errno(errnum);
    if (!error)
        return code;
    va_list args;
    va_start(args, format);
    error->code = code;
    int n = vsnprintf(error->text, sizeof error->text, format, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof error->text)
        snprintf(error->text + n, sizeof error->text - (size_t)n, ": %s", strerror(errnum));
    return code;
}
