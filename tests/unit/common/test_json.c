#include "common/json.h"

#include "tests/unit/cmocka.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    bool flag;
    int64_t steps;
    double lr;
    const char *name;
    int loss;
    const cJSON *train, *list, *any;
} settings;

static const char *const losses[] = {"mse", "huber", NULL};

static const npo_json_field fields[] = {
    {"flag", NPO_JSON_BOOL, offsetof(settings, flag), .required = false},
    {"steps", NPO_JSON_INT, offsetof(settings, steps), .min = 1, .max = 100},
    {"lr", NPO_JSON_NUMBER, offsetof(settings, lr)},
    {"name", NPO_JSON_STRING, offsetof(settings, name), .required = true, .max = 5},
    {"loss", NPO_JSON_ENUM, offsetof(settings, loss), .choices = losses},
    {"train", NPO_JSON_OBJECT, offsetof(settings, train)},
    {"list", NPO_JSON_ARRAY, offsetof(settings, list)},
    {"any", NPO_JSON_ANY, offsetof(settings, any)},
};
enum { FIELD_COUNT = sizeof fields / sizeof fields[0] };

static npo_err read_text(const char *text, settings *ret, npo_error *error)
{
    cJSON *json;
    npo_err err = npo_json_parse(text, strlen(text), "text", &json, error);
    if (err)
        return err;
    err = npo_json_read(json, "", fields, FIELD_COUNT, false, ret, error);
    cJSON_Delete(json);
    return err;
}

static void test_json_read_fills_members(void **state)
{
    settings s = {.lr = 7};
    npo_error error = {0};
    assert_int_equal(read_text("{\"name\":\"abc\",\"flag\":true,\"steps\":100,\"loss\":\"huber\","
                               "\"train\":{},\"list\":[],\"any\":null,\"_note\":1}",
                               &s, &error),
                     NPO_OK);
    assert_true(s.flag);
    assert_int_equal(s.steps, 100);
    assert_int_equal(s.loss, 1);
    assert_true(s.lr == 7); /* a missing key keeps its default */
    assert_non_null(s.train);
}

static void test_json_read_refuses_with_a_sentence(void **state)
{
    static const struct {
        const char *text, *sentence;
        npo_err code;
    } rows[] = {
        {"{\"nane\":1}", "unknown key 'nane', did you mean 'name'?", NPO_E_USAGE},
        {"{\"zzzzzzzz\":1}", "unknown key 'zzzzzzzz'", NPO_E_USAGE},
        {"{}", "missing key 'name'", NPO_E_USAGE},
        {"{\"name\":\"abcdef\"}", "name: found 6 bytes, expected at most 5", NPO_E_LIMIT},
        {"{\"name\":3}", "name: found 3, expected a string", NPO_E_TYPE},
        {"{\"steps\":1.5}", "steps: found 1.5, expected a whole number from 1 to 100", NPO_E_TYPE},
        {"{\"steps\":101}", "steps: found 101, expected a whole number from 1 to 100", NPO_E_TYPE},
        {"{\"steps\":\"1\"}", "steps: found \"1\", expected a whole number from 1 to 100",
         NPO_E_TYPE},
        {"{\"lr\":1e999}", "lr: found null, expected a number", NPO_E_TYPE},
        {"{\"flag\":1}", "flag: found 1, expected true or false", NPO_E_TYPE},
        {"{\"loss\":\"l1\"}", "loss: found \"l1\", expected one of \"mse\", \"huber\"", NPO_E_TYPE},
        {"{\"train\":[]}", "train: found [], expected an object", NPO_E_TYPE},
        {"{\"list\":{}}", "list: found {}, expected a list", NPO_E_TYPE},
        {"[]", "top level: expected an object", NPO_E_TYPE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        settings s = {0};
        npo_error error = {0};
        assert_int_equal(read_text(rows[i].text, &s, &error), rows[i].code);
        assert_string_equal(error.text, rows[i].sentence);
    }
}

static void test_json_parse_refuses(void **state)
{
    static const struct {
        const char *text, *sentence;
    } rows[] = {
        {"{", "t: not JSON: error in line 1"},
        {"{\n\"a\": x}", "t: not JSON: error in line 2"},
        {"{} x", "t: not JSON: text after the value in line 1"},
        {"{\"a\":1,\"a\":2}", "t: key 'a' stands twice"},
        {"", "t: not JSON: error in line 1"},
    };
    cJSON *json;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        npo_error error = {0};
        assert_int_equal(npo_json_parse(rows[i].text, strlen(rows[i].text), "t", &json, &error),
                         NPO_E_FORMAT);
        assert_string_equal(error.text, rows[i].sentence);
    }
    assert_int_equal(npo_json_parse("{\0}", 3, "t", &json, NULL), NPO_E_FORMAT);
}

static void test_json_parse_bounds_depth(void **state)
{
    char text[200];
    cJSON *json;
    memset(text, '[', 90);
    memset(text + 90, ']', 90);
    assert_int_equal(npo_json_parse(text, 180, "t", &json, NULL), NPO_E_LIMIT);
}

static void test_json_set_path_creates_and_replaces(void **state)
{
    cJSON *json = cJSON_Parse("{\"b\":1}");
    npo_error error = {0};
    assert_int_equal(npo_json_set_path(json, "a.x", "2.5", NULL), NPO_OK);
    assert_int_equal(npo_json_set_path(json, "b", "text", NULL), NPO_OK);
    assert_int_equal(npo_json_set_path(json, "b.c", "1", &error), NPO_E_TYPE);
    assert_string_equal(error.text, "cannot set 'b.c': 'b' is not an object");
    assert_int_equal(npo_json_set_path(json, "a.", "1", NULL), NPO_E_USAGE);
    char *text = npo_json_canonical(json);
    assert_string_equal(text, "{\"a\":{\"x\":2.5},\"b\":\"text\"}");
    free(text);
    cJSON_Delete(json);
}

static void test_json_canonical_sorts_every_level(void **state)
{
    cJSON *json = cJSON_Parse("{\"c\":[{\"z\":1,\"y\":2}],\"b\":{},\"a\":null}");
    char *text = npo_json_canonical(json);
    assert_string_equal(text, "{\"a\":null,\"b\":{},\"c\":[{\"y\":2,\"z\":1}]}");
    cJSON_AddItemToObject(json, "d", cJSON_CreateNull()); /* the list is still sound */
    assert_int_equal(cJSON_GetArraySize(json), 4);
    free(text);
    cJSON_Delete(json);
}

/* Beyond 2^53 a double is no whole number any more, and a conversion may be undefined. */
static void test_json_int_falls_back_where_it_is_none(void **state)
{
    cJSON *json = cJSON_Parse("{\"a\":7,\"b\":1e300,\"c\":-1e300,\"d\":\"7\"}");
    assert_int_equal(npo_json_int(json, "a", 1), 7);
    for (const char *key = "bcde"; *key; key++)
        assert_int_equal(npo_json_int(json, (char[]){*key, 0}, INT64_MAX), INT64_MAX);
    cJSON_Delete(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_read_fills_members),
        cmocka_unit_test(test_json_read_refuses_with_a_sentence),
        cmocka_unit_test(test_json_parse_refuses),
        cmocka_unit_test(test_json_parse_bounds_depth),
        cmocka_unit_test(test_json_set_path_creates_and_replaces),
        cmocka_unit_test(test_json_canonical_sorts_every_level),
        cmocka_unit_test(test_json_int_falls_back_where_it_is_none),
    };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
