#include "proto/server_channel.h"

#include "common/bounds.h"
#include "proto/socket.h"

#include <assert.h>
#include <nanomsg/nn.h>
#include <nanomsg/pubsub.h>
#include <nanomsg/reqrep.h>
#include <stdlib.h>
#include <string.h>

/* nn_close drops what its I/O thread has not yet written; this long is given to the last answers.
 */
enum { FLUSH_MS = 100 };

struct npo_server_channel {
    uv_poll_t poll;
    uv_timer_t flush;
    int socket;
    npo_channel channel;
    npo_server_handler handler;
    uint64_t epoch, refused;
    void (*closed)(void *self);
    int handles_open; /* of libuv, until both are closed */
    bool has_answered;
};

struct npo_reply_to {
    npo_server_channel *channel;
    void *control; /* nanomsg's route back; owned */
    void *message; /* the request; owned */
    npo_frame request;
};

/* ---- answers ---- */

static void send_route(npo_server_channel *channel, void *control_take, const void *bytes,
                       size_t len)
{
    struct nn_iovec iov = {.iov_base = (void *)bytes, .iov_len = len};
    struct nn_msghdr header = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control_take, .msg_controllen = NN_MSG};
    channel->has_answered = true;
    /* nanomsg frees the control part, also when it fails. A failure is a lost answer: the client
     * resends. */
    (void)nn_sendmsg(channel->socket, &header, NN_DONTWAIT);
}

static void reply_free(npo_reply_to *to)
{
    if (to->message)
        nn_freemsg(to->message);
    free(to);
}

void npo_reply_send_bytes(npo_reply_to *to_take, const void *bytes, size_t len)
{
    send_route(to_take->channel, to_take->control, bytes, len);
    reply_free(to_take);
}

static void send_frame(npo_reply_to *to_take, const npo_frame *frame, npo_error *error)
{
    npo_buf bytes = NPO_BUF_INIT;
    if (npo_frame_append(frame, &bytes, error) == NPO_OK)
        npo_reply_send_bytes(to_take, bytes.data, bytes.len);
    else
        npo_reply_drop(to_take);
    npo_buf_fini(&bytes);
}

static void send_error(npo_reply_to *to_take, uint64_t epoch, npo_err code, const char *text)
{
    cJSON *body = npo_reply_error_new(code, text);
    char *json = cJSON_PrintUnformatted(body);
    npo_frame frame = to_take->request;
    frame.is_reply = true;
    frame.epoch = epoch;
    frame.json = json;
    frame.json_len = json ? strlen(json) : 0;
    frame.payload = NULL;
    frame.payload_len = 0;
    if (json)
        send_frame(to_take, &frame, NULL);
    else
        npo_reply_drop(to_take);
    free(json);
    cJSON_Delete(body);
}

void npo_reply_send(npo_reply_to *to_take, uint64_t epoch, const char *json, size_t json_len,
                    const void *payload, size_t payload_len)
{
    npo_frame frame = {.id = to_take->request.id,
                       .is_reply = true,
                       .boot = to_take->request.boot,
                       .request = to_take->request.request,
                       .epoch = epoch,
                       .json = json,
                       .json_len = json_len,
                       .payload = payload,
                       .payload_len = payload_len};
    npo_error error = {0};
    npo_buf bytes = NPO_BUF_INIT;
    npo_err err = npo_frame_append(&frame, &bytes, &error);
    if (err)
        send_error(to_take, epoch, err, error.text);
    else
        npo_reply_send_bytes(to_take, bytes.data, bytes.len);
    npo_buf_fini(&bytes);
}

void npo_reply_drop(npo_reply_to *to_take)
{
    nn_freemsg(to_take->control);
    reply_free(to_take);
}

const npo_frame *npo_reply_request(const npo_reply_to *to)
{
    return &to->request;
}

/* ---- requests ---- */

static npo_err check(const npo_server_channel *channel, const void *message, size_t len,
                     npo_frame *ret_frame, npo_error *error)
{
    NPO_TRY(npo_frame_decode(message, len, ret_frame, error));
    const npo_message_info *info = npo_message_find(ret_frame->id);
    if (ret_frame->is_reply)
        return npo_error_set(error, NPO_E_FORMAT, "a reply to '%s' came as a request", info->name);
    if (info->channel != channel->channel)
        return npo_error_set(error, NPO_E_REFUSED, "message '%s' belongs to the other address",
                             info->name);
    if (ret_frame->boot == 0 || ret_frame->request == 0)
        return npo_error_set(error, NPO_E_FORMAT, "message '%s' has no boot or request id",
                             info->name);
    return NPO_OK;
}

/* An id of no message cannot stand in a frame of ours; the refusal says `info` instead, the client
 * goes by the request id. */
static void refuse(npo_server_channel *channel, npo_reply_to *to_take, size_t len, npo_err code,
                   const npo_error *error)
{
    channel->refused++;
    if (!npo_frame_is_answerable(to_take->message, len)) {
        npo_reply_drop(to_take);
        return;
    }
    if (!npo_message_find(to_take->request.id))
        to_take->request.id = NPO_MESSAGE_INFO;
    send_error(to_take, channel->epoch, code, error->text);
}

static void handle(npo_server_channel *channel, void *message_take, size_t len, void *control_take)
{
    npo_reply_to *to = calloc(1, sizeof *to);
    if (!to) {
        nn_freemsg(message_take);
        nn_freemsg(control_take);
        return;
    }
    *to = (npo_reply_to){.channel = channel, .control = control_take, .message = message_take};
    npo_error error = {0};
    npo_err err = check(channel, message_take, len, &to->request, &error);
    if (err)
        refuse(channel, to, len, err, &error);
    else
        channel->handler.frame(channel->handler.self, &to->request, to);
}

static bool receive_one(npo_server_channel *channel)
{
    void *message = NULL, *control = NULL;
    struct nn_iovec iov = {.iov_base = &message, .iov_len = NN_MSG};
    struct nn_msghdr header = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = NN_MSG};
    int len = nn_recvmsg(channel->socket, &header, NN_DONTWAIT);
    if (len < 0)
        return false;
    handle(channel, message, (size_t)len, control);
    return true;
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    npo_server_channel *channel = poll->data;
    int count = 0;
    while (count < NPO_DRAIN_MAX && !channel->handles_open && receive_one(channel))
        count++;
    if (count > 0)
        channel->handler.batch_end(channel->handler.self);
}

/* ---- opening and closing ---- */

npo_err npo_server_channel_open(uv_loop_t *loop, const char *address, npo_channel which,
                                const npo_server_handler *handler, npo_server_channel **ret_channel,
                                npo_error *error)
{
    int fd;
    npo_server_channel *channel = calloc(1, sizeof *channel);
    if (!channel)
        return npo_error_set(error, NPO_E_NOMEM, "cannot listen on '%s'", address);
    channel->socket = -1;
    channel->channel = which;
    channel->handler = *handler;
    npo_err err = npo_socket_open(AF_SP_RAW, NN_REP, &channel->socket, error);
    if (!err)
        err = npo_socket_bind(channel->socket, address, error);
    if (!err)
        err = npo_socket_fd(channel->socket, &fd, error);
    if (!err && uv_poll_init(loop, &channel->poll, fd) < 0)
        err = npo_error_set(error, NPO_E_LIBRARY, "cannot watch '%s'", address);
    if (err) {
        npo_socket_close(channel->socket);
        free(channel);
        return err;
    }
    channel->poll.data = channel;
    channel->flush.data = channel;
    uv_timer_init(loop, &channel->flush);
    uv_poll_start(&channel->poll, UV_READABLE, on_readable);
    *ret_channel = channel;
    return NPO_OK;
}

static void on_closed(uv_handle_t *handle)
{
    npo_server_channel *channel = handle->data;
    if (--channel->handles_open > 0)
        return;
    npo_socket_close(channel->socket);
    if (channel->closed)
        channel->closed(channel->handler.self);
    free(channel);
}

static void on_flushed(uv_timer_t *flush)
{
    npo_server_channel *channel = flush->data;
    uv_close((uv_handle_t *)&channel->poll, on_closed);
    uv_close((uv_handle_t *)&channel->flush, on_closed);
}

void npo_server_channel_close(npo_server_channel *channel, void (*closed)(void *self))
{
    assert(channel->handles_open == 0);
    channel->closed = closed;
    channel->handles_open = 2;
    uv_poll_stop(&channel->poll);
    uv_timer_start(&channel->flush, on_flushed, channel->has_answered ? FLUSH_MS : 0, 0);
}

void npo_server_channel_set_epoch(npo_server_channel *channel, uint64_t epoch)
{
    channel->epoch = epoch;
}

uint64_t npo_server_channel_refused(const npo_server_channel *channel)
{
    return channel->refused;
}

/* ---- hints ---- */

struct npo_server_hints {
    int socket;
};

npo_err npo_server_hints_open(const char *address, npo_server_hints **ret_hints, npo_error *error)
{
    npo_server_hints *hints = calloc(1, sizeof *hints);
    if (!hints)
        return npo_error_set(error, NPO_E_NOMEM, "cannot listen on '%s'", address);
    hints->socket = -1;
    npo_err err = npo_socket_open(AF_SP, NN_PUB, &hints->socket, error);
    if (!err)
        err = npo_socket_bind(hints->socket, address, error);
    if (err) {
        npo_server_hints_close(hints);
        return err;
    }
    *ret_hints = hints;
    return NPO_OK;
}

void npo_server_hints_close(npo_server_hints *hints)
{
    if (!hints)
        return;
    npo_socket_close(hints->socket);
    free(hints);
}

void npo_server_hints_send(npo_server_hints *hints)
{
    static const char hint[1] = {1};
    /* Nothing depends on its arrival. */
    (void)nn_send(hints->socket, hint, sizeof hint, NN_DONTWAIT);
}
