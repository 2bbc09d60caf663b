#include "proto/connection.h"

#include "common/bounds.h"
#include "common/clock.h"

#include "tests/unit/cmocka.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* A peer by hand: it accepts and greets as nanomsg's REP does, and answers nothing. */
typedef struct {
    char dir[32], path[64], address[80];
    int listener;
    npo_identity identity;
    npo_connection *connection;
} fixture;

static const char greeting[8] = {0, 'S', 'P', 0, 0, 0x31, 0, 0};

static void listen_here(fixture *fix)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(fix->dir, "/tmp/npo-test-XXXXXX");
    assert_non_null(mkdtemp(fix->dir));
    snprintf(fix->path, sizeof fix->path, "%s/x.sock", fix->dir);
    snprintf(fix->address, sizeof fix->address, "ipc://%s", fix->path);
    strcpy(address.sun_path, fix->path);
    fix->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fix->listener, (struct sockaddr *)&address, sizeof address), 0);
    assert_int_equal(listen(fix->listener, 8), 0);
}

static int setup(void **state)
{
    fixture *fix = calloc(1, sizeof *fix);
    listen_here(fix);
    assert_int_equal(npo_identity_init(&fix->identity, NULL), NPO_OK);
    assert_int_equal(npo_connection_open(fix->address, &fix->identity, &fix->connection, NULL),
                     NPO_OK);
    *state = fix;
    return 0;
}

static int teardown(void **state)
{
    fixture *fix = *state;
    npo_connection_close(fix->connection);
    close(fix->listener);
    unlink(fix->path);
    rmdir(fix->dir);
    free(fix);
    return 0;
}

static int accept_and_greet(const fixture *fix)
{
    struct pollfd wait = {.fd = fix->listener, .events = POLLIN};
    assert_int_equal(poll(&wait, 1, 10000), 1);
    int fd = accept(fix->listener, NULL, NULL);
    assert_true(fd >= 0);
    assert_int_equal(send(fd, greeting, sizeof greeting, MSG_NOSIGNAL), sizeof greeting);
    return fd;
}

/* The request id of the frame that comes, behind nanomsg's greeting, kind, length and id. */
static uint64_t read_request(int fd)
{
    unsigned char bytes[8 + 1 + 8 + 4 + NPO_FRAME_HEADER_BYTES + 2];
    uint64_t request;
    assert_int_equal(recv(fd, bytes, sizeof bytes, MSG_WAITALL), sizeof bytes);
    memcpy(&request, bytes + 8 + 1 + 8 + 4 + 16, sizeof request);
    return request;
}

static void test_connection_renews_when_an_answer_is_overdue(void **state)
{
    fixture *fix = *state;
    uint64_t request = 0;
    assert_int_equal(
        npo_connection_send(fix->connection, NPO_MESSAGE_INFO, NULL, NULL, 0, &request, NULL),
        NPO_OK);
    int64_t start_ms = npo_clock_ms();
    int mute = accept_and_greet(fix);
    assert_int_equal(read_request(mute), request);
    while (!npo_connection_renew(fix->connection))
        usleep(10000);
    assert_true(npo_clock_ms() - start_ms >= NPO_RENEW_MS - 1);
    int again = accept_and_greet(fix);
    assert_int_equal(read_request(again), request);
    assert_false(npo_connection_renew(fix->connection));
    close(mute);
    close(again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_connection_renews_when_an_answer_is_overdue, setup,
                                        teardown),
    };
    return cmocka_run_group_tests_name("connection", tests, NULL, NULL);
}
