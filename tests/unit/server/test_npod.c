/* The real process: what its sockets, signals and exit codes do. Its logic is tested without it. */
#include "common/clock.h"
#include "common/file.h"
#include "proto/address.h"
#include "proto/client.h"
#include "tests/unit/cmocka.h"

#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    char dir[96], log[128], address[NPO_ADDRESS_SIZE];
    pid_t pid;
    npo_identity identity;
} process;

static int setup(void **state)
{
    process *npod = calloc(1, sizeof *npod);
    snprintf(npod->dir, sizeof npod->dir, "/tmp/npo-test-npod-XXXXXX");
    assert_non_null(mkdtemp(npod->dir));
    snprintf(npod->log, sizeof npod->log, "%s/log", npod->dir);
    assert_int_equal(npo_address_of_state(npod->dir, npod->address, NULL), NPO_OK);
    assert_int_equal(npo_identity_init(&npod->identity, NULL), NPO_OK);
    *state = npod;
    return 0;
}

static int teardown(void **state)
{
    process *npod = *state;
    if (npod->pid > 0) {
        kill(npod->pid, SIGKILL);
        waitpid(npod->pid, NULL, 0);
    }
    assert_int_equal(npo_file_remove(npod->dir, NULL), NPO_OK);
    free(npod);
    return 0;
}

/* more: one further argument and its value, or NULL. */
static void start(process *npod, const char *option, const char *value)
{
    npod->pid = fork();
    assert_true(npod->pid >= 0);
    if (npod->pid > 0)
        return;
    int fd = open(npod->log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(fd, STDERR_FILENO);
    const char *arguments[] = {getenv("NPOD"), "--state", npod->dir, option, value, NULL};
    execv(arguments[0], (char *const *)arguments);
    _exit(127);
}

static int wait_exit(process *npod)
{
    int status;
    assert_int_equal(waitpid(npod->pid, &status, 0), npod->pid);
    npod->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void assert_said(const process *npod, const char *text)
{
    npo_buf log = NPO_BUF_INIT;
    assert_int_equal(npo_file_read(npod->log, 1 << 20, &log, NULL), NPO_OK);
    if (!log.data || !strstr(log.data, text))
        fail_msg("npod said '%s', expected '%s'", log.data ? log.data : "", text);
    npo_buf_fini(&log);
}

/* Asks until npod is up. */
static npo_err ask(process *npod, npo_message id, npo_answer *ret_answer)
{
    npo_client *client;
    npo_error error = {0};
    const npo_client_options options = {
        .address = npod->address, .identity = &npod->identity, .deadline_ms = 10000};
    assert_int_equal(npo_client_open(&options, &client, &error), NPO_OK);
    npo_err err = npo_client_call(client, id, NULL, NULL, 0, ret_answer, &error);
    npo_client_close(client);
    return err;
}

static void assert_answers(process *npod)
{
    npo_answer answer = {0};
    assert_int_equal(ask(npod, NPO_MESSAGE_INFO, &answer), NPO_OK);
    assert_string_equal(npo_json_string(answer.json, "state_dir", ""), npod->dir);
    npo_answer_fini(&answer);
}

static void test_npod_answers_and_ends_on_sigterm(void **state)
{
    process *npod = *state;
    start(npod, NULL, NULL);
    assert_answers(npod);
    kill(npod->pid, SIGTERM);
    assert_int_equal(wait_exit(npod), 0);
}

static void test_npod_killed_leaves_nothing_that_blocks_the_next(void **state)
{
    process *npod = *state;
    for (int i = 0; i < 3; i++) {
        start(npod, NULL, NULL);
        assert_answers(npod);
        kill(npod->pid, SIGKILL);
        assert_int_equal(wait_exit(npod), 128 + SIGKILL);
    }
}

static void test_npod_refuses_a_folder_in_use(void **state)
{
    process *npod = *state, second = *npod;
    start(npod, NULL, NULL);
    assert_answers(npod);
    snprintf(second.log, sizeof second.log, "%s/log2", npod->dir);
    start(&second, NULL, NULL);
    assert_int_equal(wait_exit(&second), 1);
    assert_said(&second, "is in use by another npod (process ");
}

static void test_npod_refuses_an_address_in_use(void **state)
{
    process *npod = *state, second = *npod;
    char address[64];
    npo_answer answer = {0};
    snprintf(address, sizeof address, "tcp://127.0.0.1:%d", 20000 + (int)getpid() % 20000);
    snprintf(npod->address, sizeof npod->address, "%s", address);
    start(npod, "--listen", address);
    assert_int_equal(ask(npod, NPO_MESSAGE_INFO, &answer), NPO_OK);
    npo_answer_fini(&answer);
    snprintf(second.dir, sizeof second.dir, "%.64s/b", npod->dir);
    snprintf(second.log, sizeof second.log, "%s/log2", npod->dir);
    start(&second, "--listen", address);
    assert_int_equal(wait_exit(&second), 1);
    assert_said(&second, address);
}

static void test_npod_refuses_to_listen_to_everybody(void **state)
{
    process *npod = *state;
    start(npod, "--listen", "tcp://0.0.0.0:7411");
    assert_int_equal(wait_exit(npod), 2);
    assert_said(npod, "--insecure");
}

static void test_npod_refuses_a_newer_database(void **state)
{
    process *npod = *state;
    char path[128];
    sqlite3 *db;
    snprintf(path, sizeof path, "%s/npod.db", npod->dir);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 1000", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    start(npod, NULL, NULL);
    assert_int_equal(wait_exit(npod), 1);
    assert_said(npod, "has version 1000");
}

static void test_npod_refuses_a_state_folder_that_is_a_file(void **state)
{
    process *npod = *state;
    char path[128];
    snprintf(path, sizeof path, "%.64s/file", npod->dir);
    assert_int_equal(npo_file_write(path, "x", 1, 0600, NULL), NPO_OK);
    snprintf(npod->dir, sizeof npod->dir, "%.90s", path);
    start(npod, NULL, NULL);
    assert_int_equal(wait_exit(npod), 1);
    assert_said(npod, path);
    *strrchr(npod->dir, '/') = '\0';
}

static void test_npod_refuses_an_unknown_option(void **state)
{
    process *npod = *state;
    start(npod, "--lisen", "x");
    assert_int_equal(wait_exit(npod), 2);
    assert_said(npod, "--listen");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_npod_answers_and_ends_on_sigterm),
        TEST(test_npod_killed_leaves_nothing_that_blocks_the_next),
        TEST(test_npod_refuses_a_folder_in_use),
        TEST(test_npod_refuses_an_address_in_use),
        TEST(test_npod_refuses_to_listen_to_everybody),
        TEST(test_npod_refuses_a_newer_database),
        TEST(test_npod_refuses_a_state_folder_that_is_a_file),
        TEST(test_npod_refuses_an_unknown_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
