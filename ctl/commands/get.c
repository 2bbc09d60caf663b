#include "ctl/job/fetch.h"
#include "ctl/job/follow.h"
#include "ctl/text/format.h"
#include "ctl/text/print.h"

#include "common/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    npo_common_values common;
    const char *out;
    int64_t round;
    bool json;
} get_values;

static const get_values defaults = {.round = -1};

/* ---- listing ---- */

static const npo_table_column columns[] = {
    {"NAME", false}, {"ROUND", true}, {"TASK", true},
    {"KIND", false}, {"SIZE", true},  {"HASH", false},
};

static void add_output(npo_table *table, const cJSON *output)
{
    char round[24], task[24], size[NPO_FORMAT_SIZE];
    const char *kind = npo_json_string(output, "kind", "");
    snprintf(round, sizeof round, "%lld", (long long)npo_json_int(output, "round", 0));
    npo_print_id(npo_json_int(output, "task", 0), task);
    /* The size of a folder is that of its list of files: it says nothing. */
    npo_format_bytes(strcmp(kind, "folder") == 0 ? -1 : npo_json_number(output, "size", -1), size);
    npo_table_add(table, (const char *[]){npo_json_string(output, "name", "?"), round, task, kind,
                                          size, npo_json_string(output, "hash", "")});
}

static npo_exit list_outputs(const cJSON *outputs, bool json)
{
    if (json)
        return outputs ? npo_print_json(outputs)
                       : npo_exit_with(NPO_EXIT_FAILED, "npod's answer has no outputs");
    npo_table *table = npo_table_new(columns, NPO_ARRAY_COUNT(columns));
    for (const cJSON *item = outputs ? outputs->child : NULL; table && item; item = item->next)
        add_output(table, item);
    return npo_print_table(table, "no outputs yet");
}

/* ---- fetching one ---- */

static const cJSON *find_output(const cJSON *outputs, const char *name, int64_t round)
{
    for (const cJSON *item = outputs ? outputs->child : NULL; item; item = item->next)
        if (strcmp(npo_json_string(item, "name", ""), name) == 0 &&
            (round < 0 || npo_json_int(item, "round", -1) == round))
            return item;
    return NULL;
}

static npo_exit fetch_named(npo_session *session, int64_t job, const cJSON *outputs,
                            const char *name, const get_values *values)
{
    npo_error error = {0};
    const char *dir = values->out ? values->out : ".";
    const cJSON *output = find_output(outputs, name, values->round);
    if (!output)
        return npo_exit_with(
            NPO_EXIT_REFUSED, "job %lld has no output '%.60s'%s; 'npoctl get %lld' lists them",
            (long long)job, name, values->round < 0 ? "" : " of that round", (long long)job);
    if (!npo_fetch_is_safe(name))
        return npo_exit_with(NPO_EXIT_REFUSED, "output '%.60s' is no file name", name);
    if (npo_file_make_dirs(dir, &error))
        return npo_exit_local(&error);
    char *path = npo_file_join(dir, name);
    npo_exit code = path ? npo_fetch_to(session, npo_json_string(output, "hash", ""), path, stdout)
                         : npo_exit_with(NPO_EXIT_FAILED, "out of memory");
    free(path);
    return code;
}

/* ---- the command ---- */

static npo_exit run_get(const npo_call *call)
{
    const get_values *values = call->values;
    npo_session *session = NULL;
    npo_answer answer = {0};
    int64_t job = 0;
    npo_exit code = npo_command_parse_job(call->rest[0], &job, NULL);
    if (!code)
        code = npo_session_open(&values->common, &session);
    if (!code)
        code = npo_follow_get(session, job, &answer);
    const cJSON *outputs = cJSON_GetObjectItemCaseSensitive(answer.json, "outputs");
    if (!code && call->rest_count > 1)
        code = fetch_named(session, job, outputs, call->rest[1], values);
    else if (!code && values->out)
        code = npo_fetch_results(session, outputs, values->out, stdout);
    else if (!code)
        code = list_outputs(outputs, values->json);
    npo_answer_fini(&answer);
    npo_session_close(session);
    return code;
}

static const npo_option options[] = {
    {"out", 'o', NPO_OPTION_STRING, NPO_OPTION_FLAG_ONLY, offsetof(get_values, out), "DIR",
     "into this folder; without NAME: all results", 0, 0},
    {"round", 0, NPO_OPTION_INT, NPO_OPTION_FLAG_ONLY, offsetof(get_values, round), "N",
     "of this round (default: the last)", 0, 9e15},
    {"json", 0, NPO_OPTION_BOOL, NPO_OPTION_FLAG_ONLY, offsetof(get_values, json), NULL,
     "the list as JSON", 0, 0},
};

const npo_command npo_command_get = {
    .name = "get",
    .summary = "list or fetch a job's outputs",
    .usage = "[OPTION...] JOB [NAME]",
    .text = "Lists the outputs of a job; with NAME fetches that one (a file or a folder), with "
            "--out alone all\n"
            "results: everything but what tasks hand to each other (pools, segments, checkpoints,\n"
            "features). What is there already with the same content is left alone.",
    .example = "npoctl get 3 --out report",
    .options = options,
    .option_count = NPO_ARRAY_COUNT(options),
    .defaults = &defaults,
    .values_size = sizeof(get_values),
    .rest_min = 1,
    .rest_max = 2,
    .run = run_get,
};
