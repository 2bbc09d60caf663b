/* Exit codes of npoctl: an interface that lasts (docs/npoctl.md). */
#ifndef NPO_CTL_EXIT_H
#define NPO_CTL_EXIT_H

#include "common/err.h"

typedef enum {
    NPO_EXIT_OK = 0,          /* done; without --wait: accepted */
    NPO_EXIT_FAILED = 1,      /* the job failed, or this machine could not do its part */
    NPO_EXIT_USAGE = 2,       /* wrong arguments, settings or job file */
    NPO_EXIT_CANCELLED = 3,   /* the job was cancelled */
    NPO_EXIT_UNREACHABLE = 4, /* no answer from the coordinator for 5 s */
    NPO_EXIT_REFUSED = 5,     /* the coordinator said no */
    NPO_EXIT_INTERRUPTED = 130
} npo_exit;

/* Prints "npoctl: sentence" on stderr and returns code, so that a failure is one statement. Control
 * characters of the sentence are left out. */
npo_exit npo_exit_with(npo_exit code, const char *format, ...) NPO_PRINTF(2, 3);
/* The same for what a module reported about this machine's part (arguments, files, memory). */
npo_exit npo_exit_local(const npo_error *error);

#endif
