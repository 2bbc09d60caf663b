#include "server/loop.h"

#include "common/bounds.h"
#include "common/clock.h"
#include "common/crash.h"
#include "common/log.h"
#include "proto/address.h"
#include "proto/server_channel.h"
#include "server/lock.h"
#include "server/server.h"

#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>
#include <uv.h>

enum { LOG_FAILURE_MS = 10000 };

typedef struct npo_loop npo_loop;

typedef struct {
    npo_reply_to *to; /* NULL: answered or given to an effect */
    npo_frame frame;  /* borrows from to */
    npo_server_reply reply;
} batch_entry;

/* An effect on a thread, or waiting for one of the same key. */
typedef struct work_item {
    struct work_item *next;
    npo_loop *loop;
    uv_work_t work;
    npo_effect *effect; /* owned */
    bool is_running;
} work_item;

struct npo_loop {
    uv_loop_t uv;
    uv_timer_t tick, watchdog;
    uv_signal_t terminate, interrupt;
    const npo_loop_options *options;
    char bulk[NPO_ADDRESS_SIZE], hints[NPO_ADDRESS_SIZE];
    npo_store *store;
    npo_server *server;
    npo_server_channel *control_channel, *bulk_channel;
    npo_server_hints *hints_channel;
    batch_entry batch[NPO_DRAIN_MAX];
    int batch_count;
    work_item *jobs; /* oldest first */
    npo_server_reply scratch;
    int64_t failure_logged_ms;
    uint64_t requests;
    bool is_stopping, is_closed;
    int open_channels;
};

static npo_time now(void)
{
    return (npo_time){npo_clock_ms(), npo_clock_wall_ms()};
}

/* ---- answers ---- */

static void send_reply(npo_loop *loop, npo_reply_to *to, const npo_server_reply *reply)
{
    npo_crash_point("reply.before");
    npo_reply_send(to, npo_server_epoch(loop->server), reply->json.data, reply->json.len,
                   reply->payload.data, reply->payload.len);
}

static void send_failure(npo_loop *loop, npo_reply_to *to, const npo_error *error)
{
    cJSON *tree = npo_reply_error_new(error->code, error->text);
    char *text = cJSON_PrintUnformatted(tree);
    if (text)
        npo_reply_send(to, npo_server_epoch(loop->server), text, strlen(text), NULL, 0);
    else
        npo_reply_drop(to);
    free(text);
    cJSON_Delete(tree);
}

static void log_failure(npo_loop *loop, const npo_error *error)
{
    if (loop->failure_logged_ms && npo_clock_ms() - loop->failure_logged_ms < LOG_FAILURE_MS)
        return;
    loop->failure_logged_ms = npo_clock_ms();
    npo_log_error("%s; nothing was changed, requests are refused or wait until this is mended",
                  error->text);
}

static bool is_in_batch(const npo_loop *loop, const void *to)
{
    for (int i = 0; i < loop->batch_count; i++)
        if (loop->batch[i].to == to)
            return true;
    return false;
}

static void drop_dropped(npo_loop *loop)
{
    /* After a rollback those of the batch are about to be handled again. */
    for (void *to; (to = npo_server_take_dropped(loop->server));)
        if (!is_in_batch(loop, to))
            npo_reply_drop(to);
}

/* ---- effects ---- */

static void start_effects(npo_loop *loop);
static void close_when_idle(npo_loop *loop);

static void run_effect(uv_work_t *work)
{
    work_item *job = work->data;
    npo_effect_run(job->loop->options->state_dir, job->effect);
}

static bool is_key_busy(const npo_loop *loop, const work_item *until)
{
    for (const work_item *job = loop->jobs; job && job != until; job = job->next)
        if (job->effect->key == until->effect->key)
            return true;
    return false;
}

static void remove_job(npo_loop *loop, work_item *gone)
{
    work_item **at = &loop->jobs;
    while (*at != gone)
        at = &(*at)->next;
    *at = gone->next;
    npo_effect_free(gone->effect);
    free(gone);
}

static void finish_effect(npo_loop *loop, npo_effect *effect)
{
    npo_error error = {0};
    npo_server_effect_done(loop->server, effect, now(), &loop->scratch);
    npo_err err = npo_server_commit(loop->server, now(), &error);
    if (err)
        log_failure(loop, &error);
    if (effect->to && err)
        npo_reply_drop(effect->to);
    else if (effect->to)
        send_reply(loop, effect->to, &loop->scratch);
    drop_dropped(loop);
}

static void after_effect(uv_work_t *work, int status);

static void start_jobs(npo_loop *loop)
{
    for (work_item *job = loop->jobs; job; job = job->next) {
        if (job->is_running || (job->effect->key != 0 && is_key_busy(loop, job)))
            continue;
        job->is_running = true;
        uv_queue_work(&loop->uv, &job->work, run_effect, after_effect);
    }
}

static void after_effect(uv_work_t *work, int status)
{
    work_item *job = work->data;
    npo_loop *loop = job->loop;
    finish_effect(loop, job->effect);
    remove_job(loop, job);
    start_effects(loop);
    if (loop->is_stopping)
        close_when_idle(loop);
}

static void add_job(npo_loop *loop, npo_effect *effect_take)
{
    work_item **at = &loop->jobs, *added = calloc(1, sizeof *added);
    if (!added) {
        if (effect_take->to)
            npo_reply_drop(effect_take->to);
        npo_effect_free(effect_take);
        return;
    }
    added->loop = loop;
    added->effect = effect_take;
    added->work.data = added;
    while (*at)
        at = &(*at)->next;
    *at = added;
}

static void start_effects(npo_loop *loop)
{
    npo_effect *effect = npo_server_take_effects(loop->server);
    while (effect) {
        npo_effect *next = effect->next;
        effect->next = NULL;
        add_job(loop, effect);
        effect = next;
    }
    start_jobs(loop);
}

/* ---- batches ---- */

static void after_commit(npo_loop *loop)
{
    start_effects(loop);
    if (npo_server_take_hint(loop->server))
        npo_server_hints_send(loop->hints_channel);
}

static void answer_entry(npo_loop *loop, batch_entry *entry)
{
    if (entry->reply.drop)
        npo_reply_drop(entry->to);
    else if (!entry->reply.later)
        send_reply(loop, entry->to, &entry->reply);
    entry->to = NULL;
}

/* One request in a group of its own, after its group could not be committed: others must not suffer
 * for the one that cannot. Workers hear nothing and resend; a person gets the sentence. */
static void handle_alone(npo_loop *loop, batch_entry *entry)
{
    npo_error error = {0};
    npo_server_handle(loop->server, &entry->frame, now(), entry->to, &entry->reply);
    if (npo_server_commit(loop->server, now(), &error) == NPO_OK) {
        answer_entry(loop, entry);
        start_effects(loop); /* before the next one's failure takes them away */
        return;
    }
    drop_dropped(loop);
    if (npo_message_find(entry->frame.id)->sender == NPO_SENDER_WORKER)
        npo_reply_drop(entry->to);
    else
        send_failure(loop, entry->to, &error);
    entry->to = NULL;
}

static void on_frame(void *self, const npo_frame *frame, npo_reply_to *to_take)
{
    npo_loop *loop = self;
    assert(loop->batch_count < NPO_DRAIN_MAX);
    loop->requests++;
    if (loop->is_stopping) {
        npo_reply_drop(to_take);
        return;
    }
    batch_entry *entry = &loop->batch[loop->batch_count++];
    entry->to = to_take;
    entry->frame = *frame;
    npo_server_handle(loop->server, frame, now(), to_take, &entry->reply);
}

static void on_batch_end(void *self)
{
    npo_loop *loop = self;
    npo_error error = {0};
    bool is_done = npo_server_commit(loop->server, now(), &error) == NPO_OK;
    if (!is_done) {
        log_failure(loop, &error);
        drop_dropped(loop);
    }
    for (int i = 0; i < loop->batch_count; i++) {
        if (is_done)
            answer_entry(loop, &loop->batch[i]);
        else
            handle_alone(loop, &loop->batch[i]);
    }
    loop->batch_count = 0;
    drop_dropped(loop);
    after_commit(loop);
}

/* ---- time ---- */

static void on_tick(uv_timer_t *timer)
{
    npo_loop *loop = timer->data;
    npo_error error = {0};
    npo_server_tick(loop->server, now());
    if (npo_server_commit(loop->server, now(), &error) != NPO_OK)
        log_failure(loop, &error);
    drop_dropped(loop);
    after_commit(loop);
}

static void on_watchdog(uv_timer_t *timer)
{
    sd_notify(0, "WATCHDOG=1");
}

static void start_timers(npo_loop *loop)
{
    uint64_t watchdog_us = 0;
    uv_timer_start(&loop->tick, on_tick, NPO_SERVER_TICK_MS, NPO_SERVER_TICK_MS);
    if (sd_watchdog_enabled(0, &watchdog_us) > 0)
        uv_timer_start(&loop->watchdog, on_watchdog, 0, watchdog_us / 2000);
}

/* ---- the end ---- */

static void on_channel_closed(void *self)
{
    npo_loop *loop = self;
    if (--loop->open_channels > 0)
        return;
    uv_close((uv_handle_t *)&loop->tick, NULL);
    uv_close((uv_handle_t *)&loop->watchdog, NULL);
    uv_close((uv_handle_t *)&loop->terminate, NULL);
    uv_close((uv_handle_t *)&loop->interrupt, NULL);
}

static void log_work(const npo_loop *loop)
{
    uint64_t commits, ns;
    npo_store_commit_stats(loop->store, &commits, &ns);
    npo_log_debug("%llu requests in %llu commits, %.3f ms each", (unsigned long long)loop->requests,
                  (unsigned long long)commits, commits ? (double)ns / 1e6 / (double)commits : 0);
}

static void close_when_idle(npo_loop *loop)
{
    if (loop->jobs || loop->is_closed)
        return;
    loop->is_closed = true;
    log_work(loop);
    npo_server_stop(loop->server);
    drop_dropped(loop);
    npo_server_channel_close(loop->control_channel, on_channel_closed);
    npo_server_channel_close(loop->bulk_channel, on_channel_closed);
}

static void on_signal(uv_signal_t *handle, int signum)
{
    npo_loop *loop = handle->data;
    if (loop->is_stopping)
        return;
    npo_log_info("stopping: %s", signum == SIGTERM ? "terminated" : "interrupted");
    sd_notify(0, "STOPPING=1");
    loop->is_stopping = true;
    uv_timer_stop(&loop->tick);
    close_when_idle(loop);
}

/* ---- the beginning ---- */

static npo_err open_channels(npo_loop *loop, npo_error *error)
{
    const npo_server_handler handler = {loop, on_frame, on_batch_end};
    NPO_TRY(npo_server_channel_open(&loop->uv, loop->options->listen, NPO_CHANNEL_CONTROL, &handler,
                                    &loop->control_channel, error));
    loop->open_channels++;
    npo_server_channel_set_epoch(loop->control_channel, npo_server_epoch(loop->server));
    NPO_TRY(npo_server_channel_open(&loop->uv, loop->bulk, NPO_CHANNEL_BULK, &handler,
                                    &loop->bulk_channel, error));
    loop->open_channels++;
    npo_server_channel_set_epoch(loop->bulk_channel, npo_server_epoch(loop->server));
    return npo_server_hints_open(loop->hints, &loop->hints_channel, error);
}

static void found_upload(void *self, const npo_hash *hash, uint64_t size)
{
    npo_server_add_upload(self, hash, size);
}

static bool is_known(void *self, const char *hash)
{
    return npo_server_has_artifact(self, hash);
}

static bool is_job(void *self, int64_t job)
{
    return npo_server_has_job(self, job);
}

static npo_err open_state(npo_loop *loop, npo_error *error)
{
    char path[4096];
    const npo_loop_options *options = loop->options;
    snprintf(path, sizeof path, "%s/npod.db", options->state_dir);
    NPO_TRY(npo_effect_prepare(options->state_dir, error));
    const npo_store_options store = {.path = path};
    NPO_TRY(npo_store_open(&store, &loop->store, error));
    const npo_server_options server = {
        .state_dir = options->state_dir,
        .bulk = loop->bulk,
        .hints = loop->hints,
        .lease_ms = options->lease_ms,
        /* Three heartbeats may go astray before a worker is given up. */
        .heartbeat_ms = options->lease_ms ? options->lease_ms / 5 : 0,
        .garbage_age_ms = options->garbage_age_ms,
        .quota_bytes = options->quota_bytes,
        .raise_epoch = options->raise_epoch,
    };
    NPO_TRY(npo_server_new(loop->store, &server, now(), &loop->server, error));
    NPO_TRY(npo_effect_list_uploads(options->state_dir, found_upload, loop->server, error));
    NPO_TRY(npo_effect_sweep(options->state_dir, is_known, loop->server, error));
    return npo_effect_sweep_streams(options->state_dir, is_job, loop->server, error);
}

static npo_err open_all(npo_loop *loop, npo_error *error)
{
    NPO_TRY(npo_address_derive(loop->options->listen, NPO_ENDPOINT_BULK, loop->bulk, error));
    NPO_TRY(npo_address_derive(loop->options->listen, NPO_ENDPOINT_HINTS, loop->hints, error));
    NPO_TRY(open_state(loop, error));
    NPO_TRY(open_channels(loop, error));
    start_timers(loop);
    uv_signal_start(&loop->terminate, on_signal, SIGTERM);
    uv_signal_start(&loop->interrupt, on_signal, SIGINT);
    return NPO_OK;
}

static void init_uv(npo_loop *loop)
{
    uv_loop_init(&loop->uv);
    uv_timer_init(&loop->uv, &loop->tick);
    uv_timer_init(&loop->uv, &loop->watchdog);
    uv_signal_init(&loop->uv, &loop->terminate);
    uv_signal_init(&loop->uv, &loop->interrupt);
    loop->tick.data = loop->watchdog.data = loop;
    loop->terminate.data = loop->interrupt.data = loop;
}

static void abort_opening(npo_loop *loop)
{
    if (loop->bulk_channel)
        npo_server_channel_close(loop->bulk_channel, on_channel_closed);
    if (loop->control_channel)
        npo_server_channel_close(loop->control_channel, on_channel_closed);
    if (loop->open_channels == 0) {
        loop->open_channels = 1;
        on_channel_closed(loop);
    }
}

static void fini(npo_loop *loop)
{
    npo_server_hints_close(loop->hints_channel);
    npo_server_free(loop->server);
    npo_store_close(loop->store);
    for (int i = 0; i < NPO_DRAIN_MAX; i++)
        npo_server_reply_fini(&loop->batch[i].reply);
    npo_server_reply_fini(&loop->scratch);
    uv_loop_close(&loop->uv);
    free(loop);
}

npo_err npo_loop_run(const npo_loop_options *options, npo_error *error)
{
    int lock = -1;
    NPO_TRY(npo_lock_take(options->state_dir, &lock, error));
    npo_loop *loop = calloc(1, sizeof *loop);
    if (!loop) {
        close(lock);
        return npo_error_set(error, NPO_E_NOMEM, "cannot start");
    }
    loop->options = options;
    init_uv(loop);
    npo_err err = open_all(loop, error);
    if (err) {
        abort_opening(loop);
    } else {
        npo_log_info("listening on %s, state in '%s'", options->listen, options->state_dir);
        sd_notify(0, "READY=1");
        start_effects(loop);
    }
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    fini(loop);
    close(lock);
    return err;
}
