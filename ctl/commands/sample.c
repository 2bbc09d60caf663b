#include "ctl/job/fetch.h"
#include "ctl/job/made_job.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    npo_common_values common;
    const char *model, *negative, *out;
    npo_option_list prompts;
    double guidance_scale, beta, rescale; /* NaN: not given */
    int64_t count, seed, steps;           /* below 0: not given */
    bool grid;
} sample_values;

static const sample_values defaults = {
    .guidance_scale = NAN, .beta = NAN, .rescale = NAN, .count = -1, .seed = -1, .steps = -1};

/* Only what was asked for: the rest is the job file's to say. */
static bool set_numbers(cJSON *spec, const sample_values *values)
{
    const struct {
        const char *key;
        double value;
    } rows[] = {
        {"guidance_scale", values->guidance_scale},
        {"beta", values->beta},
        {"rescale", values->rescale},
        {"count", values->count < 0 ? NAN : (double)values->count},
        {"seed", values->seed < 0 ? NAN : (double)values->seed},
        {"steps", values->steps < 0 ? NAN : (double)values->steps},
    };
    cJSON *sample = cJSON_AddObjectToObject(spec, "sample");
    for (size_t i = 0; i < NPO_ARRAY_COUNT(rows); i++)
        if (!isnan(rows[i].value) && !cJSON_AddNumberToObject(sample, rows[i].key, rows[i].value))
            return false;
    if (values->grid && !cJSON_AddTrueToObject(sample, "grid"))
        return false;
    return sample != NULL;
}

static bool set_prompts(cJSON *spec, const npo_option_list *prompts)
{
    cJSON *list = cJSON_AddArrayToObject(spec, "prompts");
    for (size_t i = 0; i < prompts->count; i++)
        if (!cJSON_AddItemToArray(list, cJSON_CreateString(prompts->items[i])))
            return false;
    return list != NULL;
}

static npo_exit build(npo_session *session, const void *self, cJSON *spec)
{
    const sample_values *values = self;
    int64_t job, step;
    if (!cJSON_AddStringToObject(spec, "recipe", "sample") || !set_numbers(spec, values) ||
        !set_prompts(spec, &values->prompts))
        return npo_exit_with(NPO_EXIT_FAILED, "out of memory");
    if (values->negative) {
        npo_exit code = npo_made_job_set_model(session, spec, "negative", values->negative);
        if (code)
            return code;
    }
    if (values->model)
        return npo_made_job_set_model(session, spec, "model", values->model);
    if (!values->negative || strspn(values->negative, "0123456789@") != strlen(values->negative))
        return npo_exit_with(NPO_EXIT_USAGE,
                             "missing --model DIR|JOB: only --negative JOB tells it");
    npo_exit code = npo_command_parse_job(values->negative, &job, &step);
    return code ? code : npo_made_job_set_base(session, spec, job);
}

static npo_exit fetch(npo_session *session, const void *self, int64_t job)
{
    const sample_values *values = self;
    char hash[NPO_HASH_TEXT_SIZE], name[64];
    npo_exit code = npo_made_job_output(session, job, "images", hash);
    snprintf(name, sizeof name, "samples-%lld", (long long)job);
    return code ? code : npo_fetch_to(session, hash, values->out ? values->out : name, stdout);
}

static npo_exit run_sample(const npo_call *call)
{
    const sample_values *values = call->values;
    npo_made_job made = {
        .common = &values->common, .values = values, .build = build, .fetch = fetch};
    if (values->prompts.count == 0)
        return npo_exit_with(NPO_EXIT_USAGE, "missing --prompt TEXT");
    return npo_made_job_run(&made);
}

#define ROW(name, letter, type, member, argument, help, min, max)                                  \
    {                                                                                              \
        name, letter, NPO_OPTION_##type, NPO_OPTION_FLAG_ONLY, offsetof(sample_values, member),    \
            argument, help, min, max                                                               \
    }
static const npo_option options[] = {
    ROW("model", 'm', STRING, model, "DIR|JOB", "pipeline folder, or what a job trained", 0, 0),
    ROW("negative", 'n', STRING, negative, "DIR|JOB[@STEP]", "the trained negative network", 0, 0),
    ROW("prompt", 'p', LIST, prompts, "TEXT", "may be given several times: images take turns", 0,
        0),
    ROW("guidance-scale", 'g', NUMBER, guidance_scale, "G", "guidance scale (2)", 0, 1000),
    ROW("beta", 0, NUMBER, beta, "B", "part of the negative network's offset (1)", -10, 10),
    ROW("rescale", 0, NUMBER, rescale, "PHI", "guidance rescale (0: off)", 0, 1),
    ROW("count", 'c', INT, count, "N", "images (16)", 1, 1000000),
    ROW("seed", 's', INT, seed, "N", "of the starting noise (0)", 0, 9007199254740992.0),
    ROW("steps", 0, INT, steps, "N", "solver steps (25)", 1, 1000),
    ROW("grid", 0, BOOL, grid, NULL, "also a sheet of the first images, grid.png", 0, 0),
    ROW("out", 'o', STRING, out, "DIR", "folder of the images (samples-JOB)", 0, 0),
};

const npo_command npo_command_sample = {
    .name = "sample",
    .summary = "draw images with a model and a negative network",
    .usage = "[OPTION...] --prompt TEXT",
    .text = "Makes a sample job, waits for it and fetches its images. Where --negative is a job, "
            "its base\n"
            "model is the default of --model.",
    .example = "npoctl sample --negative 3 --prompt 'a photo of a bag' -g 2 -c 8 --out bags",
    .options = options,
    .option_count = NPO_ARRAY_COUNT(options),
    .defaults = &defaults,
    .values_size = sizeof(sample_values),
    .run = run_sample,
};
