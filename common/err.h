/* Error codes and the sentence that goes with them.
 *
 * A fallible function returns npo_err (0 = OK). A function that can say more takes an npo_error *
 * (NULL allowed) and fills it on failure only; the text names the subject, what was found and what
 * was expected. Codes of libraries become npo_err in the module that wraps the library. */
#ifndef NPO_COMMON_ERR_H
#define NPO_COMMON_ERR_H

#include <stdarg.h>

typedef enum {
    NPO_OK = 0,
#define NPO_ERROR(name, text) NPO_E_##name,
#include "common/errors.def"
#undef NPO_ERROR
    NPO_E_COUNT
} npo_err;

#define NPO_ERROR_TEXT_MAX 512
#define NPO_MUST_CHECK     __attribute__((warn_unused_result))
#define NPO_PRINTF(f, a)   __attribute__((format(printf, f, a)))

typedef struct {
    npo_err code;
    char text[NPO_ERROR_TEXT_MAX];
} npo_error;

/* "NOT_FOUND": stable, used on the wire. "OK" for NPO_OK, "UNKNOWN" out of range. */
const char *npo_err_name(npo_err code);
/* "not found": for people. */
const char *npo_err_text(npo_err code);
/* Inverse of npo_err_name; NPO_E_LIBRARY for a name this build does not know. */
npo_err npo_err_from_name(const char *name);
/* errno of a failed system call as an npo_err. */
npo_err npo_err_from_errno(int errnum);

/* Fills *error (if not NULL) and returns code, so that a failure is one statement:
 *     return npo_error_set(error, NPO_E_SHAPE, "'%s': shape %s, expected %s", ...);  */
npo_err npo_error_set(npo_error *error, npo_err code, const char *format, ...) NPO_PRINTF(3, 4);
/* Puts "format: " in front of the sentence that is already there. Returns error's code, or code
 * where error is NULL or empty. */
npo_err npo_error_prefix(npo_error *error, npo_err code, const char *format, ...) NPO_PRINTF(3, 4);
/* As npo_error_set with the code from errno and ": strerror" appended. */
npo_err npo_error_errno(npo_error *error, int errnum, const char *format, ...) NPO_PRINTF(3, 4);

/* Returns from the enclosing function on failure; for functions that own nothing yet. */
#define NPO_TRY(call)                                                                              \
    do {                                                                                           \
        npo_err npo_try_err_ = (call);                                                             \
        if (npo_try_err_ != NPO_OK)                                                                \
            return npo_try_err_;                                                                   \
    } while (0)

#endif
