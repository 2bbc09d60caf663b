#include "server/wal_vfs.h"

#include <assert.h>
#include <sqlite3.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER_BYTES = (128 << 10) - 1 }; /* the most that SQLite's own files take at once */

/* The log, in front of the default VFS's file, which lies behind it. */
typedef struct {
    sqlite3_file file;
    char *held; /* BUFFER_BYTES, of which `len` are to be written at `at`; owned */
    sqlite3_int64 at;
    int len;
    sqlite3_int64 under[]; /* aligned as SQLite aligns files */
} wal_file;

static sqlite3_vfs vfs, *base; /* base: the default one */

static sqlite3_file *under(sqlite3_file *file)
{
    return (sqlite3_file *)((wal_file *)file)->under;
}

/* What cannot be written is forgotten: SQLite takes the transaction back and writes it anew. */
static int flush(sqlite3_file *file)
{
    wal_file *wal = (wal_file *)file;
    int len = wal->len;
    wal->len = 0;
    return len ? under(file)->pMethods->xWrite(under(file), wal->held, len, wal->at) : SQLITE_OK;
}

static int wal_write(sqlite3_file *file, const void *bytes, int len, sqlite3_int64 at)
{
    wal_file *wal = (wal_file *)file;
    if (at != wal->at + wal->len || len > BUFFER_BYTES - wal->len) {
        int code = flush(file);
        if (code != SQLITE_OK)
            return code;
    }
    assert(len <= BUFFER_BYTES); /* a page is smaller */
    if (wal->len == 0)
        wal->at = at;
    memcpy(wal->held + wal->len, bytes, (size_t)len);
    wal->len += len;
    return SQLITE_OK;
}

static int wal_read(sqlite3_file *file, void *bytes, int len, sqlite3_int64 at)
{
    int code = flush(file);
    return code == SQLITE_OK ? under(file)->pMethods->xRead(under(file), bytes, len, at) : code;
}

static int wal_truncate(sqlite3_file *file, sqlite3_int64 size)
{
    int code = flush(file);
    return code == SQLITE_OK ? under(file)->pMethods->xTruncate(under(file), size) : code;
}

static int wal_sync(sqlite3_file *file, int flags)
{
    int code = flush(file);
    return code == SQLITE_OK ? under(file)->pMethods->xSync(under(file), flags) : code;
}

static int wal_size(sqlite3_file *file, sqlite3_int64 *ret_size)
{
    int code = flush(file);
    return code == SQLITE_OK ? under(file)->pMethods->xFileSize(under(file), ret_size) : code;
}

static int wal_close(sqlite3_file *file)
{
    int flushed = flush(file), closed = under(file)->pMethods->xClose(under(file));
    free(((wal_file *)file)->held);
    return flushed != SQLITE_OK ? flushed : closed;
}

static int wal_lock(sqlite3_file *file, int level)
{
    return under(file)->pMethods->xLock(under(file), level);
}

static int wal_unlock(sqlite3_file *file, int level)
{
    return under(file)->pMethods->xUnlock(under(file), level);
}

static int wal_check_lock(sqlite3_file *file, int *ret_is_locked)
{
    return under(file)->pMethods->xCheckReservedLock(under(file), ret_is_locked);
}

static int wal_control(sqlite3_file *file, int operation, void *argument)
{
    return under(file)->pMethods->xFileControl(under(file), operation, argument);
}

static int wal_sector_size(sqlite3_file *file)
{
    return under(file)->pMethods->xSectorSize(under(file));
}

static int wal_characteristics(sqlite3_file *file)
{
    return under(file)->pMethods->xDeviceCharacteristics(under(file));
}

static const sqlite3_io_methods wal_methods = {
    .iVersion = 1, /* shared memory and mappings are of the database's file only */
    .xClose = wal_close,
    .xRead = wal_read,
    .xWrite = wal_write,
    .xTruncate = wal_truncate,
    .xSync = wal_sync,
    .xFileSize = wal_size,
    .xLock = wal_lock,
    .xUnlock = wal_unlock,
    .xCheckReservedLock = wal_check_lock,
    .xFileControl = wal_control,
    .xSectorSize = wal_sector_size,
    .xDeviceCharacteristics = wal_characteristics,
};

static int open_wal(const char *name, sqlite3_file *file, int flags, int *ret_flags)
{
    wal_file *wal = (wal_file *)file;
    wal->file.pMethods = NULL; /* SQLite closes what has methods */
    wal->len = 0;
    wal->held = malloc(BUFFER_BYTES);
    if (!wal->held)
        return SQLITE_NOMEM;
    int code = base->xOpen(base, name, under(file), flags, ret_flags);
    if (code == SQLITE_OK) {
        wal->file.pMethods = &wal_methods;
        return SQLITE_OK;
    }
    if (under(file)->pMethods)
        under(file)->pMethods->xClose(under(file));
    free(wal->held);
    return code;
}

static int open_file(sqlite3_vfs *self, const char *name, sqlite3_file *file, int flags,
                     int *ret_flags)
{
    if (flags & SQLITE_OPEN_WAL)
        return open_wal(name, file, flags, ret_flags);
    return base->xOpen(base, name, file, flags, ret_flags);
}

npo_err npo_wal_vfs_register(npo_error *error)
{
    if (sqlite3_vfs_find(NPO_WAL_VFS))
        return NPO_OK;
    base = sqlite3_vfs_find(NULL);
    if (!base)
        return npo_error_set(error, NPO_E_LIBRARY, "SQLite has no access to files");
    vfs = *base;
    vfs.pNext = NULL;
    vfs.zName = NPO_WAL_VFS;
    vfs.szOsFile = (int)sizeof(wal_file) + base->szOsFile;
    vfs.xOpen = open_file;
    int code = sqlite3_vfs_register(&vfs, 0);
    return code == SQLITE_OK
               ? NPO_OK
               : npo_error_set(error, NPO_E_LIBRARY, "SQLite: %s", sqlite3_errstr(code));
}
