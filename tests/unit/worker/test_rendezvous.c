#include "worker/supervisor/io/rendezvous.h"

#include "tests/unit/cmocka.h"
#include "tests/unit/worker/loop_npod.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    loop_npod npod;
    npo_link *link;
    npo_rendezvous *rendezvous;
    bool answered;
    int64_t id;
    npo_err code;
    char value[32];
} fixture;

static void on_answered(void *self, int64_t id, npo_err code, const char *value)
{
    fixture *fix = self;
    fix->answered = true;
    fix->id = id;
    fix->code = code;
    snprintf(fix->value, sizeof fix->value, "%s", value ? value : "(none)");
}

static int setup(void **state)
{
    fixture *fix = calloc(1, sizeof *fix);
    loop_npod_init(&fix->npod);
    assert_int_equal(
        npo_link_open(&fix->npod.loop, fix->npod.address, &fix->npod.identity, &fix->link, NULL),
        NPO_OK);
    npo_rendezvous_options options = {
        .link = fix->link, .fence = {5, 41, 2, 1}, .self = fix, .answered = on_answered};
    assert_int_equal(npo_rendezvous_open(&fix->npod.loop, &options, &fix->rendezvous, NULL),
                     NPO_OK);
    *state = fix;
    return 0;
}

static int teardown(void **state)
{
    fixture *fix = *state;
    npo_rendezvous_close(fix->rendezvous);
    npo_link_close(fix->link);
    loop_npod_fini(&fix->npod);
    free(fix);
    return 0;
}

/* The key is there from the third time on. */
static cJSON *answer_third(loop_npod *npod, const npo_frame *frame, const cJSON *body)
{
    cJSON *reply = cJSON_CreateObject();
    if (npod->count >= 3)
        cJSON_AddStringToObject(reply, "value", "AAEC");
    else
        cJSON_AddNullToObject(reply, "value");
    return reply;
}

static cJSON *answer_null(loop_npod *npod, const npo_frame *frame, const cJSON *body)
{
    cJSON *reply = cJSON_CreateObject();
    cJSON_AddNullToObject(reply, "value");
    return reply;
}

static cJSON *refuse(loop_npod *npod, const npo_frame *frame, const cJSON *body)
{
    return npo_reply_error_new(NPO_E_FENCED, "not yours");
}

static void test_rendezvous_sets(void **state)
{
    fixture *fix = *state;
    npo_rendezvous_set(fix->rendezvous, 7, "rank.0", "AAEC");
    loop_npod_run(&fix->npod, &fix->answered);
    assert_int_equal(fix->id, 7);
    assert_int_equal(fix->code, NPO_OK);
    assert_string_equal(fix->value, "(none)");
    char *body = cJSON_PrintUnformatted(fix->npod.requests[0]);
    assert_string_equal(body, "{\"worker\":5,\"task\":41,\"attempt\":2,\"rank\":1,"
                              "\"key\":\"rank.0\",\"value\":\"AAEC\"}");
    cJSON_free(body);
}

static void test_rendezvous_get_waits_for_the_key(void **state)
{
    fixture *fix = *state;
    fix->npod.answer = answer_third;
    npo_rendezvous_get(fix->rendezvous, 8, "rank.0", 10000);
    loop_npod_run(&fix->npod, &fix->answered);
    assert_int_equal(fix->code, NPO_OK);
    assert_string_equal(fix->value, "AAEC");
    assert_int_equal(fix->npod.count, 3);
    assert_int_equal(fix->npod.ids[2], NPO_MESSAGE_RENDEZVOUS_GET);
}

static void test_rendezvous_get_times_out(void **state)
{
    fixture *fix = *state;
    fix->npod.answer = answer_null;
    npo_rendezvous_get(fix->rendezvous, 9, "rank.0", 60);
    loop_npod_run(&fix->npod, &fix->answered);
    assert_int_equal(fix->code, NPO_E_TIMEOUT);
}

static void test_rendezvous_asks_again_at_a_hint(void **state)
{
    fixture *fix = *state;
    fix->npod.answer = answer_null;
    npo_rendezvous_hint(fix->rendezvous); /* nothing waits: harmless */
    npo_rendezvous_get(fix->rendezvous, 9, "rank.0", 10000);
    for (int i = 0; i < 500 && fix->npod.count < 7; i++) /* by then it waits 250 ms */
        loop_npod_run_ms(&fix->npod, 5);
    int before = fix->npod.count;
    for (int i = 0; i < 5; i++) {
        npo_rendezvous_hint(fix->rendezvous);
        loop_npod_run_ms(&fix->npod, 10);
    }
    assert_true(fix->npod.count > before);
    fix->npod.answer = answer_third;
    loop_npod_run(&fix->npod, &fix->answered);
}

static void test_rendezvous_passes_refusals_on(void **state)
{
    fixture *fix = *state;
    fix->npod.answer = refuse;
    npo_rendezvous_get(fix->rendezvous, 9, "rank.0", 10000);
    loop_npod_run(&fix->npod, &fix->answered);
    assert_int_equal(fix->code, NPO_E_FENCED);
}

static void test_rendezvous_takes_one_request_at_a_time(void **state)
{
    fixture *fix = *state;
    npo_rendezvous_set(fix->rendezvous, 1, "a", "");
    npo_rendezvous_set(fix->rendezvous, 2, "b", "");
    assert_true(fix->answered);
    assert_int_equal(fix->id, 2);
    assert_int_equal(fix->code, NPO_E_BUSY);
    fix->answered = false;
    loop_npod_run(&fix->npod, &fix->answered);
    assert_int_equal(fix->id, 1);
    assert_int_equal(fix->code, NPO_OK);
}

#define RENDEZVOUS_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RENDEZVOUS_TEST(test_rendezvous_sets),
        RENDEZVOUS_TEST(test_rendezvous_get_waits_for_the_key),
        RENDEZVOUS_TEST(test_rendezvous_get_times_out),
        RENDEZVOUS_TEST(test_rendezvous_asks_again_at_a_hint),
        RENDEZVOUS_TEST(test_rendezvous_passes_refusals_on),
        RENDEZVOUS_TEST(test_rendezvous_takes_one_request_at_a_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
