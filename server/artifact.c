/* Artifacts as rows: what is there, who keeps it, what may go. */
#include "server/state.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool npo_hash_is_text(const char *text)
{
    npo_hash hash;
    return text && npo_hash_parse(text, &hash) == NPO_OK;
}

enum { STATE_THERE = 1 };

npo_artifact_info npo_artifact_find(npo_server *server, const char *hash)
{
    npo_artifact_info info = {0};
    npo_query *row = npo_ask(server->store, NPO_SQL_ARTIFACT_GET, npo_text(hash));
    if (npo_query_next(row)) {
        info.size = npo_query_int(row, 0);
        info.is_there = npo_query_int(row, 1) == STATE_THERE;
        info.is_folder = npo_query_int(row, 2) != 0;
        npo_query_end(row);
    }
    return info;
}

bool npo_server_has_artifact(npo_server *server, const char *hash)
{
    return npo_artifact_find(server, hash).is_there;
}

/* ---- effects ---- */

npo_effect *npo_effect_add(npo_server *server, npo_request *request, npo_effect_kind kind)
{
    npo_effect *effect = calloc(1, sizeof *effect);
    if (!effect)
        return NULL;
    effect->kind = kind;
    if (request) {
        effect->to = request->to;
        effect->message = request->frame->id;
        effect->boot = request->frame->boot;
        effect->request = request->frame->request;
        request->reply->later = true;
    }
    *server->effects_tail = effect;
    server->effects_tail = &effect->next;
    return effect;
}

npo_effect *npo_server_take_effects(npo_server *server)
{
    npo_effect *list = server->effects;
    server->effects = NULL;
    server->effects_tail = &server->effects;
    return list;
}

void npo_effects_discard(npo_server *server)
{
    npo_effect *effect = npo_server_take_effects(server);
    while (effect) {
        npo_effect *next = effect->next;
        npo_effect_free(effect);
        effect = next;
    }
}

uint64_t npo_effect_key(const npo_hash *hash)
{
    uint64_t key;
    memcpy(&key, hash->bytes, sizeof key);
    return key | 1;
}

/* ---- pins ---- */

void npo_artifact_pin(npo_server *server, const char *hash, uint64_t boot, const npo_fence *fence)
{
    bool is_task = fence && fence->task > 0;
    npo_run(server->store, NPO_SQL_PIN_INSERT, npo_text(hash), npo_int(is_task ? fence->task : 0),
            npo_int(is_task ? 0 : (int64_t)boot), npo_int(is_task ? fence->attempt : 0),
            npo_int(is_task ? 0 : server->now.wall_ms + NPO_PIN_CLIENT_MS));
    npo_run(server->store, NPO_SQL_ARTIFACT_TOUCH, npo_text(hash), npo_int(server->now.wall_ms));
    if (is_task && npo_map_put(&server->pinned, fence->task, server) != NPO_OK)
        npo_state_fail(server, NPO_E_NOMEM, "cannot pin an artifact");
}

npo_err npo_handle_artifacts_missing(npo_server *server, npo_request *request)
{
    const cJSON *item, *hashes = cJSON_GetObjectItemCaseSensitive(request->json, "hashes");
    npo_buf *json = &request->reply->json;
    if (!cJSON_IsArray(hashes))
        return npo_error_set(&request->error, NPO_E_TYPE, "hashes: expected a list");
    cJSON_ArrayForEach(item, hashes)
    {
        if (!npo_hash_is_text(cJSON_GetStringValue(item)))
            return npo_error_set(&request->error, NPO_E_FORMAT,
                                 "hashes: expected 32 hex digits each");
    }
    int count = 0;
    npo_buf_str(json, "{\"missing\":[");
    cJSON_ArrayForEach(item, hashes)
    {
        const char *hash = cJSON_GetStringValue(item);
        if (npo_artifact_find(server, hash).is_there)
            npo_artifact_pin(server, hash, request->frame->boot, NULL);
        else
            npo_buf_printf(json, "%s\"%s\"", count++ ? "," : "", hash);
    }
    npo_buf_str(json, "]}");
    return npo_buf_err(json);
}

/* ---- publishing ---- */

static npo_err check_children(npo_server *server, const npo_effect *effect, npo_error *error)
{
    char text[NPO_HASH_TEXT_SIZE];
    for (size_t i = 0; i < effect->child_count; i++) {
        npo_hash_format(&effect->children[i], text);
        if (!npo_artifact_find(server, text).is_there)
            return npo_error_set(error, NPO_E_NOT_FOUND,
                                 "a folder was published before its file %s", text);
    }
    return NPO_OK;
}

void npo_artifact_publish(npo_server *server, const npo_effect *effect, const char *hash)
{
    char child[NPO_HASH_TEXT_SIZE];
    bool is_new = !npo_artifact_find(server, hash).is_there;
    npo_run(server->store, NPO_SQL_ARTIFACT_PUBLISH, npo_text(hash),
            npo_int((int64_t)effect->result_size), npo_int(effect->is_folder),
            npo_int(server->now.wall_ms));
    for (size_t i = 0; i < effect->child_count; i++) {
        npo_hash_format(&effect->children[i], child);
        npo_run(server->store, NPO_SQL_ARTIFACT_CHILD_INSERT, npo_text(hash), npo_text(child));
    }
    if (is_new)
        server->artifact_bytes += effect->result_size;
}

void npo_publish_done(npo_server *server, npo_effect *effect, npo_request *request)
{
    char hash[NPO_HASH_TEXT_SIZE];
    npo_hash_format(&effect->hash, hash);
    npo_err err = effect->error.code;
    if (err)
        request->error = effect->error;
    else
        err = check_children(server, effect, &request->error);
    npo_upload_ended(server, &effect->hash, err);
    if (err)
        return;
    npo_artifact_publish(server, effect, hash);
    npo_buf_str(&request->reply->json, "{\"ok\":true}");
}

/* ---- reading ---- */

typedef struct {
    const char *hash;
    int64_t offset, bytes;
} download_request;

npo_err npo_handle_download(npo_server *server, npo_request *request)
{
    static const npo_json_field fields[] = {
        {"hash", NPO_JSON_STRING, offsetof(download_request, hash), true, 0, 0, NULL},
        {"offset", NPO_JSON_INT, offsetof(download_request, offset), false, 0, 9007199254740992.0,
         NULL},
        {"bytes", NPO_JSON_INT, offsetof(download_request, bytes), false, 0, NPO_CHUNK_BYTES, NULL},
    };
    download_request wanted = {.bytes = NPO_CHUNK_BYTES};
    npo_hash hash;
    NPO_TRY(npo_request_fields(request, fields, &wanted));
    NPO_TRY(npo_request_hash(request, wanted.hash, &hash));
    npo_artifact_info info = npo_artifact_find(server, wanted.hash);
    if (!info.is_there)
        return npo_error_set(&request->error, NPO_E_NOT_FOUND, "artifact %s is not here",
                             wanted.hash);
    if (wanted.offset > info.size)
        return npo_error_set(&request->error, NPO_E_RANGE,
                             "artifact %s has %lld bytes, nothing at %lld", wanted.hash,
                             (long long)info.size, (long long)wanted.offset);
    npo_effect *effect = npo_effect_add(server, request, NPO_EFFECT_READ);
    if (!effect)
        return npo_error_set(&request->error, NPO_E_NOMEM, "cannot read artifact %s", wanted.hash);
    effect->hash = hash;
    effect->offset = (uint64_t)wanted.offset;
    effect->size = (uint64_t)wanted.bytes;
    effect->result_size = (uint64_t)info.size;
    return NPO_OK;
}

void npo_read_done(npo_server *server, npo_effect *effect, npo_request *request)
{
    char hash[NPO_HASH_TEXT_SIZE];
    npo_hash_format(&effect->hash, hash);
    npo_buf *json = &request->reply->json;
    if (effect->error.code == NPO_OK) {
        npo_buf_printf(json, "{\"size\":%llu,\"offset\":%llu}",
                       (unsigned long long)effect->result_size, (unsigned long long)effect->offset);
        npo_buf_fini(&request->reply->payload);
        request->reply->payload = effect->bytes;
        effect->bytes = (npo_buf)NPO_BUF_INIT;
        return;
    }
    request->error = effect->error;
    npo_artifact_info info = npo_artifact_find(server, hash);
    if (effect->error.code != NPO_E_NOT_FOUND || !info.is_there)
        return;
    /* Somebody removed the file: whatever made it makes it again. */
    npo_run(server->store, NPO_SQL_ARTIFACT_LOST, npo_text(hash));
    server->artifact_bytes -= (uint64_t)info.size;
    npo_event_add(server, 0, 0, "artifact.lost", hash);
    npo_task_input_lost(server, hash, 0);
}

/* ---- garbage ---- */

enum { GARBAGE_MAX = 64 }; /* a tick */

static void unlink_artifact(npo_server *server, const char *hash)
{
    npo_effect *effect = npo_effect_add(server, NULL, NPO_EFFECT_UNLINK);
    if (!effect || npo_hash_parse(hash, &effect->hash) != NPO_OK) {
        npo_state_fail(server, NPO_E_NOMEM, "cannot remove an artifact");
        return;
    }
    effect->key = npo_effect_key(&effect->hash);
}

/* Marks, and asks for the file to be removed: that happens after the commit. */
void npo_garbage_collect(npo_server *server, int64_t age_ms)
{
    char found[GARBAGE_MAX][NPO_HASH_TEXT_SIZE];
    bool is_there[GARBAGE_MAX];
    int count = 0;
    npo_query *rows = npo_ask(server->store, NPO_SQL_ARTIFACT_GARBAGE,
                              npo_int(server->now.wall_ms - age_ms), npo_int(GARBAGE_MAX));
    while (npo_query_next(rows)) {
        is_there[count] = npo_query_int(rows, 2) == STATE_THERE;
        if (is_there[count])
            server->artifact_bytes -= (uint64_t)npo_query_int(rows, 1);
        snprintf(found[count++], NPO_HASH_TEXT_SIZE, "%s", npo_query_text(rows, 0));
    }
    for (int i = 0; i < count; i++) {
        npo_run(server->store, is_there[i] ? NPO_SQL_ARTIFACT_MARK : NPO_SQL_ARTIFACT_DELETE,
                npo_text(found[i]));
        if (is_there[i])
            unlink_artifact(server, found[i]);
    }
}

/* Importing a large folder takes longer than a pin holds: pins of a client that is still at work
 * hold on. */
static void expire_pins(npo_server *server)
{
    enum { MAX = 64 }; /* clients; the others at the next tick */
    int64_t boots[MAX];
    int count = 0;
    npo_query *rows =
        npo_ask(server->store, NPO_SQL_PIN_EXPIRED, npo_int(server->now.wall_ms), npo_int(MAX));
    while (npo_query_next(rows))
        boots[count++] = npo_query_int(rows, 0);
    for (int i = 0; i < count; i++) {
        int64_t end_ms = npo_dedup_used_ms(server, (uint64_t)boots[i]) + NPO_PIN_CLIENT_MS;
        if (end_ms >= server->now.wall_ms)
            npo_run(server->store, NPO_SQL_PIN_EXTEND, npo_int(boots[i]), npo_int(end_ms));
        else
            npo_run(server->store, NPO_SQL_PIN_DELETE_BOOT, npo_int(boots[i]));
    }
}

void npo_garbage_tick(npo_server *server)
{
    expire_pins(server);
    npo_garbage_collect(server, server->options.garbage_age_ms);
}

/* What was marked before a crash. */
void npo_garbage_resume(npo_server *server)
{
    npo_query *rows = npo_ask(server->store, NPO_SQL_ARTIFACT_MARKED);
    while (npo_query_next(rows))
        unlink_artifact(server, npo_query_text(rows, 0));
}

void npo_garbage_done(npo_server *server, npo_effect *effect)
{
    char hash[NPO_HASH_TEXT_SIZE];
    npo_hash_format(&effect->hash, hash);
    if (effect->error.code == NPO_OK)
        npo_run(server->store, NPO_SQL_ARTIFACT_DELETE, npo_text(hash));
}
