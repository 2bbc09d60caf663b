/* The store of a gang, as the executor's task asks for it: set, and get that waits until the key is
 * there. One request at a time, as a task makes them. Belongs to the loop's thread. */
#ifndef NPO_WORKER_SUPERVISOR_IO_RENDEZVOUS_H
#define NPO_WORKER_SUPERVISOR_IO_RENDEZVOUS_H

#include "proto/transfer.h"
#include "worker/supervisor/io/link.h"

enum { NPO_RENDEZVOUS_POLL_MS = 10, NPO_RENDEZVOUS_POLL_MAX_MS = 250 };

typedef struct npo_rendezvous npo_rendezvous;

typedef struct {
    npo_link *link;
    npo_transfer_fence fence;
    void *self;
    /* value (base64) is NULL unless a get succeeded. Code FENCED: the attempt is not ours any more.
     */
    void (*answered)(void *self, int64_t id, npo_err code, const char *value);
} npo_rendezvous_options;

npo_err npo_rendezvous_open(uv_loop_t *loop, const npo_rendezvous_options *options,
                            npo_rendezvous **ret_rendezvous, npo_error *error) NPO_MUST_CHECK;
/* No answer comes any more. NULL allowed. */
void npo_rendezvous_close(npo_rendezvous *rendezvous);
/* A second request while one is open is answered BUSY. */
void npo_rendezvous_set(npo_rendezvous *rendezvous, int64_t id, const char *key, const char *value);
void npo_rendezvous_get(npo_rendezvous *rendezvous, int64_t id, const char *key,
                        int64_t timeout_ms);
/* Something changed: a get that waits asks again at once. */
void npo_rendezvous_hint(npo_rendezvous *rendezvous);

#endif
