/* nanomsg sockets as every module here opens them; the only place that knows nanomsg's errors. */
#ifndef NPO_PROTO_SOCKET_H
#define NPO_PROTO_SOCKET_H

#include "common/err.h"

/* A socket with NN_RCVMAXSIZE, TCP_NODELAY and, for REQ, the resend interval set.
 * domain: AF_SP or AF_SP_RAW. */
npo_err npo_socket_open(int domain, int protocol, int *ret_socket, npo_error *error) NPO_MUST_CHECK;
void npo_socket_close(int socket); /* below 0: none */
/* Errors: NPO_E_BUSY when somebody listens there already, NPO_E_USAGE for a bad address. */
npo_err npo_socket_bind(int socket, const char *address, npo_error *error) NPO_MUST_CHECK;
npo_err npo_socket_connect(int socket, const char *address, npo_error *error) NPO_MUST_CHECK;
/* Connects in place of an earlier connection of this socket. *endpoint names it, 0: there is none
 * yet; it becomes the new one's. What waits in the socket stays there. */
npo_err npo_socket_reconnect(int socket, const char *address, int *endpoint,
                             npo_error *error) NPO_MUST_CHECK;
/* NN_RCVFD: level-triggered, owned by the socket. */
npo_err npo_socket_fd(int socket, int *ret_fd, npo_error *error) NPO_MUST_CHECK;
/* nn_errno() as an error, with "format: reason". */
npo_err npo_socket_error(npo_error *error, const char *format, ...) NPO_PRINTF(2, 3);

#endif
