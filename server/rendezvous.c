/* What the ranks of a gang tell each other before they can talk directly. Stored, since the ranks
 * set their keys once: npod killed between the first rank's and the last rank's must not lose them.
 */
#include "server/state.h"

typedef struct {
    npo_fence fence;
    const char *key, *value;
} rendezvous_request;

npo_err npo_handle_rendezvous_set(npo_server *server, npo_request *request)
{
    static const npo_json_field fields[] = {
        NPO_FENCE_FIELDS(rendezvous_request, fence),
        {"key", NPO_JSON_STRING, offsetof(rendezvous_request, key), true, 0, NPO_NAME_MAX, NULL},
        {"value", NPO_JSON_STRING, offsetof(rendezvous_request, value), true, 0, 0, NULL},
    };
    rendezvous_request set = {0};
    npo_worker_record *worker = NULL;
    NPO_TRY(npo_request_fields(request, fields, &set));
    NPO_TRY(npo_fence_check(server, request, &set.fence, &worker));
    int64_t count = npo_query_int_once(npo_ask(server->store, NPO_SQL_RENDEZVOUS_COUNT,
                                               npo_int(set.fence.task), npo_int(set.fence.attempt)),
                                       0);
    if (count >= NPO_RENDEZVOUS_KEYS_MAX)
        return npo_error_set(&request->error, NPO_E_LIMIT,
                             "task %lld has set %d keys, that is the most",
                             (long long)set.fence.task, (int)NPO_RENDEZVOUS_KEYS_MAX);
    npo_run(server->store, NPO_SQL_RENDEZVOUS_SET, npo_int(set.fence.task),
            npo_int(set.fence.attempt), npo_text(set.key), npo_text(set.value));
    return npo_reply_ok(request);
}

npo_err npo_handle_rendezvous_get(npo_server *server, npo_request *request)
{
    static const npo_json_field fields[] = {
        NPO_FENCE_FIELDS(rendezvous_request, fence),
        {"key", NPO_JSON_STRING, offsetof(rendezvous_request, key), true, 0, NPO_NAME_MAX, NULL},
    };
    rendezvous_request get = {0};
    npo_worker_record *worker = NULL;
    NPO_TRY(npo_request_fields(request, fields, &get));
    NPO_TRY(npo_fence_check(server, request, &get.fence, &worker));
    npo_query *row = npo_ask(server->store, NPO_SQL_RENDEZVOUS_GET, npo_int(get.fence.task),
                             npo_int(get.fence.attempt), npo_text(get.key));
    npo_buf_str(&request->reply->json, "{\"value\":");
    npo_json_add_text(&request->reply->json, npo_query_next(row) ? npo_query_text(row, 0) : NULL);
    npo_query_end(row);
    npo_buf_str(&request->reply->json, "}");
    return npo_buf_err(&request->reply->json);
}
