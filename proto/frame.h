/* Frames of the wire protocol and the table of messages; docs/protocol.md describes both.
 *
 * Byte table of a frame (version 1, little endian):
 *   0   2  'N' 'P'
 *   2   1  protocol version
 *   3   1  message id; bit 7: a reply
 *   4   4  bytes of JSON
 *   8   8  boot id of the process that asks
 *   16  8  request id, counts up from 1 within a boot id
 *   24  8  coordinator epoch
 *   32  n  JSON object
 *   then   payload to the end
 * Version rule: a decoder refuses every version but its own; new keys may appear in the JSON.
 *
 * A process may hold several connections under one boot id (reports, uploads, chunks). Request ids
 * are unique across them but may arrive out of order: of the requests whose replies are remembered
 * (dedup), fewer than NPO_REQUESTS_IN_FLIGHT_MAX are newer than one that may still be resent. */
#ifndef NPO_PROTO_FRAME_H
#define NPO_PROTO_FRAME_H

#include "common/buf.h"
#include "common/err.h"
#include "common/json.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    NPO_PROTOCOL_VERSION = 1,
    NPO_FRAME_HEADER_BYTES = 32,
    NPO_FRAME_REPLY_BIT = 0x80,
    NPO_REQUESTS_IN_FLIGHT_MAX = 16
};

typedef enum { NPO_SENDER_WORKER = 1, NPO_SENDER_CLIENT = 2, NPO_SENDER_ANY = 3 } npo_sender;
typedef enum { NPO_CHANNEL_CONTROL, NPO_CHANNEL_BULK } npo_channel;

typedef enum {
#define NPO_MESSAGE(id, NAME, name, sender, channel, bytes_max, dedup) NPO_MESSAGE_##NAME = id,
#include "proto/messages.def"
#undef NPO_MESSAGE
} npo_message;

/* One row of messages.def. */
typedef struct {
    npo_message id;
    const char *name; /* "upload_open" */
    npo_sender sender;
    npo_channel channel;
    size_t bytes_max; /* JSON and payload of the request together */
    bool dedup;       /* changes state: the reply is remembered per (boot id, request id) */
} npo_message_info;

/* NULL for an id that stands for no message. */
const npo_message_info *npo_message_find(unsigned id);
/* All rows in the order of messages.def. */
const npo_message_info *npo_message_table(size_t *ret_count);

typedef struct {
    npo_message id;
    bool is_reply;
    uint64_t boot, request, epoch;
    const char *json; /* not NUL-terminated, not yet parsed */
    size_t json_len;
    const void *payload; /* NULL when payload_len is 0 */
    size_t payload_len;
} npo_frame;

/* Reads a frame in place: ret_frame borrows from bytes. Bounds are those of the message (replies:
 * NPO_REPLY_BYTES_MAX of JSON and NPO_MESSAGE_BYTES_MAX in all). Errors: NPO_E_FORMAT,
 * NPO_E_VERSION, NPO_E_LIMIT, NPO_E_NOT_FOUND (no such message). On failure, when the header is
 * whole, ret_frame holds what of id, boot, request and epoch could be read, so that the refusal can
 * be addressed. */
npo_err npo_frame_decode(const void *bytes, size_t len, npo_frame *ret_frame,
                         npo_error *error) NPO_MUST_CHECK;
/* True when npo_frame_decode failed but a reply can be addressed (32 bytes, magic, not a reply). */
bool npo_frame_is_answerable(const void *bytes, size_t len);

size_t npo_frame_bytes(const npo_frame *frame);
/* Writes npo_frame_bytes(frame) bytes. Bounds as in decode: NPO_E_LIMIT. */
npo_err npo_frame_encode(const npo_frame *frame, void *ret_bytes, size_t size,
                         npo_error *error) NPO_MUST_CHECK;
/* As npo_frame_encode, appended to a buffer. */
npo_err npo_frame_append(const npo_frame *frame, npo_buf *ret_buf, npo_error *error) NPO_MUST_CHECK;

/* The JSON of a frame as an object (cJSON_Delete). Errors: NPO_E_FORMAT, NPO_E_TYPE. */
npo_err npo_frame_parse(const npo_frame *frame, cJSON **ret_json, npo_error *error) NPO_MUST_CHECK;
/* {"error": {"code", "text"}} (cJSON_Delete), or NULL when out of memory. text NULL: the code's. */
cJSON *npo_reply_error_new(npo_err code, const char *text);
/* NPO_OK when the reply is no error; else its code, with its text in *error. */
npo_err npo_reply_check(const cJSON *reply, npo_error *error) NPO_MUST_CHECK;

#endif
