/* A job file on its way to npod: read, changed by --set, its paths made absolute, its prompts read
 * in, checked, imported. */
#ifndef NPO_CTL_JOB_JOB_FILE_H
#define NPO_CTL_JOB_JOB_FILE_H

#include "common/json.h"
#include "common/options.h"
#include "ctl/session.h"
#include "proto/job.h"

/* path "-": standard input, with paths relative to the current folder. sets: "train.lr=3e-5"; a
 * path in one is relative to the current folder, those in the file to its folder. Afterwards every
 * path in *ret_json (cJSON_Delete) is absolute. */
npo_err npo_job_file_load(const char *path, const npo_option_list *sets, cJSON **ret_json,
                          npo_error *error) NPO_MUST_CHECK;
/* Resolves what a job built in memory names: paths relative to dir. In place. */
npo_err npo_job_file_settle(cJSON *json, const char *dir, npo_error *error) NPO_MUST_CHECK;
/* Checks the job, that its paths exist and look like what they stand for, and that it fits a
 * message. ret_job borrows from json. */
npo_err npo_job_file_check(const cJSON *json, npo_job *ret_job, npo_error *error) NPO_MUST_CHECK;
/* Stores every path with npod and puts {"artifact": HASH} in its place. Prints why not. */
npo_exit npo_job_file_import(npo_session *session, cJSON *json);

#endif
