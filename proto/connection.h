/* One REQ socket: one request outstanding, resent every NPO_RESEND_MS and after a reconnect until
 * it is answered or another is sent. Not thread safe; the identity is.
 *
 * Never fork a process that has opened one: nanomsg's thread does not follow into the child. */
#ifndef NPO_PROTO_CONNECTION_H
#define NPO_PROTO_CONNECTION_H

#include "proto/frame.h"
#include <stdatomic.h>

/* Who asks: one for a process, shared by all its connections and threads. */
typedef struct {
    uint64_t boot;             /* random, never 0 */
    _Atomic uint64_t requests; /* the last id given out */
    _Atomic uint64_t epoch;    /* the highest seen */
} npo_identity;

npo_err npo_identity_init(npo_identity *ret_identity, npo_error *error) NPO_MUST_CHECK;
uint64_t npo_identity_next_request(npo_identity *identity);
/* Remembers an epoch. Errors: NPO_E_REFUSED when a higher one was seen before. */
npo_err npo_identity_see_epoch(npo_identity *identity, uint64_t epoch,
                               npo_error *error) NPO_MUST_CHECK;

/* What came back. json and payload live until npo_answer_fini. */
typedef struct {
    cJSON *json;
    const void *payload;
    size_t payload_len;
    uint64_t request;
    void *message; /* owns the payload */
} npo_answer;

void npo_answer_fini(npo_answer *answer); /* a zeroed answer is fine */

typedef struct npo_connection npo_connection;

/* Returns at once, whether or not anybody listens. identity outlives the connection. */
npo_err npo_connection_open(const char *address, npo_identity *identity,
                            npo_connection **ret_connection, npo_error *error) NPO_MUST_CHECK;
void npo_connection_close(npo_connection *connection); /* NULL allowed */
/* Readable when npo_connection_receive has something; owned by the connection. */
int npo_connection_fd(const npo_connection *connection);
/* To be called about once a second while an answer is awaited. One that is overdue (NPO_RENEW_MS,
 * then twice that ...) makes the connection anew, and the request goes out again by itself. nanomsg
 * waits for ever when npod dies at the moment an ipc connection is made (seen in 1.1.5). True: it
 * was renewed. */
bool npo_connection_renew(npo_connection *connection);
/* Sends a new request and forgets an unanswered one. body is borrowed, NULL: {}. ret_request (NULL
 * allowed) is its id. Errors: NPO_E_LIMIT over the message's bound. */
npo_err npo_connection_send(npo_connection *connection, npo_message id, const cJSON *body,
                            const void *payload, size_t payload_len, uint64_t *ret_request,
                            npo_error *error) NPO_MUST_CHECK;
/* The answer to the last request, without waiting. Errors: NPO_E_BUSY: none yet. NPO_E_REFUSED:
 * from a coordinator that is out of date. NPO_E_FORMAT. Otherwise the error that the answer itself
 * is. */
npo_err npo_connection_receive(npo_connection *connection, npo_answer *ret_answer,
                               npo_error *error) NPO_MUST_CHECK;

#endif
