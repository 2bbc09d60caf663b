#include "worker/executor/wire.h"

#include "tests/unit/cmocka.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* The executor's end lives in a child process, since it ends its process with the socket. */
typedef struct {
    int fd;
    FILE *lines;
    pid_t pid;
} fixture;

static void start(fixture *fix, void (*body)(npo_wire *wire))
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    fflush(NULL);
    fix->pid = fork();
    if (fix->pid == 0) {
        npo_wire *wire = NULL;
        close(fds[0]);
        if (npo_wire_open(fds[1], &wire, NULL))
            _exit(9);
        body(wire);
        pause(); /* until the socket ends it */
    }
    close(fds[1]);
    fix->fd = fds[0];
    fix->lines = fdopen(fds[0], "r");
}

static void send_text(fixture *fix, const char *text)
{
    assert_int_equal(write(fix->fd, text, strlen(text)), strlen(text));
}

/* The next message but those that only say "alive". */
static cJSON *next_message(fixture *fix)
{
    char line[4096];
    while (fgets(line, sizeof line, fix->lines)) {
        cJSON *message = cJSON_Parse(line);
        assert_non_null(message);
        if (strcmp(npo_json_string(message, "event", ""), "alive") != 0)
            return message;
        cJSON_Delete(message);
    }
    fail_msg("the wire has ended");
    return NULL;
}

static void expect_event(fixture *fix, const char *expected)
{
    cJSON *message = next_message(fix);
    char *text = cJSON_PrintUnformatted(message);
    assert_string_equal(text, expected);
    cJSON_free(text);
    cJSON_Delete(message);
}

static void expect_end(fixture *fix, int code)
{
    int status;
    fclose(fix->lines);
    assert_int_equal(waitpid(fix->pid, &status, 0), fix->pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == code);
}

static void send_number(npo_wire *wire, const char *event, double value)
{
    cJSON *body = cJSON_CreateObject();
    cJSON_AddNumberToObject(body, "value", value);
    npo_wire_send(wire, event, body);
}

static void take_two_tasks(npo_wire *wire)
{
    npo_wire_send(wire, "ready", NULL);
    for (int i = 0; i < 2; i++) {
        cJSON *task = npo_wire_wait_task(wire);
        send_number(wire, "task", (double)npo_json_int(task, "ticket", 0));
        cJSON_Delete(task);
    }
}

static void test_wire_takes_orders_in_pieces_and_ends_with_its_peer(void **state)
{
    fixture fix;
    start(&fix, take_two_tasks);
    expect_event(&fix, "{\"event\":\"ready\"}");
    send_text(&fix, "{\"order\":\"task\",\"tick");
    send_text(&fix, "et\":4}\nnot JSON\n{\"order\":\"unheard of\"}\n");
    expect_event(&fix, "{\"value\":4,\"event\":\"task\"}");
    send_text(&fix, "{\"order\":\"task\",\"ticket\":5}\n");
    expect_event(&fix, "{\"value\":5,\"event\":\"task\"}");
    expect_end(&fix, 0);
}

static void wait_for_cancel(npo_wire *wire)
{
    char *value = NULL;
    cJSON_Delete(npo_wire_wait_task(wire));
    send_number(wire, "cancelled", npo_wire_is_cancelled(wire));
    npo_wire_send(wire, "waiting", NULL);
    send_number(wire, "code", npo_wire_wait_store(wire, 1, &value));
    send_number(wire, "cancelled", npo_wire_is_cancelled(wire));
    cJSON_Delete(npo_wire_wait_task(wire));
    send_number(wire, "cancelled", npo_wire_is_cancelled(wire));
}

static void test_wire_cancel_is_about_its_ticket_and_ends_a_wait(void **state)
{
    fixture fix;
    char code[64];
    start(&fix, wait_for_cancel);
    send_text(&fix, "{\"order\":\"cancel\",\"ticket\":3}\n{\"order\":\"task\",\"ticket\":4}\n");
    expect_event(&fix, "{\"value\":0,\"event\":\"cancelled\"}");
    expect_event(&fix, "{\"event\":\"waiting\"}");
    send_text(&fix, "{\"order\":\"cancel\",\"ticket\":4}\n");
    snprintf(code, sizeof code, "{\"value\":%d,\"event\":\"code\"}", (int)NPO_E_CANCELLED);
    expect_event(&fix, code);
    expect_event(&fix, "{\"value\":1,\"event\":\"cancelled\"}");
    send_text(&fix, "{\"order\":\"task\",\"ticket\":5}\n");
    expect_event(&fix, "{\"value\":0,\"event\":\"cancelled\"}");
    expect_end(&fix, 0);
}

static void ask_store(npo_wire *wire)
{
    char *value = NULL;
    cJSON_Delete(npo_wire_wait_task(wire));
    npo_err err = npo_wire_wait_store(wire, 8, &value);
    cJSON *body = cJSON_CreateObject();
    cJSON_AddStringToObject(body, "code", npo_err_name(err));
    cJSON_AddStringToObject(body, "value", value ? value : "(none)");
    npo_wire_send(wire, "store", body);
    free(value);
}

static void test_wire_waits_for_the_answer_of_its_request(void **state)
{
    fixture fix;
    start(&fix, ask_store);
    send_text(&fix, "{\"order\":\"task\",\"ticket\":4}\n");
    send_text(&fix, "{\"order\":\"store\",\"id\":7,\"code\":\"OK\",\"value\":\"late\"}\n");
    send_text(&fix, "{\"order\":\"store\",\"id\":8,\"code\":\"OK\",\"value\":\"AAEC\"}\n");
    expect_event(&fix, "{\"code\":\"OK\",\"value\":\"AAEC\",\"event\":\"store\"}");
    expect_end(&fix, 0);
    start(&fix, ask_store);
    send_text(&fix, "{\"order\":\"task\",\"ticket\":4}\n");
    send_text(&fix, "{\"order\":\"store\",\"id\":8,\"code\":\"TIMEOUT\"}\n");
    expect_event(&fix, "{\"code\":\"TIMEOUT\",\"value\":\"(none)\",\"event\":\"store\"}");
    expect_end(&fix, 0);
}

static void do_nothing(npo_wire *wire)
{
}

static void test_wire_says_alive_by_itself(void **state)
{
    fixture fix;
    char line[64];
    start(&fix, do_nothing);
    assert_non_null(fgets(line, sizeof line, fix.lines));
    assert_string_equal(line, "{\"event\":\"alive\"}\n");
    expect_end(&fix, 0);
}

static void test_wire_refuses_what_is_no_socket(void **state)
{
    npo_wire *wire = NULL;
    npo_error error = {0};
    assert_int_equal(npo_wire_open(-1, &wire, &error), NPO_E_STATE);
    assert_non_null(strstr(error.text, "started by npoworker"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wire_takes_orders_in_pieces_and_ends_with_its_peer),
        cmocka_unit_test(test_wire_cancel_is_about_its_ticket_and_ends_a_wait),
        cmocka_unit_test(test_wire_waits_for_the_answer_of_its_request),
        cmocka_unit_test(test_wire_says_alive_by_itself),
        cmocka_unit_test(test_wire_refuses_what_is_no_socket),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
