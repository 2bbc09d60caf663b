#include "proto/server_channel.h"

#include "common/bounds.h"
#include "proto/connection.h"
#include "proto/socket.h"
#include "tests/unit/cmocka.h"

#include <nanomsg/nn.h>
#include <nanomsg/pubsub.h>
#include <nanomsg/reqrep.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CLIENTS = 8 };

/* nanomsg 1.1.5 leaks an endpoint that cannot be bound. */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:nn_bipc_create\n";
}

typedef struct {
    uv_loop_t loop;
    npo_server_channel *channel;
    npo_identity identity;
    char address[64];
    int frames, batches;
    npo_reply_to *held[CLIENTS]; /* answered at the end of the batch */
    int held_count;
    size_t reply_json_len; /* of a reply that is all blanks; 0: an echo */
    bool closed;
} fixture;

static void on_frame(void *self, const npo_frame *frame, npo_reply_to *to)
{
    fixture *fix = self;
    assert_true(npo_reply_request(to) == frame);
    fix->frames++;
    fix->held[fix->held_count++] = to;
}

static void send_blanks(npo_reply_to *to, size_t len)
{
    char *json = malloc(len);
    assert_non_null(json);
    memset(json, ' ', len);
    npo_reply_send(to, 5, json, len, NULL, 0);
    free(json);
}

/* Echoes: {"request": n} with the request's payload. */
static void on_batch_end(void *self)
{
    fixture *fix = self;
    fix->batches++;
    for (int i = 0; i < fix->held_count; i++) {
        const npo_frame *frame = npo_reply_request(fix->held[i]);
        char json[64];
        if (fix->reply_json_len > 0) {
            send_blanks(fix->held[i], fix->reply_json_len);
            continue;
        }
        snprintf(json, sizeof json, "{\"request\":%llu}", (unsigned long long)frame->request);
        npo_reply_send(fix->held[i], 5, json, strlen(json), frame->payload, frame->payload_len);
    }
    fix->held_count = 0;
}

static void on_closed(void *self)
{
    ((fixture *)self)->closed = true;
}

static int setup(void **state)
{
    fixture *fix = calloc(1, sizeof *fix);
    npo_server_handler handler = {fix, on_frame, on_batch_end};
    snprintf(fix->address, sizeof fix->address, "ipc:///tmp/npo-channel-%d.sock", (int)getpid());
    uv_loop_init(&fix->loop);
    assert_int_equal(npo_identity_init(&fix->identity, NULL), NPO_OK);
    assert_int_equal(npo_server_channel_open(&fix->loop, fix->address, NPO_CHANNEL_CONTROL,
                                             &handler, &fix->channel, NULL),
                     NPO_OK);
    npo_server_channel_set_epoch(fix->channel, 5);
    *state = fix;
    return 0;
}

static void close_channel(fixture *fix)
{
    if (!fix->closed)
        npo_server_channel_close(fix->channel, on_closed);
    uv_run(&fix->loop, UV_RUN_DEFAULT);
    assert_true(fix->closed);
}

static int teardown(void **state)
{
    fixture *fix = *state;
    close_channel(fix);
    assert_int_equal(uv_loop_close(&fix->loop), 0);
    free(fix);
    return 0;
}

/* Runs the server until the connection has an answer. */
static npo_err await_answer(fixture *fix, npo_connection *connection, npo_answer *ret_answer,
                            npo_error *error)
{
    npo_err err;
    while ((err = npo_connection_receive(connection, ret_answer, error)) == NPO_E_BUSY)
        uv_run(&fix->loop, UV_RUN_NOWAIT);
    return err;
}

static npo_connection *open_connection(fixture *fix)
{
    npo_connection *connection = NULL;
    assert_int_equal(npo_connection_open(fix->address, &fix->identity, &connection, NULL), NPO_OK);
    return connection;
}

static void test_channel_answers_requests_of_many_connections(void **state)
{
    fixture *fix = *state;
    npo_connection *connections[CLIENTS];
    uint64_t requests[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        connections[i] = open_connection(fix);
        assert_int_equal(npo_connection_send(connections[i], NPO_MESSAGE_APPEND, NULL, "line", 4,
                                             &requests[i], NULL),
                         NPO_OK);
    }
    for (int i = 0; i < CLIENTS; i++) {
        npo_answer answer = {0};
        assert_int_equal(await_answer(fix, connections[i], &answer, NULL), NPO_OK);
        assert_int_equal(npo_json_int(answer.json, "request", 0), requests[i]);
        assert_int_equal(answer.payload_len, 4);
        assert_memory_equal(answer.payload, "line", 4);
        npo_answer_fini(&answer);
        npo_connection_close(connections[i]);
    }
    assert_int_equal(fix->frames, CLIENTS);
    /* Never all at once: one half's answers are sent while the other half is handled. */
    assert_true(fix->batches >= 2 && fix->batches <= CLIENTS);
    assert_true(atomic_load(&fix->identity.epoch) == 5);
}

static void test_channel_refuses_the_other_channels_messages(void **state)
{
    fixture *fix = *state;
    npo_connection *connection = open_connection(fix);
    npo_answer answer = {0};
    npo_error error = {0};
    assert_int_equal(
        npo_connection_send(connection, NPO_MESSAGE_DOWNLOAD, NULL, NULL, 0, NULL, NULL), NPO_OK);
    assert_int_equal(await_answer(fix, connection, &answer, &error), NPO_E_REFUSED);
    assert_non_null(strstr(error.text, "'download' belongs to the other address"));
    assert_int_equal(fix->frames, 0);
    assert_int_equal(npo_server_channel_refused(fix->channel), 1);
    npo_connection_close(connection);
}

/* Raw bytes by a plain REQ socket: what is addressed is answered, the rest is dropped. */
static int raw_request(fixture *fix, const void *bytes, size_t len, uint8_t *ret_reply, size_t size)
{
    int socket, got = -1;
    assert_int_equal(npo_socket_open(AF_SP, NN_REQ, &socket, NULL), NPO_OK);
    assert_int_equal(npo_socket_connect(socket, fix->address, NULL), NPO_OK);
    uint64_t refused = npo_server_channel_refused(fix->channel);
    assert_true(nn_send(socket, bytes, len, 0) >= 0);
    while (npo_server_channel_refused(fix->channel) == refused)
        uv_run(&fix->loop, UV_RUN_NOWAIT);
    int timeout_ms = npo_frame_is_answerable(bytes, len) ? 5000 : 50;
    nn_setsockopt(socket, NN_SOL_SOCKET, NN_RCVTIMEO, &timeout_ms, sizeof timeout_ms);
    got = nn_recv(socket, ret_reply, size, 0);
    npo_socket_close(socket);
    return got;
}

static void test_channel_refuses_malformed_frames(void **state)
{
    fixture *fix = *state;
    uint8_t frame[40] = {'N', 'P', 1, 40, 8}, reply[512];
    npo_frame read = {0};
    frame[8] = frame[16] = 1;
    memcpy(frame + 32, "{\"a\":12}", 8);
    assert_int_equal(raw_request(fix, "garbage", 7, reply, sizeof reply), -1);
    frame[4] = 200; /* JSON beyond the end */
    int len = raw_request(fix, frame, sizeof frame, reply, sizeof reply);
    assert_true(len > 0);
    assert_int_equal(npo_frame_decode(reply, (size_t)len, &read, NULL), NPO_OK);
    assert_true(read.is_reply && read.boot == 1 && read.request == 1 && read.epoch == 5);
    assert_non_null(memmem(read.json, read.json_len, "FORMAT", 6));
    frame[4] = 8;
    frame[3] = 39; /* no such message */
    len = raw_request(fix, frame, sizeof frame, reply, sizeof reply);
    assert_int_equal(npo_frame_decode(reply, (size_t)len, &read, NULL), NPO_OK);
    assert_non_null(memmem(read.json, read.json_len, "NOT_FOUND", 9));
    frame[3] = 40;
    frame[8] = 0; /* no boot id */
    len = raw_request(fix, frame, sizeof frame, reply, sizeof reply);
    assert_true(len > 0);
    frame[3] = 0x80 | 40; /* a reply */
    assert_int_equal(raw_request(fix, frame, sizeof frame, reply, sizeof reply), -1);
    assert_int_equal(fix->frames, 0);
}

static void test_channel_says_that_its_address_is_in_use(void **state)
{
    fixture *fix = *state;
    npo_server_handler handler = {fix, on_frame, on_batch_end};
    npo_server_channel *second = NULL;
    npo_error error = {0};
    assert_int_equal(npo_server_channel_open(&fix->loop, fix->address, NPO_CHANNEL_CONTROL,
                                             &handler, &second, &error),
                     NPO_E_BUSY);
    assert_non_null(strstr(error.text, fix->address));
    assert_int_equal(npo_server_channel_open(&fix->loop, "tcp://256.1.1.1:1", NPO_CHANNEL_CONTROL,
                                             &handler, &second, &error),
                     NPO_E_USAGE);
}

static void test_channel_turns_an_oversized_reply_into_an_error(void **state)
{
    fixture *fix = *state;
    npo_connection *connection = open_connection(fix);
    npo_answer answer = {0};
    npo_error error = {0};
    fix->reply_json_len = NPO_REPLY_BYTES_MAX + 1;
    assert_int_equal(npo_connection_send(connection, NPO_MESSAGE_INFO, NULL, NULL, 0, NULL, NULL),
                     NPO_OK);
    assert_int_equal(await_answer(fix, connection, &answer, &error), NPO_E_LIMIT);
    assert_non_null(strstr(error.text, "reply to 'info'"));
    npo_connection_close(connection);
}

static void test_channel_sends_its_answers_before_it_closes(void **state)
{
    fixture *fix = *state;
    npo_connection *connection = open_connection(fix);
    npo_answer answer = {0};
    uint64_t request;
    assert_int_equal(
        npo_connection_send(connection, NPO_MESSAGE_INFO, NULL, NULL, 0, &request, NULL), NPO_OK);
    while (fix->batches == 0)
        uv_run(&fix->loop, UV_RUN_NOWAIT);
    close_channel(fix);
    assert_int_equal(await_answer(fix, connection, &answer, NULL), NPO_OK);
    assert_int_equal(npo_json_int(answer.json, "request", 0), request);
    npo_answer_fini(&answer);
    npo_connection_close(connection);
}

static void test_hints_reach_a_subscriber(void **state)
{
    npo_server_hints *hints = NULL;
    char address[64], byte[4];
    int socket, timeout_ms = 20, got = -1;
    snprintf(address, sizeof address, "ipc:///tmp/npo-hints-%d.sock", (int)getpid());
    assert_int_equal(npo_server_hints_open(address, &hints, NULL), NPO_OK);
    assert_int_equal(npo_socket_open(AF_SP, NN_SUB, &socket, NULL), NPO_OK);
    nn_setsockopt(socket, NN_SOL_SOCKET, NN_RCVTIMEO, &timeout_ms, sizeof timeout_ms);
    assert_int_equal(npo_socket_connect(socket, address, NULL), NPO_OK);
    for (int i = 0; i < 250 && got < 0; i++) { /* those sent before it is connected are lost */
        npo_server_hints_send(hints);
        got = nn_recv(socket, byte, sizeof byte, 0);
    }
    assert_int_equal(got, 1);
    npo_socket_close(socket);
    npo_server_hints_close(hints);
}

#define CHANNEL_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CHANNEL_TEST(test_channel_answers_requests_of_many_connections),
        CHANNEL_TEST(test_channel_refuses_the_other_channels_messages),
        CHANNEL_TEST(test_channel_refuses_malformed_frames),
        CHANNEL_TEST(test_channel_says_that_its_address_is_in_use),
        CHANNEL_TEST(test_channel_turns_an_oversized_reply_into_an_error),
        CHANNEL_TEST(test_channel_sends_its_answers_before_it_closes),
        cmocka_unit_test(test_hints_reach_a_subscriber),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
