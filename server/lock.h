/* One npod a state folder: an exclusive lock on STATE/npod.lock, held for the life of the process
 * and given up by the kernel whatever ends it. */
#ifndef NPO_SERVER_LOCK_H
#define NPO_SERVER_LOCK_H

#include "common/err.h"

/* ret_fd is kept open; closing it ends the lock. Errors: NPO_E_BUSY names the process that holds
 * it. */
npo_err npo_lock_take(const char *state_dir, int *ret_fd, npo_error *error) NPO_MUST_CHECK;

#endif
