#include "worker/supervisor/io/link.h"

#include "common/bounds.h"
#include "tests/unit/cmocka.h"
#include "tests/unit/worker/loop_npod.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    loop_npod npod;
    npo_link *link;
    uint64_t tags[512];
    npo_err errs[512];
    int count, expected;
    bool done;
} fixture;

static void on_answer(void *self, uint64_t tag, npo_err err, const npo_error *error,
                      const npo_answer *answer)
{
    fixture *fix = self;
    assert_int_equal(err == NPO_OK, answer != NULL);
    fix->tags[fix->count] = tag;
    fix->errs[fix->count++] = err;
    fix->done = fix->count >= fix->expected;
}

static int setup(void **state)
{
    fixture *fix = calloc(1, sizeof *fix);
    loop_npod_init(&fix->npod);
    assert_int_equal(
        npo_link_open(&fix->npod.loop, fix->npod.address, &fix->npod.identity, &fix->link, NULL),
        NPO_OK);
    *state = fix;
    return 0;
}

static int teardown(void **state)
{
    fixture *fix = *state;
    npo_link_close(fix->link);
    loop_npod_fini(&fix->npod);
    free(fix);
    return 0;
}

static npo_err ask(fixture *fix, npo_message id, uint64_t tag)
{
    return npo_link_send(fix->link, id, cJSON_CreateObject(), NULL, 0, on_answer, fix, tag, NULL);
}

static void test_link_answers_in_the_order_asked_one_at_a_time(void **state)
{
    fixture *fix = *state;
    fix->expected = 5;
    for (uint64_t i = 0; i < 5; i++)
        assert_int_equal(ask(fix, NPO_MESSAGE_INFO, 10 + i), NPO_OK);
    loop_npod_run(&fix->npod, &fix->done);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(fix->tags[i], 10 + i);
        assert_int_equal(fix->errs[i], NPO_OK);
    }
    assert_int_equal(fix->npod.count, 5);
    assert_int_equal(fix->npod.outstanding_max, 1);
}

static cJSON *refuse(loop_npod *npod, const npo_frame *frame, const cJSON *body)
{
    return npo_reply_error_new(NPO_E_FENCED, "not yours");
}

static void test_link_passes_errors_on(void **state)
{
    fixture *fix = *state;
    fix->expected = 1;
    fix->npod.answer = refuse;
    assert_int_equal(ask(fix, NPO_MESSAGE_INFO, 1), NPO_OK);
    loop_npod_run(&fix->npod, &fix->done);
    assert_int_equal(fix->errs[0], NPO_E_FENCED);
}

static void test_link_answers_what_it_cannot_send(void **state)
{
    fixture *fix = *state;
    char *big = calloc(1, 5000);
    memset(big, 'x', 4999);
    cJSON *body = cJSON_CreateObject();
    cJSON_AddStringToObject(body, "text", big);
    fix->expected = 2;
    assert_int_equal(ask(fix, NPO_MESSAGE_INFO, 1), NPO_OK);
    assert_int_equal(
        npo_link_send(fix->link, NPO_MESSAGE_PULL, body, NULL, 0, on_answer, fix, 2, NULL), NPO_OK);
    loop_npod_run(&fix->npod, &fix->done);
    assert_int_equal(fix->errs[0], NPO_OK);
    assert_int_equal(fix->errs[1], NPO_E_LIMIT);
    assert_int_equal(fix->npod.count, 1);
    free(big);
}

static cJSON *say_nothing(loop_npod *npod, const npo_frame *frame, const cJSON *body)
{
    return NULL;
}

static void test_link_queue_is_bounded_and_cancelled_at_the_end(void **state)
{
    fixture *fix = *state;
    fix->npod.answer = say_nothing;
    for (uint64_t i = 0; i < NPO_LINK_QUEUE_MAX; i++)
        assert_int_equal(ask(fix, NPO_MESSAGE_INFO, i), NPO_OK);
    assert_int_equal(ask(fix, NPO_MESSAGE_INFO, 0), NPO_E_LIMIT);
    fix->expected = NPO_LINK_QUEUE_MAX;
    npo_link_close(fix->link);
    fix->link = NULL;
    loop_npod_run(&fix->npod, &fix->done);
    for (int i = 0; i < fix->count; i++)
        assert_int_equal(fix->errs[i], NPO_E_CANCELLED);
}

#define LINK_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LINK_TEST(test_link_answers_in_the_order_asked_one_at_a_time),
        LINK_TEST(test_link_passes_errors_on),
        LINK_TEST(test_link_answers_what_it_cannot_send),
        LINK_TEST(test_link_queue_is_bounded_and_cancelled_at_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
