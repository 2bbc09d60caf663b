#include "server/store.h"

#include "common/clock.h"
#include "common/crash.h"
#include "common/file.h"
#include "server/wal_vfs.h"

#include <assert.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct npo_query {
    npo_store *store;
    sqlite3_stmt *statement;
    bool is_open;
    bool writes; /* INSERT ... RETURNING and the like */
};

struct npo_store {
    sqlite3 *db;
    char *path;
    npo_query queries[NPO_SQL_COUNT];
    sqlite3_stmt *begin, *commit, *rollback;
    bool in_group;
    npo_error failure; /* code NPO_OK: none */
    uint64_t writes, commits, commit_ns;
};

/* ---- errors ---- */

static const struct {
    int code; /* primary result code of SQLite */
    npo_err err;
} error_map[] = {
    {SQLITE_FULL, NPO_E_FULL},     {SQLITE_IOERR, NPO_E_IO},     {SQLITE_NOMEM, NPO_E_NOMEM},
    {SQLITE_BUSY, NPO_E_BUSY},     {SQLITE_LOCKED, NPO_E_BUSY},  {SQLITE_CORRUPT, NPO_E_CORRUPT},
    {SQLITE_NOTADB, NPO_E_FORMAT}, {SQLITE_CANTOPEN, NPO_E_IO},  {SQLITE_READONLY, NPO_E_REFUSED},
    {SQLITE_PERM, NPO_E_REFUSED},  {SQLITE_TOOBIG, NPO_E_LIMIT},
};

static npo_err map_error(int code)
{
    for (size_t i = 0; i < sizeof error_map / sizeof error_map[0]; i++)
        if ((code & 0xff) == error_map[i].code)
            return error_map[i].err;
    return NPO_E_LIBRARY;
}

static npo_err fail(const npo_store *store, int code, const char *what, npo_error *error)
{
    return npo_error_set(error, map_error(code), "cannot %s database '%s': %s", what, store->path,
                         store->db ? sqlite3_errmsg(store->db) : sqlite3_errstr(code));
}

static void fail_group(npo_store *store, int code, const char *what)
{
    if (store->failure.code == NPO_OK)
        (void)fail(store, code, what, &store->failure);
}

npo_err npo_store_err(const npo_store *store, npo_error *error)
{
    if (store->failure.code == NPO_OK)
        return NPO_OK;
    return npo_error_set(error, store->failure.code, "%s", store->failure.text);
}

/* ---- opening ---- */

static npo_err execute(npo_store *store, const char *sql, const char *what, npo_error *error)
{
    int code = sqlite3_exec(store->db, sql, NULL, NULL, NULL);
    return code == SQLITE_OK ? NPO_OK : fail(store, code, what, error);
}

static npo_err read_int(npo_store *store, const char *sql, int64_t *ret_value, npo_error *error)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    if (code == SQLITE_ROW)
        *ret_value = sqlite3_column_int64(statement, 0);
    npo_err err = code == SQLITE_ROW ? NPO_OK : fail(store, code, "read", error);
    sqlite3_finalize(statement);
    return err;
}

static npo_err set_pragmas(npo_store *store, const npo_store_options *options, npo_error *error)
{
    /* One process owns the folder (its lock file says so); exclusive locking keeps a forgotten
     * shell from holding a reader open, which would make the log grow without bound. */
    NPO_TRY(execute(store,
                    "PRAGMA page_size = 2048;"
                    "PRAGMA locking_mode = EXCLUSIVE;"
                    "PRAGMA journal_mode = WAL;"
                    "PRAGMA synchronous = FULL;"
                    "PRAGMA wal_autocheckpoint = 16000;"
                    "PRAGMA journal_size_limit = 67108864;"
                    "PRAGMA cache_size = -65536;"
                    "PRAGMA temp_store = MEMORY;"
                    "PRAGMA foreign_keys = ON;",
                    "open", error));
    if (options->no_sync)
        NPO_TRY(execute(store, "PRAGMA synchronous = OFF", "open", error));
    if (options->pages_max == 0)
        return NPO_OK;
    char sql[64];
    snprintf(sql, sizeof sql, "PRAGMA max_page_count = %lld", (long long)options->pages_max);
    return execute(store, sql, "open", error);
}

static npo_err back_up(npo_store *store, int64_t version, npo_error *error)
{
    npo_err err = NPO_E_NOMEM;
    char *copy = NULL, *sql = NULL;
    if (asprintf(&copy, "%s.backup-v%lld", store->path, (long long)version) < 0)
        return npo_error_set(error, NPO_E_NOMEM, "cannot back up '%s'", store->path);
    sql = sqlite3_mprintf("VACUUM INTO %Q", copy);
    err = sql ? npo_file_remove(copy, error) : NPO_E_NOMEM;
    if (!err)
        err = execute(store, sql, "back up", error);
    sqlite3_free(sql);
    free(copy);
    return err;
}

static npo_err migrate_one(npo_store *store, const char *step, int64_t version, npo_error *error)
{
    char sql[48];
    snprintf(sql, sizeof sql, "PRAGMA user_version = %lld", (long long)version + 1);
    npo_err err = execute(store, "BEGIN IMMEDIATE", "migrate", error);
    if (!err)
        err = execute(store, step, "migrate", error);
    if (!err)
        err = execute(store, sql, "migrate", error);
    if (!err)
        err = execute(store, "COMMIT", "migrate", error);
    if (err)
        sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
    return err;
}

static npo_err migrate(npo_store *store, const npo_store_options *options, npo_error *error)
{
    const char *const *steps = options->migrations ? options->migrations : npo_sql_migrations;
    int64_t version = 0, newest = options->migrations ? options->migration_count : NPO_SQL_VERSION;
    NPO_TRY(read_int(store, "PRAGMA user_version", &version, error));
    if (version > newest)
        return npo_error_set(
            error, NPO_E_VERSION,
            "database '%s' has version %lld, this build knows versions up to %lld: "
            "use the newer npod, or its backup of the older database",
            store->path, (long long)version, (long long)newest);
    if (version < 0)
        return npo_error_set(error, NPO_E_FORMAT, "database '%s' has version %lld", store->path,
                             (long long)version);
    if (version > 0 && version < newest)
        NPO_TRY(back_up(store, version, error));
    for (; version < newest; version++)
        NPO_TRY(migrate_one(store, steps[version], version, error));
    return NPO_OK;
}

static npo_err prepare(npo_store *store, const char *sql, sqlite3_stmt **ret_statement,
                       npo_error *error)
{
    int code =
        sqlite3_prepare_v3(store->db, sql, -1, SQLITE_PREPARE_PERSISTENT, ret_statement, NULL);
    return code == SQLITE_OK ? NPO_OK : fail(store, code, "prepare a statement for", error);
}

static npo_err prepare_all(npo_store *store, npo_error *error)
{
    NPO_TRY(prepare(store, "BEGIN IMMEDIATE", &store->begin, error));
    NPO_TRY(prepare(store, "COMMIT", &store->commit, error));
    NPO_TRY(prepare(store, "ROLLBACK", &store->rollback, error));
    for (int i = 0; i < NPO_SQL_COUNT; i++) {
        npo_query *query = &store->queries[i];
        assert(npo_sql_statements[i].id == (npo_sql)i);
        npo_err err = prepare(store, npo_sql_statements[i].text, &query->statement, error);
        if (err)
            return npo_error_prefix(error, err, "statement '%s'", npo_sql_statements[i].name);
        query->store = store;
        query->writes = !sqlite3_stmt_readonly(query->statement);
    }
    return NPO_OK;
}

/* Only the store's thread uses SQLite: its mutexes and the counters behind them are not needed.
 * Without effect when somebody has initialised SQLite before. */
static void configure_sqlite(void)
{
    sqlite3_config(SQLITE_CONFIG_SINGLETHREAD);
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
}

static npo_err connect(npo_store *store, npo_error *error)
{
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX;
    int code = sqlite3_open_v2(store->path, &store->db, flags, NPO_WAL_VFS);
    return code == SQLITE_OK ? NPO_OK : fail(store, code, "open", error);
}

npo_err npo_store_open(const npo_store_options *options, npo_store **ret_store, npo_error *error)
{
    npo_store *store = calloc(1, sizeof *store);
    if (!store || !(store->path = strdup(options->path))) {
        free(store);
        return npo_error_set(error, NPO_E_NOMEM, "cannot open database '%s'", options->path);
    }
    configure_sqlite();
    npo_err err = npo_wal_vfs_register(error);
    if (!err)
        err = connect(store, error);
    if (!err) {
        sqlite3_extended_result_codes(store->db, 1);
        sqlite3_busy_timeout(store->db, 2000);
        err = set_pragmas(store, options, error);
    }
    if (!err)
        err = migrate(store, options, error);
    if (!err)
        err = prepare_all(store, error);
    if (err) {
        npo_store_close(store);
        return err;
    }
    *ret_store = store;
    return NPO_OK;
}

void npo_store_close(npo_store *store)
{
    if (!store)
        return;
    if (store->in_group)
        npo_store_rollback(store);
    for (int i = 0; i < NPO_SQL_COUNT; i++)
        sqlite3_finalize(store->queries[i].statement);
    sqlite3_finalize(store->begin);
    sqlite3_finalize(store->commit);
    sqlite3_finalize(store->rollback);
    sqlite3_close(store->db);
    free(store->path);
    free(store);
}

npo_err npo_store_check(npo_store *store, npo_error *error)
{
    int64_t violations = 0;
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(store->db, "PRAGMA integrity_check(1)", -1, &statement, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    npo_err err = NPO_OK;
    if (code != SQLITE_ROW)
        err = fail(store, code, "check", error);
    else if (strcmp((const char *)sqlite3_column_text(statement, 0), "ok") != 0)
        err = npo_error_set(error, NPO_E_CORRUPT, "database '%s': %s", store->path,
                            (const char *)sqlite3_column_text(statement, 0));
    sqlite3_finalize(statement);
    if (err)
        return err;
    NPO_TRY(read_int(store, "SELECT count(*) FROM pragma_foreign_key_check", &violations, error));
    if (violations > 0)
        return npo_error_set(error, NPO_E_CORRUPT, "database '%s': %lld rows refer to nothing",
                             store->path, (long long)violations);
    return NPO_OK;
}

/* ---- groups ---- */

static int step_reset(sqlite3_stmt *statement)
{
    sqlite3_step(statement);
    return sqlite3_reset(statement);
}

npo_err npo_store_commit(npo_store *store, npo_error *error)
{
    for (int i = 0; i < NPO_SQL_COUNT; i++)
        assert(!store->queries[i].is_open);
    if (store->failure.code == NPO_OK && store->in_group) {
        int64_t begin_ns = npo_clock_ns();
        npo_crash_point("store.commit.before");
        int code = step_reset(store->commit);
        npo_crash_point("store.commit.after");
        store->commits++;
        store->commit_ns += (uint64_t)(npo_clock_ns() - begin_ns);
        if (code != SQLITE_OK)
            fail_group(store, code, "commit to");
    }
    if (store->failure.code == NPO_OK) {
        store->in_group = false;
        return NPO_OK;
    }
    npo_err err = npo_error_set(error, store->failure.code, "%s", store->failure.text);
    npo_store_rollback(store);
    return err;
}

void npo_store_rollback(npo_store *store)
{
    for (int i = 0; i < NPO_SQL_COUNT; i++)
        if (store->queries[i].is_open)
            npo_query_end(&store->queries[i]);
    /* SQLite has rolled back by itself after some errors. */
    if (!sqlite3_get_autocommit(store->db))
        step_reset(store->rollback);
    store->in_group = false;
    store->failure = (npo_error){0};
}

static bool begin_if_needed(npo_store *store, const npo_query *query)
{
    if (!query->writes)
        return true;
    if (!store->in_group) {
        int code = step_reset(store->begin);
        if (code != SQLITE_OK) {
            fail_group(store, code, "begin a transaction on");
            return false;
        }
        store->in_group = true;
    }
    store->writes++;
    return true;
}

uint64_t npo_store_writes(const npo_store *store)
{
    return store->writes;
}

void npo_store_commit_stats(const npo_store *store, uint64_t *ret_commits, uint64_t *ret_ns)
{
    *ret_commits = store->commits;
    *ret_ns = store->commit_ns;
}

/* ---- statements ---- */

static bool bind(npo_query *query, const npo_value *values, int count)
{
    sqlite3_stmt *statement = query->statement;
    assert(sqlite3_bind_parameter_count(statement) == count);
    for (int i = 0; i < count; i++) {
        int code;
        if (values[i].type == NPO_VALUE_INT)
            code = sqlite3_bind_int64(statement, i + 1, values[i].integer);
        else if (values[i].type == NPO_VALUE_TEXT)
            code = sqlite3_bind_text(statement, i + 1, values[i].text, -1, SQLITE_STATIC);
        else
            code = sqlite3_bind_null(statement, i + 1);
        if (code != SQLITE_OK) {
            fail_group(query->store, code, "bind a value for");
            return false;
        }
    }
    return true;
}

npo_query *npo_store_query(npo_store *store, npo_sql id, const npo_value *values, int count)
{
    npo_query *query = &store->queries[id];
    assert(!query->is_open);
    query->is_open = true;
    if (store->failure.code == NPO_OK && begin_if_needed(store, query))
        bind(query, values, count);
    return query;
}

bool npo_query_next(npo_query *query)
{
    assert(query->is_open);
    if (query->store->failure.code == NPO_OK) {
        int code = sqlite3_step(query->statement);
        if (code == SQLITE_ROW)
            return true;
        if (code != SQLITE_DONE)
            fail_group(query->store, code, "read");
    }
    npo_query_end(query);
    return false;
}

void npo_query_end(npo_query *query)
{
    sqlite3_reset(query->statement);
    query->is_open = false;
}

void npo_store_run(npo_store *store, npo_sql id, const npo_value *values, int count)
{
    npo_query *query = npo_store_query(store, id, values, count);
    if (store->failure.code == NPO_OK) {
        int code = step_reset(query->statement);
        if (code != SQLITE_OK)
            fail_group(store, code, "write to");
    }
    query->is_open = false;
}

int64_t npo_store_last_id(const npo_store *store)
{
    return sqlite3_last_insert_rowid(store->db);
}

int64_t npo_query_int(const npo_query *query, int column)
{
    return sqlite3_column_int64(query->statement, column);
}

const char *npo_query_text(const npo_query *query, int column)
{
    return (const char *)sqlite3_column_text(query->statement, column);
}

bool npo_query_is_null(const npo_query *query, int column)
{
    return sqlite3_column_type(query->statement, column) == SQLITE_NULL;
}

int64_t npo_query_int_once(npo_query *query, int64_t fallback)
{
    if (!npo_query_next(query))
        return fallback;
    int64_t value = npo_query_int(query, 0);
    npo_query_end(query);
    return value;
}

char *npo_query_text_once(npo_query *query)
{
    if (!npo_query_next(query))
        return NULL;
    const char *text = npo_query_text(query, 0);
    char *copy = text ? strdup(text) : NULL;
    if (text && !copy)
        fail_group(query->store, SQLITE_NOMEM, "read");
    npo_query_end(query);
    return copy;
}
