/* SQLite's write-ahead log in few writes: SQLite writes every page of a transaction by itself, and
 * the page's header before it, which is 250 system calls for a group of a hundred requests. This
 * VFS is the default one, but for the log, whose consecutive writes it holds back in memory and
 * hands on as one, before anything can notice: before a sync, a read, a truncation, a question for
 * the size, and the close.
 *
 * What was held back and cannot be written is the failure of the call that brought it to light. A
 * transaction is committed only when its sync has returned (synchronous = FULL), so that it never
 * counts as committed with pages not written. Without syncs a commit may be lost with the process.
 * Owned by the thread of the database. */
#ifndef NPO_SERVER_WAL_VFS_H
#define NPO_SERVER_WAL_VFS_H

#include "common/err.h"

#define NPO_WAL_VFS "npo-wal"

/* Makes the VFS known to SQLite under that name, once or again. Errors: NPO_E_LIBRARY. */
npo_err npo_wal_vfs_register(npo_error *error) NPO_MUST_CHECK;

#endif
