/* Logs and metrics of an attempt's ranks: files that only grow, up to a bound. */
#include "server/state.h"

#include <string.h>

enum { READ_MAX = 512 << 10 };

static const char *const names[] = {"log", "metrics", NULL};

typedef struct {
    npo_fence fence;
    int stream;
    int64_t offset, bytes;
} stream_request;

static uint64_t key_of(const npo_effect *effect)
{
    const int64_t parts[] = {effect->task, effect->attempt, effect->rank, effect->stream[0]};
    npo_hash hash = npo_hash_bytes(parts, sizeof parts);
    return npo_effect_key(&hash);
}

static npo_err ask(npo_server *server, npo_request *request, npo_effect_kind kind, int64_t job,
                   const stream_request *stream)
{
    npo_effect *effect = npo_effect_add(server, request, kind);
    if (!effect)
        return npo_error_set(&request->error, NPO_E_NOMEM, "cannot reach the stream");
    effect->job = job;
    effect->task = stream->fence.task;
    effect->attempt = stream->fence.attempt;
    effect->rank = stream->fence.rank;
    effect->stream = names[stream->stream];
    effect->offset = (uint64_t)stream->offset;
    effect->size = (uint64_t)stream->bytes;
    effect->data = request->frame->payload;
    if (kind == NPO_EFFECT_STREAM_APPEND)
        effect->key = key_of(effect);
    return NPO_OK;
}

npo_err npo_handle_append(npo_server *server, npo_request *request)
{
    static const npo_json_field fields[] = {
        NPO_FENCE_FIELDS(stream_request, fence),
        {"stream", NPO_JSON_ENUM, offsetof(stream_request, stream), true, 0, 0, names},
        {"offset", NPO_JSON_INT, offsetof(stream_request, offset), true, 0, NPO_STREAM_BYTES_MAX,
         NULL},
    };
    stream_request append = {.bytes = (int64_t)request->frame->payload_len};
    npo_worker_record *worker = NULL;
    NPO_TRY(npo_request_fields(request, fields, &append));
    NPO_TRY(npo_fence_check(server, request, &append.fence, &worker));
    if (append.offset + append.bytes > NPO_STREAM_BYTES_MAX)
        return npo_error_set(&request->error, NPO_E_LIMIT, "stream '%s' is full: %d bytes",
                             names[append.stream], (int)NPO_STREAM_BYTES_MAX);
    return ask(server, request, NPO_EFFECT_STREAM_APPEND, worker->job->id, &append);
}

npo_err npo_handle_stream(npo_server *server, npo_request *request)
{
    static const npo_json_field fields[] = {
        {"task", NPO_JSON_INT, offsetof(stream_request, fence.task), true, 0, 0, NULL},
        {"attempt", NPO_JSON_INT, offsetof(stream_request, fence.attempt), false, 0, 0, NULL},
        {"rank", NPO_JSON_INT, offsetof(stream_request, fence.rank), false, 0, NPO_GANG_MAX, NULL},
        {"stream", NPO_JSON_ENUM, offsetof(stream_request, stream), true, 0, 0, names},
        {"offset", NPO_JSON_INT, offsetof(stream_request, offset), false, 0, 9007199254740992.0,
         NULL},
        {"bytes", NPO_JSON_INT, offsetof(stream_request, bytes), false, 0, 9007199254740992.0,
         NULL},
    };
    stream_request read = {.bytes = READ_MAX};
    npo_task_record task;
    NPO_TRY(npo_request_fields(request, fields, &read));
    if (!npo_task_load(server, read.fence.task, &task))
        return npo_error_set(&request->error, NPO_E_NOT_FOUND, "there is no task %lld",
                             (long long)read.fence.task);
    if (read.fence.attempt == 0)
        read.fence.attempt = task.attempt;
    if (read.bytes > READ_MAX)
        read.bytes = READ_MAX;
    return ask(server, request, NPO_EFFECT_STREAM_READ, task.job, &read);
}

void npo_stream_done(npo_server *server, npo_effect *effect, npo_request *request)
{
    npo_buf *json = &request->reply->json;
    if (effect->error.code) {
        request->error = effect->error;
        return;
    }
    if (effect->kind == NPO_EFFECT_STREAM_APPEND) {
        npo_buf_printf(json, "{\"size\":%llu}", (unsigned long long)effect->result_size);
        server->hint_pending = true;
        return;
    }
    npo_buf_printf(json, "{\"size\":%llu,\"offset\":%llu}", (unsigned long long)effect->result_size,
                   (unsigned long long)effect->offset);
    npo_buf_fini(&request->reply->payload);
    request->reply->payload = effect->bytes;
    effect->bytes = (npo_buf)NPO_BUF_INIT;
}
