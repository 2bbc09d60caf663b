/* Jobs that a command makes from its flags (sample, evaluate, export), waits for, and fetches from.
 */
#ifndef NPO_CTL_JOB_MADE_JOB_H
#define NPO_CTL_JOB_MADE_JOB_H

#include "ctl/session.h"

/* Puts into spec[key] what text names: a folder of this machine (as a path), or JOB (as that job's
 * output "model", {"artifact": HASH}), or JOB@STEP (a checkpoint, exported first). A text that is
 * both is a folder. */
npo_exit npo_made_job_set_model(npo_session *session, cJSON *spec, const char *key,
                                const char *text);
/* Puts the model into spec that a job trained from: what its own job file names. */
npo_exit npo_made_job_set_base(npo_session *session, cJSON *spec, int64_t job);
/* Checks, imports, submits and follows a job. from_job 0: none that it continues. */
npo_exit npo_made_job_submit(npo_session *session, cJSON *spec, int64_t from_job, int64_t from_step,
                             int64_t *ret_job);
/* A command whose job is built from its flags, and whose outputs are fetched at its end. */
typedef struct {
    const npo_common_values *common;
    const void *values; /* handed to both */
    npo_exit (*build)(npo_session *session, const void *values, cJSON *spec);
    npo_exit (*fetch)(npo_session *session, const void *values, int64_t job);
} npo_made_job;

/* Opens a session, builds the job, submits it, shows its progress, fetches. Returns the job's code
 * where it was not done. */
npo_exit npo_made_job_run(const npo_made_job *made);
/* Makes and follows the job that writes the network of a checkpoint as a pipeline folder. */
npo_exit npo_made_job_export(npo_session *session, int64_t job, int64_t step, int64_t *ret_export);
/* Hash of the newest output of a name. */
npo_exit npo_made_job_output(npo_session *session, int64_t job, const char *name,
                             char ret_hash[NPO_HASH_TEXT_SIZE]);
/* "1,1.5,2" as a list of numbers, or NULL. */
cJSON *npo_made_job_numbers(const char *text);

#endif
