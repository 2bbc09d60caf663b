/* Jobs that a command makes from its flags (sample, evaluate, export), waits for, and fetches from.
 */
#ifndef NPO_CTL_MADE_JOB_H
#define NPO_CTL_MADE_JOB_H

#include "ctl/session.h"

/* Puts into spec[key] what text names: a folder of this machine (as a path), or JOB (as that job's
 * output "model", {"artifact": HASH}), or JOB@STEP (a checkpoint, exported first). A text that is
 * both is a folder. */
npo_exit npo_made_job_set_model(npo_session *session, cJSON *spec, const char *key,
                                const char *text);
/* Puts the model into spec that a job trained from: what its own job file names. */
npo_exit npo_made_job_set_base(npo_session *session, cJSON *spec, int64_t job);
/* Checks, imports, submits, follows (on stderr's terminal quietly: progress goes to stdout) and
 * leaves the job's number. from_job 0: none. */
npo_exit npo_made_job_run(npo_session *session, cJSON *spec, int64_t from_job, int64_t from_step,
                          bool quiet, int64_t *ret_job);
/* Makes and follows the job that writes the network of a checkpoint as a pipeline folder. */
npo_exit npo_made_job_export(npo_session *session, int64_t job, int64_t step, int64_t *ret_export);
/* Hash of the newest output of a name. */
npo_exit npo_made_job_output(npo_session *session, int64_t job, const char *name,
                             char ret_hash[NPO_HASH_TEXT_SIZE]);
/* "1,1.5,2" as a list of numbers, or NULL. */
cJSON *npo_made_job_numbers(const char *text);

#endif
