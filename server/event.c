#include "server/state.h"

int64_t npo_event_add(npo_server *server, int64_t job, int64_t task, const char *kind,
                      const char *text)
{
    int64_t seq = ++server->last_event;
    npo_run(server->store, NPO_SQL_EVENT_INSERT, npo_int(seq), npo_int(server->now.wall_ms),
            npo_int(job), npo_int(task), npo_text(kind), npo_text(text));
    server->hint_pending = true;
    return seq;
}

void npo_event_purge(npo_server *server)
{
    /* The newest row stays whatever happens: seq goes on from it. */
    if (server->last_event > NPO_EVENTS_KEPT)
        npo_run(server->store, NPO_SQL_EVENT_DELETE, npo_int(server->last_event - NPO_EVENTS_KEPT));
}

typedef struct {
    int64_t after, job, limit;
} events_request;

static void add_event(npo_buf *json, const npo_query *row, bool is_first)
{
    npo_buf_printf(json, "%s{\"seq\":%lld,\"time_ms\":%lld,\"job\":%lld,\"task\":%lld,\"kind\":",
                   is_first ? "" : ",", (long long)npo_query_int(row, 0),
                   (long long)npo_query_int(row, 1), (long long)npo_query_int(row, 2),
                   (long long)npo_query_int(row, 3));
    npo_json_add_text(json, npo_query_text(row, 4));
    npo_buf_str(json, ",\"text\":");
    npo_json_add_text(json, npo_query_is_null(row, 5) ? "" : npo_query_text(row, 5));
    npo_buf_str(json, "}");
}

/* Before its first event there are only those of other jobs. */
static void skip_others(npo_server *server, events_request *wanted)
{
    if (wanted->job == 0)
        return;
    int64_t first = npo_query_int_once(
        npo_ask(server->store, NPO_SQL_JOB_FIRST_EVENT, npo_int(wanted->job)), 0);
    if (wanted->after < first - 1)
        wanted->after = first - 1;
}

npo_err npo_handle_events(npo_server *server, npo_request *request)
{
    static const npo_json_field fields[] = {
        {"after", NPO_JSON_INT, offsetof(events_request, after), false, 0, 9007199254740992.0,
         NULL},
        {"job", NPO_JSON_INT, offsetof(events_request, job), false, 0, 9007199254740992.0, NULL},
        {"limit", NPO_JSON_INT, offsetof(events_request, limit), false, 1, NPO_EVENTS_PER_REPLY_MAX,
         NULL},
    };
    events_request wanted = {.limit = NPO_EVENTS_PER_REPLY_MAX};
    NPO_TRY(npo_request_fields(request, fields, &wanted));
    npo_buf *json = &request->reply->json;
    skip_others(server, &wanted);
    int64_t last = wanted.after, count = 0;
    npo_buf_str(json, "{\"events\":[");
    npo_query *rows = npo_ask(server->store, NPO_SQL_EVENT_LIST, npo_int(wanted.after),
                              npo_int(wanted.job), npo_int(wanted.limit));
    /* Texts are bounded, but their sum may still pass the bound of a reply: the rest is asked for
     * again with after = last. */
    while (npo_query_next(rows)) {
        if (json->len > NPO_REPLY_BYTES_MAX / 2) {
            npo_query_end(rows);
            break;
        }
        add_event(json, rows, count++ == 0);
        last = npo_query_int(rows, 0);
    }
    /* A job's events may lie far apart; the next request need not search the gap again. */
    if (count < wanted.limit && json->len <= NPO_REPLY_BYTES_MAX / 2 && server->last_event > last)
        last = server->last_event;
    npo_buf_printf(json, "],\"last\":%lld}", (long long)last);
    return npo_buf_err(json);
}
