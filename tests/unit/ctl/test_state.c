#include "tests/unit/cmocka.h"
#include "tests/unit/ctl/folder.h"

#include "ctl/cluster/state.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static void expect_path(const char *given, const char *expected)
{
    char *path = NULL;
    assert_int_equal(npo_state_path(given, &path, NULL), NPO_OK);
    assert_string_equal(path, expected);
    free(path);
}

static void test_state_path_prefers_what_is_given(void **state)
{
    char relative[4096], *cwd = getcwd(NULL, 0);
    setenv("HOME", "/home/a", 1);
    unsetenv("XDG_STATE_HOME");
    expect_path("/x/y", "/x/y");
    snprintf(relative, sizeof relative, "%s/y", cwd);
    expect_path("y", relative);
    expect_path(NULL, "/home/a/.local/state/npo");
    setenv("XDG_STATE_HOME", "relative", 1);
    expect_path(NULL, "/home/a/.local/state/npo");
    setenv("XDG_STATE_HOME", "/xdg", 1);
    expect_path(NULL, "/xdg/npo");
    expect_path("", "/xdg/npo");
    free(cwd);
}

static void test_state_path_needs_a_home(void **state)
{
    char *path = NULL;
    npo_error error = {0};
    unsetenv("HOME");
    unsetenv("XDG_STATE_HOME");
    assert_int_equal(npo_state_path(NULL, &path, &error), NPO_E_USAGE);
    assert_string_equal(error.text,
                        "no state folder: HOME is not set; use --state DIR or NPO_STATE");
}

static void test_state_without_an_owner(void **state)
{
    pid_t pid = -1;
    assert_int_equal(npo_state_owner(*state, &pid, NULL), NPO_OK);
    assert_int_equal(pid, 0);
    folder_write(*state, "up.lock", "");
    pid = -1;
    assert_int_equal(npo_state_owner(*state, &pid, NULL), NPO_OK);
    assert_int_equal(pid, 0);
}

/* A process that owns the folder until it is killed; its child, which outlives it a little, does
 * not. */
static pid_t start_owner(const char *dir)
{
    int pipe_fds[2];
    char byte = 0;
    assert_int_equal(pipe(pipe_fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        byte = npo_state_own(dir, NULL) == NPO_OK ? '+' : '-';
        if (write(pipe_fds[1], &byte, 1) == 1)
            for (;;)
                pause();
        _exit(1);
    }
    assert_int_equal(read(pipe_fds[0], &byte, 1), 1);
    assert_int_equal(byte, '+');
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    return pid;
}

static void test_state_has_one_owner_while_it_lives(void **state)
{
    char *dir = npo_file_join(*state, "a/b");
    char expected[400];
    npo_error error = {0};
    struct stat st;
    pid_t found = 0, owner = start_owner(dir);
    assert_int_equal(stat(dir, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    assert_int_equal(npo_state_owner(dir, &found, NULL), NPO_OK);
    assert_int_equal(found, owner);
    assert_int_equal(npo_state_own(dir, &error), NPO_E_BUSY);
    snprintf(expected, sizeof expected,
             "'%s' is in use by process %ld ('npoctl up'); 'npoctl down' stops it", dir,
             (long)owner);
    assert_string_equal(error.text, expected);
    kill(owner, SIGKILL);
    waitpid(owner, NULL, 0);
    assert_int_equal(npo_state_owner(dir, &found, NULL), NPO_OK);
    assert_int_equal(found, 0);
    assert_int_equal(npo_state_own(dir, &error), NPO_OK);
    free(dir);
}

static void test_state_own_names_what_is_in_the_way(void **state)
{
    npo_error error = {0};
    char *path = npo_file_join(*state, "file");
    folder_write(*state, "file", "");
    assert_int_not_equal(npo_state_own(path, &error), NPO_OK);
    assert_non_null(strstr(error.text, path));
    free(path);
}

#define IN_FOLDER(name) cmocka_unit_test_setup_teardown(name, folder_setup, folder_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_state_path_prefers_what_is_given),
        cmocka_unit_test(test_state_path_needs_a_home),
        IN_FOLDER(test_state_without_an_owner),
        IN_FOLDER(test_state_has_one_owner_while_it_lives),
        IN_FOLDER(test_state_own_names_what_is_in_the_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
