/* A client that waits for its answers: for npoctl, and for threads of the supervisor that move
 * files. Not thread safe; one for each thread. */
#ifndef NPO_PROTO_CLIENT_H
#define NPO_PROTO_CLIENT_H

#include "proto/connection.h"

typedef struct {
    const char *address;    /* control address of npod */
    npo_identity *identity; /* outlives the client */
    int64_t deadline_ms;    /* for each answer; 0: NPO_CLIENT_DEADLINE_MS, below 0: none */
    int wake_fd; /* becoming readable ends a wait with NPO_E_CANCELLED; 0 or less: none */
} npo_client_options;

typedef struct npo_client npo_client;

/* Connects lazily: the first call finds out whether npod is there. */
npo_err npo_client_open(const npo_client_options *options, npo_client **ret_client,
                        npo_error *error) NPO_MUST_CHECK;
void npo_client_close(npo_client *client); /* NULL allowed */

/* Asks and waits. body is borrowed, NULL: {}. ret_answer (NULL: not wanted) is to be freed by
 * npo_answer_fini, and is untouched on failure. Bulk messages go to the bulk address. Errors:
 * NPO_E_UNREACHABLE after the deadline, NPO_E_CANCELLED, NPO_E_REFUSED (npod is out of date), or
 * the error npod answers. */
npo_err npo_client_call(npo_client *client, npo_message id, const cJSON *body, const void *payload,
                        size_t payload_len, npo_answer *ret_answer,
                        npo_error *error) NPO_MUST_CHECK;

/* Two bulk connections for transfers (index 0 and 1), opened at first use. */
npo_err npo_client_bulk(npo_client *client, int index, npo_connection **ret_connection,
                        npo_error *error) NPO_MUST_CHECK;
/* Waits for the answer to what was sent on a connection of this client. Errors as npo_client_call.
 */
npo_err npo_client_wait(npo_client *client, npo_connection *connection, npo_answer *ret_answer,
                        npo_error *error) NPO_MUST_CHECK;

#endif
