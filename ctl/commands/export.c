#include "ctl/job/fetch.h"
#include "ctl/job/made_job.h"

#include <stdio.h>

static npo_exit run_export(const npo_call *call)
{
    npo_session *session = NULL;
    char hash[NPO_HASH_TEXT_SIZE];
    int64_t job = 0, step = -1;
    npo_exit code = npo_command_parse_job(call->rest[0], &job, &step);
    if (!code)
        code = npo_session_open(call->values, &session);
    if (!code && step >= 0)
        code = npo_made_job_export(session, job, step, &job);
    if (!code)
        code = npo_made_job_output(session, job, "model", hash);
    if (!code)
        code = npo_fetch_to(session, hash, call->rest[1], stdout);
    npo_session_close(session);
    return code;
}

const npo_command npo_command_export = {
    .name = "export",
    .summary = "fetch the trained model as a folder",
    .usage = "[OPTION...] JOB[@STEP] DIR",
    .text = "Fetches what a job trained as a pipeline folder in diffusers layout: the negative "
            "network of a\n"
            "self-npo job, the model of a diffusion job. JOB@STEP takes a checkpoint on the way, "
            "for which\n"
            "an export job is made first.",
    .example = "npoctl export 3 negative",
    .values_size = sizeof(npo_common_values),
    .rest_min = 2,
    .rest_max = 2,
    .run = run_export,
};
