/* Job files for tests: the smallest of every recipe, with keys changed. */
#ifndef NPO_TESTS_PROTO_JOB_TEXT_H
#define NPO_TESTS_PROTO_JOB_TEXT_H

#include "tests/unit/cmocka.h"

#include "proto/job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HASH "0123456789abcdef0123456789abcdef"

#define SELF_NPO                                                                                   \
    "{\"recipe\": \"self-npo\", \"model\": \"m\", \"prompts\": [\"a\"], \"train\": {\"steps\": "   \
    "150}}"
#define DIFFUSION                                                                                  \
    "{\"recipe\": \"diffusion\", \"model\": \"m\", \"data\": \"d\", \"train\": {\"steps\": 3600}}"
#define CLASSIFIER "{\"recipe\": \"classifier\", \"data\": \"d\", \"train\": {\"steps\": 500}}"
#define SAMPLE     "{\"recipe\": \"sample\", \"model\": \"m\", \"prompts\": [\"a\"]}"
#define EVALUATE                                                                                   \
    "{\"recipe\": \"evaluate\", \"model\": \"m\", \"negative\": \"n\", \"prompts\": [\"a\"], "     \
    "\"evaluate\": {\"classifier\": \"c\", \"data\": \"d\"}}"
#define EXPORT "{\"recipe\": \"export\", \"model\": \"m\", \"negative\": \"n\"}"

static const char *const smallest[NPO_RECIPE_COUNT] = {
    [NPO_RECIPE_SELF_NPO] = SELF_NPO,     [NPO_RECIPE_DIFFUSION] = DIFFUSION,
    [NPO_RECIPE_CLASSIFIER] = CLASSIFIER, [NPO_RECIPE_SAMPLE] = SAMPLE,
    [NPO_RECIPE_EVALUATE] = EVALUATE,     [NPO_RECIPE_EXPORT] = EXPORT,
};

static inline cJSON *parse(const char *text)
{
    cJSON *json = NULL;
    npo_error error = {0};
    assert_int_equal(npo_json_parse(text, strlen(text), "job", &json, &error), NPO_OK);
    return json;
}

/* The recipe's smallest job with keys set: pairs of dotted key and JSON text, ended by NULL; a
 * value of NULL takes the key out. */
static inline cJSON *job_with(npo_recipe recipe, const char *const *pairs)
{
    cJSON *json = parse(smallest[recipe]);
    npo_error error = {0};
    for (; pairs && *pairs; pairs += 2) {
        const char *dot = strchr(pairs[0], '.');
        if (pairs[1]) {
            assert_int_equal(npo_json_set_path(json, pairs[0], pairs[1], &error), NPO_OK);
        } else if (dot) {
            char section[32];
            snprintf(section, sizeof section, "%.*s", (int)(dot - pairs[0]), pairs[0]);
            cJSON_DeleteItemFromObject(cJSON_GetObjectItem(json, section), dot + 1);
        } else {
            cJSON_DeleteItemFromObject(json, pairs[0]);
        }
    }
    return json;
}

static inline void expect_refused(npo_recipe recipe, const char *const *pairs, npo_err code,
                                  const char *sentence)
{
    cJSON *json = job_with(recipe, pairs);
    npo_job job;
    npo_error error = {0};
    npo_err err = npo_job_read(json, &job, &error);
    if (err != code || strcmp(error.text, sentence) != 0)
        fail_msg("found %s '%s', expected %s '%s'", npo_err_name(err), error.text,
                 npo_err_name(code), sentence);
    cJSON_Delete(json);
}

static inline void read_ok(const cJSON *json, npo_job *ret_job)
{
    npo_error error = {0};
    if (npo_job_read(json, ret_job, &error))
        fail_msg("%s", error.text);
}

#define PAIRS(...) ((const char *const[]){__VA_ARGS__, NULL})

#endif
