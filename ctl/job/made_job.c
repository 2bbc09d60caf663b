#include "ctl/job/made_job.h"

#include "common/file.h"
#include "ctl/job/follow.h"
#include "ctl/job/job_file.h"
#include "ctl/job/submission.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static npo_exit no_memory(void)
{
    return npo_exit_with(NPO_EXIT_FAILED, "out of memory");
}

static bool names_job(const char *text)
{
    return text[strspn(text, "0123456789")] == '\0' || strchr(text, '@');
}

static npo_exit set_artifact(cJSON *spec, const char *key, const char *hash)
{
    cJSON *ref = cJSON_AddObjectToObject(spec, key);
    return cJSON_AddStringToObject(ref, "artifact", hash) ? NPO_EXIT_OK : no_memory();
}

npo_exit npo_made_job_output(npo_session *session, int64_t job, const char *name,
                             char ret_hash[NPO_HASH_TEXT_SIZE])
{
    npo_answer answer = {0};
    cJSON *body = npo_session_job_body(job);
    cJSON_AddStringToObject(body, "name", name);
    npo_exit code = npo_session_ask(session, NPO_MESSAGE_RESOLVE, body, &answer);
    if (!code)
        snprintf(ret_hash, NPO_HASH_TEXT_SIZE, "%s", npo_json_string(answer.json, "hash", ""));
    npo_answer_fini(&answer);
    return code;
}

/* ---- running ---- */

static npo_err settle(cJSON *spec, npo_error *error)
{
    npo_job job;
    char *cwd = getcwd(NULL, 0);
    if (!cwd)
        return npo_error_errno(error, errno, "cannot find the current folder");
    npo_err err = npo_job_file_settle(spec, cwd, error);
    free(cwd);
    return err ? err : npo_job_file_check(spec, &job, error);
}

npo_exit npo_made_job_submit(npo_session *session, cJSON *spec, int64_t from_job, int64_t from_step,
                             int64_t *ret_job)
{
    npo_submission submission = {.from_job = from_job, .from_step = from_step};
    npo_answer answer = {0};
    npo_error error = {0};
    if (settle(spec, &error))
        return npo_exit_local(&error);
    npo_exit code = npo_submission_send(session, spec, &submission, &answer);
    *ret_job = npo_json_int(answer.json, "job", 0);
    npo_answer_fini(&answer);
    return code ? code : npo_follow(session, *ret_job, false);
}

npo_exit npo_made_job_export(npo_session *session, int64_t job, int64_t step, int64_t *ret_export)
{
    cJSON *spec = cJSON_CreateObject();
    cJSON_AddStringToObject(spec, "recipe", "export");
    npo_exit code = spec ? npo_made_job_set_base(session, spec, job) : no_memory();
    if (!code)
        code = npo_made_job_submit(session, spec, job, step, ret_export);
    cJSON_Delete(spec);
    return code;
}

static npo_exit set_output(npo_session *session, cJSON *spec, const char *key, const char *text)
{
    int64_t job, step;
    char hash[NPO_HASH_TEXT_SIZE];
    npo_exit code = npo_command_parse_job(text, &job, &step);
    if (!code && step >= 0)
        code = npo_made_job_export(session, job, step, &job);
    if (!code)
        code = npo_made_job_output(session, job, "model", hash);
    return code ? code : set_artifact(spec, key, hash);
}

npo_exit npo_made_job_set_model(npo_session *session, cJSON *spec, const char *key,
                                const char *text)
{
    if (!npo_file_exists(text) && names_job(text))
        return set_output(session, spec, key, text);
    return cJSON_AddStringToObject(spec, key, text) ? NPO_EXIT_OK : no_memory();
}

npo_exit npo_made_job_set_base(npo_session *session, cJSON *spec, int64_t job)
{
    npo_answer answer = {0};
    npo_exit code = npo_follow_get(session, job, &answer);
    if (code)
        return code;
    const cJSON *found = cJSON_GetObjectItemCaseSensitive(answer.json, "job");
    const cJSON *theirs = cJSON_GetObjectItemCaseSensitive(found, "spec");
    const cJSON *model = cJSON_GetObjectItemCaseSensitive(theirs, "model");
    const char *hash = npo_json_string(model, "artifact", NULL);
    code = hash ? set_artifact(spec, "model", hash)
                : npo_exit_with(NPO_EXIT_REFUSED, "job %lld was not made from a model: use --model",
                                (long long)job);
    npo_answer_fini(&answer);
    return code;
}

npo_exit npo_made_job_run(const npo_made_job *made)
{
    npo_session *session = NULL;
    int64_t job = 0;
    cJSON *spec = cJSON_CreateObject();
    npo_exit code = spec ? npo_session_open(made->common, &session) : no_memory();
    if (!code)
        code = made->build(session, made->values, spec);
    if (!code)
        code = npo_made_job_submit(session, spec, 0, -1, &job);
    if (!code && (code = made->fetch(session, made->values, job)))
        fprintf(stderr,
                "npoctl: job %lld is done; 'npoctl get %lld --out DIR' fetches its outputs\n",
                (long long)job, (long long)job);
    cJSON_Delete(spec);
    npo_session_close(session);
    return code;
}

cJSON *npo_made_job_numbers(const char *text)
{
    cJSON *list = cJSON_CreateArray();
    for (const char *at = text; list && *at;) {
        char *end = NULL;
        double value = strtod(at, &end);
        bool good = end != at && (*end == ',' || *end == '\0') && !(*end == ',' && !end[1]);
        if (!good || !cJSON_AddItemToArray(list, cJSON_CreateNumber(value))) {
            cJSON_Delete(list);
            return NULL;
        }
        at = end + (*end == ',');
    }
    return list;
}
