/* The state folder's database: SQLite behind prepared statements of sql/.
 *
 * One transaction covers a group of requests. It begins with the first statement that writes.
 * Failure is sticky: after a statement fails, the others of the group do nothing and find nothing,
 * npo_store_err() says why, and the only way on is npo_store_rollback(). So a handler may run its
 * statements without looking, as long as nothing leaves before npo_store_commit() has returned
 * NPO_OK. Owned by one thread. */
#ifndef NPO_SERVER_STORE_H
#define NPO_SERVER_STORE_H

#include "common/err.h"
#include "sql/statements.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct npo_store npo_store;

typedef struct {
    const char *path;  /* of the database; ":memory:" for tests */
    int64_t pages_max; /* 0: no bound; tests use it to fill the disk */
    bool no_sync;      /* tests that do not cut the power need not wait for the disk */
    /* Tests: other migrations than the product's, which must begin with them. */
    const char *const *migrations;
    int migration_count;
} npo_store_options;

/* Opens or creates, and migrates to this build's version, after a copy of an existing older
 * database to `PATH.backup-vN`. Errors: NPO_E_VERSION for a newer database, NPO_E_CORRUPT,
 * NPO_E_FULL, NPO_E_IO, NPO_E_BUSY: all with the sentence. */
npo_err npo_store_open(const npo_store_options *options, npo_store **ret_store,
                       npo_error *error) NPO_MUST_CHECK;
void npo_store_close(npo_store *store); /* NULL allowed; an open group is rolled back */

/* Makes the group durable; without a write since the last one there is nothing to do. On failure
 * everything since then is undone. */
npo_err npo_store_commit(npo_store *store, npo_error *error) NPO_MUST_CHECK;
void npo_store_rollback(npo_store *store);
/* The failure that has stopped this group, or NPO_OK. */
npo_err npo_store_err(const npo_store *store, npo_error *error) NPO_MUST_CHECK;
/* Statements that wrote since opening: tells whether a request has changed something. */
uint64_t npo_store_writes(const npo_store *store);
/* Time in commits and their number since opening. */
void npo_store_commit_stats(const npo_store *store, uint64_t *ret_commits, uint64_t *ret_ns);

typedef struct {
    enum { NPO_VALUE_NULL, NPO_VALUE_INT, NPO_VALUE_TEXT } type;
    int64_t integer;
    const char *text;
} npo_value;

static inline npo_value npo_int(int64_t integer)
{
    return (npo_value){.type = NPO_VALUE_INT, .integer = integer};
}

/* NULL becomes SQL's NULL. Borrowed until the statement has ended. */
static inline npo_value npo_text(const char *text)
{
    return (npo_value){.type = text ? NPO_VALUE_TEXT : NPO_VALUE_NULL, .text = text};
}

/* A statement without rows: npo_run(store, NPO_SQL_JOB_DELETE, npo_int(id)). */
void npo_store_run(npo_store *store, npo_sql id, const npo_value *values, int count);
#define npo_run(store, id, ...)                                                                    \
    npo_store_run(                                                                                 \
        store, id, (const npo_value[]){npo_int(0), ##__VA_ARGS__} + 1,                             \
        (int)(sizeof((const npo_value[]){npo_int(0), ##__VA_ARGS__}) / sizeof(npo_value)) - 1)
/* id of the row that the last insert made. */
int64_t npo_store_last_id(const npo_store *store);

/* A statement with rows. Every query is ended by npo_query_next having returned false, or by
 * npo_query_end (which may follow that too); a statement cannot be open twice (asserted). */
typedef struct npo_query npo_query;
npo_query *npo_store_query(npo_store *store, npo_sql id, const npo_value *values, int count);
#define npo_ask(store, id, ...)                                                                    \
    npo_store_query(                                                                               \
        store, id, (const npo_value[]){npo_int(0), ##__VA_ARGS__} + 1,                             \
        (int)(sizeof((const npo_value[]){npo_int(0), ##__VA_ARGS__}) / sizeof(npo_value)) - 1)
bool npo_query_next(npo_query *query);
void npo_query_end(npo_query *query);
int64_t npo_query_int(const npo_query *query, int column); /* NULL: 0 */
const char *npo_query_text(const npo_query *query,
                           int column); /* NULL: NULL; until the next step */
bool npo_query_is_null(const npo_query *query, int column);
/* First column of the first row, or fallback; ends the query. */
int64_t npo_query_int_once(npo_query *query, int64_t fallback);
/* First column of the first row as a new string, NULL for none; ends the query. */
char *npo_query_text_once(npo_query *query);

/* Integrity check and version of an open database, for `npod --check`. */
npo_err npo_store_check(npo_store *store, npo_error *error) NPO_MUST_CHECK;

#endif
