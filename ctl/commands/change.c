/* cancel, hold, release, retry, rm: one message each. */
#include "ctl/session.h"

#include <stdio.h>

static npo_exit change(const npo_call *call, npo_message id)
{
    npo_session *session = NULL;
    npo_exit code = npo_session_open(call->values, &session);
    for (int i = 0; !code && i < call->rest_count; i++) {
        npo_answer answer = {0};
        int64_t job;
        code = npo_command_parse_job(call->rest[i], &job, NULL);
        if (!code)
            code = npo_session_ask(session, id, npo_session_job_body(job), &answer);
        if (!code)
            printf("job %lld %s\n", (long long)job, npo_json_string(answer.json, "state", "?"));
        npo_answer_fini(&answer);
    }
    npo_session_close(session);
    return code;
}

#define CHANGE(command, message, summary_, text_)                                                  \
    static npo_exit run_##command(const npo_call *call)                                            \
    {                                                                                              \
        return change(call, NPO_MESSAGE_##message);                                                \
    }                                                                                              \
    const npo_command npo_command_##command = {                                                    \
        .name = #command,                                                                          \
        .summary = summary_,                                                                       \
        .usage = "JOB...",                                                                         \
        .text = text_,                                                                             \
        .example = "npoctl " #command " 3",                                                        \
        .values_size = sizeof(npo_common_values),                                                  \
        .rest_min = 1,                                                                             \
        .rest_max = 1000,                                                                          \
        .run = run_##command,                                                                      \
    }

CHANGE(
    cancel, CANCEL, "stop a job for good",
    "Stops jobs for good: running tasks are told to stop, what is done stays until `npoctl rm`.");
CHANGE(hold, HOLD, "let a job pause",
       "Lets running tasks end at their next boundary, gives the workers back, and keeps the job "
       "until\n"
       "`npoctl release`.");
CHANGE(release, RELEASE, "let a held job go on", "Puts held jobs back into the queue.");
CHANGE(
    retry, RETRY, "give the failed tasks of a job another try",
    "Sets failed tasks back to pending with their failures forgotten; the job goes on from there.");
CHANGE(rm, REMOVE, "forget a job and its outputs",
       "Drops jobs that are over, and their outputs with them. What `npoctl get` fetched stays.");
