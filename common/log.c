#include "common/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const struct {
    const char *name;
    int journal; /* syslog severity */
} levels[] = {
    [NPO_LOG_ERROR] = {"error", 3},
    [NPO_LOG_WARN] = {"warn", 4},
    [NPO_LOG_INFO] = {"info", 6},
    [NPO_LOG_DEBUG] = {"debug", 7},
};

static const char *program_name = "npo";
static npo_log_level max_level = NPO_LOG_INFO;
static int to_journal;

void npo_log_init(const char *program, npo_log_level level)
{
    program_name = program;
    max_level = level;
    to_journal = getenv("JOURNAL_STREAM") != NULL;
}

npo_err npo_log_level_parse(const char *name, npo_log_level *ret_level)
{
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        if (strcmp(levels[i].name, name) == 0) {
            *ret_level = (npo_log_level)i;
            return NPO_OK;
        }
    }
    return NPO_E_RANGE;
}

static int prefix(char *line, size_t size, npo_log_level level)
{
    if (to_journal)
        return snprintf(line, size, "<%d>", levels[level].journal);
    struct timeval tv;
    struct tm tm;
    gettimeofday(&tv, NULL);
    gmtime_r(&tv.tv_sec, &tm);
    char when[32];
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);
    return snprintf(line, size, "%s.%03dZ %s %s ", when, (int)(tv.tv_usec / 1000), program_name,
                    levels[level].name);
}

/* One write(2) a line, so that lines of several processes never interleave. */
void npo_log(npo_log_level level, const char *format, ...)
{
    if (level > max_level)
        return;
    char line[1024];
    int n = prefix(line, sizeof line, level);
    va_list args;
    va_start(args, format);
    int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, format, args);
    va_end(args);
    if (m < 0)
        return;
    size_t room = sizeof line - (size_t)n - 2;
    size_t len = (size_t)n + ((size_t)m < room ? (size_t)m : room);
    line[len++] = '\n';
    ssize_t done = write(STDERR_FILENO, line, len);
    (void)done; /* nowhere left to complain */
}
