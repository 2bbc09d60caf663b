#include "worker/supervisor/io/rendezvous.h"

#include "common/bounds.h"
#include "common/clock.h"
#include "worker/supervisor/io/fence.h"

#include <stdlib.h>
#include <string.h>

struct npo_rendezvous {
    uv_timer_t timer;
    npo_rendezvous_options options;
    int64_t id; /* of the open request; 0: none */
    char *key, *value;
    int64_t end_ms, wait_ms;
    bool is_out; /* a message is */
    bool timer_closed, is_closing;
};

static void free_when_idle(npo_rendezvous *rendezvous)
{
    if (!rendezvous->timer_closed || rendezvous->is_out)
        return;
    free(rendezvous->key);
    free(rendezvous->value);
    free(rendezvous);
}

static void answer(npo_rendezvous *rendezvous, npo_err code, const char *value)
{
    int64_t id = rendezvous->id;
    rendezvous->id = 0;
    uv_timer_stop(&rendezvous->timer);
    rendezvous->options.answered(rendezvous->options.self, id, code, value);
}

static void ask(npo_rendezvous *rendezvous);

static void on_waited(uv_timer_t *timer)
{
    ask(timer->data);
}

static void wait_for_key(npo_rendezvous *rendezvous)
{
    if (npo_clock_ms() >= rendezvous->end_ms) {
        answer(rendezvous, NPO_E_TIMEOUT, NULL);
        return;
    }
    uv_timer_start(&rendezvous->timer, on_waited, (uint64_t)rendezvous->wait_ms, 0);
    rendezvous->wait_ms *= 2;
    if (rendezvous->wait_ms > NPO_RENDEZVOUS_POLL_MAX_MS)
        rendezvous->wait_ms = NPO_RENDEZVOUS_POLL_MAX_MS;
}

static void on_answer(void *self, uint64_t tag, npo_err err, const npo_error *error,
                      const npo_answer *reply)
{
    npo_rendezvous *rendezvous = self;
    rendezvous->is_out = false;
    if (rendezvous->is_closing) {
        free_when_idle(rendezvous);
        return;
    }
    const char *value = err ? NULL : npo_json_string(reply->json, "value", NULL);
    if (err || rendezvous->value)
        answer(rendezvous, err, NULL);
    else if (value)
        answer(rendezvous, NPO_OK, value);
    else
        wait_for_key(rendezvous);
}

static cJSON *body_new(const npo_rendezvous *rendezvous)
{
    cJSON *body = npo_fence_body(&rendezvous->options.fence);
    if (body && cJSON_AddStringToObject(body, "key", rendezvous->key) &&
        (!rendezvous->value || cJSON_AddStringToObject(body, "value", rendezvous->value)))
        return body;
    cJSON_Delete(body);
    return NULL;
}

static void ask(npo_rendezvous *rendezvous)
{
    npo_message id = rendezvous->value ? NPO_MESSAGE_RENDEZVOUS_SET : NPO_MESSAGE_RENDEZVOUS_GET;
    rendezvous->is_out = true;
    npo_err err = npo_link_send(rendezvous->options.link, id, body_new(rendezvous), NULL, 0,
                                on_answer, rendezvous, 0, NULL);
    if (!err)
        return;
    rendezvous->is_out = false;
    answer(rendezvous, err, NULL);
}

npo_err npo_rendezvous_open(uv_loop_t *loop, const npo_rendezvous_options *options,
                            npo_rendezvous **ret_rendezvous, npo_error *error)
{
    npo_rendezvous *rendezvous = calloc(1, sizeof *rendezvous);
    if (!rendezvous)
        return npo_error_set(error, NPO_E_NOMEM, "cannot join a gang: out of memory");
    rendezvous->options = *options;
    uv_timer_init(loop, &rendezvous->timer);
    rendezvous->timer.data = rendezvous;
    *ret_rendezvous = rendezvous;
    return NPO_OK;
}

static void on_closed(uv_handle_t *handle)
{
    npo_rendezvous *rendezvous = handle->data;
    rendezvous->timer_closed = true;
    free_when_idle(rendezvous);
}

void npo_rendezvous_close(npo_rendezvous *rendezvous)
{
    if (!rendezvous)
        return;
    rendezvous->is_closing = true;
    uv_close((uv_handle_t *)&rendezvous->timer, on_closed);
}

static void begin(npo_rendezvous *rendezvous, int64_t id, const char *key, const char *value)
{
    if (rendezvous->id) {
        rendezvous->options.answered(rendezvous->options.self, id, NPO_E_BUSY, NULL);
        return;
    }
    free(rendezvous->key);
    free(rendezvous->value);
    rendezvous->key = strdup(key);
    rendezvous->value = value ? strdup(value) : NULL;
    rendezvous->id = id;
    if (!rendezvous->key || (value && !rendezvous->value))
        answer(rendezvous, NPO_E_NOMEM, NULL);
    else
        ask(rendezvous);
}

void npo_rendezvous_set(npo_rendezvous *rendezvous, int64_t id, const char *key, const char *value)
{
    begin(rendezvous, id, key, value);
}

void npo_rendezvous_get(npo_rendezvous *rendezvous, int64_t id, const char *key, int64_t timeout_ms)
{
    if (!rendezvous->id) {
        rendezvous->end_ms = npo_clock_ms() + timeout_ms;
        rendezvous->wait_ms = NPO_RENDEZVOUS_POLL_MS;
    }
    begin(rendezvous, id, key, NULL);
}

void npo_rendezvous_hint(npo_rendezvous *rendezvous)
{
    if (rendezvous->id && !rendezvous->is_out) {
        uv_timer_stop(&rendezvous->timer);
        ask(rendezvous);
    }
}
