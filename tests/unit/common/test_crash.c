#include "common/crash.h"

#include "tests/unit/cmocka.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs three passes of two points in a child with NPO_CRASH_AT=spec; returns the wait status. */
static int run_child(const char *spec)
{
    pid_t pid = fork();
    if (pid == 0) {
        if (spec)
            setenv("NPO_CRASH_AT", spec, 1);
        for (int i = 0; i < 3; i++) {
            npo_crash_point("expand");
            npo_crash_point("reply.before");
        }
        _exit(7);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    return status;
}

static void test_crash_kills_at_the_nth_pass(void **state)
{
    int status = run_child("expand:3");
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    status = run_child("reply.before");
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void test_crash_leaves_others_alone(void **state)
{
    assert_int_equal(WEXITSTATUS(run_child(NULL)), 7);
    assert_int_equal(WEXITSTATUS(run_child("expand:4")), 7);
    assert_int_equal(WEXITSTATUS(run_child("store.commit.before:1")), 7);
}

static void test_crash_once_spares_the_restarted(void **state)
{
    char mark[] = "/tmp/npo-crash-XXXXXX";
    assert_int_not_equal(mkstemp(mark), -1);
    setenv("NPO_CRASH_ONCE", mark, 1);
    assert_int_equal(WEXITSTATUS(run_child("expand:1")), 7);
    unlink(mark);
    assert_true(WIFSIGNALED(run_child("expand:1")));
    assert_int_equal(WEXITSTATUS(run_child("expand:1")), 7);
    unsetenv("NPO_CRASH_ONCE");
    unlink(mark);
}

static void test_crash_lists_points_by_program(void **state)
{
    const char *const *list = npo_crash_points("executor");
    assert_non_null(list[0]);
    for (; *list; list++)
        assert_true(strchr(*list, '.') != NULL);
    assert_null(npo_crash_points("nobody")[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crash_kills_at_the_nth_pass),
        cmocka_unit_test(test_crash_leaves_others_alone),
        cmocka_unit_test(test_crash_once_spares_the_restarted),
        cmocka_unit_test(test_crash_lists_points_by_program),
    };
    return cmocka_run_group_tests_name("crash", tests, NULL, NULL);
}
