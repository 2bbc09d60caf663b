/* A command's connection to npod, with Ctrl-C: while a session is open, SIGINT and SIGTERM end the
 * wait in hand instead of the process. One for a process; nothing may be forked behind it. */
#ifndef NPO_CTL_SESSION_H
#define NPO_CTL_SESSION_H

#include "ctl/command.h"
#include "proto/client.h"
#include "proto/transfer.h"

typedef struct npo_session npo_session;

/* Prints why not. Nothing is sent yet. */
npo_exit npo_session_open(const npo_common_values *common, npo_session **ret_session);
void npo_session_close(npo_session *session); /* NULL allowed */

/* Asks npod. body_take is freed; NULL means that it could not be made. On failure a sentence is
 * printed and the exit code returned: UNREACHABLE, INTERRUPTED, REFUSED, or FAILED for want of
 * memory. ret_answer: npo_answer_fini; NULL: not wanted. */
npo_exit npo_session_ask(npo_session *session, npo_message id, cJSON *body_take,
                         npo_answer *ret_answer);
/* The same, but a refusal with the code `expected` prints nothing and sets *ret_met. */
npo_exit npo_session_ask_unless(npo_session *session, npo_message id, cJSON *body_take,
                                npo_err expected, bool *ret_met, npo_answer *ret_answer);
/* {"job": id} as a body. */
cJSON *npo_session_job_body(int64_t job);

/* Publishes a file or folder, showing its progress on a terminal. */
npo_exit npo_session_upload(npo_session *session, const char *path, npo_artifact *ret_artifact);
/* Fetches an artifact to path, which must not exist. */
npo_exit npo_session_download(npo_session *session, const char *hash, const char *path,
                              npo_artifact *ret_artifact);
/* Waits. False: interrupted. */
bool npo_session_sleep(npo_session *session, int64_t ms);

#endif
