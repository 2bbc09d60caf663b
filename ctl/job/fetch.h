/* Fetching the outputs of a job. */
#ifndef NPO_CTL_JOB_FETCH_H
#define NPO_CTL_JOB_FETCH_H

#include "ctl/session.h"

/* True for what tasks only hand to each other: pools, segments, checkpoints, features. */
bool npo_fetch_is_internal(const char *name);
/* False for a name that would not stay inside a folder ("..", "a/b", hidden). */
bool npo_fetch_is_safe(const char *name);
/* Puts an artifact at path and says so on `to` (a FILE; NULL: silent). What is there already with
 * the same content stays; anything else there is refused. */
npo_exit npo_fetch_to(npo_session *session, const char *hash, const char *path, void *to);
/* Every result (not the internal ones) of a job into the folder dir; of several of one name the
 * last. */
npo_exit npo_fetch_results(npo_session *session, const cJSON *outputs, const char *dir, void *to);

#endif
