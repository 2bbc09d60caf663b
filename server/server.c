#include "server/state.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PURGE_MS = 30000, GARBAGE_AGE_MS = 3600000 };

static npo_handler *const handlers[NPO_FRAME_REPLY_BIT] = {
    [NPO_MESSAGE_HELLO] = npo_handle_hello,
    [NPO_MESSAGE_HEARTBEAT] = npo_handle_heartbeat,
    [NPO_MESSAGE_PULL] = npo_handle_pull,
    [NPO_MESSAGE_DONE] = npo_handle_done,
    [NPO_MESSAGE_FAIL] = npo_handle_fail,
    [NPO_MESSAGE_APPEND] = npo_handle_append,
    [NPO_MESSAGE_RENDEZVOUS_SET] = npo_handle_rendezvous_set,
    [NPO_MESSAGE_RENDEZVOUS_GET] = npo_handle_rendezvous_get,
    [NPO_MESSAGE_GOODBYE] = npo_handle_goodbye,
    [NPO_MESSAGE_UPLOAD_OPEN] = npo_handle_upload_open,
    [NPO_MESSAGE_UPLOAD_CHUNK] = npo_handle_upload_chunk,
    [NPO_MESSAGE_UPLOAD_CLOSE] = npo_handle_upload_close,
    [NPO_MESSAGE_DOWNLOAD] = npo_handle_download,
    [NPO_MESSAGE_ARTIFACTS_MISSING] = npo_handle_artifacts_missing,
    [NPO_MESSAGE_INFO] = npo_handle_info,
    [NPO_MESSAGE_SUBMIT] = npo_handle_submit,
    [NPO_MESSAGE_JOBS] = npo_handle_jobs,
    [NPO_MESSAGE_JOB] = npo_handle_job,
    [NPO_MESSAGE_WORKERS] = npo_handle_workers,
    [NPO_MESSAGE_EVENTS] = npo_handle_events,
    [NPO_MESSAGE_STREAM] = npo_handle_stream,
    [NPO_MESSAGE_CANCEL] = npo_handle_cancel,
    [NPO_MESSAGE_HOLD] = npo_handle_hold,
    [NPO_MESSAGE_RELEASE] = npo_handle_release,
    [NPO_MESSAGE_RETRY] = npo_handle_retry,
    [NPO_MESSAGE_REMOVE] = npo_handle_remove,
    [NPO_MESSAGE_RESOLVE] = npo_handle_resolve,
};

/* ---- life ---- */

static npo_err copy_options(npo_server *server, const npo_server_options *options)
{
    server->options = *options;
    if (server->options.lease_ms == 0)
        server->options.lease_ms = NPO_LEASE_MS;
    if (server->options.heartbeat_ms == 0)
        server->options.heartbeat_ms = NPO_HEARTBEAT_MS;
    if (server->options.garbage_age_ms == 0)
        server->options.garbage_age_ms = GARBAGE_AGE_MS;
    server->state_dir = strdup(options->state_dir);
    server->bulk = strdup(options->bulk);
    server->hints = strdup(options->hints);
    return server->state_dir && server->bulk && server->hints ? NPO_OK : NPO_E_NOMEM;
}

static void raise_epoch(npo_server *server)
{
    server->epoch++;
    npo_run(server->store, NPO_SQL_META_SET, npo_text("epoch"), npo_int(server->epoch));
}

npo_err npo_server_new(npo_store *store, const npo_server_options *options, npo_time now,
                       npo_server **ret_server, npo_error *error)
{
    npo_server *server = calloc(1, sizeof *server);
    if (!server)
        return npo_error_set(error, NPO_E_NOMEM, "cannot start");
    server->store = store;
    server->now = now;
    server->start_ms = now.mono_ms;
    server->purge_ms = now.mono_ms + PURGE_MS;
    server->effects_tail = &server->effects;
    npo_err err = copy_options(server, options);
    if (!err)
        err = npo_state_load(server, error);
    if (!err && options->raise_epoch)
        raise_epoch(server);
    if (!err) {
        npo_garbage_resume(server);
        err = npo_server_commit(server, now, error);
    }
    if (err) {
        npo_server_free(server);
        return err;
    }
    *ret_server = server;
    return NPO_OK;
}

void npo_server_free(npo_server *server)
{
    if (!server)
        return;
    npo_effects_discard(server);
    npo_state_unload(server);
    npo_uploads_free(server);
    npo_map_fini(&server->later);
    npo_buf_fini(&server->log);
    free(server->dropped);
    free(server->state_dir);
    free(server->bulk);
    free(server->hints);
    free(server);
}

uint64_t npo_server_epoch(const npo_server *server)
{
    return (uint64_t)server->epoch;
}

bool npo_server_take_hint(npo_server *server)
{
    bool hint = server->hint;
    server->hint = false;
    return hint;
}

/* ---- requests that an effect answers ---- */

/* Two requests may share a key; then one of them waits for its resend, which is harmless. */
static int64_t later_key(uint64_t boot, uint64_t request)
{
    return (int64_t)(((boot * 0x9e3779b97f4a7c15u) ^ request) << 1 | 1); /* never 0 */
}

static bool is_under_way(const npo_server *server, const npo_frame *frame)
{
    return npo_map_get(&server->later, later_key(frame->boot, frame->request)) != NULL;
}

static void remember_later(npo_server *server, const npo_frame *frame)
{
    /* Without memory for it a resend would start the work once more, which is safe too. */
    if (npo_map_put(&server->later, later_key(frame->boot, frame->request), server) != NPO_OK)
        return;
}

void npo_later_forget(npo_server *server, const npo_effect *effect)
{
    npo_map_remove(&server->later, later_key(effect->boot, effect->request));
}

/* ---- handling ---- */

static void answer_error(npo_server_reply *reply, npo_err code, const npo_error *error)
{
    npo_buf_clear(&reply->json);
    npo_buf_clear(&reply->payload);
    npo_buf_printf(&reply->json, "{\"error\":{\"code\":\"%s\",\"text\":", npo_err_name(code));
    npo_json_add_text(&reply->json, error->text[0] ? error->text : npo_err_text(code));
    npo_buf_str(&reply->json, "}}");
}

static npo_err check_epoch(const npo_server *server, npo_request *request)
{
    if (request->frame->epoch <= (uint64_t)server->epoch)
        return NPO_OK;
    return npo_error_set(&request->error, NPO_E_FENCED,
                         "this npod has epoch %lld, but there is one with epoch %llu: if this is "
                         "the right one (restored from a backup), start it with --raise-epoch",
                         (long long)server->epoch, (unsigned long long)request->frame->epoch);
}

static npo_err run_handler(npo_server *server, npo_request *request, const npo_message_info *info)
{
    cJSON *json = NULL;
    NPO_TRY(check_epoch(server, request));
    NPO_TRY(npo_frame_parse(request->frame, &json, &request->error));
    request->json = json;
    npo_err err = handlers[info->id](server, request);
    cJSON_Delete(json);
    return err;
}

/* Clients read rows that the mirror may be ahead of. */
static void catch_up(npo_server *server, const npo_message_info *info)
{
    if (info->sender != NPO_SENDER_WORKER && info->channel == NPO_CHANNEL_CONTROL)
        npo_state_flush(server);
}

void npo_server_handle(npo_server *server, const npo_frame *frame, npo_time now, void *to,
                       npo_server_reply *ret_reply)
{
    const npo_message_info *info = npo_message_find(frame->id);
    npo_request request = {.frame = frame, .to = to, .reply = ret_reply};
    assert(info && handlers[info->id]);
    server->now = now;
    npo_server_reply_clear(ret_reply);
    if (is_under_way(server, frame)) {
        ret_reply->drop = true;
        return;
    }
    npo_dedup seen = info->dedup ? npo_dedup_find(server, frame, ret_reply) : NPO_DEDUP_NEW;
    if (seen == NPO_DEDUP_SEEN)
        return;
    if (seen == NPO_DEDUP_OLD) {
        (void)npo_error_set(&request.error, NPO_E_STATE,
                            "request %llu was answered long ago, its answer is forgotten",
                            (unsigned long long)frame->request);
        answer_error(ret_reply, NPO_E_STATE, &request.error);
        return;
    }
    catch_up(server, info);
    uint64_t writes = npo_store_writes(server->store);
    npo_err err = run_handler(server, &request, info);
    bool has_written = npo_store_writes(server->store) != writes;
    if (err && has_written)
        npo_state_fail(server, err, info->name);
    if (err)
        answer_error(ret_reply, err, &request.error);
    else if (ret_reply->later)
        remember_later(server, frame);
    else if (info->dedup && has_written)
        npo_dedup_put(server, frame->boot, frame->request, &request, ret_reply->json.data);
}

/* ---- groups ---- */

static void roll_back(npo_server *server)
{
    npo_error ignored;
    npo_store_rollback(server->store);
    npo_uploads_rollback(server);
    npo_effects_discard(server);
    npo_map_fini(&server->later);
    npo_state_unload(server);
    server->failure = (npo_error){0};
    server->hint_pending = false;
    /* Without memory even for this the mirror stays empty; the next rollback tries again. */
    if (npo_state_load(server, &ignored) != NPO_OK)
        npo_state_fail(server, NPO_E_NOMEM, "cannot read the state again");
}

npo_err npo_server_commit(npo_server *server, npo_time now, npo_error *error)
{
    server->now = now;
    if (server->failure.code == NPO_OK) {
        npo_state_flush(server);
        npo_dedup_flush(server);
    }
    npo_err err = server->failure.code;
    if (err)
        (void)npo_error_set(error, err, "%s", server->failure.text);
    else
        err = npo_store_commit(server->store, error);
    if (err) {
        roll_back(server);
        return err;
    }
    npo_uploads_committed(server);
    server->hint |= server->hint_pending;
    server->hint_pending = false;
    return NPO_OK;
}

/* ---- effects ---- */

static void finish_effect(npo_server *server, npo_effect *effect, npo_request *request)
{
    switch (effect->kind) {
    case NPO_EFFECT_WRITE:
        npo_upload_done(server, effect, request);
        break;
    case NPO_EFFECT_PUBLISH:
        npo_publish_done(server, effect, request);
        break;
    case NPO_EFFECT_READ:
        npo_read_done(server, effect, request);
        break;
    case NPO_EFFECT_UNLINK:
        npo_garbage_done(server, effect);
        break;
    case NPO_EFFECT_STREAM_APPEND:
    case NPO_EFFECT_STREAM_READ:
        npo_stream_done(server, effect, request);
        break;
    case NPO_EFFECT_DISCARD:
    case NPO_EFFECT_STREAMS_REMOVE:
    case NPO_EFFECT_COUNT:
        break;
    }
}

void npo_server_effect_done(npo_server *server, npo_effect *effect, npo_time now,
                            npo_server_reply *ret_reply)
{
    npo_request request = {.to = effect->to, .reply = ret_reply};
    server->now = now;
    npo_server_reply_clear(ret_reply);
    finish_effect(server, effect, &request);
    if (!effect->to)
        return;
    npo_later_forget(server, effect);
    const npo_message_info *info = npo_message_find(effect->message);
    if (request.error.code)
        answer_error(ret_reply, request.error.code, &request.error);
    else if (info->dedup)
        npo_dedup_put(server, effect->boot, effect->request, NULL, ret_reply->json.data);
}

/* ---- time ---- */

void npo_server_tick(npo_server *server, npo_time now)
{
    server->now = now;
    npo_lease_tick(server);
    npo_task_tick(server);
    npo_job_tick(server);
    server->tick_ms = now.mono_ms;
    if (now.mono_ms < server->purge_ms)
        return;
    server->purge_ms = now.mono_ms + PURGE_MS;
    npo_dedup_purge(server);
    npo_event_purge(server);
    npo_uploads_tick(server);
    npo_garbage_tick(server);
}
