#include "common/file.h"
#include "server/store.h"
#include "tests/unit/cmocka.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char dir[64], path[96];
} folder;

static int setup(void **state)
{
    folder *place = calloc(1, sizeof *place);
    snprintf(place->dir, sizeof place->dir, "/tmp/npo-test-store-XXXXXX");
    assert_non_null(mkdtemp(place->dir));
    snprintf(place->path, sizeof place->path, "%s/npod.db", place->dir);
    *state = place;
    return 0;
}

static int teardown(void **state)
{
    folder *place = *state;
    assert_int_equal(npo_file_remove(place->dir, NULL), NPO_OK);
    free(place);
    return 0;
}

static npo_store *open_store(const folder *place)
{
    npo_store *store = NULL;
    npo_error error = {0};
    const npo_store_options options = {.path = place->path};
    if (npo_store_open(&options, &store, &error) != NPO_OK)
        fail_msg("%s", error.text);
    return store;
}

/* Runs SQL beside the store, which must be closed. Returns the first column of the first row. */
static int64_t outside(const char *path, const char *sql)
{
    sqlite3 *db;
    sqlite3_stmt *statement;
    int64_t value = -1;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), SQLITE_OK);
    if (sqlite3_step(statement) == SQLITE_ROW)
        value = sqlite3_column_int64(statement, 0);
    assert_int_equal(sqlite3_finalize(statement), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    return value;
}

static void test_store_prepares_every_statement_on_a_fresh_schema(void **state)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(":memory:", &db), SQLITE_OK);
    for (int i = 0; i < NPO_SQL_VERSION; i++)
        assert_int_equal(sqlite3_exec(db, npo_sql_migrations[i], NULL, NULL, NULL), SQLITE_OK);
    for (int i = 0; i < NPO_SQL_COUNT; i++) {
        sqlite3_stmt *statement = NULL;
        const char *rest = NULL;
        if (sqlite3_prepare_v2(db, npo_sql_statements[i].text, -1, &statement, &rest) != SQLITE_OK)
            fail_msg("%s: %s", npo_sql_statements[i].name, sqlite3_errmsg(db));
        /* One statement a file. */
        assert_int_equal(strspn(rest, " \n"), strlen(rest));
        sqlite3_finalize(statement);
    }
    sqlite3_close(db);
}

static void test_store_sets_what_durability_needs(void **state)
{
    const folder *place = *state;
    npo_store_close(open_store(place));
    assert_int_equal(outside(place->path, "PRAGMA user_version"), NPO_SQL_VERSION);
    /* The mode is a property of the file. */
    assert_int_equal(outside(place->path, "SELECT journal_mode = 'wal' FROM pragma_journal_mode"),
                     1);
}

static void test_store_undoes_a_group(void **state)
{
    npo_store *store = open_store(*state);
    npo_run(store, NPO_SQL_META_SET, npo_text("a"), npo_int(1));
    npo_store_rollback(store);
    assert_int_equal(npo_query_int_once(npo_ask(store, NPO_SQL_META_GET, npo_text("a")), -1), -1);
    npo_run(store, NPO_SQL_META_SET, npo_text("a"), npo_int(2));
    assert_int_equal(npo_store_commit(store, NULL), NPO_OK);
    npo_store_close(store);
    store = open_store(*state);
    assert_int_equal(npo_query_int_once(npo_ask(store, NPO_SQL_META_GET, npo_text("a")), -1), 2);
    npo_store_close(store);
}

static void test_store_failure_sticks_until_rollback(void **state)
{
    npo_store *store = open_store(*state);
    npo_error error = {0};
    npo_run(store, NPO_SQL_META_SET, npo_text("a"), npo_int(1));
    npo_run(store, NPO_SQL_META_SET, npo_text(NULL), npo_int(1)); /* NOT NULL */
    assert_int_not_equal(npo_store_err(store, &error), NPO_OK);
    npo_run(store, NPO_SQL_META_SET, npo_text("b"), npo_int(1));
    assert_int_equal(npo_query_int_once(npo_ask(store, NPO_SQL_META_GET, npo_text("epoch")), -1),
                     -1);
    assert_int_not_equal(npo_store_commit(store, &error), NPO_OK);
    assert_non_null(strstr(error.text, "npod.db"));
    /* The failed commit has rolled back. */
    assert_int_equal(npo_store_err(store, NULL), NPO_OK);
    assert_int_equal(npo_query_int_once(npo_ask(store, NPO_SQL_META_GET, npo_text("epoch")), -1),
                     1);
    assert_int_equal(npo_query_int_once(npo_ask(store, NPO_SQL_META_GET, npo_text("a")), -1), -1);
    npo_store_close(store);
}

static void test_store_full_is_told_and_nothing_is_half_done(void **state)
{
    const folder *place = *state;
    npo_store *store = open_store(place);
    npo_error error = {0};
    npo_store_close(store);
    int64_t pages = outside(place->path, "PRAGMA page_count");
    const npo_store_options options = {.path = place->path, .pages_max = pages + 8};
    assert_int_equal(npo_store_open(&options, &store, &error), NPO_OK);
    char text[1001];
    memset(text, 'x', 1000);
    text[1000] = '\0';
    npo_err err = NPO_OK;
    int groups = 0;
    while (err == NPO_OK && groups < 1000) {
        for (int i = 0; i < 4; i++)
            npo_run(store, NPO_SQL_EVENT_INSERT, npo_int(4 * groups + i + 1), npo_int(0), npo_int(0),
                    npo_int(0), npo_text("k"), npo_text(text));
        err = npo_store_commit(store, &error);
        groups += err == NPO_OK;
    }
    assert_int_equal(err, NPO_E_FULL);
    assert_int_equal(npo_query_int_once(npo_ask(store, NPO_SQL_EVENT_LAST), -1), 4 * groups);
    npo_store_close(store);
}

static void test_store_refuses_a_newer_database(void **state)
{
    const folder *place = *state;
    npo_store *store = NULL;
    npo_error error = {0};
    const npo_store_options options = {.path = place->path};
    npo_store_close(open_store(place));
    outside(place->path, "PRAGMA user_version = 99");
    assert_int_equal(npo_store_open(&options, &store, &error), NPO_E_VERSION);
    assert_non_null(strstr(error.text, "version 99"));
    assert_int_equal(outside(place->path, "PRAGMA user_version"), 99);
}

static void test_store_refuses_what_is_no_database(void **state)
{
    const folder *place = *state;
    npo_store *store = NULL;
    npo_error error = {0};
    const npo_store_options options = {.path = place->path};
    char text[8192];
    memset(text, 'x', sizeof text);
    assert_int_equal(npo_file_write(place->path, text, sizeof text, 0600, NULL), NPO_OK);
    assert_int_equal(npo_store_open(&options, &store, &error), NPO_E_FORMAT);
    assert_non_null(strstr(error.text, place->path));
}

static const char *const next_steps[] = {
    NULL, /* filled in: the first migration of the product */
    "ALTER TABLE job ADD COLUMN colour TEXT; UPDATE meta SET value = value + 1",
};
static const char *const bad_steps[] = {
    NULL,
    "ALTER TABLE job ADD COLUMN colour TEXT; UPDATE nothing SET value = 1",
};

static npo_err open_with(const folder *place, const char *const *given, npo_store **ret_store,
                         npo_error *error)
{
    const char *steps[] = {npo_sql_migrations[0], given[1]};
    const npo_store_options options = {
        .path = place->path, .migrations = steps, .migration_count = 2};
    return npo_store_open(&options, ret_store, error);
}

static void test_store_migrates_behind_a_backup(void **state)
{
    const folder *place = *state;
    npo_store *store = open_store(place);
    char backup[128];
    snprintf(backup, sizeof backup, "%s.backup-v1", place->path);
    npo_run(store, NPO_SQL_META_SET, npo_text("a"), npo_int(41));
    assert_int_equal(npo_store_commit(store, NULL), NPO_OK);
    npo_store_close(store);
    assert_int_equal(open_with(place, next_steps, &store, NULL), NPO_OK);
    assert_int_equal(npo_query_int_once(npo_ask(store, NPO_SQL_META_GET, npo_text("a")), -1), 42);
    npo_store_close(store);
    assert_int_equal(outside(place->path, "PRAGMA user_version"), 2);
    assert_int_equal(outside(backup, "PRAGMA user_version"), 1);
    assert_int_equal(outside(backup, "SELECT value FROM meta WHERE key = 'a'"), 41);
}

static void test_store_failed_migration_changes_nothing(void **state)
{
    const folder *place = *state;
    npo_store *store = NULL;
    npo_error error = {0};
    npo_store_close(open_store(place));
    assert_int_not_equal(open_with(place, bad_steps, &store, &error), NPO_OK);
    assert_non_null(strstr(error.text, "migrate"));
    assert_int_equal(outside(place->path, "PRAGMA user_version"), 1);
    assert_int_equal(
        outside(place->path, "SELECT count(*) FROM pragma_table_info('job') WHERE name = 'colour'"),
        0);
    npo_store_close(open_store(place));
}

static void test_store_check_finds_dangling_rows(void **state)
{
    const folder *place = *state;
    npo_store *store = open_store(place);
    npo_error error = {0};
    assert_int_equal(npo_store_check(store, &error), NPO_OK);
    npo_store_close(store);
    outside(place->path, "INSERT INTO task_rank(task, rank) VALUES(12345, 0)");
    store = open_store(place);
    assert_int_equal(npo_store_check(store, &error), NPO_E_CORRUPT);
    npo_store_close(store);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_store_prepares_every_statement_on_a_fresh_schema),
        TEST(test_store_sets_what_durability_needs),
        TEST(test_store_undoes_a_group),
        TEST(test_store_failure_sticks_until_rollback),
        TEST(test_store_full_is_told_and_nothing_is_half_done),
        TEST(test_store_refuses_a_newer_database),
        TEST(test_store_refuses_what_is_no_database),
        TEST(test_store_migrates_behind_a_backup),
        TEST(test_store_failed_migration_changes_nothing),
        TEST(test_store_check_finds_dangling_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
