#include "proto/frame.h"

#include "common/bounds.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define WORKER NPO_SENDER_WORKER
#define CLIENT NPO_SENDER_CLIENT
#define ANY    NPO_SENDER_ANY

static const npo_message_info table[] = {
#define NPO_MESSAGE(id, NAME, name, sender, channel, bytes_max, dedup)                             \
    {NPO_MESSAGE_##NAME, name, sender, NPO_CHANNEL_##channel, bytes_max, dedup},
#include "proto/messages.def"
#undef NPO_MESSAGE
};
enum { TABLE_COUNT = sizeof table / sizeof table[0] };

#define NPO_MESSAGE(id, NAME, name, sender, channel, bytes_max, dedup)                             \
    static_assert(id > 0 && id < NPO_FRAME_REPLY_BIT, name ": the id must fit in 7 bits");         \
    static_assert(bytes_max <= NPO_MESSAGE_BYTES_MAX, name ": the bound is over that of a frame");
#include "proto/messages.def"
#undef NPO_MESSAGE

const npo_message_info *npo_message_find(unsigned id)
{
    for (size_t i = 0; i < TABLE_COUNT; i++)
        if ((unsigned)table[i].id == id)
            return &table[i];
    return NULL;
}

const npo_message_info *npo_message_table(size_t *ret_count)
{
    *ret_count = TABLE_COUNT;
    return table;
}

static uint64_t get_le(const uint8_t *at, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

static void put_le(uint8_t *at, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        at[i] = (uint8_t)(value >> (8 * i));
}

static npo_err check_bounds(const npo_frame *frame, npo_error *error)
{
    const npo_message_info *info = npo_message_find(frame->id);
    if (!info)
        return npo_error_set(error, NPO_E_NOT_FOUND, "message id %d is unknown", (int)frame->id);
    size_t max = frame->is_reply ? (size_t)NPO_MESSAGE_BYTES_MAX : info->bytes_max;
    size_t json_max = frame->is_reply ? (size_t)NPO_REPLY_BYTES_MAX : info->bytes_max;
    /* Each part first, so that their sum cannot wrap. */
    if (frame->json_len > json_max || frame->payload_len > max ||
        frame->json_len + frame->payload_len > max)
        return npo_error_set(
            error, NPO_E_LIMIT,
            "%s '%s' has %zu bytes of JSON and %zu of payload, at most %zu are allowed",
            frame->is_reply ? "reply to" : "message", info->name, frame->json_len,
            frame->payload_len, max);
    return NPO_OK;
}

npo_err npo_frame_decode(const void *bytes, size_t len, npo_frame *ret_frame, npo_error *error)
{
    const uint8_t *at = bytes;
    if (len < NPO_FRAME_HEADER_BYTES)
        return npo_error_set(error, NPO_E_FORMAT, "frame of %zu bytes, a header alone has %d", len,
                             (int)NPO_FRAME_HEADER_BYTES);
    if (at[0] != 'N' || at[1] != 'P')
        return npo_error_set(error, NPO_E_FORMAT, "frame begins with %02x %02x, expected 'NP'",
                             at[0], at[1]);
    *ret_frame = (npo_frame){
        .id = (npo_message)(at[3] & ~NPO_FRAME_REPLY_BIT),
        .is_reply = (at[3] & NPO_FRAME_REPLY_BIT) != 0,
        .boot = get_le(at + 8, 8),
        .request = get_le(at + 16, 8),
        .epoch = get_le(at + 24, 8),
    };
    if (at[2] != NPO_PROTOCOL_VERSION)
        return npo_error_set(error, NPO_E_VERSION, "protocol version %d, this build speaks %d",
                             at[2], (int)NPO_PROTOCOL_VERSION);
    if (!ret_frame->is_reply && (ret_frame->boot == 0 || ret_frame->request == 0))
        return npo_error_set(error, NPO_E_FORMAT, "boot id %llx, request id %llu: neither may be 0",
                             (unsigned long long)ret_frame->boot,
                             (unsigned long long)ret_frame->request);
    size_t json_len = (size_t)get_le(at + 4, 4);
    if (json_len > len - NPO_FRAME_HEADER_BYTES)
        return npo_error_set(error, NPO_E_FORMAT, "frame of %zu bytes says %zu bytes of JSON", len,
                             json_len);
    ret_frame->json = (const char *)at + NPO_FRAME_HEADER_BYTES;
    ret_frame->json_len = json_len;
    ret_frame->payload_len = len - NPO_FRAME_HEADER_BYTES - json_len;
    if (ret_frame->payload_len > 0)
        ret_frame->payload = at + NPO_FRAME_HEADER_BYTES + json_len;
    return check_bounds(ret_frame, error);
}

bool npo_frame_is_answerable(const void *bytes, size_t len)
{
    const uint8_t *at = bytes;
    return len >= NPO_FRAME_HEADER_BYTES && at[0] == 'N' && at[1] == 'P' &&
           (at[3] & NPO_FRAME_REPLY_BIT) == 0;
}

size_t npo_frame_bytes(const npo_frame *frame)
{
    return NPO_FRAME_HEADER_BYTES + frame->json_len + frame->payload_len;
}

npo_err npo_frame_encode(const npo_frame *frame, void *ret_bytes, size_t size, npo_error *error)
{
    NPO_TRY(check_bounds(frame, error));
    if (npo_frame_bytes(frame) > size)
        return npo_error_set(error, NPO_E_LIMIT, "frame of %zu bytes, %zu are there",
                             npo_frame_bytes(frame), size);
    uint8_t *at = ret_bytes;
    at[0] = 'N';
    at[1] = 'P';
    at[2] = NPO_PROTOCOL_VERSION;
    at[3] = (uint8_t)(frame->id | (frame->is_reply ? NPO_FRAME_REPLY_BIT : 0));
    put_le(at + 4, frame->json_len, 4);
    put_le(at + 8, frame->boot, 8);
    put_le(at + 16, frame->request, 8);
    put_le(at + 24, frame->epoch, 8);
    if (frame->json_len > 0)
        memcpy(at + NPO_FRAME_HEADER_BYTES, frame->json, frame->json_len);
    if (frame->payload_len > 0)
        memcpy(at + NPO_FRAME_HEADER_BYTES + frame->json_len, frame->payload, frame->payload_len);
    return NPO_OK;
}

npo_err npo_frame_append(const npo_frame *frame, npo_buf *ret_buf, npo_error *error)
{
    NPO_TRY(check_bounds(frame, error));
    size_t size = npo_frame_bytes(frame);
    void *to = npo_buf_reserve(ret_buf, size);
    if (!to)
        return npo_error_set(error, npo_buf_err(ret_buf), "cannot hold a frame of %zu bytes", size);
    NPO_TRY(npo_frame_encode(frame, to, size, error));
    ret_buf->len += size;
    ret_buf->data[ret_buf->len] = '\0';
    return NPO_OK;
}

npo_err npo_frame_parse(const npo_frame *frame, cJSON **ret_json, npo_error *error)
{
    const npo_message_info *info = npo_message_find(frame->id);
    char name[64];
    snprintf(name, sizeof name, "%s '%s'", frame->is_reply ? "reply to" : "message",
             info ? info->name : "?");
    cJSON *json = NULL;
    NPO_TRY(npo_json_parse(frame->json, frame->json_len, name, &json, error));
    if (!cJSON_IsObject(json)) {
        cJSON_Delete(json);
        return npo_error_set(error, NPO_E_TYPE, "%s: expected an object", name);
    }
    *ret_json = json;
    return NPO_OK;
}

cJSON *npo_reply_error_new(npo_err code, const char *text)
{
    cJSON *reply = cJSON_CreateObject();
    cJSON *error = cJSON_AddObjectToObject(reply, "error");
    if (error && cJSON_AddStringToObject(error, "code", npo_err_name(code)) &&
        cJSON_AddStringToObject(error, "text", text ? text : npo_err_text(code)))
        return reply;
    cJSON_Delete(reply);
    return NULL;
}

npo_err npo_reply_check(const cJSON *reply, npo_error *error)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(reply, "error");
    /* A JOB or TASK has a member "error" too, but not at the top of a reply. */
    if (!item)
        return NPO_OK;
    npo_err code = npo_err_from_name(npo_json_string(item, "code", "LIBRARY"));
    if (code == NPO_OK)
        code = NPO_E_LIBRARY;
    return npo_error_set(error, code, "%s", npo_json_string(item, "text", npo_err_text(code)));
}
