#include "proto/client.h"

#include "common/bounds.h"
#include "common/clock.h"
#include "proto/address.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

enum { LOOK_MS = 500 }; /* between looks at whether a connection is to be renewed */

struct npo_client {
    char address[NPO_ADDRESS_SIZE], bulk_address[NPO_ADDRESS_SIZE];
    npo_identity *identity;
    int64_t deadline_ms;
    int wake_fd;
    npo_connection *control;
    npo_connection *bulk[NPO_UPLOAD_WINDOW];
};

npo_err npo_client_open(const npo_client_options *options, npo_client **ret_client,
                        npo_error *error)
{
    npo_client *client = calloc(1, sizeof *client);
    if (!client)
        return npo_error_set(error, NPO_E_NOMEM, "cannot connect to '%s'", options->address);
    client->identity = options->identity;
    client->wake_fd = options->wake_fd > 0 ? options->wake_fd : -1;
    client->deadline_ms = options->deadline_ms ? options->deadline_ms : NPO_CLIENT_DEADLINE_MS;
    npo_err err =
        npo_address_derive(options->address, NPO_ENDPOINT_CONTROL, client->address, error);
    if (!err)
        err = npo_address_derive(options->address, NPO_ENDPOINT_BULK, client->bulk_address, error);
    if (!err)
        err = npo_connection_open(client->address, client->identity, &client->control, error);
    if (err) {
        npo_client_close(client);
        return err;
    }
    *ret_client = client;
    return NPO_OK;
}

void npo_client_close(npo_client *client)
{
    if (!client)
        return;
    npo_connection_close(client->control);
    for (int i = 0; i < NPO_UPLOAD_WINDOW; i++)
        npo_connection_close(client->bulk[i]);
    free(client);
}

npo_err npo_client_bulk(npo_client *client, int index, npo_connection **ret_connection,
                        npo_error *error)
{
    if (!client->bulk[index])
        NPO_TRY(npo_connection_open(client->bulk_address, client->identity, &client->bulk[index],
                                    error));
    *ret_connection = client->bulk[index];
    return NPO_OK;
}

/* Until fd is readable, or for a while. Errors: NPO_E_UNREACHABLE at the deadline, NPO_E_CANCELLED.
 */
static npo_err wait_readable(const npo_client *client, int fd, int64_t end_ms, npo_error *error)
{
    struct pollfd fds[] = {{.fd = fd, .events = POLLIN}, {.fd = client->wake_fd, .events = POLLIN}};
    int64_t left_ms = client->deadline_ms < 0 ? LOOK_MS : end_ms - npo_clock_ms();
    int64_t wait_ms = left_ms < 0 ? 0 : left_ms < LOOK_MS ? left_ms : LOOK_MS;
    int n = poll(fds, client->wake_fd >= 0 ? 2 : 1, (int)wait_ms);
    if (n < 0 && errno != EINTR)
        return npo_error_errno(error, errno, "cannot wait for an answer");
    if (n > 0 && fds[1].revents && client->wake_fd >= 0)
        return npo_error_set(error, NPO_E_CANCELLED, "waiting for an answer was cancelled");
    if (n == 0 && left_ms <= wait_ms && client->deadline_ms >= 0)
        return npo_error_set(error, NPO_E_UNREACHABLE, "no answer from '%s' within %g s",
                             client->address, (double)client->deadline_ms / 1000.0);
    return NPO_OK;
}

npo_err npo_client_wait(npo_client *client, npo_connection *connection, npo_answer *ret_answer,
                        npo_error *error)
{
    int64_t end_ms = npo_clock_ms() + client->deadline_ms;
    npo_answer answer = {0};
    npo_err err;
    while ((err = npo_connection_receive(connection, &answer, error)) == NPO_E_BUSY) {
        NPO_TRY(wait_readable(client, npo_connection_fd(connection), end_ms, error));
        npo_connection_renew(connection);
    }
    if (err)
        return err;
    if (ret_answer)
        *ret_answer = answer;
    else
        npo_answer_fini(&answer);
    return NPO_OK;
}

npo_err npo_client_call(npo_client *client, npo_message id, const cJSON *body, const void *payload,
                        size_t payload_len, npo_answer *ret_answer, npo_error *error)
{
    npo_connection *connection = client->control;
    if (npo_message_find(id)->channel == NPO_CHANNEL_BULK)
        NPO_TRY(npo_client_bulk(client, 0, &connection, error));
    NPO_TRY(npo_connection_send(connection, id, body, payload, payload_len, NULL, error));
    return npo_client_wait(client, connection, ret_answer, error);
}
