#include "ctl/session.h"

#include "common/clock.h"
#include "ctl/text/format.h"
#include "ctl/text/print.h"
#include "ctl/text/table.h"
#include "ctl/text/terminal.h"

#include <stdio.h>

typedef struct {
    npo_common_values common;
    bool json;
} workers_values;

static const npo_table_column columns[] = {
    {"ID", true},      {"NAME", false}, {"STATE", false},  {"JOB", true},    {"TASK", true},
    {"THREADS", true}, {"SEEN", true},  {"DEVICE", false}, {"CLASS", false},
};

static void add_worker(npo_table *table, const cJSON *worker, int64_t now_ms)
{
    char id[24], job[24], task[24], threads[24], seen[NPO_FORMAT_SIZE];
    npo_print_id(npo_json_int(worker, "id", 0), id);
    npo_print_id(npo_json_int(worker, "job", 0), job);
    npo_print_id(npo_json_int(worker, "task", 0), task);
    npo_print_id(npo_json_int(worker, "threads", 0), threads);
    double seen_ms = npo_json_number(worker, "last_seen_ms", 0);
    double ago_s = ((double)now_ms - seen_ms) / 1000.0;
    npo_format_duration(seen_ms > 0 ? ago_s > 0 ? ago_s : 0 : -1, seen);
    npo_table_add(table, (const char *[]){id, npo_json_string(worker, "name", "?"),
                                          npo_json_string(worker, "state", "?"), job, task, threads,
                                          seen, npo_json_string(worker, "device", ""),
                                          npo_json_string(worker, "class", "")});
}

static npo_exit print_workers(const cJSON *workers)
{
    npo_table *table = npo_table_new(columns, NPO_ARRAY_COUNT(columns));
    for (const cJSON *item = workers ? workers->child : NULL; table && item; item = item->next)
        add_worker(table, item, npo_clock_wall_ms());
    return npo_print_table(table, "no workers yet; 'npoctl up' starts some");
}

static npo_exit run_workers(const npo_call *call)
{
    const workers_values *values = call->values;
    npo_session *session = NULL;
    npo_answer answer = {0};
    npo_exit code = npo_session_open(&values->common, &session);
    if (!code)
        code = npo_session_ask(session, NPO_MESSAGE_WORKERS, cJSON_CreateObject(), &answer);
    if (!code)
        code = values->json
                   ? npo_print_json(answer.json)
                   : print_workers(cJSON_GetObjectItemCaseSensitive(answer.json, "workers"));
    npo_answer_fini(&answer);
    npo_session_close(session);
    return code;
}

static const npo_option options[] = {
    {"json", 0, NPO_OPTION_BOOL, NPO_OPTION_FLAG_ONLY, offsetof(workers_values, json), NULL,
     "npod's answer as JSON", 0, 0},
};

const npo_command npo_command_workers = {
    .name = "workers",
    .summary = "list the workers",
    .usage = "[OPTION...]",
    .text = "Lists the workers that npod knows: what they are, what they do, when they last spoke.",
    .example = "npoctl workers",
    .options = options,
    .option_count = NPO_ARRAY_COUNT(options),
    .values_size = sizeof(workers_values),
    .run = run_workers,
};
