#include "worker/supervisor/assignment.h"

#include "common/file.h"
#include "tests/unit/cmocka.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HASH "00112233445566778899aabbccddeeff"
#define ASSIGNMENT                                                                                 \
    "{\"task\":41,\"attempt\":2,\"rank\":1,\"world\":2,\"job\":3,\"kind\":\"train\",\"round\":4,"  \
    "\"shard\":0,\"shards\":2,\"generation\":9,\"spec\":{\"recipe\":\"self-npo\"},\"inputs\":["    \
    "{\"name\":\"model\",\"hash\":\"" HASH "\",\"size\":5}],\"params\":{\"steps\":2},"             \
    "\"time_limit_s\":60}"

static char dir[64];

static int setup(void **state)
{
    strcpy(dir, "/tmp/npo-assignment-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    return npo_file_remove(dir, NULL);
}

static npo_assignment read_assignment(void)
{
    npo_assignment assignment = {0};
    cJSON *json = cJSON_Parse(ASSIGNMENT);
    npo_error error = {0};
    if (npo_assignment_init(json, 12, dir, &assignment, &error))
        fail_msg("%s", error.text);
    cJSON_Delete(json);
    return assignment;
}

static void expect_json(cJSON *json_take, const char *expected)
{
    char *text = cJSON_PrintUnformatted(json_take);
    assert_string_equal(text, expected);
    cJSON_free(text);
    cJSON_Delete(json_take);
}

static void test_assignment_is_read_and_has_a_folder(void **state)
{
    npo_assignment assignment = read_assignment();
    char *folder = strdup(assignment.dir);
    assert_int_equal(assignment.fence.task, 41);
    assert_int_equal(assignment.fence.attempt, 2);
    assert_int_equal(assignment.fence.rank, 1);
    assert_int_equal(assignment.time_limit_s, 60);
    assert_string_equal(assignment.kind, "train");
    assert_true(npo_file_exists(assignment.out_dir));
    npo_assignment_fini(&assignment);
    assert_false(npo_file_exists(folder));
    free(folder);
}

static void test_assignment_refuses_what_lacks_or_is_out_of_range(void **state)
{
    static const struct {
        const char *key, *value;
        const char *part;
    } cases[] = {
        {"task", NULL, "missing key 'assignment.task'"},
        {"task", "0", "assignment.task"},
        {"attempt", "1.5", "assignment.attempt"},
        {"rank", "-1", "assignment.rank"},
        {"world", "100000", "assignment.world"},
        {"kind", "7", "assignment.kind"},
        {"inputs", "{}", "assignment.inputs"},
        {"spec", "[]", "assignment.spec"},
        {"params", NULL, "assignment.params"},
        {"rank", "2", "rank 2 of 2"},
        {"shard", "2", "shard 2 of 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        npo_assignment assignment = {0};
        npo_error error = {0};
        cJSON *json = cJSON_Parse(ASSIGNMENT);
        cJSON_DeleteItemFromObject(json, cases[i].key);
        if (cases[i].value)
            cJSON_AddItemToObject(json, cases[i].key, cJSON_Parse(cases[i].value));
        assert_int_not_equal(npo_assignment_init(json, 12, dir, &assignment, &error), NPO_OK);
        if (!strstr(error.text, cases[i].part))
            fail_msg("'%s': expected '%s'", error.text, cases[i].part);
        cJSON_Delete(json);
    }
}

static void test_assignment_inputs_become_an_order(void **state)
{
    npo_assignment assignment = read_assignment();
    npo_mover_input *inputs = NULL;
    size_t count = 0;
    assert_int_equal(npo_assignment_inputs(&assignment, &inputs, &count, NULL), NPO_OK);
    assert_int_equal(count, 1);
    assert_string_equal(inputs[0].name, "model");
    inputs[0].path = strdup("/cache/model");
    cJSON *order = npo_assignment_order(&assignment, inputs, count);
    assert_string_equal(npo_json_string(order, "order", ""), "task");
    assert_int_equal(npo_json_int(order, "ticket", 0), 12);
    assert_string_equal(npo_json_string(order, "out_dir", ""), assignment.out_dir);
    expect_json(cJSON_DetachItemFromObject(order, "paths"),
                "[{\"name\":\"model\",\"path\":\"/cache/model\"}]");
    cJSON_Delete(order);
    npo_mover_inputs_free(inputs, count);
    npo_assignment_fini(&assignment);
}

static void test_assignment_refuses_an_input_without_a_hash(void **state)
{
    npo_assignment assignment = read_assignment();
    npo_mover_input *inputs = NULL;
    size_t count = 0;
    npo_error error = {0};
    cJSON *list = cJSON_GetObjectItem(assignment.json, "inputs");
    cJSON_ReplaceItemInObject(list->child, "hash", cJSON_CreateString("xyz"));
    assert_int_equal(npo_assignment_inputs(&assignment, &inputs, &count, &error), NPO_E_FORMAT);
    assert_non_null(strstr(error.text, "input 'model': 'xyz' is no hash"));
    npo_assignment_fini(&assignment);
}

static void test_assignment_bodies_are_those_of_the_protocol(void **state)
{
    npo_assignment assignment = read_assignment();
    npo_artifact artifact = {.size = 7};
    npo_task_failure failure = {.code = NPO_E_PEER, .retry = true, .text = "gone"};
    assert_int_equal(npo_hash_parse(HASH, &artifact.hash), NPO_OK);
    assert_int_equal(npo_assignment_add_output(&assignment, "pool", &artifact), NPO_OK);
    assignment.result = cJSON_Parse("{\"seconds\":1.5}");
    expect_json(npo_assignment_status(&assignment),
                "{\"task\":41,\"attempt\":2,\"rank\":1,\"step\":0,\"steps\":0,\"phase\":\"\","
                "\"loss\":null,\"samples_per_s\":null}");
    cJSON *progress = cJSON_Parse("{\"step\":3,\"steps\":8,\"phase\":\"train\",\"loss\":0.5}");
    npo_assignment_set_progress(&assignment, progress);
    cJSON_Delete(progress);
    expect_json(npo_assignment_status(&assignment),
                "{\"task\":41,\"attempt\":2,\"rank\":1,\"step\":3,\"steps\":8,\"phase\":\"train\","
                "\"loss\":0.5,\"samples_per_s\":null}");
    expect_json(
        npo_assignment_done(&assignment, 6),
        "{\"worker\":6,\"task\":41,\"attempt\":2,\"rank\":1,\"outputs\":[{\"name\":\"pool\","
        "\"hash\":\"" HASH "\",\"size\":7}],\"result\":{\"seconds\":1.5}}");
    expect_json(npo_assignment_fail(&assignment.fence, 6, &failure),
                "{\"worker\":6,\"task\":41,\"attempt\":2,\"rank\":1,\"code\":\"PEER\","
                "\"text\":\"gone\",\"retry\":true}");
    npo_assignment_fini(&assignment);
}

#define FOLDER_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FOLDER_TEST(test_assignment_is_read_and_has_a_folder),
        FOLDER_TEST(test_assignment_refuses_what_lacks_or_is_out_of_range),
        FOLDER_TEST(test_assignment_inputs_become_an_order),
        FOLDER_TEST(test_assignment_refuses_an_input_without_a_hash),
        FOLDER_TEST(test_assignment_bodies_are_those_of_the_protocol),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
