/* A coordinator without sockets and clock: frames go in, replies come out, time is the test's.
 * Effects run at once on a temporary folder. */
#ifndef NPO_TESTS_SERVER_RIG_H
#define NPO_TESTS_SERVER_RIG_H

#include "common/json.h"
#include "server/server.h"
#include "tests/unit/cmocka.h"

enum { RIG_REQUESTS_MAX = 64 };

typedef struct {
    char dir[64];
    char path[96]; /* of the database */
    npo_store *store;
    npo_server *server;
    npo_server_options options;
    int64_t pages_max;
    npo_time now;
    npo_server_reply reply;
    uint64_t requests; /* the last id */
    cJSON *last;       /* the last reply, freed by the next request */
    char *last_text;
    const void *payload; /* of the next request */
    size_t payload_len;
    bool hold_effects;  /* leave them to the test */
    npo_err commit_err; /* of the last group; asserted to be NPO_OK unless may_fail */
    bool may_fail;
} npo_rig;

void rig_open(npo_rig *rig);
/* Closes the database and opens it again: what a restart of npod does. */
void rig_restart(npo_rig *rig);
void rig_close(npo_rig *rig); /* and removes the folder */

/* One request in a group of its own. Returns the reply, good until the next request. NULL only when
 * the commit failed. */
const cJSON *rig_ask(npo_rig *rig, uint64_t boot, npo_message id, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* The same request again, or one with a given id. */
const cJSON *rig_ask_as(npo_rig *rig, uint64_t boot, uint64_t request, npo_message id,
                        const char *json);
/* Code of the reply's error, "" when it is none. */
const char *rig_code(const npo_rig *rig);
void rig_tick(npo_rig *rig, int64_t ms); /* lets time pass, in steps of a tick or of a second */

/* Publishes text and returns its hash (static memory, four at a time). */
const char *rig_publish(npo_rig *rig, uint64_t boot, const char *text);

/* ---- workers ---- */

typedef struct {
    uint64_t boot;
    int64_t id;
    /* what it has pulled, 0: nothing */
    int64_t task, attempt, job;
    int rank, world;
    int64_t shard, round;
    char kind[16];
    bool fused;
} rig_worker;

rig_worker rig_hello(npo_rig *rig, uint64_t boot, const char *name, const char *class);
bool rig_pull(npo_rig *rig, rig_worker *worker); /* true: has a task */
/* Reports the task done, with the outputs that its kind makes. */
void rig_done(npo_rig *rig, rig_worker *worker);
void rig_fail(npo_rig *rig, rig_worker *worker, bool retry);
const cJSON *rig_beat(npo_rig *rig, const rig_worker *worker);
/* Lets the workers pull and finish until nobody gets anything; returns the tasks (ranks) done. */
int rig_play(npo_rig *rig, rig_worker *workers, int count);

/* ---- jobs ---- */

#define RIG_SAMPLE "\"recipe\":\"sample\",\"prompts\":[\"a\"]"
/* 3 rounds of 2 generate, 2 truncate and a train of 2 ranks; then export. */
#define RIG_STAGED                                                                                 \
    "\"recipe\":\"self-npo\",\"workers\":2,\"round_steps\":2,\"prompts\":[\"a\"],"                 \
    "\"train\":{\"steps\":5,\"batch\":4}"
/* 2 rounds of a train of 2 ranks; then export. */
#define RIG_GANG                                                                                   \
    "\"recipe\":\"self-npo\",\"pipeline\":\"fused\",\"workers\":2,\"round_steps\":2,"              \
    "\"prompts\":[\"a\"],\"train\":{\"steps\":4,\"batch\":4}"

/* {"recipe": ..., more} with the model filled in. Returns the job's id; fails the test when
 * refused. */
int64_t rig_submit(npo_rig *rig, const char *more);
int64_t rig_submit_from(npo_rig *rig, const char *more, int64_t job, int64_t step);
/* One of the messages that name a job: {"job": id}. */
const cJSON *rig_order(npo_rig *rig, npo_message id, int64_t job);
/* state of a job, "gone" when there is none */
const char *rig_state(npo_rig *rig, int64_t job);
const char *rig_reason(npo_rig *rig, int64_t job); /* "" for none */

#endif
