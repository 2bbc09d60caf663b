#include "ctl/job/follow.h"

#include <stdio.h>
#include <string.h>

/* The newest job that is not over, else the newest. */
static npo_exit choose_job(npo_session *session, int64_t *ret_job)
{
    npo_answer answer = {0};
    cJSON *body = cJSON_CreateObject();
    cJSON_AddNumberToObject(body, "limit", 100);
    cJSON_AddNumberToObject(body, "before", 0);
    npo_exit code = npo_session_ask(session, NPO_MESSAGE_JOBS, body, &answer);
    if (code)
        return code;
    int64_t newest = 0, active = 0;
    const cJSON *jobs = cJSON_GetObjectItemCaseSensitive(answer.json, "jobs");
    for (const cJSON *item = jobs ? jobs->child : NULL; item; item = item->next) {
        const char *state = npo_json_string(item, "state", "");
        int64_t id = npo_json_int(item, "id", 0);
        newest = newest ? newest : id;
        if (!active && (strcmp(state, "running") == 0 || strcmp(state, "pending") == 0))
            active = id;
    }
    npo_answer_fini(&answer);
    if (!newest)
        return npo_exit_with(NPO_EXIT_REFUSED, "there are no jobs yet; 'npoctl submit' makes one");
    *ret_job = active ? active : newest;
    return NPO_EXIT_OK;
}

static npo_exit run_watch(const npo_call *call)
{
    npo_session *session = NULL;
    int64_t job = 0;
    npo_exit code =
        call->rest_count ? npo_command_parse_job(call->rest[0], &job, NULL) : NPO_EXIT_OK;
    if (!code)
        code = npo_session_open(call->values, &session);
    if (!code && !job)
        code = choose_job(session, &job);
    if (!code)
        code = npo_follow(session, job, false);
    npo_session_close(session);
    return code;
}

const npo_command npo_command_watch = {
    .name = "watch",
    .summary = "show a job's progress until it ends",
    .usage = "[OPTION...] [JOB]",
    .text =
        "Shows rounds, phases, loss, samples a second, the time left and the workers of a job "
        "(the\n"
        "newest one that is not over) until it ends, and exits with its code: 0 done, 1 failed,\n"
        "3 cancelled. On a terminal the text is painted over; elsewhere there is a line for every\n"
        "change. Ctrl-C leaves the job alone.",
    .example = "npoctl watch 3",
    .values_size = sizeof(npo_common_values),
    .rest_max = 1,
    .run = run_watch,
};
