#include "common/bounds.h"
#include "ctl/job/fetch.h"
#include "ctl/job/made_job.h"
#include "ctl/job/prompt_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    npo_common_values common;
    const char *model, *negative, *out;
    npo_option_list prompts;
    const char *prompt_file, *negative_prompt, *sampler, *spacing; /* NULL: not given */
    double guidance_scale, beta, rescale;                          /* NaN: not given */
    int64_t count, batch, seed, steps, height, width;              /* below 0: not given */
    bool karras, grid;
} sample_values;

static const sample_values defaults = {
    .guidance_scale = NAN,
    .beta = NAN,
    .rescale = NAN,
    .count = -1,
    .batch = -1,
    .seed = -1,
    .steps = -1,
    .height = -1,
    .width = -1,
};

static double number_of(int64_t value)
{
    return value < 0 ? NAN : (double)value;
}

/* Only what was asked for: the rest is the job file's to say. */
static bool set_numbers(cJSON *spec, cJSON *sample, const sample_values *values)
{
    const struct {
        cJSON *object;
        const char *key;
        double value;
    } rows[] = {
        {sample, "guidance_scale", values->guidance_scale},
        {sample, "beta", values->beta},
        {sample, "rescale", values->rescale},
        {sample, "count", number_of(values->count)},
        {sample, "batch", number_of(values->batch)},
        {sample, "seed", number_of(values->seed)},
        {sample, "steps", number_of(values->steps)},
        {spec, "height", number_of(values->height)},
        {spec, "width", number_of(values->width)},
    };
    for (size_t i = 0; i < NPO_ARRAY_COUNT(rows); i++)
        if (!isnan(rows[i].value) &&
            !cJSON_AddNumberToObject(rows[i].object, rows[i].key, rows[i].value))
            return false;
    return true;
}

static bool set_choices(cJSON *sample, const sample_values *values)
{
    const struct {
        const char *key, *text;
    } texts[] = {
        {"sampler", values->sampler},
        {"spacing", values->spacing},
        {"negative_prompt", values->negative_prompt},
    };
    for (size_t i = 0; i < NPO_ARRAY_COUNT(texts); i++)
        if (texts[i].text && !cJSON_AddStringToObject(sample, texts[i].key, texts[i].text))
            return false;
    return (!values->karras || cJSON_AddTrueToObject(sample, "karras")) &&
           (!values->grid || cJSON_AddTrueToObject(sample, "grid"));
}

static bool set_prompts(cJSON *spec, const sample_values *values)
{
    if (values->prompt_file)
        return cJSON_AddStringToObject(spec, "prompts", values->prompt_file) != NULL;
    cJSON *list = cJSON_AddArrayToObject(spec, "prompts");
    for (size_t i = 0; i < values->prompts.count; i++)
        if (!cJSON_AddItemToArray(list, cJSON_CreateString(values->prompts.items[i])))
            return false;
    return list != NULL;
}

/* Every prompt of a file is drawn once, where nothing else was asked for. */
static npo_exit count_prompts(cJSON *spec, const sample_values *values)
{
    npo_prompt_file file = {0};
    npo_error error = {0};
    if (!values->prompt_file || values->count >= 0)
        return NPO_EXIT_OK;
    if (npo_prompt_file_read(values->prompt_file, &file, &error))
        return npo_exit_local(&error);
    int count = cJSON_GetArraySize(file.prompts);
    npo_prompt_file_fini(&file);
    cJSON *sample = cJSON_GetObjectItemCaseSensitive(spec, "sample");
    return cJSON_AddNumberToObject(sample, "count", count)
               ? NPO_EXIT_OK
               : npo_exit_with(NPO_EXIT_FAILED, "out of memory");
}

static npo_exit set_all(cJSON *spec, const sample_values *values)
{
    cJSON *sample = cJSON_AddObjectToObject(spec, "sample");
    if (!cJSON_AddStringToObject(spec, "recipe", "sample") || !set_numbers(spec, sample, values) ||
        !set_choices(sample, values) || !set_prompts(spec, values))
        return npo_exit_with(NPO_EXIT_FAILED, "out of memory");
    return count_prompts(spec, values);
}

static npo_exit build(npo_session *session, const void *self, cJSON *spec)
{
    const sample_values *values = self;
    int64_t job, step;
    npo_exit code = set_all(spec, values);
    if (!code && values->negative)
        code = npo_made_job_set_model(session, spec, "negative", values->negative);
    if (code)
        return code;
    if (values->model)
        return npo_made_job_set_model(session, spec, "model", values->model);
    if (!values->negative || strspn(values->negative, "0123456789@") != strlen(values->negative))
        return npo_exit_with(NPO_EXIT_USAGE,
                             "missing --model DIR|JOB: only --negative JOB tells it");
    code = npo_command_parse_job(values->negative, &job, &step);
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
    if (!values->prompts.count == !values->prompt_file)
        return npo_exit_with(NPO_EXIT_USAGE, values->prompt_file
                                                 ? "--prompt and --prompts: expected one of them"
                                                 : "missing --prompt TEXT or --prompts FILE");
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
    ROW("prompts", 0, STRING, prompt_file, "FILE",
        "prompts, one a line; .jsonl: prompt, negative_prompt, seed", 0, 0),
    ROW("negative-prompt", 0, STRING, negative_prompt, "TEXT", "in place of the empty prompt", 0,
        0),
    ROW("guidance-scale", 'g', NUMBER, guidance_scale, "G", "guidance scale (2)", 0, 1000),
    ROW("beta", 0, NUMBER, beta, "B", "part of the negative network's offset (1)", -10, 10),
    ROW("rescale", 0, NUMBER, rescale, "PHI", "guidance rescale (0: off)", 0, 1),
    ROW("sampler", 0, STRING, sampler, "NAME", "ddim, dpmpp-2m, euler, euler-ancestral (ddim)", 0,
        0),
    ROW("karras", 0, BOOL, karras, NULL, "noise levels of Karras; not with ddim", 0, 0),
    ROW("spacing", 0, STRING, spacing, "NAME", "leading, trailing, linspace (the model's)", 0, 0),
    ROW("steps", 0, INT, steps, "N", "solver steps (25)", 1, 1000),
    ROW("width", 0, INT, width, "PIXELS", "of the images (the model's)", 1, NPO_IMAGE_SIDE_MAX),
    ROW("height", 0, INT, height, "PIXELS", "of the images (the model's)", 1, NPO_IMAGE_SIDE_MAX),
    ROW("count", 'c', INT, count, "N", "images (16; of a file one for each prompt)", 1, 1000000),
    ROW("batch", 0, INT, batch, "N", "images a forward pass (as many as suit their size)", 1,
        65536),
    ROW("seed", 's', INT, seed, "N", "of the starting noise (0)", 0, 9007199254740992.0),
    ROW("grid", 0, BOOL, grid, NULL, "also a sheet of the first images, grid.png", 0, 0),
    ROW("out", 'o', STRING, out, "DIR", "folder of the images (samples-JOB)", 0, 0),
};

const npo_command npo_command_sample = {
    .name = "sample",
    .summary = "draw images with a model and a negative network",
    .usage = "[OPTION...] --prompt TEXT | --prompts FILE",
    .text = "Makes a sample job, waits for it and fetches its images. Where --negative is a job, "
            "its base\n"
            "model is the default of --model. Every picture holds what it was drawn with, as JSON\n"
            "(npo.settings) and as other programs read it (parameters).",
    .example = "npoctl sample -n 3 -p 'a photo of a bag' --sampler dpmpp-2m --karras -g 2 -c 8",
    .options = options,
    .option_count = NPO_ARRAY_COUNT(options),
    .defaults = &defaults,
    .values_size = sizeof(sample_values),
    .run = run_sample,
};
