#include "worker/supervisor/io/stream.h"

#include "common/bounds.h"
#include "tests/unit/cmocka.h"
#include "tests/unit/worker/loop_npod.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    loop_npod npod;
    npo_link *link;
    npo_stream *stream;
    bool ended, fenced;
} fixture;

static void on_ended(void *self, uint64_t tag)
{
    fixture *fix = self;
    assert_int_equal(tag, 3);
    assert_false(fix->ended);
    fix->ended = true;
}

static void on_fenced(void *self, uint64_t tag)
{
    ((fixture *)self)->fenced = true;
}

static int setup(void **state)
{
    fixture *fix = calloc(1, sizeof *fix);
    loop_npod_init(&fix->npod);
    assert_int_equal(
        npo_link_open(&fix->npod.loop, fix->npod.address, &fix->npod.identity, &fix->link, NULL),
        NPO_OK);
    npo_stream_options options = {.link = fix->link,
                                  .name = "log",
                                  .fence = {5, 41, 2, 1},
                                  .self = fix,
                                  .tag = 3,
                                  .ended = on_ended,
                                  .fenced = on_fenced};
    assert_int_equal(npo_stream_open(&fix->npod.loop, &options, &fix->stream, NULL), NPO_OK);
    *state = fix;
    return 0;
}

static int teardown(void **state)
{
    fixture *fix = *state;
    npo_stream_close(fix->stream);
    npo_link_close(fix->link);
    loop_npod_fini(&fix->npod);
    free(fix);
    return 0;
}

static void test_stream_sends_lines_together_and_says_whose_they_are(void **state)
{
    fixture *fix = *state;
    npo_stream_add(fix->stream, "one");
    npo_stream_add(fix->stream, "two");
    npo_stream_end(fix->stream);
    loop_npod_run(&fix->npod, &fix->ended);
    assert_int_equal(fix->npod.count, 1);
    assert_string_equal(fix->npod.payload.data, "one\ntwo\n");
    char *body = cJSON_PrintUnformatted(fix->npod.requests[0]);
    assert_string_equal(body,
                        "{\"worker\":5,\"task\":41,\"attempt\":2,\"rank\":1,\"stream\":\"log\","
                        "\"offset\":0}");
    cJSON_free(body);
}

static void test_stream_sends_by_itself_after_a_moment(void **state)
{
    fixture *fix = *state;
    bool never = false;
    npo_stream_add(fix->stream, "one");
    for (int i = 0; i < 100 && fix->npod.count == 0; i++)
        loop_npod_run_ms(&fix->npod, 20);
    assert_int_equal(fix->npod.count, 1);
    npo_stream_add(fix->stream, "more");
    npo_stream_end(fix->stream);
    loop_npod_run(&fix->npod, &fix->ended);
    assert_int_equal(npo_json_int(fix->npod.requests[1], "offset", 0), 4);
    assert_string_equal(fix->npod.payload.data, "one\nmore\n");
    assert_false(never || fix->fenced);
}

static void test_stream_cuts_what_is_long_into_parts(void **state)
{
    fixture *fix = *state;
    char *line = malloc(NPO_STREAM_PART_BYTES + 1001);
    memset(line, 'x', NPO_STREAM_PART_BYTES + 1000);
    line[NPO_STREAM_PART_BYTES + 1000] = '\0';
    npo_stream_add(fix->stream, line);
    npo_stream_end(fix->stream);
    loop_npod_run(&fix->npod, &fix->ended);
    assert_int_equal(fix->npod.count, 2);
    assert_int_equal(npo_json_int(fix->npod.requests[1], "offset", 0), NPO_STREAM_PART_BYTES);
    assert_int_equal(fix->npod.payload.len, NPO_STREAM_PART_BYTES + 1001);
    free(line);
}

static void test_stream_that_is_empty_ends_at_once(void **state)
{
    fixture *fix = *state;
    npo_stream_end(fix->stream);
    assert_true(fix->ended);
}

static cJSON *refuse_limit(loop_npod *npod, const npo_frame *frame, const cJSON *body)
{
    return npo_reply_error_new(NPO_E_LIMIT, "enough");
}

static void test_stream_over_npods_bound_gives_up_and_ends(void **state)
{
    fixture *fix = *state;
    fix->npod.answer = refuse_limit;
    npo_stream_add(fix->stream, "one");
    npo_stream_end(fix->stream);
    loop_npod_run(&fix->npod, &fix->ended);
    npo_stream_add(fix->stream, "two");
    assert_int_equal(fix->npod.count, 1);
    assert_false(fix->fenced);
}

static npo_stream *flooded;

/* More than is kept comes while the first part is out; then the part is taken. */
static cJSON *flood(loop_npod *npod, const npo_frame *frame, const cJSON *body)
{
    enum { LINE = 4 << 20 };
    char *line = malloc(LINE + 1);
    memset(line, 'x', LINE);
    line[LINE] = '\0';
    for (int i = 0; i <= NPO_STREAM_BYTES_MAX / LINE; i++)
        npo_stream_add(flooded, line);
    free(line);
    return cJSON_CreateObject();
}

static void test_stream_gives_up_while_a_part_is_out(void **state)
{
    fixture *fix = *state;
    flooded = fix->stream;
    fix->npod.answer = flood;
    npo_stream_add(fix->stream, "one");
    for (int i = 0; i < 100 && fix->npod.count == 0; i++)
        loop_npod_run_ms(&fix->npod, 20);
    npo_stream_end(fix->stream);
    loop_npod_run(&fix->npod, &fix->ended);
    assert_int_equal(fix->npod.count, 1);
    assert_string_equal(fix->npod.payload.data, "one\n");
}

static cJSON *refuse_fenced(loop_npod *npod, const npo_frame *frame, const cJSON *body)
{
    return npo_reply_error_new(NPO_E_FENCED, "not yours");
}

static void test_stream_tells_that_it_is_fenced(void **state)
{
    fixture *fix = *state;
    fix->npod.answer = refuse_fenced;
    npo_stream_add(fix->stream, "one");
    npo_stream_end(fix->stream);
    loop_npod_run(&fix->npod, &fix->fenced);
    assert_false(fix->ended);
}

static cJSON *say_nothing(loop_npod *npod, const npo_frame *frame, const cJSON *body)
{
    return NULL;
}

/* Closed while a request is out: nobody is called, nothing leaks (the sanitizers look). */
static void test_stream_can_be_closed_while_it_waits(void **state)
{
    fixture *fix = *state;
    fix->npod.answer = say_nothing;
    npo_stream_add(fix->stream, "one");
    npo_stream_end(fix->stream);
    for (int i = 0; i < 100 && fix->npod.count == 0; i++)
        loop_npod_run_ms(&fix->npod, 20);
    npo_stream_close(fix->stream);
    fix->stream = NULL;
    assert_false(fix->ended);
}

#define STREAM_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STREAM_TEST(test_stream_sends_lines_together_and_says_whose_they_are),
        STREAM_TEST(test_stream_sends_by_itself_after_a_moment),
        STREAM_TEST(test_stream_cuts_what_is_long_into_parts),
        STREAM_TEST(test_stream_that_is_empty_ends_at_once),
        STREAM_TEST(test_stream_over_npods_bound_gives_up_and_ends),
        STREAM_TEST(test_stream_gives_up_while_a_part_is_out),
        STREAM_TEST(test_stream_tells_that_it_is_fenced),
        STREAM_TEST(test_stream_can_be_closed_while_it_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
