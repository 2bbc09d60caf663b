/* Handing a job to npod, for every command that makes one. */
#ifndef NPO_CTL_JOB_SUBMISSION_H
#define NPO_CTL_JOB_SUBMISSION_H

#include "ctl/session.h"

typedef struct {
    const char *key;             /* NULL: a random one */
    int64_t from_job, from_step; /* 0: starts anew; step below 0: the last checkpoint */
} npo_submission;

/* {"job", "step"}: null for a step below 0. NULL when out of memory. */
cJSON *npo_submission_from(int64_t job, int64_t step);
/* Imports the paths of spec (changed in place) and submits. Reply: {"job", "existing", "tasks"}. */
npo_exit npo_submission_send(npo_session *session, cJSON *spec, const npo_submission *submission,
                             npo_answer *ret_answer);

#endif
