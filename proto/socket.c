#include "proto/socket.h"

#include "common/bounds.h"

#include <errno.h>
#include <nanomsg/nn.h>
#include <nanomsg/pubsub.h>
#include <nanomsg/reqrep.h>
#include <nanomsg/tcp.h>
#include <stdio.h>
#include <string.h>

static npo_err code_of(int errnum)
{
    static const struct {
        int errnum;
        npo_err code;
    } table[] = {
        {EADDRINUSE, NPO_E_BUSY}, {EAGAIN, NPO_E_BUSY},           {ETIMEDOUT, NPO_E_TIMEOUT},
        {ENOMEM, NPO_E_NOMEM},    {EINVAL, NPO_E_USAGE},          {ENAMETOOLONG, NPO_E_USAGE},
        {ENODEV, NPO_E_USAGE},    {EPROTONOSUPPORT, NPO_E_USAGE}, {EADDRNOTAVAIL, NPO_E_USAGE},
        {EMFILE, NPO_E_LIMIT},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (table[i].errnum == errnum)
            return table[i].code;
    return NPO_E_IO;
}

npo_err npo_socket_error(npo_error *error, const char *format, ...)
{
    int errnum = nn_errno();
    char subject[NPO_ERROR_TEXT_MAX / 2];
    va_list args;
    va_start(args, format);
    vsnprintf(subject, sizeof subject, format, args);
    va_end(args);
    return npo_error_set(error, code_of(errnum), "%s: %s", subject, nn_strerror(errnum));
}

npo_err npo_socket_open(int domain, int protocol, int *ret_socket, npo_error *error)
{
    int one = 1, max_bytes = NPO_RECEIVE_BYTES_MAX, resend_ms = NPO_RESEND_MS;
    int s = nn_socket(domain, protocol);
    if (s < 0)
        return npo_socket_error(error, "cannot open a socket");
    if (nn_setsockopt(s, NN_SOL_SOCKET, NN_RCVMAXSIZE, &max_bytes, sizeof max_bytes) < 0 ||
        nn_setsockopt(s, NN_TCP, NN_TCP_NODELAY, &one, sizeof one) < 0 ||
        (protocol == NN_REQ && domain == AF_SP &&
         nn_setsockopt(s, NN_REQ, NN_REQ_RESEND_IVL, &resend_ms, sizeof resend_ms) < 0) ||
        (protocol == NN_SUB && nn_setsockopt(s, NN_SUB, NN_SUB_SUBSCRIBE, "", 0) < 0)) {
        npo_err err = npo_socket_error(error, "cannot set up a socket");
        nn_close(s);
        return err;
    }
    *ret_socket = s;
    return NPO_OK;
}

void npo_socket_close(int socket)
{
    if (socket < 0)
        return;
    while (nn_close(socket) < 0 && nn_errno() == EINTR)
        ;
}

npo_err npo_socket_bind(int socket, const char *address, npo_error *error)
{
    if (nn_bind(socket, address) >= 0)
        return NPO_OK;
    return npo_socket_error(error, "cannot listen on '%s'", address);
}

npo_err npo_socket_connect(int socket, const char *address, npo_error *error)
{
    int endpoint = 0;
    return npo_socket_reconnect(socket, address, &endpoint, error);
}

npo_err npo_socket_reconnect(int socket, const char *address, int *endpoint, npo_error *error)
{
    if (*endpoint > 0 && nn_shutdown(socket, *endpoint) < 0)
        return npo_socket_error(error, "cannot leave '%s'", address);
    *endpoint = 0;
    int connected = nn_connect(socket, address);
    if (connected < 0)
        return npo_socket_error(error, "cannot connect to '%s'", address);
    *endpoint = connected;
    return NPO_OK;
}

npo_err npo_socket_fd(int socket, int *ret_fd, npo_error *error)
{
    size_t size = sizeof *ret_fd;
    if (nn_getsockopt(socket, NN_SOL_SOCKET, NN_RCVFD, ret_fd, &size) == 0)
        return NPO_OK;
    return npo_socket_error(error, "cannot wait for a socket");
}
