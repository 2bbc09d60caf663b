#include "common/file.h"
#include "server/wal_vfs.h"
#include "tests/unit/cmocka.h"

#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

typedef struct {
    char dir[64], path[96], log[104], copy[96], copied_log[104];
    sqlite3 *db;
} folder;

static void run(sqlite3 *db, const char *sql)
{
    char *text = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &text) != SQLITE_OK)
        fail_msg("%s: %s", sql, text);
}

static int64_t ask(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement;
    int64_t value = -1;
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), SQLITE_OK);
    if (sqlite3_step(statement) == SQLITE_ROW)
        value = sqlite3_column_int64(statement, 0);
    assert_int_equal(sqlite3_finalize(statement), SQLITE_OK);
    return value;
}

static void open_database(folder *place)
{
    assert_int_equal(npo_wal_vfs_register(NULL), NPO_OK);
    assert_int_equal(sqlite3_open_v2(place->path, &place->db,
                                     SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NPO_WAL_VFS),
                     SQLITE_OK);
    run(place->db, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL;"
                   "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;");
}

static int setup(void **state)
{
    folder *place = calloc(1, sizeof *place);
    snprintf(place->dir, sizeof place->dir, "/tmp/npo-test-wal-XXXXXX");
    assert_non_null(mkdtemp(place->dir));
    snprintf(place->path, sizeof place->path, "%s/a.db", place->dir);
    snprintf(place->log, sizeof place->log, "%s-wal", place->path);
    snprintf(place->copy, sizeof place->copy, "%s/b.db", place->dir);
    snprintf(place->copied_log, sizeof place->copied_log, "%s-wal", place->copy);
    open_database(place);
    run(place->db, "CREATE TABLE t(id INTEGER PRIMARY KEY, text TEXT)");
    *state = place;
    return 0;
}

static int teardown(void **state)
{
    folder *place = *state;
    assert_int_equal(sqlite3_close(place->db), SQLITE_OK);
    assert_int_equal(npo_file_remove(place->dir, NULL), NPO_OK);
    free(place);
    return 0;
}

static int64_t size_of(const char *path)
{
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    return status.st_size;
}

/* About 4 MB, many times what is held back. */
static void insert_rows(sqlite3 *db, int first, int count)
{
    char sql[256];
    snprintf(sql, sizeof sql,
             "WITH RECURSIVE n(i) AS (SELECT %d UNION ALL SELECT i + 1 FROM n WHERE i < %d) "
             "INSERT INTO t SELECT i, hex(zeroblob(2000)) FROM n",
             first, first + count - 1);
    run(db, sql);
}

static void copy_file(const char *from, const char *to)
{
    npo_buf bytes = NPO_BUF_INIT;
    assert_int_equal(npo_file_read(from, 1 << 30, &bytes, NULL), NPO_OK);
    assert_int_equal(npo_file_write(to, bytes.data, bytes.len, 0644, NULL), NPO_OK);
    npo_buf_fini(&bytes);
}

/* What a kill at this moment would leave, as the default VFS finds it. */
static int64_t rows_after_a_kill(const folder *place)
{
    sqlite3 *db;
    copy_file(place->path, place->copy);
    copy_file(place->log, place->copied_log);
    assert_int_equal(sqlite3_open(place->copy, &db), SQLITE_OK);
    int64_t count = ask(db, "SELECT count(*) FROM t");
    assert_int_equal(
        ask(db, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'"), 0);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    return count;
}

static void test_wal_vfs_holds_back_until_the_commit(void **state)
{
    const folder *place = *state;
    int64_t before = size_of(place->log);
    run(place->db, "PRAGMA cache_size = 4; BEGIN"); /* SQLite writes the others at once */
    insert_rows(place->db, 1, 20);
    assert_int_equal(size_of(place->log), before);
    run(place->db, "COMMIT");
    assert_true(size_of(place->log) > before);
}

static void test_wal_vfs_commits_survive_a_kill(void **state)
{
    const folder *place = *state;
    for (int i = 0; i < 20; i++) {
        run(place->db, "INSERT INTO t(text) VALUES('a')");
        assert_int_equal(rows_after_a_kill(place), i + 1);
    }
    insert_rows(place->db, 1000, 1000); /* more than one write */
    assert_int_equal(rows_after_a_kill(place), 1020);
    run(place->db, "BEGIN; DELETE FROM t");
    assert_int_equal(rows_after_a_kill(place), 1020);
    run(place->db, "ROLLBACK");
}

/* A small cache writes pages before the commit, reads them again, and writes some a second time. */
static void test_wal_vfs_finds_what_it_holds_back(void **state)
{
    const folder *place = *state;
    run(place->db, "PRAGMA cache_size = 10; BEGIN");
    insert_rows(place->db, 1, 1000);
    run(place->db, "UPDATE t SET text = 'b' WHERE id % 3 = 0");
    assert_int_equal(ask(place->db, "SELECT sum(length(text)) FROM t"), 333 + 667 * 4000);
    run(place->db, "COMMIT");
    assert_int_equal(rows_after_a_kill(place), 1000);
}

static void test_wal_vfs_checkpoints(void **state)
{
    folder *place = *state;
    for (int i = 0; i < 5; i++) {
        insert_rows(place->db, 1 + 100 * i, 100);
        run(place->db, "PRAGMA wal_checkpoint(TRUNCATE)");
        assert_int_equal(size_of(place->log), 0);
    }
    run(place->db, "UPDATE t SET text = 'b'");
    assert_int_equal(sqlite3_close(place->db), SQLITE_OK);
    open_database(place);
    assert_int_equal(ask(place->db, "SELECT sum(length(text)) FROM t"), 500);
}

/* Writes beyond `bytes` of a file fail. */
static void bound_files(rlim_t bytes)
{
    struct rlimit limit = {bytes, RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* The write fails at the end of the log, wherever that lies in what is held back. */
static void test_wal_vfs_failed_write_fails_the_commit(void **state)
{
    folder *place = *state;
    run(place->db, "INSERT INTO t(text) VALUES('a')");
    for (int64_t room = 0; room < 300000; room += 30011) {
        run(place->db, "PRAGMA wal_checkpoint(TRUNCATE)");
        bound_files((rlim_t)room);
        run(place->db, "BEGIN");
        insert_rows(place->db, 1000, 100);
        assert_int_not_equal(sqlite3_exec(place->db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
        if (!sqlite3_get_autocommit(place->db))
            run(place->db, "ROLLBACK");
        bound_files(RLIM_INFINITY);
        assert_int_equal(ask(place->db, "SELECT count(*) FROM t WHERE id >= 1000"), 0);
        assert_int_equal(rows_after_a_kill(place), 1 + room / 30011);
        run(place->db, "INSERT INTO t(text) VALUES('b')");
    }
    assert_int_equal(sqlite3_close(place->db), SQLITE_OK);
    open_database(place);
    assert_int_equal(ask(place->db, "SELECT count(*) FROM t"), 11);
}

#define WAL_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WAL_TEST(test_wal_vfs_holds_back_until_the_commit),
        WAL_TEST(test_wal_vfs_commits_survive_a_kill),
        WAL_TEST(test_wal_vfs_finds_what_it_holds_back),
        WAL_TEST(test_wal_vfs_checkpoints),
        WAL_TEST(test_wal_vfs_failed_write_fails_the_commit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
