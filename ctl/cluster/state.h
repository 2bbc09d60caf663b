/* The state folder of `npoctl up`: where it is, who runs in it. */
#ifndef NPO_CTL_CLUSTER_STATE_H
#define NPO_CTL_CLUSTER_STATE_H

#include "common/err.h"
#include <sys/types.h>

/* Absolute path of `given`, else of $XDG_STATE_HOME/npo, else of ~/.local/state/npo. malloc'ed. The
 * folder need not exist. Errors: NPO_E_USAGE where there is no home. */
npo_err npo_state_path(const char *given, char **ret_path, npo_error *error) NPO_MUST_CHECK;

/* Process that runs `npoctl up` there, 0: nobody. Errors: NPO_E_IO. */
npo_err npo_state_owner(const char *state, pid_t *ret_pid, npo_error *error) NPO_MUST_CHECK;
/* Makes this process the owner until it ends; children do not inherit that. Creates the folder
 * (0700: the sockets in it are the access control). Errors: NPO_E_BUSY naming the owner. */
npo_err npo_state_own(const char *state, npo_error *error) NPO_MUST_CHECK;

#endif
