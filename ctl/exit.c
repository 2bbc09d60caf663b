#include "ctl/exit.h"

#include <stdarg.h>
#include <stdio.h>

npo_exit npo_exit_with(npo_exit code, const char *format, ...)
{
    char text[2 * NPO_ERROR_TEXT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (char *at = text; *at; at++)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = ' ';
    fprintf(stderr, "npoctl: %s\n", text);
    return code;
}

npo_exit npo_exit_local(const npo_error *error)
{
    static const npo_err usage[] = {NPO_E_USAGE, NPO_E_TYPE,      NPO_E_RANGE, NPO_E_FORMAT,
                                    NPO_E_LIMIT, NPO_E_NOT_FOUND, NPO_E_EXISTS};
    for (size_t i = 0; i < sizeof usage / sizeof *usage; i++)
        if (error->code == usage[i])
            return npo_exit_with(NPO_EXIT_USAGE, "%s", error->text);
    return npo_exit_with(NPO_EXIT_FAILED, "%s", error->text);
}
