/* Artifacts on their way in. What has arrived is known in memory and by the length of the file; one
 * write of an upload is under way at a time, so that the file never has a hole. */
#include "server/state.h"

#include <stdlib.h>
#include <string.h>

struct npo_upload {
    npo_upload *next;
    npo_hash hash;
    uint64_t size;       /* of the whole, UINT64_MAX: not known (found at a start) */
    uint64_t received;   /* bytes in the file */
    uint64_t writing;    /* bytes of the write under way, 0: none */
    npo_effect *waiting; /* the chunk behind it; owned, not yet asked for */
    bool waiting_is_new; /* came with this group */
    int64_t touched_ms;  /* monotonic, of the last request */
};

static npo_upload *find(const npo_server *server, const npo_hash *hash)
{
    for (npo_upload *upload = server->uploads; upload; upload = upload->next)
        if (npo_hash_equal(&upload->hash, hash))
            return upload;
    return NULL;
}

static npo_upload *add(npo_server *server, const npo_hash *hash, uint64_t size)
{
    npo_upload *upload = server->upload_count < NPO_UPLOADS_MAX ? calloc(1, sizeof *upload) : NULL;
    if (!upload)
        return NULL;
    upload->hash = *hash;
    upload->size = size;
    upload->touched_ms = server->now.mono_ms;
    upload->next = server->uploads;
    server->uploads = upload;
    server->upload_count++;
    return upload;
}

static void drop(npo_server *server, void *to)
{
    if (server->dropped_count == server->dropped_cap) {
        size_t cap = server->dropped_cap ? server->dropped_cap * 2 : 16;
        void **dropped = realloc(server->dropped, cap * sizeof *dropped);
        if (!dropped)
            return; /* the handle lives until its channel is closed; the client asks again */
        server->dropped = dropped;
        server->dropped_cap = cap;
    }
    server->dropped[server->dropped_count++] = to;
}

void *npo_server_take_dropped(npo_server *server)
{
    return server->dropped_count > 0 ? server->dropped[--server->dropped_count] : NULL;
}

/* The client resends, and is told then how far the upload has come. */
static void drop_waiting(npo_server *server, npo_upload *upload)
{
    if (!upload->waiting)
        return;
    npo_later_forget(server, upload->waiting);
    drop(server, upload->waiting->to);
    npo_effect_free(upload->waiting);
    upload->waiting = NULL;
}

static void forget(npo_server *server, npo_upload *upload)
{
    npo_upload **at = &server->uploads;
    while (*at != upload)
        at = &(*at)->next;
    *at = upload->next;
    drop_waiting(server, upload);
    free(upload);
    server->upload_count--;
}

void npo_server_add_upload(npo_server *server, const npo_hash *hash, uint64_t size)
{
    npo_upload *upload = find(server, hash) ? NULL : add(server, hash, UINT64_MAX);
    if (upload)
        upload->received = size;
}

void npo_uploads_free(npo_server *server)
{
    while (server->uploads) {
        npo_upload *upload = server->uploads;
        server->uploads = upload->next;
        npo_effect_free(upload->waiting);
        free(upload);
    }
    server->upload_count = 0;
}

/* The group is undone: its chunks are the caller's again, writes that were asked for never ran. */
void npo_uploads_rollback(npo_server *server)
{
    for (npo_upload *upload = server->uploads; upload; upload = upload->next) {
        if (upload->waiting && upload->waiting_is_new) {
            npo_effect_free(upload->waiting);
            upload->waiting = NULL;
        }
        for (npo_effect *effect = server->effects; effect; effect = effect->next) {
            if (effect->kind != NPO_EFFECT_WRITE || !npo_hash_equal(&effect->hash, &upload->hash))
                continue;
            upload->writing = 0;
            drop(server, effect->to); /* it may have waited since an earlier group */
        }
    }
}

void npo_uploads_committed(npo_server *server)
{
    for (npo_upload *upload = server->uploads; upload; upload = upload->next)
        upload->waiting_is_new = false;
}

void npo_server_stop(npo_server *server)
{
    for (npo_upload *upload = server->uploads; upload; upload = upload->next)
        drop_waiting(server, upload);
}

/* Uploads that nobody has gone on with for an hour. */
void npo_uploads_tick(npo_server *server)
{
    for (npo_upload *next, *upload = server->uploads; upload; upload = next) {
        next = upload->next;
        if (upload->writing > 0 || server->now.mono_ms - upload->touched_ms < NPO_PIN_CLIENT_MS)
            continue;
        npo_effect *effect = npo_effect_add(server, NULL, NPO_EFFECT_DISCARD);
        if (!effect)
            return;
        effect->hash = upload->hash;
        effect->key = npo_effect_key(&upload->hash);
        forget(server, upload);
    }
}

/* ---- open ---- */

typedef struct {
    const char *hash;
    int64_t size;
    npo_fence fence;
} open_request;

static npo_err check_quota(npo_server *server, npo_request *request, int64_t size)
{
    uint64_t quota = server->options.quota_bytes, coming = 0;
    for (const npo_upload *upload = server->uploads; upload; upload = upload->next)
        coming += upload->size == UINT64_MAX ? upload->received : upload->size;
    if (quota == 0 || server->artifact_bytes + coming + (uint64_t)size <= quota)
        return NPO_OK;
    return npo_error_set(&request->error, NPO_E_FULL,
                         "the artifacts have %llu bytes of a quota of %llu, %lld more do not fit: "
                         "`npoctl rm` old jobs",
                         (unsigned long long)(server->artifact_bytes + coming),
                         (unsigned long long)quota, (long long)size);
}

static npo_err begin(npo_server *server, npo_request *request, const npo_hash *hash, int64_t size,
                     npo_upload **ret_upload)
{
    npo_upload *upload = find(server, hash);
    bool is_found = upload && upload->size == UINT64_MAX; /* at a start: nobody has said its size */
    if (is_found && upload->received > (uint64_t)size)
        upload->received = 0;
    if (!upload || is_found)
        NPO_TRY(check_quota(server, request, size - (is_found ? (int64_t)upload->received : 0)));
    if (!upload)
        upload = add(server, hash, (uint64_t)size);
    if (!upload)
        return npo_error_set(&request->error, NPO_E_LIMIT, "%zu uploads are under way already",
                             server->upload_count);
    if (is_found)
        upload->size = (uint64_t)size;
    if (upload->size != (uint64_t)size)
        return npo_error_set(&request->error, NPO_E_RANGE,
                             "size: found %lld, but the upload was opened with %llu bytes",
                             (long long)size, (unsigned long long)upload->size);
    upload->touched_ms = server->now.mono_ms;
    *ret_upload = upload;
    return NPO_OK;
}

npo_err npo_handle_upload_open(npo_server *server, npo_request *request)
{
    static const npo_json_field fields[] = {
        {"hash", NPO_JSON_STRING, offsetof(open_request, hash), true, 0, 0, NULL},
        {"size", NPO_JSON_INT, offsetof(open_request, size), true, 0, 9007199254740992.0, NULL},
        {"worker", NPO_JSON_INT, offsetof(open_request, fence.worker), false, 0, 0, NULL},
        {"task", NPO_JSON_INT, offsetof(open_request, fence.task), false, 0, 0, NULL},
        {"attempt", NPO_JSON_INT, offsetof(open_request, fence.attempt), false, 0, 0, NULL},
        {"rank", NPO_JSON_INT, offsetof(open_request, fence.rank), false, 0, 0, NULL},
    };
    open_request open = {0};
    npo_hash hash;
    npo_worker_record *worker = NULL;
    npo_upload *upload = NULL;
    NPO_TRY(npo_request_fields(request, fields, &open));
    NPO_TRY(npo_request_hash(request, open.hash, &hash));
    if (open.fence.task > 0)
        NPO_TRY(npo_fence_check(server, request, &open.fence, &worker));
    npo_artifact_info info = npo_artifact_find(server, open.hash);
    if (info.is_there && info.size != open.size)
        return npo_error_set(&request->error, NPO_E_RANGE,
                             "size: found %lld, but artifact %s has %lld bytes",
                             (long long)open.size, open.hash, (long long)info.size);
    if (!info.is_there)
        NPO_TRY(begin(server, request, &hash, open.size, &upload));
    npo_run(server->store, NPO_SQL_ARTIFACT_OPEN, npo_text(open.hash), npo_int(open.size),
            npo_int(server->now.wall_ms));
    npo_artifact_pin(server, open.hash, request->frame->boot, &open.fence);
    npo_buf_printf(&request->reply->json, "{\"have\":%s,\"offset\":%llu}",
                   upload ? "false" : "true",
                   (unsigned long long)(upload ? upload->received : (uint64_t)info.size));
    return npo_buf_err(&request->reply->json);
}

/* ---- chunks ---- */

typedef struct {
    const char *hash;
    int64_t offset;
} chunk_request;

static npo_err answer_received(npo_request *request, const npo_upload *upload)
{
    npo_buf_printf(&request->reply->json, "{\"received\":%llu}",
                   (unsigned long long)upload->received);
    return npo_buf_err(&request->reply->json);
}

static npo_effect *make_write(const npo_request *request, const npo_upload *upload, uint64_t offset)
{
    npo_effect *effect = calloc(1, sizeof *effect);
    if (!effect)
        return NULL;
    *effect = (npo_effect){
        .kind = NPO_EFFECT_WRITE,
        .key = npo_effect_key(&upload->hash),
        .hash = upload->hash,
        .offset = offset,
        .size = request->frame->payload_len,
        .data = request->frame->payload,
        .to = request->to,
        .message = request->frame->id,
        .boot = request->frame->boot,
        .request = request->frame->request,
    };
    return effect;
}

static void ask_write(npo_server *server, npo_upload *upload, npo_effect *effect)
{
    upload->writing = effect->size;
    *server->effects_tail = effect;
    server->effects_tail = &effect->next;
}

/* True when the chunk was taken (written now, or kept until its predecessor is). */
static npo_err take_chunk(npo_server *server, npo_request *request, npo_upload *upload,
                          uint64_t offset, bool *ret_taken)
{
    uint64_t ahead = offset - upload->received;
    bool is_now = offset == upload->received && upload->writing == 0;
    /* Two connections may overtake each other by one chunk. */
    bool is_next = offset > upload->received && ahead <= NPO_CHUNK_BYTES &&
                   (upload->writing == 0 || ahead == upload->writing);
    const npo_effect *waiting = upload->waiting;
    bool is_again = waiting && waiting->boot == request->frame->boot &&
                    waiting->request == request->frame->request;
    *ret_taken = false;
    if (!is_now && (!is_next || is_again))
        return NPO_OK;
    npo_effect *effect = make_write(request, upload, offset);
    if (!effect)
        return npo_error_set(&request->error, NPO_E_NOMEM, "cannot take a chunk");
    request->reply->later = true;
    *ret_taken = true;
    if (is_now) {
        ask_write(server, upload, effect);
        return NPO_OK;
    }
    drop_waiting(server, upload);
    upload->waiting = effect;
    upload->waiting_is_new = true;
    return NPO_OK;
}

npo_err npo_handle_upload_chunk(npo_server *server, npo_request *request)
{
    static const npo_json_field fields[] = {
        {"hash", NPO_JSON_STRING, offsetof(chunk_request, hash), true, 0, 0, NULL},
        {"offset", NPO_JSON_INT, offsetof(chunk_request, offset), true, 0, 9007199254740992.0,
         NULL},
    };
    chunk_request chunk = {0};
    npo_hash hash;
    bool is_taken;
    NPO_TRY(npo_request_fields(request, fields, &chunk));
    NPO_TRY(npo_request_hash(request, chunk.hash, &hash));
    npo_upload *upload = find(server, &hash);
    if (!upload)
        return npo_error_set(&request->error, NPO_E_NOT_FOUND,
                             "no upload of artifact %s has been opened", chunk.hash);
    upload->touched_ms = server->now.mono_ms;
    npo_dedup_touch(server, request->frame->boot);
    size_t len = request->frame->payload_len;
    if (len == 0 || len > NPO_CHUNK_BYTES ||
        (upload->size != UINT64_MAX && (uint64_t)chunk.offset + len > upload->size))
        return npo_error_set(&request->error, NPO_E_RANGE,
                             "a chunk of %zu bytes at %lld does not fit artifact %s", len,
                             (long long)chunk.offset, chunk.hash);
    NPO_TRY(take_chunk(server, request, upload, (uint64_t)chunk.offset, &is_taken));
    return is_taken ? NPO_OK : answer_received(request, upload);
}

void npo_upload_done(npo_server *server, npo_effect *effect, npo_request *request)
{
    npo_upload *upload = find(server, &effect->hash);
    if (!upload) {
        (void)npo_error_set(&request->error, NPO_E_NOT_FOUND, "the upload has ended");
        return;
    }
    upload->writing = 0;
    if (effect->error.code) {
        request->error = effect->error;
        drop_waiting(server, upload);
        if (effect->error.code == NPO_E_FULL)
            upload->received = 0; /* see npo_effect_kind */
        return;
    }
    upload->received = effect->offset + effect->size;
    (void)answer_received(request, upload);
    if (upload->waiting && upload->waiting->offset == upload->received) {
        npo_effect *next = upload->waiting;
        upload->waiting = NULL;
        ask_write(server, upload, next);
    } else {
        drop_waiting(server, upload);
    }
}

/* ---- close ---- */

npo_err npo_handle_upload_close(npo_server *server, npo_request *request)
{
    const char *text = npo_json_string(request->json, "hash", "");
    npo_hash hash;
    NPO_TRY(npo_request_hash(request, text, &hash));
    if (npo_artifact_find(server, text).is_there)
        return npo_reply_ok(request);
    /* Without an upload the files decide: it may have been published, but not been recorded. */
    const npo_upload *upload = find(server, &hash);
    if (upload && upload->size != UINT64_MAX && upload->received != upload->size)
        return npo_error_set(
            &request->error, NPO_E_RANGE, "the upload of artifact %s has %llu of %llu bytes", text,
            (unsigned long long)upload->received, (unsigned long long)upload->size);
    npo_effect *effect = npo_effect_add(server, request, NPO_EFFECT_PUBLISH);
    if (!effect)
        return npo_error_set(&request->error, NPO_E_NOMEM, "cannot publish artifact %s", text);
    effect->hash = hash;
    effect->key = npo_effect_key(&hash);
    effect->size = upload ? upload->size : UINT64_MAX;
    return NPO_OK;
}

void npo_upload_ended(npo_server *server, const npo_hash *hash, npo_err err)
{
    npo_upload *upload = find(server, hash);
    if (!upload)
        return;
    if (err == NPO_OK)
        forget(server, upload);
    else if (err == NPO_E_CORRUPT)
        upload->received = 0;
}
