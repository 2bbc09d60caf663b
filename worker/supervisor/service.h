/* The supervisor process: the loop around npo_supervisor_handle. What happens (answers, hints, the
 * executor's lines, finished transfers, signals, time) becomes events; actions become requests,
 * transfers and orders to the executor. Nothing here waits but the loop. */
#ifndef NPO_WORKER_SUPERVISOR_SERVICE_H
#define NPO_WORKER_SUPERVISOR_SERVICE_H

#include "common/err.h"
#include "common/options.h"

typedef struct {
    const char *address;   /* control address of npod */
    const char *state_dir; /* this worker's own */
    const char *cache_dir;
    int64_t cache_bytes;
    const char *name, *device;
    int64_t threads;
    npo_option_list labels; /* "key=value" */
    const char *executor_file;
    char **executor_argv; /* NULL-terminated */
} npo_service_options;

/* Runs until told to leave (SIGTERM, SIGINT) or until it cannot go on. ret_exit_code: 0 after an
 * orderly leave. Errors: what kept it from starting. */
npo_err npo_service_run(const npo_service_options *options, int *ret_exit_code,
                        npo_error *error) NPO_MUST_CHECK;

#endif
