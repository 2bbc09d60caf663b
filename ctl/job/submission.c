#include "ctl/job/submission.h"

#include "ctl/job/job_file.h"

#include <stdio.h>
#include <sys/random.h>

static bool random_key(char ret_key[33])
{
    unsigned char bytes[16];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return false;
    for (size_t i = 0; i < sizeof bytes; i++)
        snprintf(ret_key + 2 * i, 3, "%02x", bytes[i]);
    return true;
}

cJSON *npo_submission_from(int64_t job, int64_t step)
{
    cJSON *from = cJSON_CreateObject();
    bool good = cJSON_AddNumberToObject(from, "job", (double)job) &&
                (step < 0 ? cJSON_AddNullToObject(from, "step")
                          : cJSON_AddNumberToObject(from, "step", (double)step));
    if (good)
        return from;
    cJSON_Delete(from);
    return NULL;
}

static cJSON *submit_body(const cJSON *spec, const npo_submission *submission)
{
    char random[33];
    const char *key = submission->key;
    if (!key && random_key(random))
        key = random;
    cJSON *body = cJSON_CreateObject();
    bool good = key && cJSON_AddStringToObject(body, "key", key) &&
                cJSON_AddItemToObject(body, "spec", cJSON_Duplicate(spec, 1));
    if (good && submission->from_job > 0)
        good = cJSON_AddItemToObject(
            body, "from", npo_submission_from(submission->from_job, submission->from_step));
    if (good)
        return body;
    cJSON_Delete(body);
    return NULL;
}

npo_exit npo_submission_send(npo_session *session, cJSON *spec, const npo_submission *submission,
                             npo_answer *ret_answer)
{
    npo_exit code = npo_job_file_import(session, spec);
    if (code)
        return code;
    return npo_session_ask(session, NPO_MESSAGE_SUBMIT, submit_body(spec, submission), ret_answer);
}
