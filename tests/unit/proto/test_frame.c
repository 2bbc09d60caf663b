#include "proto/frame.h"

#include "common/bounds.h"
#include "tests/unit/cmocka.h"
#include "tests/unit/proto/golden_frames.h"

#include <stdlib.h>
#include <string.h>

enum { GOLDEN_COUNT = sizeof golden / sizeof golden[0] };

static npo_frame decode(const void *bytes, size_t len, npo_err expected, const char *part)
{
    npo_frame frame = {0};
    npo_error error = {0};
    assert_int_equal(npo_frame_decode(bytes, len, &frame, &error), expected);
    if (part)
        assert_non_null(strstr(error.text, part));
    return frame;
}

static void test_frame_decodes_golden_bytes_of_every_message(void **state)
{
    size_t count;
    npo_message_table(&count);
    assert_int_equal(count, GOLDEN_COUNT);
    for (size_t i = 0; i < GOLDEN_COUNT; i++) {
        npo_frame frame = decode(golden[i].bytes, golden[i].len, NPO_OK, NULL);
        assert_int_equal(frame.id, golden[i].id);
        assert_false(frame.is_reply);
        assert_true(frame.boot == 0x0102030405060708u + (unsigned)golden[i].id);
        assert_true(frame.request == 1000u + (unsigned)golden[i].id);
        assert_true(frame.epoch == (unsigned)golden[i].id);
        assert_int_equal(frame.json_len, golden[i].json_len);
        assert_int_equal(frame.payload_len, golden[i].payload_len);
        assert_string_equal(npo_message_find(frame.id)->name, golden[i].name);
        cJSON *json = NULL;
        assert_int_equal(npo_frame_parse(&frame, &json, NULL), NPO_OK);
        cJSON_Delete(json);
    }
}

static void test_frame_encodes_golden_bytes(void **state)
{
    for (size_t i = 0; i < GOLDEN_COUNT; i++) {
        npo_frame frame = decode(golden[i].bytes, golden[i].len, NPO_OK, NULL);
        npo_buf bytes = NPO_BUF_INIT;
        assert_int_equal(npo_frame_append(&frame, &bytes, NULL), NPO_OK);
        assert_int_equal(bytes.len, golden[i].len);
        assert_memory_equal(bytes.data, golden[i].bytes, bytes.len);
        npo_buf_fini(&bytes);
    }
}

static void test_frame_reply_sets_bit_7(void **state)
{
    npo_frame frame = {.id = NPO_MESSAGE_PULL,
                       .is_reply = true,
                       .boot = 1,
                       .request = 2,
                       .epoch = 3,
                       .json = "{}",
                       .json_len = 2};
    uint8_t bytes[34];
    assert_int_equal(npo_frame_encode(&frame, bytes, sizeof bytes, NULL), NPO_OK);
    assert_int_equal(bytes[3], 0x83);
    npo_frame again = decode(bytes, sizeof bytes, NPO_OK, NULL);
    assert_true(again.is_reply && again.id == NPO_MESSAGE_PULL);
    assert_int_equal(npo_frame_encode(&frame, bytes, 33, NULL), NPO_E_LIMIT);
}

static void test_frame_refuses_every_truncation_of_the_header(void **state)
{
    for (size_t len = 0; len < NPO_FRAME_HEADER_BYTES; len++)
        decode(golden[0].bytes, len, NPO_E_FORMAT, "a header alone has 32");
    decode(golden[0].bytes, golden[0].len - 1, NPO_E_FORMAT, "bytes of JSON");
}

static void test_frame_refuses_other_magic_version_and_id(void **state)
{
    uint8_t bytes[34];
    npo_frame pull = {.id = NPO_MESSAGE_PULL, .boot = 1, .request = 2, .json = "{}", .json_len = 2};
    assert_int_equal(npo_frame_encode(&pull, bytes, sizeof bytes, NULL), NPO_OK);
    bytes[0] = 'X';
    decode(bytes, sizeof bytes, NPO_E_FORMAT, "expected 'NP'");
    assert_false(npo_frame_is_answerable(bytes, sizeof bytes));
    bytes[0] = 'N';
    bytes[2] = 2;
    npo_frame frame = decode(bytes, sizeof bytes, NPO_E_VERSION, "this build speaks 1");
    assert_true(frame.boot == 1 && frame.request == 2); /* so that it can be told */
    assert_true(npo_frame_is_answerable(bytes, sizeof bytes));
    bytes[2] = 1;
    bytes[3] = 19;
    decode(bytes, sizeof bytes, NPO_E_NOT_FOUND, "19 is unknown");
    bytes[3] = 0x80 | NPO_MESSAGE_PULL;
    assert_false(npo_frame_is_answerable(bytes, sizeof bytes));
}

/* npod keeps what it remembers of requests by these ids. */
static void test_frame_refuses_requests_without_ids(void **state)
{
    uint8_t bytes[34];
    npo_frame pull = {.id = NPO_MESSAGE_PULL, .request = 2, .json = "{}", .json_len = 2};
    assert_int_equal(npo_frame_encode(&pull, bytes, sizeof bytes, NULL), NPO_OK);
    decode(bytes, sizeof bytes, NPO_E_FORMAT, "boot id 0");
    pull.boot = 1;
    pull.request = 0;
    assert_int_equal(npo_frame_encode(&pull, bytes, sizeof bytes, NULL), NPO_OK);
    decode(bytes, sizeof bytes, NPO_E_FORMAT, "request id 0");
}

/* JSON lengths beyond the frame, up to those that would wrap. */
static void test_frame_refuses_hostile_json_lengths(void **state)
{
    static const uint8_t lengths[][4] = {
        {3, 0, 0, 0}, {0xff, 0xff, 0xff, 0x7f}, {0, 0, 0, 0x80}, {0xff, 0xff, 0xff, 0xff}};
    uint8_t bytes[34];
    npo_frame pull = {.id = NPO_MESSAGE_PULL, .boot = 1, .request = 2, .json = "{}", .json_len = 2};
    assert_int_equal(npo_frame_encode(&pull, bytes, sizeof bytes, NULL), NPO_OK);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        memcpy(bytes + 4, lengths[i], 4);
        decode(bytes, sizeof bytes, NPO_E_FORMAT, "bytes of JSON");
    }
}

static void test_frame_holds_every_message_to_its_bound(void **state)
{
    size_t count;
    const npo_message_info *rows = npo_message_table(&count);
    char *json = malloc(NPO_MESSAGE_BYTES_MAX + 1);
    assert_non_null(json);
    memset(json, ' ', NPO_MESSAGE_BYTES_MAX + 1);
    for (size_t i = 0; i < count; i++) {
        npo_buf bytes = NPO_BUF_INIT;
        npo_frame frame = {.id = rows[i].id, .boot = 1, .request = 1, .json = json};
        frame.json_len = rows[i].bytes_max;
        assert_int_equal(npo_frame_append(&frame, &bytes, NULL), NPO_OK);
        decode(bytes.data, bytes.len, NPO_OK, NULL);
        npo_buf_add(&bytes, "x", 1); /* one byte of payload too much */
        decode(bytes.data, bytes.len, NPO_E_LIMIT, rows[i].name);
        frame.json_len++;
        assert_int_equal(npo_frame_append(&frame, &bytes, NULL), NPO_E_LIMIT);
        frame.json_len = SIZE_MAX - 1;
        frame.payload_len = 3;
        assert_int_equal(npo_frame_append(&frame, &bytes, NULL), NPO_E_LIMIT);
        npo_buf_fini(&bytes);
    }
    free(json);
}

/* xorshift64: the same frames in every run. */
static uint64_t draw(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static void test_frame_survives_random_damage(void **state)
{
    uint64_t seed = 88172645463325252u;
    size_t accepted = 0;
    for (int round = 0; round < 200000; round++) {
        size_t which = draw(&seed) % GOLDEN_COUNT, len = golden[which].len;
        len = draw(&seed) % 4 ? len : draw(&seed) % (len + 1);
        uint8_t *bytes =
            malloc(len ? len : 1); /* its own block, so that a sanitizer sees every overrun */
        assert_non_null(bytes);
        memcpy(bytes, golden[which].bytes, len);
        for (uint64_t n = draw(&seed) % 4; len > 0 && n > 0; n--)
            bytes[draw(&seed) % len] = (uint8_t)draw(&seed);
        npo_frame frame = {0};
        cJSON *json = NULL;
        if (npo_frame_decode(bytes, len, &frame, NULL) == NPO_OK) {
            accepted++;
            assert_true(npo_frame_bytes(&frame) == len);
            if (npo_frame_parse(&frame, &json, NULL) == NPO_OK)
                assert_true(cJSON_IsObject(json));
            cJSON_Delete(json);
        }
        free(bytes);
    }
    assert_true(accepted > 1000 && accepted < 190000);
}

static void test_frame_parse_refuses_what_is_no_object(void **state)
{
    static const struct {
        const char *json;
        npo_err err;
    } cases[] = {
        {"[]", NPO_E_TYPE}, {"", NPO_E_FORMAT}, {"{", NPO_E_FORMAT}, {"{}x", NPO_E_FORMAT}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        npo_frame frame = {
            .id = NPO_MESSAGE_INFO, .json = cases[i].json, .json_len = strlen(cases[i].json)};
        cJSON *json = NULL;
        npo_error error = {0};
        assert_int_equal(npo_frame_parse(&frame, &json, &error), cases[i].err);
        assert_non_null(strstr(error.text, "message 'info'"));
    }
}

static void test_reply_error_carries_code_and_text(void **state)
{
    npo_error error = {0};
    cJSON *reply = npo_reply_error_new(NPO_E_FENCED, "attempt 2 is current");
    assert_int_equal(npo_reply_check(reply, &error), NPO_E_FENCED);
    assert_string_equal(error.text, "attempt 2 is current");
    cJSON_Delete(reply);
    reply = cJSON_Parse("{\"error\":{\"code\":\"FROM_THE_FUTURE\"}}");
    assert_int_equal(npo_reply_check(reply, &error), NPO_E_LIBRARY);
    cJSON_Delete(reply);
    reply = cJSON_Parse("{\"error\":{\"code\":\"OK\"}}"); /* an error is never success */
    assert_int_equal(npo_reply_check(reply, &error), NPO_E_LIBRARY);
    cJSON_Delete(reply);
    reply = cJSON_Parse("{\"ok\":true}");
    assert_int_equal(npo_reply_check(reply, &error), NPO_OK);
    cJSON_Delete(reply);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frame_decodes_golden_bytes_of_every_message),
        cmocka_unit_test(test_frame_encodes_golden_bytes),
        cmocka_unit_test(test_frame_reply_sets_bit_7),
        cmocka_unit_test(test_frame_refuses_every_truncation_of_the_header),
        cmocka_unit_test(test_frame_refuses_other_magic_version_and_id),
        cmocka_unit_test(test_frame_refuses_requests_without_ids),
        cmocka_unit_test(test_frame_refuses_hostile_json_lengths),
        cmocka_unit_test(test_frame_holds_every_message_to_its_bound),
        cmocka_unit_test(test_frame_survives_random_damage),
        cmocka_unit_test(test_frame_parse_refuses_what_is_no_object),
        cmocka_unit_test(test_reply_error_carries_code_and_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
