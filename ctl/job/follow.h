/* Looks at a job until it is over. */
#ifndef NPO_CTL_JOB_FOLLOW_H
#define NPO_CTL_JOB_FOLLOW_H

#include "ctl/session.h"

/* Shows progress on stdout (painted on a terminal, lines elsewhere; `quiet`: nothing) until the job
 * has ended. Returns the code of its end; NPO_EXIT_INTERRUPTED says how to look again. */
npo_exit npo_follow(npo_session *session, int64_t job, bool quiet);
/* Reply to `job`: {"job", "tasks", "outputs", "checkpoints"}. */
npo_exit npo_follow_get(npo_session *session, int64_t job, npo_answer *ret_answer);

#endif
