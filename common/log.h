/* Leveled log lines on stderr: `2026-01-31T12:00:00.123Z npod info message`. Under systemd (where
 * JOURNAL_STREAM is set) the time is left out and the level becomes the journal's <N> prefix.
 * Libraries do not log: a function logs or returns an error, never both. Thread safe. */
#ifndef NPO_COMMON_LOG_H
#define NPO_COMMON_LOG_H

#include "common/err.h"

typedef enum { NPO_LOG_ERROR, NPO_LOG_WARN, NPO_LOG_INFO, NPO_LOG_DEBUG } npo_log_level;

/* program is borrowed for the life of the process. */
void npo_log_init(const char *program, npo_log_level level);
/* "error", "warn", "info", "debug" -> level. Errors: NPO_E_RANGE. */
npo_err npo_log_level_parse(const char *name, npo_log_level *ret_level) NPO_MUST_CHECK;
void npo_log(npo_log_level level, const char *format, ...) NPO_PRINTF(2, 3);

#define npo_log_error(...) npo_log(NPO_LOG_ERROR, __VA_ARGS__)
#define npo_log_warn(...)  npo_log(NPO_LOG_WARN, __VA_ARGS__)
#define npo_log_info(...)  npo_log(NPO_LOG_INFO, __VA_ARGS__)
#define npo_log_debug(...) npo_log(NPO_LOG_DEBUG, __VA_ARGS__)

#endif
