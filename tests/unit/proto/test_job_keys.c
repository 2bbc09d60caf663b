#include "tests/unit/proto/job_text.h"

#include "common/buf.h"
#include "common/file.h"

/* ---- every key: wrong type, out of range ---- */

/* A JSON text of another type than the key's, with the words that say what was expected. */
static const char *wrong_value(const npo_job_key *key, const char **ret_expected)
{
    static const struct {
        const char *type, *wrong, *expected;
    } rows[] = {
        {"true or false", "1", "expected true or false"},
        {"whole number", "1.5", "expected a whole number"},
        {"number", "\"fast\"", "expected a number"},
        {"text", "[]", "expected a string"},
        {"object", "3", "expected an object"},
        {"list", "{}", "expected a list"},
        {"text or list", "3", "expected a text or a list of texts"},
        {"path", "null", "expected a path or {\"artifact\": HASH}"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(rows[i].type, key->type) == 0) {
            *ret_expected = rows[i].expected;
            return rows[i].wrong;
        }
    }
    *ret_expected = "expected one of";
    return "\"no-such-choice\"";
}

/* A recipe that knows the key: tried out, since an unknown one is refused before its type. */
static void test_job_refuses_a_wrong_type_of_every_key(void **state)
{
    for (size_t i = 0; i < npo_job_key_count(); i++) {
        npo_job_key key;
        npo_job_key_at(i, &key);
        const char *expected, *wrong = wrong_value(&key, &expected);
        int refused = 0;
        for (int recipe = 0; recipe < NPO_RECIPE_COUNT; recipe++) {
            cJSON *json = job_with((npo_recipe)recipe, PAIRS(key.key, wrong));
            npo_job job;
            npo_error error = {0};
            npo_err err = npo_job_read(json, &job, &error);
            assert_int_not_equal(err, NPO_OK);
            bool names_key = strncmp(error.text, key.key, strlen(key.key)) == 0;
            refused += err == NPO_E_TYPE && names_key && strstr(error.text, expected) != NULL;
            cJSON_Delete(json);
        }
        if (refused == 0)
            fail_msg("%s = %s was never refused with '%s'", key.key, wrong, expected);
    }
}

static void test_job_refuses_numbers_out_of_range(void **state)
{
    static const struct {
        const char *key, *value;
        npo_recipe recipe;
    } rows[] = {
        {"workers", "0", NPO_RECIPE_SELF_NPO},
        {"workers", "257", NPO_RECIPE_SELF_NPO},
        {"priority", "1001", NPO_RECIPE_SELF_NPO},
        {"time_limit_s", "-1", NPO_RECIPE_SELF_NPO},
        {"retries", "101", NPO_RECIPE_SELF_NPO},
        {"seed", "-1", NPO_RECIPE_SELF_NPO},
        {"seed", "1e300", NPO_RECIPE_SELF_NPO},
        {"round_steps", "0", NPO_RECIPE_SELF_NPO},
        {"staleness", "2", NPO_RECIPE_SELF_NPO},
        {"preview_rounds", "-1", NPO_RECIPE_SELF_NPO},
        {"train.steps", "0", NPO_RECIPE_SELF_NPO},
        {"train.batch", "0", NPO_RECIPE_SELF_NPO},
        {"train.micro_batch", "-1", NPO_RECIPE_SELF_NPO},
        {"train.lr", "-1e-9", NPO_RECIPE_SELF_NPO},
        {"train.beta1", "1", NPO_RECIPE_SELF_NPO},
        {"train.beta2", "1", NPO_RECIPE_SELF_NPO},
        {"train.eps", "0", NPO_RECIPE_SELF_NPO},
        {"train.clip", "-1", NPO_RECIPE_SELF_NPO},
        {"train.ema_decay", "1", NPO_RECIPE_SELF_NPO},
        {"train.warmup_steps", "-1", NPO_RECIPE_SELF_NPO},
        {"train.huber_c", "0", NPO_RECIPE_SELF_NPO},
        {"train.empty_prompt_share", "1.5", NPO_RECIPE_SELF_NPO},
        {"generate.w_gen", "101", NPO_RECIPE_SELF_NPO},
        {"generate.solver_steps", "0", NPO_RECIPE_SELF_NPO},
        {"generate.segment_steps", "0", NPO_RECIPE_SELF_NPO},
        {"sample.guidance_scale", "-1", NPO_RECIPE_SAMPLE},
        {"sample.beta", "11", NPO_RECIPE_SAMPLE},
        {"sample.rescale", "2", NPO_RECIPE_SAMPLE},
        {"sample.interval_end", "1.1", NPO_RECIPE_SAMPLE},
        {"sample.steps", "1001", NPO_RECIPE_SAMPLE},
        {"sample.count", "0", NPO_RECIPE_SAMPLE},
        {"sample.batch", "-1", NPO_RECIPE_SAMPLE},
        {"sample.seed", "-1", NPO_RECIPE_SAMPLE},
        {"height", "-8", NPO_RECIPE_SAMPLE},
        {"width", "16385", NPO_RECIPE_SAMPLE},
        {"evaluate.samples", "1", NPO_RECIPE_EVALUATE},
        {"evaluate.real_samples", "1", NPO_RECIPE_EVALUATE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cJSON *json = job_with(rows[i].recipe, PAIRS(rows[i].key, rows[i].value));
        npo_job job;
        npo_error error = {0};
        assert_int_equal(npo_job_read(json, &job, &error), NPO_E_TYPE);
        assert_non_null(strstr(error.text, rows[i].key));
        assert_non_null(strstr(error.text, " from "));
        cJSON_Delete(json);
    }
}

/* ---- unknown, missing, meaningless keys ---- */

static void test_job_refuses_unknown_keys_with_the_closest(void **state)
{
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("round_step", "3"), NPO_E_USAGE,
                   "unknown key 'round_step', did you mean 'round_steps'?");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("train.learning", "3"), NPO_E_USAGE,
                   "unknown key 'train.learning'");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("train.warmup_step", "3"), NPO_E_USAGE,
                   "unknown key 'train.warmup_step', did you mean 'warmup_steps'?");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("generate.start", "\"noise\""), NPO_E_USAGE,
                   "unknown key 'generate.start', did you mean 'starts'?");
    expect_refused(NPO_RECIPE_SAMPLE, PAIRS("sample.magnification", "2"), NPO_E_USAGE,
                   "unknown key 'sample.magnification'");
    expect_refused(NPO_RECIPE_EVALUATE, PAIRS("evaluate.sample", "2"), NPO_E_USAGE,
                   "unknown key 'evaluate.sample', did you mean 'samples'?");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("constraints", "{\"labels\": {}}"), NPO_E_USAGE,
                   "unknown key 'constraints.labels', did you mean 'label'?");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("model", "{\"hash\": \"x\"}"), NPO_E_USAGE,
                   "unknown key 'model.hash', did you mean 'path'?");
}

static void test_job_refuses_missing_keys(void **state)
{
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("recipe", NULL), NPO_E_USAGE, "missing key 'recipe'");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("model", NULL), NPO_E_USAGE,
                   "missing key 'model': recipe 'self-npo' needs it");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("train", NULL), NPO_E_USAGE,
                   "missing key 'train': recipe 'self-npo' needs it");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("train.steps", NULL), NPO_E_USAGE,
                   "missing key 'train.steps': recipe 'self-npo' needs it");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("evaluate.data", "\"d\""), NPO_E_USAGE,
                   "missing key 'evaluate.classifier': recipe 'self-npo' needs it");
    expect_refused(NPO_RECIPE_DIFFUSION, PAIRS("data", NULL), NPO_E_USAGE,
                   "missing key 'data': recipe 'diffusion' needs it");
    expect_refused(NPO_RECIPE_CLASSIFIER, PAIRS("data", NULL), NPO_E_USAGE,
                   "missing key 'data': recipe 'classifier' needs it");
    expect_refused(NPO_RECIPE_SAMPLE, PAIRS("prompts", NULL), NPO_E_USAGE,
                   "missing key 'prompts': recipe 'sample' needs it");
    expect_refused(NPO_RECIPE_EVALUATE, PAIRS("negative", NULL), NPO_E_USAGE,
                   "missing key 'negative': recipe 'evaluate' needs it");
    expect_refused(NPO_RECIPE_EVALUATE, PAIRS("evaluate", NULL), NPO_E_USAGE,
                   "missing key 'evaluate': recipe 'evaluate' needs it");
}

static void test_job_refuses_keys_without_meaning(void **state)
{
    expect_refused(NPO_RECIPE_DIFFUSION, PAIRS("generate.w_gen", "-1"), NPO_E_USAGE,
                   "key 'generate' has no meaning in recipe 'diffusion'");
    expect_refused(NPO_RECIPE_DIFFUSION, PAIRS("staleness", "1"), NPO_E_USAGE,
                   "key 'staleness' has no meaning in recipe 'diffusion'");
    expect_refused(NPO_RECIPE_CLASSIFIER, PAIRS("train.loss", "\"mse\""), NPO_E_USAGE,
                   "key 'train.loss' has no meaning in recipe 'classifier'");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("negative", "\"n\""), NPO_E_USAGE,
                   "key 'negative' has no meaning in recipe 'self-npo'");
    expect_refused(NPO_RECIPE_EVALUATE, PAIRS("sample.count", "3"), NPO_E_USAGE,
                   "key 'sample.count' has no meaning in recipe 'evaluate'");
}

static void test_job_refuses_what_is_no_object(void **state)
{
    npo_job job;
    npo_error error = {0};
    cJSON *json = parse("[1]");
    assert_int_equal(npo_job_read(json, &job, &error), NPO_E_TYPE);
    assert_string_equal(error.text, "top level: expected an object");
    cJSON_Delete(json);
}

/* ---- documentation ---- */

static void test_job_document_lists_the_keys(void **state)
{
    npo_buf text = NPO_BUF_INIT;
    npo_error error = {0};
    assert_int_equal(npo_file_read(NPO_DOCS "/job-file.md", 1 << 20, &text, &error), NPO_OK);
    size_t rows = 0;
    for (const char *at = text.data; (at = strstr(at, "\n| `")); at++)
        rows++;
    assert_int_equal(rows, npo_job_key_count());
    for (size_t i = 0; i < npo_job_key_count(); i++) {
        npo_job_key key;
        char row[800];
        npo_job_key_at(i, &key);
        snprintf(row, sizeof row, "\n| `%s` | %s | %s | %s | %s |\n", key.key, key.type,
                 key.fallback, key.recipes, key.summary);
        if (!strstr(text.data, row))
            fail_msg("docs/job-file.md lacks the row%s", row);
    }
    npo_buf_fini(&text);
}

static void test_job_print_keys_prints_all(void **state)
{
    char *text = NULL;
    size_t size = 0;
    FILE *file = open_memstream(&text, &size);
    npo_job_print_keys(file);
    fclose(file);
    assert_non_null(strstr(text, "train.lr "));
    assert_non_null(strstr(text, "0.0001 (self-npo), 0.001 (diffusion, classifier)"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_job_refuses_a_wrong_type_of_every_key),
        cmocka_unit_test(test_job_refuses_numbers_out_of_range),
        cmocka_unit_test(test_job_refuses_unknown_keys_with_the_closest),
        cmocka_unit_test(test_job_refuses_missing_keys),
        cmocka_unit_test(test_job_refuses_keys_without_meaning),
        cmocka_unit_test(test_job_refuses_what_is_no_object),
        cmocka_unit_test(test_job_document_lists_the_keys),
        cmocka_unit_test(test_job_print_keys_prints_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
