/* Tells whether a file or folder is still the one that was loaded before: device, inode, size and
 * time of change of everything in it. Files of artifacts never change, so equal identity means
 * equal bytes. */
#ifndef NPO_WORKER_TASKS_LOADED_IDENTITY_H
#define NPO_WORKER_TASKS_LOADED_IDENTITY_H

#include "common/hash.h"

/* Of the files below a folder the paths count too. Errors: NPO_E_NOT_FOUND, NPO_E_IO, NPO_E_LIMIT.
 */
npo_err npo_identity_of(const char *path, npo_hash *ret_identity, npo_error *error) NPO_MUST_CHECK;

#endif
