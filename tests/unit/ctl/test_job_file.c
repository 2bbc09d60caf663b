#include "tests/unit/cmocka.h"
#include "tests/unit/ctl/folder.h"

#include "ctl/job/job_file.h"

#include <sys/stat.h>
#include <unistd.h>

#define JOB                                                                                        \
    "{\"recipe\": \"sample\", \"model\": \"m\", \"negative\": {\"path\": \"sub/n\"}, "             \
    "\"prompts\": [\"a\"]}"

/* Loads dir/job.json; sets are KEY=VALUE texts. */
static npo_err load(const char *dir, const char *const *sets, cJSON **ret_json, npo_error *error)
{
    npo_option_list list = {.items = (const char **)sets};
    for (; sets && sets[list.count]; list.count++)
        ;
    char *path = npo_file_join(dir, "job.json");
    npo_err err = npo_job_file_load(path, &list, ret_json, error);
    free(path);
    return err;
}

static void expect_path(const cJSON *json, const char *key, const char *dir, const char *rest)
{
    char expected[400];
    snprintf(expected, sizeof expected, "%s/%s", dir, rest);
    assert_string_equal(npo_json_string(json, key, "none"), expected);
}

static void expect_refused(const char *dir, const char *const *sets, npo_err code,
                           const char *sentence)
{
    cJSON *json = NULL;
    npo_error error = {0};
    assert_int_equal(load(dir, sets, &json, &error), code);
    if (!strstr(error.text, sentence))
        fail_msg("found '%s', expected '%s'", error.text, sentence);
}

static void test_job_file_paths_are_relative_to_the_file(void **state)
{
    cJSON *json = NULL;
    folder_write(*state, "job.json", JOB);
    assert_int_equal(load(*state, NULL, &json, NULL), NPO_OK);
    expect_path(json, "model", *state, "m");
    expect_path(json, "negative", *state, "sub/n");
    cJSON_Delete(json);
}

static void test_job_file_sets_are_relative_to_the_current_folder(void **state)
{
    cJSON *json = NULL;
    char *cwd = getcwd(NULL, 0);
    const char *sets[] = {"model=other", "sample.steps=7", "name=new", "negative=/abs", NULL};
    folder_write(*state, "job.json", JOB);
    assert_int_equal(load(*state, sets, &json, NULL), NPO_OK);
    expect_path(json, "model", cwd, "other");
    assert_string_equal(npo_json_string(json, "negative", ""), "/abs");
    assert_string_equal(npo_json_string(json, "name", ""), "new");
    assert_int_equal(npo_json_int(cJSON_GetObjectItem(json, "sample"), "steps", 0), 7);
    cJSON_Delete(json);
    free(cwd);
}

static void test_job_file_keeps_artifacts_and_absolute_paths(void **state)
{
    cJSON *json = NULL;
    folder_write(*state, "job.json",
                 "{\"model\": {\"artifact\": \"0123\"}, \"evaluate\": {\"data\": \"/data\", "
                 "\"classifier\": \"c\"}, \"data\": 3}");
    assert_int_equal(load(*state, NULL, &json, NULL), NPO_OK);
    const cJSON *evaluate = cJSON_GetObjectItem(json, "evaluate");
    assert_string_equal(npo_json_string(cJSON_GetObjectItem(json, "model"), "artifact", ""),
                        "0123");
    assert_string_equal(npo_json_string(evaluate, "data", ""), "/data");
    expect_path(evaluate, "classifier", *state, "c");
    assert_true(cJSON_IsNumber(cJSON_GetObjectItem(json, "data")));
    cJSON_Delete(json);
}

static void test_job_file_reads_prompts_from_a_file(void **state)
{
    cJSON *json = NULL;
    folder_write(*state, "job.json", "{\"prompts\": \"prompts.txt\"}");
    folder_write(*state, "prompts.txt", "a bag\r\n\nGröße\nlast");
    assert_int_equal(load(*state, NULL, &json, NULL), NPO_OK);
    const cJSON *prompts = cJSON_GetObjectItem(json, "prompts");
    assert_int_equal(cJSON_GetArraySize(prompts), 3);
    assert_string_equal(cJSON_GetArrayItem(prompts, 0)->valuestring, "a bag");
    assert_string_equal(cJSON_GetArrayItem(prompts, 1)->valuestring, "Größe");
    assert_string_equal(cJSON_GetArrayItem(prompts, 2)->valuestring, "last");
    cJSON_Delete(json);
}

/* A line's negative prompt and seed go where the job has one of each for every prompt. */
static void test_job_file_reads_prompts_with_settings(void **state)
{
    cJSON *json = NULL;
    folder_write(*state, "job.json", "{\"prompts\": \"p.jsonl\", \"sample\": {\"seed\": 40}}");
    folder_write(*state, "p.jsonl",
                 "{\"prompt\": \"a\", \"seed\": 3}\n"
                 "{\"prompt\": \"b\", \"negative_prompt\": \"grey\"}\n");
    assert_int_equal(load(*state, NULL, &json, NULL), NPO_OK);
    const cJSON *sample = cJSON_GetObjectItem(json, "sample");
    const cJSON *seeds = cJSON_GetObjectItem(sample, "seeds");
    const cJSON *negatives = cJSON_GetObjectItem(sample, "negative_prompt");
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(json, "prompts")), 2);
    assert_true(cJSON_GetArrayItem(seeds, 0)->valuedouble == 3);
    assert_true(cJSON_GetArrayItem(seeds, 1)->valuedouble == 41);
    assert_string_equal(cJSON_GetArrayItem(negatives, 1)->valuestring, "grey");
    cJSON_Delete(json);
    folder_write(*state, "job.json",
                 "{\"prompts\": \"p.jsonl\", \"sample\": {\"negative_prompt\": \"x\"}}");
    expect_refused(*state, NULL, NPO_E_USAGE, "sample.negative_prompt: '");
}

static void test_job_file_refuses_bad_prompt_files(void **state)
{
    folder_write(*state, "job.json", "{\"prompts\": \"prompts.txt\"}");
    expect_refused(*state, NULL, NPO_E_NOT_FOUND, "prompts: ");
    folder_write(*state, "prompts.txt", "\n\r\n");
    expect_refused(*state, NULL, NPO_E_USAGE, "holds none");
    folder_write(*state, "prompts.txt", "");
    expect_refused(*state, NULL, NPO_E_USAGE, "holds none");
    folder_write(*state, "prompts.txt", "a\nb\x80\n");
    expect_refused(*state, NULL, NPO_E_FORMAT, "line 2: found byte 0x80 at byte 2");
}

static void test_job_file_refuses_bad_files_and_sets(void **state)
{
    expect_refused(*state, NULL, NPO_E_NOT_FOUND, "job.json");
    folder_write(*state, "job.json", "{\"recipe\": }");
    expect_refused(*state, NULL, NPO_E_FORMAT, "not JSON: error in line 1");
    folder_write(*state, "job.json", "[]");
    expect_refused(*state, NULL, NPO_E_TYPE, "expected an object");
    folder_write(*state, "job.json", JOB);
    expect_refused(*state, (const char *[]){"model", NULL}, NPO_E_USAGE,
                   "--set 'model': expected KEY=VALUE");
    expect_refused(*state, (const char *[]){"=3", NULL}, NPO_E_USAGE,
                   "--set '=3': expected KEY=VALUE");
    expect_refused(*state, (const char *[]){"model.x=3", NULL}, NPO_E_TYPE,
                   "'model' is not an object");
}

static void make_model(const char *dir)
{
    char *unet = npo_file_join(dir, "unet");
    assert_int_equal(npo_file_make_dirs(unet, NULL), NPO_OK);
    folder_write(unet, "config.json", "{}");
    free(unet);
}

static void test_job_file_check_wants_paths_that_exist(void **state)
{
    cJSON *json = NULL;
    npo_job job;
    npo_error error = {0};
    char expected[500], *model = npo_file_join(*state, "m");
    folder_write(*state, "job.json", JOB);
    assert_int_equal(load(*state, NULL, &json, NULL), NPO_OK);
    assert_int_equal(npo_job_file_check(json, &job, &error), NPO_E_NOT_FOUND);
    snprintf(expected, sizeof expected, "model: '%s' does not exist", model);
    assert_string_equal(error.text, expected);
    make_model(model);
    assert_int_equal(npo_job_file_check(json, &job, &error), NPO_E_NOT_FOUND);
    cJSON_DeleteItemFromObject(json, "negative");
    assert_int_equal(npo_job_file_check(json, &job, &error), NPO_OK);
    assert_string_equal(job.model.path, model);
    free(model);
    cJSON_Delete(json);
}

/* Sides that the VAE in the folder cannot make. */
static void test_job_file_check_knows_the_factor_of_the_vae(void **state)
{
    cJSON *json = NULL;
    npo_job job;
    npo_error error = {0};
    const char *good[] = {"height=24", "width=40", NULL};
    const char *bad[] = {"height=24", "width=42", NULL};
    char *model = npo_file_join(*state, "m"), *vae = npo_file_join(model, "vae");
    make_model(model);
    assert_int_equal(npo_file_make_dirs(vae, NULL), NPO_OK);
    folder_write(vae, "config.json", "{\"block_out_channels\": [8, 8, 16, 16]}");
    folder_write(*state, "job.json",
                 "{\"recipe\": \"sample\", \"model\": \"m\", \"prompts\": [\"a\"]}");
    assert_int_equal(load(*state, good, &json, NULL), NPO_OK);
    assert_int_equal(npo_job_file_check(json, &job, &error), NPO_OK);
    cJSON_Delete(json);
    assert_int_equal(load(*state, bad, &json, NULL), NPO_OK);
    assert_int_equal(npo_job_file_check(json, &job, &error), NPO_E_USAGE);
    assert_non_null(strstr(error.text, "width: found 42 pixels, expected a multiple of 8 as the "
                                       "VAE of '"));
    cJSON_Delete(json);
    free(vae);
    free(model);
}

static void expect_unfit(const char *text, const char *sentence)
{
    npo_job job;
    npo_error error = {0};
    cJSON *json = cJSON_Parse(text);
    assert_int_equal(npo_job_file_check(json, &job, &error), NPO_E_NOT_FOUND);
    if (!strstr(error.text, sentence))
        fail_msg("found '%s', expected '%s'", error.text, sentence);
    cJSON_Delete(json);
}

static void test_job_file_check_takes_checkpoints(void **state)
{
    static const struct {
        const char *dir, *file, *model;
        npo_err expected;
    } cases[] = {
        {"c", "c/x.safetensors", "c", NPO_OK},
        {"c", "c/x.safetensors", "c/x.safetensors", NPO_OK},
        {"p", "p/x.ckpt", "p", NPO_E_NOT_FOUND},
        {"p", "p/x.ckpt", "p/x.ckpt", NPO_E_NOT_FOUND},
    };
    for (size_t i = 0; i < NPO_ARRAY_COUNT(cases); i++) {
        char text[700];
        npo_job job;
        char *dir = npo_file_join(*state, cases[i].dir);
        char *file = npo_file_join(*state, cases[i].file);
        assert_int_equal(npo_file_make_dirs(dir, NULL), NPO_OK);
        assert_int_equal(npo_file_write(file, "", 0, 0644, NULL), NPO_OK);
        snprintf(text, sizeof text,
                 "{\"recipe\": \"sample\", \"model\": \"%s/%s\", \"prompts\": [\"a\"]}",
                 (char *)*state, cases[i].model);
        cJSON *json = cJSON_Parse(text);
        assert_int_equal(npo_job_file_check(json, &job, NULL), cases[i].expected);
        cJSON_Delete(json);
        free(file);
        free(dir);
    }
}

static void test_job_file_check_knows_what_paths_stand_for(void **state)
{
    char text[700], *model = npo_file_join(*state, "m");
    make_model(model);
    snprintf(text, sizeof text, "{\"recipe\": \"sample\", \"model\": \"%s\", \"prompts\": [\"a\"]}",
             (char *)*state);
    expect_unfit(text, "expected a pipeline in diffusers layout with unet/config.json, or a "
                       "checkpoint in one .safetensors file");
    snprintf(text, sizeof text,
             "{\"recipe\": \"classifier\", \"data\": \"%s\", \"train\": {\"steps\": 1}}", model);
    expect_unfit(text, "data: found '");
    snprintf(text, sizeof text,
             "{\"recipe\": \"evaluate\", \"model\": \"%s\", \"negative\": \"%s\", \"prompts\": "
             "[\"a\"], \"evaluate\": {\"classifier\": \"%s\", \"data\": \"%s\"}}",
             model, model, model, model);
    expect_unfit(text, "evaluate.data: found '");
    free(model);
}

static void test_job_file_check_bounds_the_size(void **state)
{
    npo_job job;
    npo_error error = {0};
    cJSON *json = cJSON_Parse("{\"recipe\": \"sample\", \"model\": \"/tmp\", \"prompts\": []}");
    cJSON *prompts = cJSON_GetObjectItem(json, "prompts");
    char prompt[4001];
    memset(prompt, 'x', 4000);
    prompt[4000] = '\0';
    for (int i = 0; i < 270; i++)
        cJSON_AddItemToArray(prompts, cJSON_CreateString(prompt));
    assert_int_equal(npo_job_file_check(json, &job, &error), NPO_E_LIMIT);
    assert_non_null(strstr(error.text, "expected at most 1048576"));
    cJSON_Delete(json);
}

#define IN_FOLDER(name) cmocka_unit_test_setup_teardown(name, folder_setup, folder_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_job_file_paths_are_relative_to_the_file),
        IN_FOLDER(test_job_file_sets_are_relative_to_the_current_folder),
        IN_FOLDER(test_job_file_keeps_artifacts_and_absolute_paths),
        IN_FOLDER(test_job_file_reads_prompts_from_a_file),
        IN_FOLDER(test_job_file_reads_prompts_with_settings),
        IN_FOLDER(test_job_file_refuses_bad_prompt_files),
        IN_FOLDER(test_job_file_refuses_bad_files_and_sets),
        IN_FOLDER(test_job_file_check_wants_paths_that_exist),
        IN_FOLDER(test_job_file_check_takes_checkpoints),
        IN_FOLDER(test_job_file_check_knows_what_paths_stand_for),
        IN_FOLDER(test_job_file_check_knows_the_factor_of_the_vae),
        cmocka_unit_test(test_job_file_check_bounds_the_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
