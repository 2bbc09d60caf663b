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
            npo_run(store, NPO_SQL_EVENT_INSERT, npo_int(4 * groups + i + 1), npo_int(0),
                    npo_int(0), npo_int(0), npo_text("k"), npo_text(text));
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

enum { NEXT_VERSION = NPO_SQL_VERSION + 1 };

/* As a later build would: with one migration more. */
static npo_err open_with(const folder *place, const char *step, npo_store **ret_store,
                         npo_error *error)
{
    const char *steps[NEXT_VERSION];
    memcpy(steps, npo_sql_migrations, sizeof npo_sql_migrations);
    steps[NPO_SQL_VERSION] = step;
    const npo_store_options options = {
        .path = place->path, .migrations = steps, .migration_count = NEXT_VERSION};
    return npo_store_open(&options, ret_store, error);
}

static void test_store_migrates_behind_a_backup(void **state)
{
    const folder *place = *state;
    npo_store *store = open_store(place);
    char backup[128];
    snprintf(backup, sizeof backup, "%s.backup-v%d", place->path, (int)NPO_SQL_VERSION);
    npo_run(store, NPO_SQL_META_SET, npo_text("a"), npo_int(41));
    assert_int_equal(npo_store_commit(store, NULL), NPO_OK);
    npo_store_close(store);
    assert_int_equal(open_with(place,
                               "ALTER TABLE job ADD COLUMN colour TEXT;"
                               "UPDATE meta SET value = value + 1",
                               &store, NULL),
                     NPO_OK);
    assert_int_equal(npo_query_int_once(npo_ask(store, NPO_SQL_META_GET, npo_text("a")), -1), 42);
    npo_store_close(store);
    assert_int_equal(outside(place->path, "PRAGMA user_version"), NEXT_VERSION);
    assert_int_equal(outside(backup, "PRAGMA user_version"), NPO_SQL_VERSION);
    assert_int_equal(outside(backup, "SELECT value FROM meta WHERE key = 'a'"), 41);
}

static void test_store_failed_migration_changes_nothing(void **state)
{
    const folder *place = *state;
    npo_store *store = NULL;
    npo_error error = {0};
    npo_store_close(open_store(place));
    assert_int_not_equal(open_with(place,
                                   "ALTER TABLE job ADD COLUMN colour TEXT;"
                                   "UPDATE nothing SET value = 1",
                                   &store, &error),
                         NPO_OK);
    assert_non_null(strstr(error.text, "migrate"));
    assert_int_equal(outside(place->path, "PRAGMA user_version"), NPO_SQL_VERSION);
    assert_int_equal(
        outside(place->path, "SELECT count(*) FROM pragma_table_info('job') WHERE name = 'colour'"),
        0);
    npo_store_close(open_store(place));
}

static void run_outside(sqlite3 *db, const char *sql)
{
    char *text = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &text) != SQLITE_OK)
        fail_msg("%s: %s", sql, text);
}

/* A database of the first version: what a list shows of jobs that are over is counted once. */
static void test_store_migration_counts_tasks_of_ended_jobs(void **state)
{
    const folder *place = *state;
    sqlite3 *db;
    assert_int_equal(sqlite3_open(place->path, &db), SQLITE_OK);
    run_outside(db, npo_sql_migrations[0]);
    run_outside(db,
                "INSERT INTO job(id, key, name, recipe, spec, state, priority, workers, retries, "
                "time_limit_s, any_class, tasks, steps, rounds, step, first_event, submitted_ms, "
                "used_ms) VALUES(1, 'a', '', '', '{}', 4, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1, 1, 0)");
    for (int i = 0; i < 4; i++) {
        char sql[256];
        snprintf(
            sql, sizeof sql,
            "INSERT INTO task(job, kind, round, shard, shards, world, step_end, params, state, "
            "waiting) VALUES(1, 'train', 0, 0, 1, 1, 0, '{}', %d, 0)",
            i < 2 ? 4 : 3 + i);
        run_outside(db, sql);
    }
    run_outside(db, "PRAGMA user_version = 1");
    sqlite3_close(db);
    npo_store_close(open_store(place));
    assert_int_equal(outside(place->path, "SELECT done * 10 + failed FROM job"), 21);
}

/* Statements that may walk through a whole table: at a start, or a table that is small. */
static bool may_scan(const char *name)
{
    static const char *const names[] = {"artifact_bytes",    "artifact_marked", "pin_tasks",
                                        "pin_expired",       "request_log_all", "job_state_counts",
                                        "request_log_clear", "worker_all",      "task_lost_input"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

static void test_store_statements_use_indexes(void **state)
{
    sqlite3 *db;
    sqlite3_stmt *plan;
    char sql[4096];
    assert_int_equal(sqlite3_open(":memory:", &db), SQLITE_OK);
    for (int i = 0; i < NPO_SQL_VERSION; i++)
        run_outside(db, npo_sql_migrations[i]);
    for (int i = 0; i < NPO_SQL_COUNT; i++) {
        const npo_sql_statement *statement = &npo_sql_statements[i];
        snprintf(sql, sizeof sql, "EXPLAIN QUERY PLAN %s", statement->text);
        assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &plan, NULL), SQLITE_OK);
        while (sqlite3_step(plan) == SQLITE_ROW) {
            const char *detail = (const char *)sqlite3_column_text(plan, 3);
            if (strncmp(detail, "SCAN ", 5) == 0 && !may_scan(statement->name))
                fail_msg("%s: %s", statement->name, detail);
        }
        sqlite3_finalize(plan);
    }
    sqlite3_close(db);
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
        TEST(test_store_migration_counts_tasks_of_ended_jobs),
        TEST(test_store_statements_use_indexes),
        TEST(test_store_check_finds_dangling_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
