#include "tests/unit/cmocka.h"
#include "tests/unit/ctl/folder.h"

#include "ctl/cluster/process.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DEADLINE_MS = 10000 };

static void start_shell(const char *dir, const char *script, pid_t *ret_pid)
{
    char *argv[] = {(char *)"/bin/sh", (char *)"-c", (char *)script, NULL};
    char *log = npo_file_join(dir, "log");
    assert_int_equal(npo_process_start(argv, log, ret_pid, NULL), NPO_OK);
    free(log);
}

static void wait_exit(pid_t pid, int *ret_status)
{
    pid_t found = 0;
    for (int waited = 0; found != pid; waited++) {
        assert_true(waited < DEADLINE_MS);
        if (!npo_process_reap(&found, ret_status))
            poll(NULL, 0, 1);
    }
}

static void wait_gone(pid_t pid)
{
    for (int waited = 0; kill(pid, 0) == 0 || errno != ESRCH; waited++) {
        assert_true(waited < DEADLINE_MS);
        poll(NULL, 0, 1);
    }
}

static pid_t read_pid(const char *dir, const char *name)
{
    npo_buf text = NPO_BUF_INIT;
    char *path = npo_file_join(dir, name);
    for (int waited = 0; text.len == 0 || text.data[text.len - 1] != '\n'; waited++) {
        assert_true(waited < DEADLINE_MS);
        npo_buf_clear(&text);
        npo_err err = npo_file_read(path, 100, &text, NULL);
        if (err || text.len == 0)
            poll(NULL, 0, 1);
    }
    pid_t pid = (pid_t)atol(text.data);
    npo_buf_fini(&text);
    free(path);
    return pid;
}

static void test_process_writes_its_log(void **state)
{
    pid_t pid;
    int status;
    char how[80], line[200], *log = npo_file_join(*state, "log");
    start_shell(*state,
                "echo first; echo '2026-01-31T12:00:00.123Z npod error out of luck' >&2; exit 3",
                &pid);
    wait_exit(pid, &status);
    npo_process_describe(status, how, sizeof how);
    assert_string_equal(how, "exit code 3");
    npo_process_last_line(log, line, sizeof line);
    assert_string_equal(line, "out of luck");
    free(log);
}

static void test_process_last_line_of_anything(void **state)
{
    static const char *const rows[][2] = {
        {"", ""}, {"one", "one"}, {"one\ntwo\n\n", "two"}, {"7 dwarfs\n", "7 dwarfs"}};
    char line[200], *log = npo_file_join(*state, "text");
    npo_process_last_line(log, line, sizeof line);
    assert_string_equal(line, "");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        folder_write(*state, "text", rows[i][0]);
        npo_process_last_line(log, line, sizeof line);
        assert_string_equal(line, rows[i][1]);
    }
    free(log);
}

static void test_process_sets_a_large_log_aside(void **state)
{
    pid_t pid;
    int status;
    uint64_t size = 0;
    char *log = npo_file_join(*state, "log"), *old = npo_file_join(*state, "log.old");
    folder_write(*state, "log", "");
    assert_int_equal(truncate(log, (16 << 20) + 1), 0);
    start_shell(*state, "echo new", &pid);
    wait_exit(pid, &status);
    assert_int_equal(npo_file_size(log, &size, NULL), NPO_OK);
    assert_int_equal(size, 4);
    assert_int_equal(npo_file_size(old, &size, NULL), NPO_OK);
    assert_int_equal(size, (16 << 20) + 1);
    free(log);
    free(old);
}

static void test_process_start_says_why_not(void **state)
{
    pid_t pid;
    npo_error error = {0};
    char *missing[] = {(char *)"/no/such/program", NULL}, *log = npo_file_join(*state, "log");
    assert_int_equal(npo_process_start(missing, log, &pid, &error), NPO_E_NOT_FOUND);
    assert_non_null(strstr(error.text, "cannot start '/no/such/program'"));
    char *argv[] = {(char *)"/bin/true", NULL};
    assert_int_not_equal(npo_process_start(argv, "/no/such/folder/log", &pid, &error), NPO_OK);
    assert_non_null(strstr(error.text, "/no/such/folder/log"));
    free(log);
}

static void test_process_reap_sweeps_the_group(void **state)
{
    pid_t pid, found;
    int status;
    char script[300];
    snprintf(script, sizeof script, "sleep 1000 & echo $! > %s/left; kill -9 $$",
             (const char *)*state);
    start_shell(*state, script, &pid);
    pid_t left = read_pid(*state, "left");
    wait_exit(pid, &status);
    char how[80];
    npo_process_describe(status, how, sizeof how);
    assert_string_equal(how, "signal 9 (Killed)");
    /* As a subreaper we inherit it, and must see it end. */
    wait_exit(left, &status);
    wait_gone(left);
    assert_false(npo_process_reap(&found, &status));
}

/* kill -9 of the process that started it leaves nothing behind. */
static void test_process_does_not_outlive_its_parent(void **state)
{
    pid_t pid, owner = fork();
    if (owner == 0) {
        char script[300];
        prctl(PR_SET_CHILD_SUBREAPER, 0);
        snprintf(script, sizeof script, "echo $$ > %s/child; exec sleep 1000",
                 (const char *)*state);
        start_shell(*state, script, &pid);
        for (;;)
            pause();
    }
    pid_t child = read_pid(*state, "child");
    assert_int_equal(kill(child, 0), 0);
    kill(owner, SIGKILL);
    assert_int_equal(waitpid(owner, NULL, 0), owner);
    int status;
    wait_exit(child, &status);
    wait_gone(child);
}

static void test_process_find(void **state)
{
    npo_error error = {0};
    char *path = NULL, *program = npo_file_join(*state, "npo-test-program");
    folder_write(*state, "npo-test-program", "#!/bin/sh\n");
    setenv("PATH", *state, 1);
    assert_int_equal(npo_process_find("npo-test-program", "server", NULL, &path, &error),
                     NPO_E_NOT_FOUND);
    assert_string_equal(error.text,
                        "cannot find 'npo-test-program': neither beside npoctl nor in PATH");
    assert_int_equal(npo_process_find("x", "server", program, &path, &error), NPO_E_NOT_FOUND);
    assert_int_equal(chmod(program, 0755), 0);
    assert_int_equal(npo_process_find("npo-test-program", "server", NULL, &path, &error), NPO_OK);
    assert_string_equal(path, program);
    free(path);
    assert_int_equal(npo_process_find("x", "server", program, &path, &error), NPO_OK);
    assert_string_equal(path, program);
    free(path);
    free(program);
}

#define IN_FOLDER(name) cmocka_unit_test_setup_teardown(name, folder_setup, folder_teardown)

int main(void)
{
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_process_writes_its_log),
        IN_FOLDER(test_process_last_line_of_anything),
        IN_FOLDER(test_process_sets_a_large_log_aside),
        IN_FOLDER(test_process_start_says_why_not),
        IN_FOLDER(test_process_reap_sweeps_the_group),
        IN_FOLDER(test_process_does_not_outlive_its_parent),
        IN_FOLDER(test_process_find),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
