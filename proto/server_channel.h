/* The server's end of the wire on a uv loop: a raw REP socket (control or bulk), and the PUB socket
 * of hints. The handler and all calls belong to the loop's thread; a thread of the channel owns the
 * socket, so that the loop does not pay for nanomsg's system calls and locks.
 *
 * The thread receives and checks requests and wakes the loop, which takes a batch of them: half of
 * those on their way, at most NPO_DRAIN_MAX. Each goes to handler.frame with a handle to answer it
 * by; after the last one handler.batch_end is called, so that one commit covers the batch and the
 * answers leave after it, by the thread again, while the loop goes on with the other half. An
 * answer may also be given later (work on another thread), any time before the channel is closed.
 * Frames that cannot be decoded, belong to another channel, or are replies are answered or dropped
 * by the thread and never reach the handler. While NPO_DRAIN_MAX requests wait for the loop nothing
 * is received, and what waits to be sent are answers to requests that were handed out: both queues
 * are bounded.
 *
 * A raw REP socket drops an answer whose pipe is busy without a word; clients have one request
 * outstanding and resend, so an answer lost is asked for again. */
#ifndef NPO_PROTO_SERVER_CHANNEL_H
#define NPO_PROTO_SERVER_CHANNEL_H

#include "proto/frame.h"
#include <uv.h>

typedef struct npo_server_channel npo_server_channel;
/* Where an answer goes. Owns the request's bytes, so that the frame given with it (and its payload)
 * stay valid until the handle is answered or dropped. */
typedef struct npo_reply_to npo_reply_to;

typedef struct {
    void *self;
    /* The frame is a request of this channel within its bounds; to_take must be answered or dropped
     * exactly once. */
    void (*frame)(void *self, const npo_frame *frame, npo_reply_to *to_take);
    void (*batch_end)(void *self);
} npo_server_handler;

/* Binds and starts to read. loop and handler.self outlive the channel. Errors: NPO_E_BUSY when the
 * address is in use, NPO_E_USAGE when it is none. */
npo_err npo_server_channel_open(uv_loop_t *loop, const char *address, npo_channel channel,
                                const npo_server_handler *handler, npo_server_channel **ret_channel,
                                npo_error *error) NPO_MUST_CHECK;
/* Stops reading at once, lets answers under way leave, then closes and calls closed(self) from the
 * loop; the channel is freed then. closed may be NULL. Handles still open must be dropped before.
 */
void npo_server_channel_close(npo_server_channel *channel, void (*closed)(void *self));
/* Stands in the refusals that the channel sends itself. */
void npo_server_channel_set_epoch(npo_server_channel *channel, uint64_t epoch);
/* Requests refused here since opening (malformed, wrong channel, too large). */
uint64_t npo_server_channel_refused(const npo_server_channel *channel);

/* Answers with JSON text and a payload (NULL, 0: none), which are copied; id, boot and request are
 * the request's.
 * Frees the handle in any case. A reply over the bounds becomes a LIMIT error. */
void npo_reply_send(npo_reply_to *to_take, uint64_t epoch, const char *json, size_t json_len,
                    const void *payload, size_t payload_len);
void npo_reply_drop(npo_reply_to *to_take);
/* The request that this handle answers. */
const npo_frame *npo_reply_request(const npo_reply_to *to);

typedef struct npo_server_hints npo_server_hints;

npo_err npo_server_hints_open(const char *address, npo_server_hints **ret_hints,
                              npo_error *error) NPO_MUST_CHECK;
void npo_server_hints_close(npo_server_hints *hints); /* NULL allowed */
/* "Something changed." May be lost; never blocks. */
void npo_server_hints_send(npo_server_hints *hints);

#endif
