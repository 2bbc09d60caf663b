/* The executor's end of the socket to its supervisor: JSON lines both ways on descriptor 3. A
 * thread reads orders, says "alive" every second while kernels run on the other threads, and ends
 * the process at once when the supervisor is gone.
 *
 * To the supervisor, "event":             From it, "order":
 *   ready      class                         task    ticket, assignment, paths, out_dir
 *   alive                                    cancel  ticket
 *   progress   ticket, step, steps, phase,   store   id, code, value
 *              loss, samples_per_s
 *   log        ticket, line
 *   metrics    ticket, line
 *   output     ticket, name, file
 *   store_set  ticket, id, key, value
 *   store_get  ticket, id, key, timeout_ms
 *   done       ticket, result
 *   failed     ticket, code, text, final */
#ifndef NPO_WORKER_EXECUTOR_WIRE_H
#define NPO_WORKER_EXECUTOR_WIRE_H

#include "common/json.h"

enum { NPO_WIRE_FD = 3, NPO_WIRE_LINE_MAX = 8 << 20, NPO_WIRE_ALIVE_MS = 1000 };

typedef struct npo_wire npo_wire;

/* Starts the thread. Errors: NPO_E_STATE when descriptor `fd` is no socket (not started by
 * npoworker). */
npo_err npo_wire_open(int fd, npo_wire **ret_wire, npo_error *error) NPO_MUST_CHECK;
/* Sends {"event": event, ...} and frees body_take (NULL: nothing else in it). Any thread. What
 * cannot be sent ends the process: the supervisor is gone then, or there is no memory. */
void npo_wire_send(npo_wire *wire, const char *event, cJSON *body_take);
/* Waits for a task order: cJSON_Delete. From then on npo_wire_is_cancelled is about its ticket. */
cJSON *npo_wire_wait_task(npo_wire *wire);
bool npo_wire_is_cancelled(npo_wire *wire);
/* Waits for the answer to store request `id`. ret_value (malloc'ed) is NULL when there is none.
 * Errors: NPO_E_CANCELLED when the task is cancelled meanwhile; the answer's code. */
npo_err npo_wire_wait_store(npo_wire *wire, int64_t id, char **ret_value) NPO_MUST_CHECK;

#endif
