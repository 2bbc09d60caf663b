/* npod's control address on the test's own loop: every request is answered by a function of the
 * test, and recorded. */
#ifndef NPO_TESTS_UNIT_WORKER_LOOP_NPOD_H
#define NPO_TESTS_UNIT_WORKER_LOOP_NPOD_H

#include "proto/connection.h"
#include "proto/server_channel.h"

enum { LOOP_NPOD_REQUESTS_MAX = 64 };

typedef struct loop_npod {
    uv_loop_t loop;
    npo_identity identity;
    char address[64];
    npo_server_channel *channel;
    /* What to answer, freed after; NULL: nothing, the request is dropped. NULL function: {}. */
    cJSON *(*answer)(struct loop_npod *npod, const npo_frame *frame, const cJSON *body);
    cJSON *requests[LOOP_NPOD_REQUESTS_MAX]; /* bodies */
    npo_message ids[LOOP_NPOD_REQUESTS_MAX];
    int count, outstanding_max; /* requests; most that came in one batch */
    npo_buf payload;            /* of all requests, one behind the other */
} loop_npod;

void loop_npod_init(loop_npod *npod);
/* What the test has opened must be closing; runs the loop until it is empty. */
void loop_npod_fini(loop_npod *npod);
/* Runs the loop until *done (a deadline of 20 s fails the test). */
void loop_npod_run(loop_npod *npod, const bool *done);
/* Turns the loop for so long, as other things than the condition may happen. */
void loop_npod_run_ms(loop_npod *npod, int ms);

#endif
