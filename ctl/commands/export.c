#include "ctl/job/fetch.h"
#include "ctl/job/made_job.h"

#include "common/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REPORT_BYTES_MAX = 16 << 20 };

typedef struct {
    npo_common_values common;
    const char *form, *model, *positive, *naming, *layers, *dtype, *weights;
    double alpha, beta, w, energy; /* NaN: not given */
    int64_t rank;                  /* below 0: not given */
} export_values;

static const export_values defaults = {
    .alpha = NAN, .beta = NAN, .w = NAN, .energy = NAN, .rank = -1};

/* ---- the job ---- */

/* Only what was asked for: the rest is the job file's to say. */
static cJSON *new_section(const export_values *values)
{
    const struct {
        const char *key, *text;
    } texts[] = {{"form", values->form},
                 {"naming", values->naming},
                 {"layers", values->layers},
                 {"dtype", values->dtype},
                 {"weights", values->weights}};
    const struct {
        const char *key;
        double value;
    } numbers[] = {{"alpha", values->alpha},
                   {"beta", values->beta},
                   {"w", values->w},
                   {"energy", values->energy},
                   {"rank", values->rank < 0 ? NAN : (double)values->rank}};
    cJSON *section = cJSON_CreateObject();
    bool good = section != NULL;
    for (size_t i = 0; i < NPO_ARRAY_COUNT(texts); i++)
        good = good && (!texts[i].text ||
                        cJSON_AddStringToObject(section, texts[i].key, texts[i].text) != NULL);
    for (size_t i = 0; i < NPO_ARRAY_COUNT(numbers); i++)
        good = good && (isnan(numbers[i].value) ||
                        cJSON_AddNumberToObject(section, numbers[i].key, numbers[i].value) != NULL);
    if (good)
        return section;
    cJSON_Delete(section);
    return NULL;
}

/* What the command's first argument names: a job's network, or one that lies here. */
typedef struct {
    int64_t job, step; /* job 0: a path; step -1: the job's last */
    const char *path;
} source;

static npo_exit find_source(const char *text, source *ret_source)
{
    *ret_source = (source){.step = -1};
    if (text[strspn(text, "0123456789@")] == '\0')
        return npo_command_parse_job(text, &ret_source->job, &ret_source->step);
    ret_source->path = text;
    return NPO_EXIT_OK;
}

static npo_exit set_models(npo_session *session, cJSON *spec, const export_values *values,
                           const source *from)
{
    char name[32];
    npo_exit code = NPO_EXIT_OK;
    if (values->positive)
        code = npo_made_job_set_model(session, spec, "positive", values->positive);
    if (!code && values->model)
        code = npo_made_job_set_model(session, spec, "model", values->model);
    else if (!code && from->job > 0)
        code = npo_made_job_set_base(session, spec, from->job);
    else if (!code)
        code = npo_exit_with(NPO_EXIT_USAGE, "missing --model DIR|JOB: '%s' is no job that has one",
                             from->path);
    if (code || from->step >= 0)
        return code; /* a checkpoint: npod adds it */
    snprintf(name, sizeof name, "%lld", (long long)from->job);
    return npo_made_job_set_model(session, spec, "negative", from->path ? from->path : name);
}

static npo_exit make(npo_session *session, const export_values *values, const source *from,
                     int64_t *ret_job)
{
    cJSON *spec = cJSON_CreateObject(), *section = new_section(values);
    npo_exit code = NPO_EXIT_OK;
    if (!section || !cJSON_AddStringToObject(spec, "recipe", "export") ||
        !cJSON_AddItemToObject(spec, "export", section))
        code = npo_exit_with(NPO_EXIT_FAILED, "out of memory");
    if (!code)
        code = set_models(session, spec, values, from);
    if (!code)
        code = npo_made_job_submit(session, spec, from->step >= 0 ? from->job : 0, from->step,
                                   ret_job);
    cJSON_Delete(spec);
    return code;
}

/* ---- what comes out ---- */

static void print_report(const cJSON *report)
{
    const cJSON *layers = cJSON_GetObjectItemCaseSensitive(report, "layers");
    double rounding = npo_json_number(report, "rounding", 0);
    printf("the offset is %.4g of the model's norm\n", npo_json_number(report, "offset", 0));
    if (layers)
        printf("%d layers of a LoRA; error %.4g of the offset's norm\n", cJSON_GetArraySize(layers),
               npo_json_number(report, "error", 0));
    else if (rounding > 0.01)
        printf("warning: rounding to %s changes the weights by %.3g of the offset's norm\n",
               npo_json_string(report, "dtype", "?"), rounding);
}

/* OUT.json beside OUT. */
static npo_exit fetch_report(npo_session *session, int64_t job, const char *out)
{
    char hash[NPO_HASH_TEXT_SIZE], *path = NULL;
    cJSON *report = NULL;
    npo_error error = {0};
    size_t len = strlen(out);
    while (len > 1 && out[len - 1] == '/')
        len--;
    if (asprintf(&path, "%.*s.json", (int)len, out) < 0)
        return npo_exit_with(NPO_EXIT_FAILED, "out of memory");
    npo_exit code = npo_made_job_output(session, job, "export.json", hash);
    if (!code)
        code = npo_fetch_to(session, hash, path, stdout);
    if (!code && npo_json_load(path, REPORT_BYTES_MAX, &report, &error))
        code = npo_exit_local(&error);
    if (!code)
        print_report(report);
    cJSON_Delete(report);
    free(path);
    return code;
}

static npo_exit fetch(npo_session *session, int64_t job, const char *out, bool made)
{
    char hash[NPO_HASH_TEXT_SIZE];
    npo_exit code = npo_made_job_output(session, job, "model", hash);
    if (!code)
        code = npo_fetch_to(session, hash, out, stdout);
    return code || !made ? code : fetch_report(session, job, out);
}

/* A job's model as it stands is fetched without a job in between. */
static bool is_as_it_stands(const export_values *values, const source *from)
{
    bool given = values->form || values->model || values->positive || values->naming ||
                 values->layers || values->dtype || values->weights || !isnan(values->alpha) ||
                 !isnan(values->beta) || !isnan(values->w) || !isnan(values->energy) ||
                 values->rank >= 0;
    return !given && from->job > 0 && from->step < 0;
}

static npo_exit run_export(const npo_call *call)
{
    const export_values *values = call->values;
    npo_session *session = NULL;
    source from;
    npo_exit code = find_source(call->rest[0], &from);
    bool made = !code && !is_as_it_stands(values, &from);
    int64_t job = from.job;
    if (!code)
        code = npo_session_open(&values->common, &session);
    if (!code && made)
        code = make(session, values, &from, &job);
    if (!code)
        code = fetch(session, job, call->rest[1], made);
    npo_session_close(session);
    return code;
}

#define ROW(name, letter, type, member, argument, help, min, max)                                  \
    {                                                                                              \
        name, letter, NPO_OPTION_##type, NPO_OPTION_FLAG_ONLY, offsetof(export_values, member),    \
            argument, help, min, max                                                               \
    }
static const npo_option options[] = {
    ROW("form", 'f', STRING, form, "FORM", "negative (default), delta, merge, lora or one-network",
        0, 0),
    ROW("model", 'm', STRING, model, "DIR|JOB", "the base; default: the one the job has", 0, 0),
    ROW("positive", 0, STRING, positive, "DIR|JOB|FILE", "merge: a fine-tuned model, or its LoRA",
        0, 0),
    ROW("alpha", 0, NUMBER, alpha, "A", "merge: part of the fine-tuned model's offset (1)", -10,
        10),
    ROW("beta", 0, NUMBER, beta, "B", "part of the negative network's offset (1)", -10, 10),
    ROW("weight", 'w', NUMBER, w, "W", "one-network: theta_0 - W delta", 0, 100),
    ROW("rank", 'r', INT, rank, "N", "lora: rank of every layer", 1, 4096),
    ROW("energy", 'e', NUMBER, energy, "E", "lora: fewest ranks that keep this share of a layer", 0,
        1),
    ROW("naming", 0, STRING, naming, "NAMES",
        "lora: diffusers (default) or kohya; delta: or comfyui", 0, 0),
    ROW("layers", 0, STRING, layers, "LAYERS", "lora: all (default) or attention", 0, 0),
    ROW("dtype", 0, STRING, dtype, "TYPE", "f32 (default), f16 or bf16", 0, 0),
    ROW("weights", 0, STRING, weights, "WHICH", "JOB@STEP: student (default) or ema", 0, 0),
};

const npo_command npo_command_export = {
    .name = "export",
    .summary = "fetch the trained network in one of its forms",
    .usage = "[OPTION...] JOB[@STEP]|DIR|FILE OUT",
    .text =
        "Fetches what a job trained: without options as the job left it, a pipeline folder in\n"
        "diffusers layout. Options, and JOB@STEP for a checkpoint on the way, make an export job\n"
        "first: the network with a part of its offset (--beta), its offset alone (--form delta),\n"
        "merged with a fine-tuned model (--form merge --positive DIR), as a LoRA (--form lora\n"
        "--rank 16), or taken from the model so that one network is enough (--form one-network\n"
        "--weight 0.5). OUT.json beside OUT says what rounding and the rank have lost. With DIR "
        "or\n"
        "FILE, a network that lies here or a LoRA, --model says what it is an offset from.",
    .example = "npoctl export 3 negative-lora.safetensors --form lora --rank 16 --naming kohya "
               "--dtype f16",
    .options = options,
    .option_count = NPO_ARRAY_COUNT(options),
    .defaults = &defaults,
    .values_size = sizeof(export_values),
    .rest_min = 2,
    .rest_max = 2,
    .run = run_export,
};
