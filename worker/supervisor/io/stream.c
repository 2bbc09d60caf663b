#include "worker/supervisor/io/stream.h"

#include "common/bounds.h"
#include "common/log.h"
#include "worker/supervisor/io/fence.h"

#include <stdlib.h>
#include <string.h>

struct npo_stream {
    uv_timer_t timer;
    npo_stream_options options;
    npo_buf waiting; /* bytes npod has not confirmed, the first `open_len` of them are out */
    uint64_t offset; /* of the first waiting byte in the stream */
    size_t open_len; /* 0: nothing is out */
    bool given_up, ending, has_ended;
    bool timer_closed, is_closing; /* freed when the timer is closed and no request is out */
};

static void free_when_idle(npo_stream *stream)
{
    if (!stream->timer_closed || stream->open_len > 0)
        return;
    npo_buf_fini(&stream->waiting);
    free(stream);
}

static void give_up(npo_stream *stream, npo_err err, const char *text)
{
    if (!stream->given_up)
        npo_log_warn("task %lld: no more of its %s is kept: %s (%s)",
                     (long long)stream->options.fence.task, stream->options.name, text,
                     npo_err_text(err));
    stream->given_up = true;
    npo_buf_clear(&stream->waiting);
}

static void end_if_empty(npo_stream *stream)
{
    if (!stream->ending || stream->has_ended || stream->open_len > 0 || stream->waiting.len > 0)
        return;
    stream->has_ended = true;
    stream->options.ended(stream->options.self, stream->options.tag);
}

static void send_part(npo_stream *stream);

static void confirm(npo_stream *stream, size_t len)
{
    stream->offset += len;
    stream->waiting.len -= len;
    memmove(stream->waiting.data, stream->waiting.data + len, stream->waiting.len);
}

static void on_answer(void *self, uint64_t tag, npo_err err, const npo_error *error,
                      const npo_answer *answer)
{
    npo_stream *stream = self;
    size_t len = stream->open_len;
    stream->open_len = 0;
    if (stream->is_closing) {
        free_when_idle(stream);
        return;
    }
    if (err == NPO_E_FENCED) {
        stream->options.fenced(stream->options.self, stream->options.tag);
        return;
    }
    if (err)
        give_up(stream, err, error->text);
    else if (!stream->given_up) /* else what was out is not in `waiting` any more */
        confirm(stream, len);
    send_part(stream);
    end_if_empty(stream);
}

static cJSON *append_body(const npo_stream *stream)
{
    cJSON *body = npo_fence_body(&stream->options.fence);
    if (body && cJSON_AddStringToObject(body, "stream", stream->options.name) &&
        cJSON_AddNumberToObject(body, "offset", (double)stream->offset))
        return body;
    cJSON_Delete(body);
    return NULL;
}

static void send_part(npo_stream *stream)
{
    npo_error error = {0};
    if (stream->open_len > 0 || stream->waiting.len == 0 || stream->given_up)
        return;
    size_t len = stream->waiting.len < NPO_STREAM_PART_BYTES ? stream->waiting.len
                                                             : (size_t)NPO_STREAM_PART_BYTES;
    stream->open_len = len;
    npo_err err = npo_link_send(stream->options.link, NPO_MESSAGE_APPEND, append_body(stream),
                                stream->waiting.data, len, on_answer, stream, 0, &error);
    if (!err)
        return;
    stream->open_len = 0;
    give_up(stream, err, error.text);
}

static void on_gathered(uv_timer_t *timer)
{
    npo_stream *stream = timer->data;
    send_part(stream);
}

npo_err npo_stream_open(uv_loop_t *loop, const npo_stream_options *options, npo_stream **ret_stream,
                        npo_error *error)
{
    npo_stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return npo_error_set(error, NPO_E_NOMEM, "cannot keep the %s: out of memory",
                             options->name);
    stream->options = *options;
    npo_buf_init(&stream->waiting, NPO_STREAM_BYTES_MAX);
    uv_timer_init(loop, &stream->timer);
    stream->timer.data = stream;
    *ret_stream = stream;
    return NPO_OK;
}

void npo_stream_add(npo_stream *stream, const char *line)
{
    if (stream->given_up || stream->ending)
        return;
    npo_buf_str(&stream->waiting, line);
    npo_buf_add(&stream->waiting, "\n", 1);
    npo_err err = npo_buf_err(&stream->waiting);
    if (err)
        give_up(stream, err, "too much waits for npod");
    else if (!uv_is_active((uv_handle_t *)&stream->timer) && stream->open_len == 0)
        uv_timer_start(&stream->timer, on_gathered, NPO_STREAM_GATHER_MS, 0);
}

void npo_stream_end(npo_stream *stream)
{
    stream->ending = true;
    send_part(stream);
    end_if_empty(stream);
}

static void on_closed(uv_handle_t *handle)
{
    npo_stream *stream = handle->data;
    stream->timer_closed = true;
    free_when_idle(stream);
}

void npo_stream_close(npo_stream *stream)
{
    if (!stream)
        return;
    stream->is_closing = true;
    uv_close((uv_handle_t *)&stream->timer, on_closed);
}
