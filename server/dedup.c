/* Replies of the last requests of every process, so that a request that comes again is answered
 * with the same bytes and changes nothing again: one for each of the NPO_REQUESTS_IN_FLIGHT_MAX ids
 * that may still be resent. Held in memory, and stored as a log: each commit adds one row with the
 * requests it answers, which is much less to write than a row for each. An assignment is remembered
 * by its fence and written anew; it may be large, and all it is made of is stored.
 *
 * Body of a row, for each request:
 *     boot request time_ms task attempt rank length\n reply\n
 * all numbers decimal; task 0: the reply is the text of `length` bytes. Later entries replace
 * earlier ones of the same boot and slot (request modulo NPO_REQUESTS_IN_FLIGHT_MAX). */
#include "server/state.h"

#include <stdlib.h>
#include <string.h>

enum { LOG_BYTES_MAX = 8 << 20 }; /* and twice what had to be kept: the log is written anew */

typedef struct {
    uint64_t request; /* 0: none */
    int64_t task, attempt;
    int rank;
    char *reply; /* owned unless it is ok_reply */
} reply_slot;

typedef struct {
    uint64_t boot;
    int64_t used_ms; /* wall */
    reply_slot slots[NPO_REQUESTS_IN_FLIGHT_MAX];
} requester;

static char ok_reply[] = "{\"ok\":true}"; /* most of them */

static void set_reply(reply_slot *slot, char *reply_take)
{
    if (slot->reply != ok_reply)
        free(slot->reply);
    slot->reply = reply_take;
}

static void process_free(requester *process)
{
    for (int i = 0; i < NPO_REQUESTS_IN_FLIGHT_MAX; i++)
        set_reply(&process->slots[i], NULL);
    free(process);
}

static reply_slot *slot_of(requester *process, uint64_t request)
{
    return &process->slots[request % NPO_REQUESTS_IN_FLIGHT_MAX];
}

static requester *find(const npo_server *server, uint64_t boot)
{
    return npo_map_get(&server->processes, (int64_t)boot);
}

static requester *find_or_add(npo_server *server, uint64_t boot)
{
    requester *process = find(server, boot);
    if (process)
        return process;
    process = calloc(1, sizeof *process);
    if (!process || npo_map_put(&server->processes, (int64_t)boot, process) != NPO_OK) {
        free(process);
        return NULL;
    }
    process->boot = boot;
    return process;
}

/* text: len bytes. */
static bool remember(npo_server *server, uint64_t boot, int64_t time_ms, const reply_slot *entry,
                     const char *text, size_t len)
{
    requester *process = find_or_add(server, boot);
    bool is_ok = len == sizeof ok_reply - 1 && memcmp(text, ok_reply, len) == 0;
    char *reply = is_ok || !process ? ok_reply : strndup(text, len);
    if (!process || !reply)
        return false;
    reply_slot *slot = slot_of(process, entry->request);
    set_reply(slot, reply);
    slot->request = entry->request;
    slot->task = entry->task;
    slot->attempt = entry->attempt;
    slot->rank = entry->rank;
    process->used_ms = time_ms;
    return true;
}

/* ---- asking ---- */

npo_dedup npo_dedup_find(npo_server *server, const npo_frame *frame, npo_server_reply *ret_reply)
{
    char hash[NPO_HASH_TEXT_SIZE];
    requester *process = find(server, frame->boot);
    if (!process)
        return NPO_DEDUP_NEW;
    const reply_slot *slot = slot_of(process, frame->request);
    if (slot->request != frame->request)
        return slot->request > frame->request ? NPO_DEDUP_OLD : NPO_DEDUP_NEW;
    if (slot->task == 0) {
        npo_buf_str(&ret_reply->json, slot->reply);
    } else if (npo_assignment_write(server, NULL, slot->task, slot->attempt, slot->rank,
                                    &ret_reply->json, hash) != NPO_OK) {
        /* The job has been removed since: nobody needs the assignment. */
        npo_buf_clear(&ret_reply->json);
        npo_buf_str(&ret_reply->json, "{\"assignment\":null,\"wait_ms\":0}");
    }
    return NPO_DEDUP_SEEN;
}

int64_t npo_dedup_used_ms(const npo_server *server, uint64_t boot)
{
    const requester *process = find(server, boot);
    return process ? process->used_ms : 0;
}

void npo_dedup_touch(npo_server *server, uint64_t boot)
{
    requester *process = find(server, boot);
    if (process)
        process->used_ms = server->now.wall_ms;
}

/* ---- writing ---- */

static void add_number(npo_buf *log, int64_t value)
{
    npo_json_add_int(log, value);
    npo_buf_add(log, " ", 1);
}

static void add_entry(npo_buf *log, uint64_t boot, int64_t time_ms, const reply_slot *slot,
                      const char *text)
{
    size_t len = slot->task > 0 ? 0 : strlen(text);
    add_number(log, (int64_t)boot);
    add_number(log, (int64_t)slot->request);
    add_number(log, time_ms);
    add_number(log, slot->task);
    add_number(log, slot->attempt);
    add_number(log, slot->rank);
    npo_json_add_int(log, (int64_t)len);
    npo_buf_add(log, "\n", 1);
    npo_buf_add(log, text, len);
    npo_buf_add(log, "\n", 1);
}

void npo_dedup_put(npo_server *server, uint64_t boot, uint64_t request, const npo_request *done,
                   const char *json)
{
    reply_slot entry = {.request = request};
    if (done && done->task > 0) {
        entry.task = done->task;
        entry.attempt = done->attempt;
        entry.rank = done->rank;
        json = "";
    }
    if (!remember(server, boot, server->now.wall_ms, &entry, json, strlen(json)))
        npo_state_fail(server, NPO_E_NOMEM, "cannot remember a request");
    add_entry(&server->log, boot, server->now.wall_ms, &entry, json);
}

static void add_snapshot(npo_server *server)
{
    requester *process;
    npo_buf_clear(&server->log);
    for (size_t at = 0; (process = npo_map_next(&server->processes, &at));)
        for (int i = 0; i < NPO_REQUESTS_IN_FLIGHT_MAX; i++)
            if (process->slots[i].request > 0)
                add_entry(&server->log, process->boot, process->used_ms, &process->slots[i],
                          process->slots[i].reply);
}

void npo_dedup_flush(npo_server *server)
{
    if (server->log.len == 0 && !server->log_is_old)
        return;
    if (server->log_is_old || server->log_bytes > LOG_BYTES_MAX + 2 * server->log_kept_bytes) {
        npo_run(server->store, NPO_SQL_REQUEST_LOG_CLEAR);
        add_snapshot(server);
        server->log_kept_bytes = server->log.len;
        server->log_bytes = 0;
        server->log_is_old = false;
    }
    if (npo_buf_err(&server->log) != NPO_OK)
        npo_state_fail(server, npo_buf_err(&server->log), "cannot remember requests");
    else if (server->log.len > 0)
        npo_run(server->store, NPO_SQL_REQUEST_LOG_ADD, npo_text(server->log.data));
    server->log_bytes += server->log.len;
    npo_buf_clear(&server->log);
}

void npo_dedup_purge(npo_server *server)
{
    enum { AT_ONCE = 256 };
    int64_t gone[AT_ONCE];
    size_t count;
    requester *process;
    /* Requests may wait for npod while it is away: what was answered just before that is kept for
     * as long again after a start. */
    if (server->now.mono_ms - server->start_ms < NPO_REQUEST_KEPT_MS)
        return;
    do {
        count = 0;
        for (size_t at = 0; count < AT_ONCE && (process = npo_map_next(&server->processes, &at));)
            if (process->used_ms < server->now.wall_ms - NPO_REQUEST_KEPT_MS)
                gone[count++] = (int64_t)process->boot;
        for (size_t i = 0; i < count; i++) {
            process_free(npo_map_get(&server->processes, gone[i]));
            npo_map_remove(&server->processes, gone[i]);
        }
        server->log_is_old |= count > 0;
    } while (count == AT_ONCE);
}

/* ---- loading ---- */

/* Reads the entry at *at and moves behind it. */
static bool read_entry(npo_server *server, const char **at)
{
    char *end = NULL;
    reply_slot entry = {0};
    uint64_t boot = (uint64_t)strtoll(*at, &end, 10);
    entry.request = (uint64_t)strtoll(end, &end, 10);
    int64_t time_ms = strtoll(end, &end, 10);
    entry.task = strtoll(end, &end, 10);
    entry.attempt = strtoll(end, &end, 10);
    entry.rank = (int)strtol(end, &end, 10);
    size_t len = (size_t)strtoull(end, &end, 10);
    if (*end != '\n' || boot == 0 || strnlen(end + 1, len + 1) < len + 1)
        return false;
    *at = end + 1 + len + 1;
    return remember(server, boot, time_ms, &entry, end + 1, len);
}

npo_err npo_dedup_load(npo_server *server)
{
    npo_query *rows = npo_ask(server->store, NPO_SQL_REQUEST_LOG_ALL);
    server->log_bytes = 0;
    server->log_is_old = false;
    npo_buf_clear(&server->log);
    while (npo_query_next(rows)) {
        const char *at = npo_query_text(rows, 0);
        server->log_bytes += strlen(at);
        while (*at) {
            if (!read_entry(server, &at)) {
                npo_query_end(rows);
                return NPO_E_CORRUPT;
            }
        }
    }
    return NPO_OK;
}

void npo_dedup_unload(npo_server *server)
{
    requester *process;
    for (size_t at = 0; (process = npo_map_next(&server->processes, &at));)
        process_free(process);
    npo_map_fini(&server->processes);
}
