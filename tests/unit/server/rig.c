#include "tests/unit/server/rig.h"

#include "common/bounds.h"
#include "common/file.h"
#include "common/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CLIENT = 999 };

static void open_server(npo_rig *rig)
{
    npo_error error = {0};
    const npo_store_options store = {
        .path = rig->path, .pages_max = rig->pages_max, .no_sync = true};
    if (npo_store_open(&store, &rig->store, &error) != NPO_OK)
        fail_msg("%s", error.text);
    rig->options.state_dir = rig->dir;
    rig->options.bulk = "ipc://bulk.sock";
    rig->options.hints = "ipc://hints.sock";
    if (npo_server_new(rig->store, &rig->options, rig->now, &rig->server, &error) != NPO_OK)
        fail_msg("%s", error.text);
}

void rig_open(npo_rig *rig)
{
    npo_error error = {0};
    snprintf(rig->dir, sizeof rig->dir, "/tmp/npo-test-server-XXXXXX");
    assert_non_null(mkdtemp(rig->dir));
    snprintf(rig->path, sizeof rig->path, "%s/npod.db", rig->dir);
    if (rig->now.mono_ms == 0)
        rig->now = (npo_time){1000000, 1700000000000};
    assert_int_equal(npo_effect_prepare(rig->dir, &error), NPO_OK);
    open_server(rig);
}

static void close_server(npo_rig *rig)
{
    npo_server_free(rig->server);
    npo_store_close(rig->store);
}

void rig_restart(npo_rig *rig)
{
    close_server(rig);
    open_server(rig);
}

void rig_close(npo_rig *rig)
{
    close_server(rig);
    npo_server_reply_fini(&rig->reply);
    cJSON_Delete(rig->last);
    free(rig->last_text);
    assert_int_equal(npo_file_remove(rig->dir, NULL), NPO_OK);
}

/* ---- requests ---- */

static void keep_reply(npo_rig *rig)
{
    cJSON_Delete(rig->last);
    free(rig->last_text);
    rig->last = NULL;
    rig->last_text = NULL;
    if (rig->reply.json.len == 0)
        return;
    rig->last_text = strdup(rig->reply.json.data);
    rig->last = cJSON_Parse(rig->last_text);
    if (!rig->last)
        fail_msg("reply is not JSON: %s", rig->last_text);
}

static void commit(npo_rig *rig)
{
    npo_error error = {0};
    rig->commit_err = npo_server_commit(rig->server, rig->now, &error);
    if (rig->commit_err && !rig->may_fail)
        fail_msg("commit: %s", error.text);
}

/* Runs what was asked for; the reply to `to` becomes the rig's. */
static void run_effects(npo_rig *rig, const void *to)
{
    npo_server_reply reply = {0};
    npo_effect *effect;
    while (!rig->hold_effects && (effect = npo_server_take_effects(rig->server))) {
        while (effect) {
            npo_effect *next = effect->next;
            npo_effect_run(rig->dir, effect);
            npo_server_effect_done(rig->server, effect, rig->now, &reply);
            commit(rig);
            if (effect->to == to && to) {
                npo_server_reply_fini(&rig->reply);
                rig->reply = reply;
                reply = (npo_server_reply){0};
            }
            npo_effect_free(effect);
            effect = next;
        }
    }
    npo_server_reply_fini(&reply);
}

const cJSON *rig_ask_as(npo_rig *rig, uint64_t boot, uint64_t request, npo_message id,
                        const char *json)
{
    int token;
    const npo_frame frame = {.id = id,
                             .boot = boot,
                             .request = request,
                             .json = json,
                             .json_len = strlen(json),
                             .payload = rig->payload,
                             .payload_len = rig->payload_len};
    npo_server_handle(rig->server, &frame, rig->now, &token, &rig->reply);
    commit(rig);
    if (rig->commit_err)
        npo_server_reply_clear(&rig->reply);
    else
        run_effects(rig, &token);
    keep_reply(rig);
    rig->payload = NULL;
    rig->payload_len = 0;
    return rig->last;
}

const cJSON *rig_ask(npo_rig *rig, uint64_t boot, npo_message id, const char *format, ...)
{
    char *json = NULL;
    va_list args;
    va_start(args, format);
    assert_true(vasprintf(&json, format, args) >= 0);
    va_end(args);
    const cJSON *reply = rig_ask_as(rig, boot, ++rig->requests, id, json);
    free(json);
    return reply;
}

const char *rig_code(const npo_rig *rig)
{
    return npo_json_string(cJSON_GetObjectItem(rig->last, "error"), "code", "");
}

void rig_tick(npo_rig *rig, int64_t ms)
{
    while (ms > 0) {
        int64_t step = ms > 1000 ? 1000 : ms;
        rig->now.mono_ms += step;
        rig->now.wall_ms += step;
        ms -= step;
        npo_server_tick(rig->server, rig->now);
        commit(rig);
        run_effects(rig, NULL);
    }
}

const char *rig_publish(npo_rig *rig, uint64_t boot, const char *text)
{
    static char ring[4][NPO_HASH_TEXT_SIZE];
    static int at;
    char *hash = ring[at++ % 4];
    npo_hash digest = npo_hash_bytes(text, strlen(text));
    npo_hash_format(&digest, hash);
    const cJSON *reply = rig_ask(rig, boot, NPO_MESSAGE_UPLOAD_OPEN,
                                 "{\"hash\":\"%s\",\"size\":%zu}", hash, strlen(text));
    assert_string_equal(rig_code(rig), "");
    if (npo_json_bool(reply, "have", false))
        return hash;
    rig->payload = text;
    rig->payload_len = strlen(text);
    rig_ask(rig, boot, NPO_MESSAGE_UPLOAD_CHUNK, "{\"hash\":\"%s\",\"offset\":0}", hash);
    assert_string_equal(rig_code(rig), "");
    rig_ask(rig, boot, NPO_MESSAGE_UPLOAD_CLOSE, "{\"hash\":\"%s\"}", hash);
    assert_string_equal(rig_code(rig), "");
    return hash;
}

/* ---- workers ---- */

rig_worker rig_hello(npo_rig *rig, uint64_t boot, const char *name, const char *class)
{
    rig_worker worker = {.boot = boot};
    const cJSON *reply = rig_ask(
        rig, boot, NPO_MESSAGE_HELLO,
        "{\"name\":\"%s\",\"device\":\"cpu\",\"class\":\"%s\",\"threads\":1,"
        "\"memory_bytes\":1000000,\"labels\":{\"rack\":\"a\"},\"build\":\"1\",\"protocol\":[1,1]}",
        name, class);
    assert_string_equal(rig_code(rig), "");
    worker.id = npo_json_int(reply, "worker", 0);
    assert_true(worker.id > 0);
    return worker;
}

bool rig_pull(npo_rig *rig, rig_worker *worker)
{
    const cJSON *reply =
        rig_ask(rig, worker->boot, NPO_MESSAGE_PULL, "{\"worker\":%lld}", (long long)worker->id);
    assert_string_equal(rig_code(rig), "");
    const cJSON *assignment = cJSON_GetObjectItem(reply, "assignment");
    assert_non_null(assignment);
    worker->task = 0;
    if (!cJSON_IsObject(assignment)) {
        assert_true(npo_json_int(reply, "wait_ms", 0) > 0);
        return false;
    }
    worker->task = npo_json_int(assignment, "task", 0);
    worker->attempt = npo_json_int(assignment, "attempt", 0);
    worker->job = npo_json_int(assignment, "job", 0);
    worker->rank = (int)npo_json_int(assignment, "rank", -1);
    worker->world = (int)npo_json_int(assignment, "world", 0);
    worker->shard = npo_json_int(assignment, "shard", -1);
    worker->round = npo_json_int(assignment, "round", -1);
    worker->fused = npo_json_bool(cJSON_GetObjectItem(assignment, "params"), "fused", false);
    snprintf(worker->kind, sizeof worker->kind, "%s", npo_json_string(assignment, "kind", ""));
    return true;
}

static const struct {
    const char *kind, *name;
    bool numbered;   /* by shard */
    bool every_rank; /* else rank 0 only */
    bool fused_only; /* numbered by rank */
} outputs[] = {
    {"generate", "pool", false, true, false},    {"truncate", "segment", false, true, false},
    {"truncate", "pool", false, true, false},    {"train", "checkpoint", false, false, false},
    {"train", "pool", true, true, true},         {"sample", "images", false, true, false},
    {"evaluate", "features", true, true, false}, {"report", "report.html", false, true, false},
    {"export", "model", false, true, false},
};

void rig_done(npo_rig *rig, rig_worker *worker)
{
    char list[512] = "", name[64], text[96];
    for (size_t i = 0; i < sizeof outputs / sizeof outputs[0]; i++) {
        if (strcmp(outputs[i].kind, worker->kind) != 0 ||
            (!outputs[i].every_rank && worker->rank != 0) ||
            (outputs[i].fused_only && !worker->fused))
            continue;
        snprintf(name, sizeof name, "%s", outputs[i].name);
        if (outputs[i].numbered)
            snprintf(name, sizeof name, "%s.%d", outputs[i].name,
                     outputs[i].fused_only ? worker->rank : (int)worker->shard);
        snprintf(text, sizeof text, "%s of task %lld", name, (long long)worker->task);
        const char *hash = rig_publish(rig, worker->boot, text);
        size_t len = strlen(list);
        snprintf(list + len, sizeof list - len, "%s{\"name\":\"%s\",\"hash\":\"%s\",\"size\":%zu}",
                 len ? "," : "", name, hash, strlen(text));
    }
    rig_ask(rig, worker->boot, NPO_MESSAGE_DONE,
            "{\"worker\":%lld,\"task\":%lld,\"attempt\":%lld,\"rank\":%d,\"outputs\":[%s],"
            "\"result\":{\"kind\":\"%s\"}}",
            (long long)worker->id, (long long)worker->task, (long long)worker->attempt,
            worker->rank, list, worker->kind);
    if (!rig->may_fail && *rig_code(rig))
        fail_msg("done of %s: %s", worker->kind, rig->last_text);
    worker->task = 0;
}

void rig_fail(npo_rig *rig, rig_worker *worker, bool retry)
{
    rig_ask(rig, worker->boot, NPO_MESSAGE_FAIL,
            "{\"worker\":%lld,\"task\":%lld,\"attempt\":%lld,\"rank\":%d,\"code\":\"IO\","
            "\"text\":\"it broke\",\"retry\":%s}",
            (long long)worker->id, (long long)worker->task, (long long)worker->attempt,
            worker->rank, retry ? "true" : "false");
    worker->task = 0;
}

const cJSON *rig_beat(npo_rig *rig, const rig_worker *worker)
{
    if (worker->task == 0)
        return rig_ask(rig, worker->boot, NPO_MESSAGE_HEARTBEAT,
                       "{\"worker\":%lld,\"state\":\"idle\",\"tasks\":[]}", (long long)worker->id);
    return rig_ask(rig, worker->boot, NPO_MESSAGE_HEARTBEAT,
                   "{\"worker\":%lld,\"state\":\"busy\",\"tasks\":[{\"task\":%lld,\"attempt\":%lld,"
                   "\"rank\":%d,\"step\":3,\"steps\":10,\"phase\":\"%s\",\"loss\":0.25,"
                   "\"samples_per_s\":12.5}]}",
                   (long long)worker->id, (long long)worker->task, (long long)worker->attempt,
                   worker->rank, worker->kind);
}

int rig_play(npo_rig *rig, rig_worker *workers, int count)
{
    int done = 0;
    for (bool progress = true; progress;) {
        progress = false;
        for (int i = 0; i < count; i++)
            progress |= workers[i].task != 0 || rig_pull(rig, &workers[i]);
        for (int i = 0; i < count; i++) {
            if (workers[i].task == 0)
                continue;
            rig_done(rig, &workers[i]);
            done++;
        }
        rig_tick(rig, 10);
    }
    return done;
}

/* ---- jobs ---- */

static int64_t submit(npo_rig *rig, const char *more, const char *from)
{
    const char *model = rig_publish(rig, CLIENT, "the model");
    static int keys;
    const cJSON *reply =
        rig_ask(rig, CLIENT, NPO_MESSAGE_SUBMIT,
                "{\"key\":\"key-%d\",\"from\":%s,\"spec\":{\"model\":{\"artifact\":\"%s\"},%s}}",
                ++keys, from, model, more);
    if (*rig_code(rig) && !rig->may_fail)
        fail_msg("submit: %s", rig->last_text);
    return npo_json_int(reply, "job", 0);
}

int64_t rig_submit(npo_rig *rig, const char *more)
{
    return submit(rig, more, "null");
}

int64_t rig_submit_from(npo_rig *rig, const char *more, int64_t job, int64_t step)
{
    char from[64];
    if (step < 0)
        snprintf(from, sizeof from, "{\"job\":%lld,\"step\":null}", (long long)job);
    else
        snprintf(from, sizeof from, "{\"job\":%lld,\"step\":%lld}", (long long)job,
                 (long long)step);
    return submit(rig, more, from);
}

const cJSON *rig_order(npo_rig *rig, npo_message id, int64_t job)
{
    return rig_ask(rig, CLIENT, id, "{\"job\":%lld}", (long long)job);
}

static const char *job_text(npo_rig *rig, int64_t job, const char *key)
{
    static char text[512];
    const cJSON *reply = rig_order(rig, NPO_MESSAGE_JOB, job);
    const char *found =
        *rig_code(rig) ? "gone" : npo_json_string(cJSON_GetObjectItem(reply, "job"), key, "");
    snprintf(text, sizeof text, "%s", found);
    return text;
}

const char *rig_state(npo_rig *rig, int64_t job)
{
    return job_text(rig, job, "state");
}

const char *rig_reason(npo_rig *rig, int64_t job)
{
    return job_text(rig, job, "reason");
}
