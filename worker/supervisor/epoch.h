/* The highest epoch of a coordinator that this worker has obeyed, kept on disk, so that one that is
 * out of date (an old backup, a machine that was taken over from) is refused after a restart too.
 *
 *   STATE/epoch   decimal digits and a newline */
#ifndef NPO_WORKER_SUPERVISOR_EPOCH_H
#define NPO_WORKER_SUPERVISOR_EPOCH_H

#include "common/err.h"
#include <stdint.h>

/* 0 where there is no file. Errors: NPO_E_FORMAT; those of reading. */
npo_err npo_epoch_load(const char *path, uint64_t *ret_epoch, npo_error *error) NPO_MUST_CHECK;
/* Durable. */
npo_err npo_epoch_save(const char *path, uint64_t epoch, npo_error *error) NPO_MUST_CHECK;

#endif
