/* Requests to npod from the loop: a queue over one REQ connection, one request outstanding, each
 * answered by a callback. A request waits as long as npod is away. Belongs to the loop's thread. */
#ifndef NPO_WORKER_SUPERVISOR_IO_LINK_H
#define NPO_WORKER_SUPERVISOR_IO_LINK_H

#include "proto/connection.h"
#include <uv.h>

enum { NPO_LINK_QUEUE_MAX = 256 };

typedef struct npo_link npo_link;

/* err: that of npo_connection_receive; error holds its sentence. answer is valid when err is
 * NPO_OK, and until the callback returns. */
typedef void npo_link_callback(void *self, uint64_t tag, npo_err err, const npo_error *error,
                               const npo_answer *answer);

npo_err npo_link_open(uv_loop_t *loop, const char *address, npo_identity *identity,
                      npo_link **ret_link, npo_error *error) NPO_MUST_CHECK;
/* Callbacks that are still out are called with NPO_E_CANCELLED, from the loop; then the link is
 * freed. NULL allowed. */
void npo_link_close(npo_link *link);
/* payload is copied. self must live until the callback; tag comes back with it. Errors: NPO_E_LIMIT
 * when the queue is full or the message too large; then the callback is not called. */
npo_err npo_link_send(npo_link *link, npo_message id, cJSON *body_take, const void *payload,
                      size_t payload_len, npo_link_callback *callback, void *self, uint64_t tag,
                      npo_error *error) NPO_MUST_CHECK;

#endif
