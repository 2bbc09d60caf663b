#include "proto/connection.h"

#include "common/bounds.h"
#include "common/clock.h"
#include "proto/address.h"
#include "proto/socket.h"

#include <errno.h>
#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* ---- identity ---- */

npo_err npo_identity_init(npo_identity *ret_identity, npo_error *error)
{
    uint64_t boot = 0;
    while (boot == 0)
        if (getrandom(&boot, sizeof boot, 0) != (ssize_t)sizeof boot && errno != EINTR)
            return npo_error_errno(error, errno, "cannot draw a boot id");
    ret_identity->boot = boot;
    atomic_init(&ret_identity->requests, 0);
    atomic_init(&ret_identity->epoch, 0);
    return NPO_OK;
}

uint64_t npo_identity_next_request(npo_identity *identity)
{
    return atomic_fetch_add(&identity->requests, 1) + 1;
}

npo_err npo_identity_see_epoch(npo_identity *identity, uint64_t epoch, npo_error *error)
{
    uint64_t seen = atomic_load(&identity->epoch);
    while (epoch > seen)
        if (atomic_compare_exchange_weak(&identity->epoch, &seen, epoch))
            return NPO_OK;
    if (epoch < seen)
        return npo_error_set(
            error, NPO_E_REFUSED,
            "the coordinator's epoch is %llu, but %llu was seen: it is out of date",
            (unsigned long long)epoch, (unsigned long long)seen);
    return NPO_OK;
}

/* ---- connection ---- */

struct npo_connection {
    int socket, fd, endpoint;
    char address[NPO_ADDRESS_SIZE];
    npo_identity *identity;
    uint64_t request;              /* the last sent */
    int64_t renew_at_ms, renew_ms; /* when an answer is overdue, and for how long it then was */
};

void npo_answer_fini(npo_answer *answer)
{
    cJSON_Delete(answer->json);
    if (answer->message)
        nn_freemsg(answer->message);
    *answer = (npo_answer){0};
}

npo_err npo_connection_open(const char *address, npo_identity *identity,
                            npo_connection **ret_connection, npo_error *error)
{
    npo_connection *connection = calloc(1, sizeof *connection);
    if (!connection)
        return npo_error_set(error, NPO_E_NOMEM, "cannot connect to '%s'", address);
    connection->socket = -1;
    connection->identity = identity;
    snprintf(connection->address, sizeof connection->address, "%s", address);
    npo_err err = npo_socket_open(AF_SP, NN_REQ, &connection->socket, error);
    if (!err)
        err = npo_socket_reconnect(connection->socket, address, &connection->endpoint, error);
    if (!err)
        err = npo_socket_fd(connection->socket, &connection->fd, error);
    if (err) {
        npo_connection_close(connection);
        return err;
    }
    *ret_connection = connection;
    return NPO_OK;
}

void npo_connection_close(npo_connection *connection)
{
    if (!connection)
        return;
    npo_socket_close(connection->socket);
    free(connection);
}

int npo_connection_fd(const npo_connection *connection)
{
    return connection->fd;
}

bool npo_connection_renew(npo_connection *connection)
{
    int64_t now_ms = npo_clock_ms();
    if (now_ms < connection->renew_at_ms)
        return false;
    if (connection->renew_ms < NPO_RENEW_MAX_MS / 2)
        connection->renew_ms *= 2;
    connection->renew_at_ms = now_ms + connection->renew_ms;
    /* A failure is tried again when it is due again. */
    return npo_socket_reconnect(connection->socket, connection->address, &connection->endpoint,
                                NULL) == NPO_OK;
}

static npo_err encode(const npo_frame *frame, void **ret_message, npo_error *error)
{
    size_t size = npo_frame_bytes(frame);
    void *message = nn_allocmsg(size, 0);
    if (!message)
        return npo_error_set(error, NPO_E_NOMEM, "cannot send %zu bytes: out of memory", size);
    npo_err err = npo_frame_encode(frame, message, size, error);
    if (err)
        nn_freemsg(message);
    else
        *ret_message = message;
    return err;
}

/* An answer that nobody fetched would be overwritten by the next, and nanomsg would leak it. */
static void discard_answer(npo_connection *connection)
{
    void *message = NULL;
    if (nn_recv(connection->socket, &message, NN_MSG, NN_DONTWAIT) >= 0)
        nn_freemsg(message);
}

npo_err npo_connection_send(npo_connection *connection, npo_message id, const cJSON *body,
                            const void *payload, size_t payload_len, uint64_t *ret_request,
                            npo_error *error)
{
    void *message = NULL;
    char *json = body ? cJSON_PrintUnformatted(body) : strdup("{}");
    if (!json)
        return npo_error_set(error, NPO_E_NOMEM, "cannot send a request: out of memory");
    npo_frame frame = {.id = id,
                       .boot = connection->identity->boot,
                       .request = npo_identity_next_request(connection->identity),
                       .epoch = atomic_load(&connection->identity->epoch),
                       .json = json,
                       .json_len = strlen(json),
                       .payload = payload,
                       .payload_len = payload_len};
    npo_err err = encode(&frame, &message, error);
    free(json);
    if (err)
        return err;
    discard_answer(connection);
    /* REQ always takes a request; it waits inside for a connection. */
    if (nn_send(connection->socket, &message, NN_MSG, NN_DONTWAIT) < 0) {
        nn_freemsg(message);
        return npo_socket_error(error, "cannot send '%s'", npo_message_find(id)->name);
    }
    connection->request = frame.request;
    connection->renew_ms = NPO_RENEW_MS;
    connection->renew_at_ms = npo_clock_ms() + NPO_RENEW_MS;
    if (ret_request)
        *ret_request = frame.request;
    return NPO_OK;
}

static npo_err read_answer(const npo_connection *connection, void *message, size_t len,
                           npo_answer *answer, npo_error *error)
{
    npo_frame frame;
    NPO_TRY(npo_frame_decode(message, len, &frame, error));
    if (!frame.is_reply || frame.boot != connection->identity->boot ||
        frame.request != connection->request)
        return npo_error_set(error, NPO_E_FORMAT, "an answer to request %llu came, expected %llu",
                             (unsigned long long)frame.request,
                             (unsigned long long)connection->request);
    NPO_TRY(npo_identity_see_epoch(connection->identity, frame.epoch, error));
    NPO_TRY(npo_frame_parse(&frame, &answer->json, error));
    answer->payload = frame.payload;
    answer->payload_len = frame.payload_len;
    answer->request = frame.request;
    return npo_reply_check(answer->json, error);
}

npo_err npo_connection_receive(npo_connection *connection, npo_answer *ret_answer, npo_error *error)
{
    void *message = NULL;
    int len = nn_recv(connection->socket, &message, NN_MSG, NN_DONTWAIT);
    if (len < 0) {
        /* EFSM: nothing was asked. It reads as "nothing there" too. */
        if (nn_errno() == EAGAIN || nn_errno() == EFSM || nn_errno() == EINTR)
            return NPO_E_BUSY;
        return npo_socket_error(error, "cannot receive an answer");
    }
    npo_answer answer = {.message = message};
    npo_err err = read_answer(connection, message, (size_t)len, &answer, error);
    /* BUSY means "none yet" here; a BUSY of npod's must not look like it. */
    if (err == NPO_E_BUSY)
        err = NPO_E_STATE;
    if (err)
        npo_answer_fini(&answer);
    else
        *ret_answer = answer;
    return err;
}
