/* npod's loop: sockets, timers, signals and worker threads around the logic of server.h. The loop's
 * thread owns all state; threads only run effects on files. */
#ifndef NPO_SERVER_LOOP_H
#define NPO_SERVER_LOOP_H

#include "common/err.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const char *state_dir; /* exists */
    const char *listen;    /* control address */
    int64_t lease_ms;      /* 0: NPO_LEASE_MS */
    int64_t garbage_age_ms;
    uint64_t quota_bytes; /* 0: none */
    bool raise_epoch;
} npo_loop_options;

/* Runs until SIGTERM or SIGINT; requests under way are finished and answered first. Tells systemd
 * (READY, WATCHDOG, STOPPING) where it asked to be told. Errors: the folder is locked or not
 * writable, the database is newer, an address is in use: with the sentence. */
npo_err npo_loop_run(const npo_loop_options *options, npo_error *error) NPO_MUST_CHECK;

#endif
