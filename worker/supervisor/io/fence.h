/* How messages about a task say whose they are. */
#ifndef NPO_WORKER_SUPERVISOR_IO_FENCE_H
#define NPO_WORKER_SUPERVISOR_IO_FENCE_H

#include "common/json.h"
#include "proto/transfer.h"

/* {"worker", "task", "attempt", "rank"}: what every message about the task begins with. NULL: out
 * of memory. */
cJSON *npo_fence_body(const npo_transfer_fence *fence);
/* Adds "task", "attempt" and "rank". False: out of memory. */
bool npo_fence_add(cJSON *body, const npo_transfer_fence *fence);

#endif
