#include "worker/supervisor/io/child.h"

#include "common/buf.h"
#include "tests/unit/cmocka.h"

#include <linux/close_range.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    uv_loop_t loop;
    npo_child *child;
    npo_buf messages, texts;
    char how[128];
    int message_count;
    const char *answer; /* sent at the first message */
} fixture;

static void on_message(void *self, const cJSON *message)
{
    fixture *fix = self;
    char *text = cJSON_PrintUnformatted(message);
    npo_buf_printf(&fix->messages, "%s;", text);
    cJSON_free(text);
    if (fix->message_count++ == 0 && fix->answer) {
        cJSON *answer = cJSON_Parse(fix->answer);
        npo_child_send(fix->child, answer);
        cJSON_Delete(answer);
    }
}

static void on_text(void *self, const char *line)
{
    fixture *fix = self;
    npo_buf_printf(&fix->texts, "%zu:%.20s;", strlen(line), line);
}

static void on_exited(void *self, const char *how)
{
    fixture *fix = self;
    snprintf(fix->how, sizeof fix->how, "%s", how);
    fix->child = NULL;
}

/* Runs a shell in the executor's place until it ends. */
static void run(fixture *fix, const char *file, const char *script, int signum)
{
    char *argv[] = {(char *)"sh", (char *)"-c", (char *)script, NULL};
    npo_child_handler handler = {fix, on_message, on_text, on_exited};
    fix->how[0] = '\0';
    assert_int_equal(npo_child_start(&fix->loop, file, argv, &handler, &fix->child, NULL), NPO_OK);
    if (signum)
        npo_child_signal(fix->child, signum);
    uv_run(&fix->loop, UV_RUN_DEFAULT);
    assert_null(fix->child);
}

static int setup(void **state)
{
    fixture *fix = calloc(1, sizeof *fix);
    uv_loop_init(&fix->loop);
    *state = fix;
    return 0;
}

static int teardown(void **state)
{
    fixture *fix = *state;
    npo_buf_fini(&fix->messages);
    npo_buf_fini(&fix->texts);
    assert_int_equal(uv_loop_close(&fix->loop), 0);
    free(fix);
    return 0;
}

static void test_child_delivers_messages_and_text_before_its_end(void **state)
{
    fixture *fix = *state;
    run(fix, "/bin/sh",
        "echo '{\"event\":\"a\"}' >&3; echo out; echo err >&2; echo 'no JSON' >&3; "
        "echo '{\"event\":\"b\"}' >&3; printf '{\"event\":\"cut off\"' >&3; exit 3",
        0);
    assert_string_equal(fix->messages.data, "{\"event\":\"a\"};{\"event\":\"b\"};");
    assert_non_null(strstr(fix->texts.data, "3:out;"));
    assert_non_null(strstr(fix->texts.data, "3:err;"));
    assert_string_equal(fix->how, "the executor ended with status 3");
}

static void test_child_hears_orders(void **state)
{
    fixture *fix = *state;
    fix->answer = "{\"order\":\"task\"}";
    run(fix, "/bin/sh", "echo '{}' >&3; read -r order <&3; echo \"$order\" >&3", 0);
    assert_string_equal(fix->messages.data, "{};{\"order\":\"task\"};");
}

static void test_child_cuts_long_text(void **state)
{
    fixture *fix = *state;
    run(fix, "/bin/sh", "head -c 10000 /dev/zero | tr '\\0' x; echo; echo next", 0);
    assert_string_equal(fix->texts.data, "4096:xxxxxxxxxxxxxxxxxxxx;4:next;");
}

static void test_child_leaves_out_endless_messages(void **state)
{
    fixture *fix = *state;
    run(fix, "/bin/sh", "head -c 5000000 /dev/zero | tr '\\0' x >&3; echo >&3; echo '{}' >&3", 0);
    assert_string_equal(fix->messages.data, "{};");
}

static void test_child_tells_what_killed_it(void **state)
{
    fixture *fix = *state;
    run(fix, "/bin/sh", "sleep 100 <&- >&- 2>&- 3>&- & wait", SIGKILL);
    assert_string_equal(fix->how, "the executor was killed by signal 9 (Killed)");
}

static void test_child_that_cannot_start_has_exited(void **state)
{
    fixture *fix = *state;
    run(fix, "/not/there", "", 0);
    assert_non_null(strstr(fix->how, "did not start"));
}

/* Nothing of ours may stay open in the child but 0 to 3. */
static void test_child_inherits_only_its_own_descriptors(void **state)
{
    fixture *fix = *state;
    run(fix, "/bin/sh", "ls /proc/self/fd | tr '\\n' ' '; echo", 0);
    /* ls itself opens the folder: 4 */
    assert_string_equal(fix->texts.data, "10:0 1 2 3 4 ;");
}

#define CHILD_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    close_range(3, ~0U, CLOSE_RANGE_CLOEXEC); /* what the test's own parent left open */
    const struct CMUnitTest tests[] = {
        CHILD_TEST(test_child_delivers_messages_and_text_before_its_end),
        CHILD_TEST(test_child_hears_orders),
        CHILD_TEST(test_child_cuts_long_text),
        CHILD_TEST(test_child_leaves_out_endless_messages),
        CHILD_TEST(test_child_tells_what_killed_it),
        CHILD_TEST(test_child_that_cannot_start_has_exited),
        CHILD_TEST(test_child_inherits_only_its_own_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
