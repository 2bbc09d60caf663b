#include "worker/supervisor/io/link.h"

#include <stdlib.h>
#include <string.h>

typedef struct request {
    struct request *next;
    npo_message id;
    cJSON *body;
    void *payload;
    size_t payload_len;
    npo_link_callback *callback;
    void *self;
    uint64_t tag;
} request;

enum { LOOK_MS = 500 }; /* between looks at whether the connection is to be renewed */

struct npo_link {
    uv_poll_t poll;
    uv_timer_t look;
    int handles_open; /* of libuv */
    npo_connection *connection;
    request *first, *last; /* first is out while is_open */
    size_t count;
    bool is_open;
};

static void request_free(request *req)
{
    if (!req)
        return;
    cJSON_Delete(req->body);
    free(req->payload);
    free(req);
}

static request *take_first(npo_link *link)
{
    request *req = link->first;
    link->first = req->next;
    if (!link->first)
        link->last = NULL;
    link->count--;
    link->is_open = false;
    return req;
}

/* What cannot be sent is answered with why; the next one follows. */
static void send_next(npo_link *link)
{
    while (link->first && !link->is_open && !uv_is_closing((uv_handle_t *)&link->poll)) {
        request *req = link->first;
        npo_error error = {0};
        npo_err err = npo_connection_send(link->connection, req->id, req->body, req->payload,
                                          req->payload_len, NULL, &error);
        if (!err) {
            link->is_open = true;
            return;
        }
        req = take_first(link);
        req->callback(req->self, req->tag, err, &error, NULL);
        request_free(req);
    }
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    npo_link *link = poll->data;
    npo_answer answer = {0};
    npo_error error = {0};
    npo_err err = npo_connection_receive(link->connection, &answer, &error);
    if (err == NPO_E_BUSY)
        return;
    if (!link->is_open) { /* to nobody's question */
        npo_answer_fini(&answer);
        return;
    }
    request *req = take_first(link);
    req->callback(req->self, req->tag, err, &error, err ? NULL : &answer);
    request_free(req);
    npo_answer_fini(&answer);
    send_next(link);
}

static void on_look(uv_timer_t *timer)
{
    npo_link *link = timer->data;
    if (link->is_open)
        npo_connection_renew(link->connection);
}

npo_err npo_link_open(uv_loop_t *loop, const char *address, npo_identity *identity,
                      npo_link **ret_link, npo_error *error)
{
    npo_link *link = calloc(1, sizeof *link);
    if (!link)
        return npo_error_set(error, NPO_E_NOMEM, "cannot connect to '%s'", address);
    npo_err err = npo_connection_open(address, identity, &link->connection, error);
    if (!err && uv_poll_init(loop, &link->poll, npo_connection_fd(link->connection)) < 0)
        err = npo_error_set(error, NPO_E_LIBRARY, "cannot watch the connection to '%s'", address);
    if (err) {
        npo_connection_close(link->connection);
        free(link);
        return err;
    }
    uv_timer_init(loop, &link->look);
    link->poll.data = link->look.data = link;
    link->handles_open = 2;
    uv_poll_start(&link->poll, UV_READABLE, on_readable);
    uv_timer_start(&link->look, on_look, LOOK_MS, LOOK_MS);
    *ret_link = link;
    return NPO_OK;
}

static void on_closed(uv_handle_t *handle)
{
    npo_link *link = handle->data;
    npo_error error = {0};
    if (--link->handles_open > 0)
        return;
    (void)npo_error_set(&error, NPO_E_CANCELLED, "the worker is leaving");
    while (link->first) {
        request *req = take_first(link);
        req->callback(req->self, req->tag, NPO_E_CANCELLED, &error, NULL);
        request_free(req);
    }
    npo_connection_close(link->connection);
    free(link);
}

void npo_link_close(npo_link *link)
{
    if (!link)
        return;
    uv_poll_stop(&link->poll);
    uv_close((uv_handle_t *)&link->poll, on_closed);
    uv_close((uv_handle_t *)&link->look, on_closed);
}

npo_err npo_link_send(npo_link *link, npo_message id, cJSON *body_take, const void *payload,
                      size_t payload_len, npo_link_callback *callback, void *self, uint64_t tag,
                      npo_error *error)
{
    request *req = calloc(1, sizeof *req);
    if (req && payload_len > 0)
        req->payload = malloc(payload_len);
    if (!req || !body_take || (payload_len > 0 && !req->payload)) {
        cJSON_Delete(body_take);
        request_free(req);
        return npo_error_set(error, NPO_E_NOMEM, "cannot ask npod: out of memory");
    }
    req->id = id;
    req->body = body_take;
    req->payload_len = payload_len;
    if (payload_len > 0)
        memcpy(req->payload, payload, payload_len);
    req->callback = callback;
    req->self = self;
    req->tag = tag;
    if (link->count >= NPO_LINK_QUEUE_MAX) {
        request_free(req);
        return npo_error_set(error, NPO_E_LIMIT, "%d requests wait for npod already",
                             (int)NPO_LINK_QUEUE_MAX);
    }
    if (link->last)
        link->last->next = req;
    else
        link->first = req;
    link->last = req;
    link->count++;
    send_next(link);
    return NPO_OK;
}
