#include "tests/unit/worker/loop_npod.h"

#include "common/clock.h"
#include "tests/unit/cmocka.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int batch;

static void on_frame(void *self, const npo_frame *frame, npo_reply_to *to)
{
    loop_npod *npod = self;
    cJSON *body = NULL;
    assert_int_equal(npo_frame_parse(frame, &body, NULL), NPO_OK);
    assert_true(npod->count < LOOP_NPOD_REQUESTS_MAX);
    npod->ids[npod->count] = frame->id;
    npod->requests[npod->count++] = body;
    if (frame->payload_len > 0)
        npo_buf_add(&npod->payload, frame->payload, frame->payload_len);
    batch++;
    cJSON *reply = npod->answer ? npod->answer(npod, frame, body) : cJSON_CreateObject();
    if (!reply) {
        npo_reply_drop(to);
        return;
    }
    char *text = cJSON_PrintUnformatted(reply);
    npo_reply_send(to, 1, text, strlen(text), NULL, 0);
    cJSON_free(text);
    cJSON_Delete(reply);
}

static void on_batch_end(void *self)
{
    loop_npod *npod = self;
    if (batch > npod->outstanding_max)
        npod->outstanding_max = batch;
    batch = 0;
}

void loop_npod_init(loop_npod *npod)
{
    npo_server_handler handler = {npod, on_frame, on_batch_end};
    memset(npod, 0, sizeof *npod);
    assert_int_equal(uv_loop_init(&npod->loop), 0);
    assert_int_equal(npo_identity_init(&npod->identity, NULL), NPO_OK);
    snprintf(npod->address, sizeof npod->address, "ipc:///tmp/npo-loop-%d.sock", (int)getpid());
    assert_int_equal(npo_server_channel_open(&npod->loop, npod->address, NPO_CHANNEL_CONTROL,
                                             &handler, &npod->channel, NULL),
                     NPO_OK);
}

void loop_npod_fini(loop_npod *npod)
{
    npo_server_channel_close(npod->channel, NULL);
    uv_run(&npod->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&npod->loop), 0);
    for (int i = 0; i < npod->count; i++)
        cJSON_Delete(npod->requests[i]);
    npo_buf_fini(&npod->payload);
}

static void on_turn(uv_timer_t *timer)
{
}

void loop_npod_run(loop_npod *npod, const bool *done)
{
    uv_timer_t turn;
    int64_t end_ms = npo_clock_ms() + 20000;
    uv_timer_init(&npod->loop, &turn);
    uv_timer_start(&turn, on_turn, 5, 5);
    while (!*done) {
        uv_run(&npod->loop, UV_RUN_ONCE);
        assert_true(npo_clock_ms() < end_ms);
    }
    uv_close((uv_handle_t *)&turn, NULL);
    uv_run(&npod->loop, UV_RUN_NOWAIT);
}

void loop_npod_run_ms(loop_npod *npod, int ms)
{
    uv_timer_t turn;
    int64_t end_ms = npo_clock_ms() + ms;
    uv_timer_init(&npod->loop, &turn);
    uv_timer_start(&turn, on_turn, 5, 5);
    while (npo_clock_ms() < end_ms)
        uv_run(&npod->loop, UV_RUN_ONCE);
    uv_close((uv_handle_t *)&turn, NULL);
    uv_run(&npod->loop, UV_RUN_NOWAIT);
}
