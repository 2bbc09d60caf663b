#include "ctl/job/fetch.h"
#include "ctl/job/follow.h"
#include "ctl/job/made_job.h"
#include "ctl/text/metrics.h"
#include "ctl/text/terminal.h"

#include "common/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { METRICS_BYTES_MAX = 64 << 20 };

typedef struct {
    npo_common_values common;
    const char *model, *negative, *classifier, *data, *prompts, *scales, *betas, *seeds, *out,
        *show;
    int64_t samples, workers; /* 0: not given */
} evaluate_values;

/* ---- --show ---- */

static npo_exit show(const char *dir)
{
    cJSON *metrics = NULL;
    npo_error error = {0};
    npo_buf text = NPO_BUF_INIT;
    char *path = npo_file_join(dir, "metrics.json");
    npo_err err = path ? npo_json_load(path, METRICS_BYTES_MAX, &metrics, &error)
                       : npo_error_set(&error, NPO_E_NOMEM, "out of memory");
    if (!err)
        err = npo_metrics_print(metrics, npo_terminal_width(), &text, &error);
    npo_exit code = err ? npo_exit_local(&error) : NPO_EXIT_OK;
    if (!err && !npo_terminal_print(&text))
        code = npo_exit_with(NPO_EXIT_FAILED, "cannot write to standard output");
    npo_buf_fini(&text);
    cJSON_Delete(metrics);
    free(path);
    return code;
}

/* ---- the job ---- */

static npo_exit set_lists(cJSON *section, const evaluate_values *values)
{
    const struct {
        const char *key, *text;
    } rows[] = {{"scales", values->scales}, {"betas", values->betas}, {"seeds", values->seeds}};
    for (size_t i = 0; i < NPO_ARRAY_COUNT(rows); i++) {
        if (!rows[i].text)
            continue;
        cJSON *list = npo_made_job_numbers(rows[i].text);
        if (!list)
            return npo_exit_with(NPO_EXIT_USAGE, "--%s '%.60s': expected numbers like 1,1.5,2",
                                 rows[i].key, rows[i].text);
        cJSON_AddItemToObject(section, rows[i].key, list);
    }
    return NPO_EXIT_OK;
}

static npo_exit set_prompts(cJSON *spec, const char *path)
{
    return !path || cJSON_AddStringToObject(spec, "prompts", path)
               ? NPO_EXIT_OK
               : npo_exit_with(NPO_EXIT_FAILED, "out of memory");
}

static npo_exit build(npo_session *session, const void *self, cJSON *spec)
{
    const evaluate_values *values = self;
    cJSON_AddStringToObject(spec, "recipe", "evaluate");
    cJSON *section = cJSON_AddObjectToObject(spec, "evaluate");
    cJSON_AddStringToObject(section, "data", values->data);
    if (values->samples > 0)
        cJSON_AddNumberToObject(section, "samples", (double)values->samples);
    if (values->workers > 0)
        cJSON_AddNumberToObject(spec, "workers", (double)values->workers);
    npo_exit code = set_lists(section, values);
    if (!code)
        code = set_prompts(spec, values->prompts);
    if (!code)
        code = npo_made_job_set_model(session, section, "classifier", values->classifier);
    if (!code)
        code = npo_made_job_set_model(session, spec, "model", values->model);
    return code ? code : npo_made_job_set_model(session, spec, "negative", values->negative);
}

static npo_exit fetch(npo_session *session, const void *self, int64_t job)
{
    const evaluate_values *values = self;
    char name[64];
    npo_answer answer = {0};
    snprintf(name, sizeof name, "report-%lld", (long long)job);
    npo_exit code = npo_follow_get(session, job, &answer);
    if (!code)
        code = npo_fetch_results(session, cJSON_GetObjectItemCaseSensitive(answer.json, "outputs"),
                                 values->out ? values->out : name, stdout);
    npo_answer_fini(&answer);
    return code ? code : show(values->out ? values->out : name);
}

static npo_exit check_given(const evaluate_values *values)
{
    const struct {
        const char *option, *value;
    } needed[] = {{"model", values->model},
                  {"negative", values->negative},
                  {"classifier", values->classifier},
                  {"data", values->data}};
    for (size_t i = 0; i < NPO_ARRAY_COUNT(needed); i++)
        if (!needed[i].value)
            return npo_exit_with(NPO_EXIT_USAGE, "missing --%s; see 'npoctl evaluate --help'",
                                 needed[i].option);
    return NPO_EXIT_OK;
}

static npo_exit run_evaluate(const npo_call *call)
{
    const evaluate_values *values = call->values;
    npo_made_job made = {
        .common = &values->common, .values = values, .build = build, .fetch = fetch};
    if (values->show)
        return show(values->show);
    npo_exit code = check_given(values);
    return code ? code : npo_made_job_run(&made);
}

#define ROW(name, letter, type, member, argument, help, min, max)                                  \
    {                                                                                              \
        name, letter, NPO_OPTION_##type, NPO_OPTION_FLAG_ONLY, offsetof(evaluate_values, member),  \
            argument, help, min, max                                                               \
    }
static const npo_option options[] = {
    ROW("model", 'm', STRING, model, "DIR|JOB", "pipeline folder, or what a job trained", 0, 0),
    ROW("negative", 'n', STRING, negative, "DIR|JOB[@STEP]", "the trained negative network", 0, 0),
    ROW("classifier", 0, STRING, classifier, "PATH|JOB", "network whose features are compared", 0,
        0),
    ROW("data", 0, STRING, data, "DIR", "real images", 0, 0),
    ROW("prompts", 0, STRING, prompts, "FILE", "prompts, one a line (IDX data: by label)", 0, 0),
    ROW("scales", 0, STRING, scales, "G,G...", "guidance scales (1,1.5,2,3)", 0, 0),
    ROW("betas", 0, STRING, betas, "B,B...", "parts of the offset (1)", 0, 0),
    ROW("seeds", 0, STRING, seeds, "N,N...", "of the starting noise (0)", 0, 0),
    ROW("samples", 0, INT, samples, "N", "images a cell (500)", 2, 10000000),
    ROW("workers", 'w', INT, workers, "N", "share the work of N workers (1)", 1, 256),
    ROW("out", 'o', STRING, out, "DIR", "folder of the report (report-JOB)", 0, 0),
    ROW("show", 0, STRING, show, "DIR", "print the table of a report that was fetched", 0, 0),
};

const npo_command npo_command_evaluate = {
    .name = "evaluate",
    .summary = "measure what a negative network does to the samples",
    .usage = "[OPTION...]",
    .text = "Makes an evaluate job, waits for it, fetches its report (metrics.json, report.html, "
            "grids) and\n"
            "prints the table: Frechet distance to real images, prompt accuracy, the classifier's\n"
            "confidence, and the share of samples that win against plain guidance.",
    .example = "npoctl evaluate -m models/fashion -n 3 --classifier models/fashion/classifier "
               "--data /usr/share/datasets/fashion-mnist --prompts models/fashion/prompts.txt",
    .options = options,
    .option_count = NPO_ARRAY_COUNT(options),
    .values_size = sizeof(evaluate_values),
    .run = run_evaluate,
};
