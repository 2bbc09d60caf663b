/* The coordinator's logic: handle(state, message, now) -> reply, effects. It holds the truth in
 * SQLite and a mirror of workers and active jobs in memory; it knows no uv, no nanomsg, no clock
 * and no file but the database, so that tests drive it with frames and times of their own.
 *
 * Use, by one thread:
 *     npo_server_handle(...) for each request of a batch
 *     npo_server_commit(...)
 *         NPO_OK: send the replies, run npo_server_take_effects()
 *         else:   nothing has happened; send nothing (or handle the requests again one by one)
 *     npo_server_effect_done(...) for each effect that has run, then commit again
 *     npo_server_tick(...) every NPO_SERVER_TICK_MS, then commit
 *
 * A worker, a job and a lease, as rules:
 * - A lease is monotonic time in memory. After a start every worker has a whole lease to report
 * back.
 * - A worker that is lost (lease over, new boot id, goodbye) gives its task back; nothing counts as
 * a failure of the task, but NPO_LOSSES_MAX such losses do.
 * - The rendezvous of a gang is stored: npod killed in the middle of one goes on where it was. */
#ifndef NPO_SERVER_SERVER_H
#define NPO_SERVER_SERVER_H

#include "common/bounds.h"
#include "common/buf.h"
#include "common/err.h"
#include "proto/frame.h"
#include "server/effect.h"
#include "server/store.h"
#include <stdbool.h>
#include <stdint.h>

enum {
    NPO_SERVER_TICK_MS = 100,
    NPO_LOSSES_MAX = 20,         /* attempts of one task lost with their worker */
    NPO_JOBS_ACTIVE_MAX = 65536, /* not yet over */
    NPO_EVENTS_KEPT = 1000000,
    NPO_REQUEST_KEPT_MS = 3600000, /* remembered replies */
    NPO_PIN_CLIENT_MS = 3600000,
    NPO_RENDEZVOUS_KEYS_MAX = 4096,
    NPO_OUTPUTS_PER_TASK_MAX = 4096,
    NPO_UPLOADS_MAX = 4 * NPO_WORKERS_MAX /* arriving at a time */
};

typedef struct {
    int64_t mono_ms; /* leases, back-off, limits */
    int64_t wall_ms; /* what people see */
} npo_time;

typedef struct {
    const char *state_dir;          /* for `info` */
    const char *bulk, *hints;       /* addresses, for `hello` and `info` */
    int64_t lease_ms, heartbeat_ms; /* 0: NPO_LEASE_MS, NPO_HEARTBEAT_MS */
    int64_t garbage_age_ms;         /* unreferenced artifacts live this long; 0: an hour */
    uint64_t quota_bytes;           /* of artifacts; 0: none */
    bool raise_epoch;               /* after restoring a backup, or taking over from another npod */
} npo_server_options;

typedef struct npo_server npo_server;

typedef struct {
    npo_buf json;
    npo_buf payload;
    bool later; /* an effect answers it */
    bool drop;  /* a repetition of a request that is being worked on: send nothing */
} npo_server_reply;

void npo_server_reply_fini(npo_server_reply *reply);
void npo_server_reply_clear(npo_server_reply *reply);

/* store outlives the server; options are copied. */
npo_err npo_server_new(npo_store *store, const npo_server_options *options, npo_time now,
                       npo_server **ret_server, npo_error *error) NPO_MUST_CHECK;
void npo_server_free(npo_server *server); /* NULL allowed */

/* to: stands in the effect that answers later. ret_reply is cleared first. */
void npo_server_handle(npo_server *server, const npo_frame *frame, npo_time now, void *to,
                       npo_server_reply *ret_reply);
npo_err npo_server_commit(npo_server *server, npo_time now, npo_error *error) NPO_MUST_CHECK;
/* List of effects to run, in order; the caller owns them. */
npo_effect *npo_server_take_effects(npo_server *server);
/* Handles for which the answer has become pointless, one a call, NULL: none. To be dropped. */
void *npo_server_take_dropped(npo_server *server);
/* Fills ret_reply for effect->to, when there is one. The caller still owns the effect. When the
 * commit behind it fails, nothing is sent and the effect is forgotten: the client resends, and what
 * has been done to files may be done again. */
void npo_server_effect_done(npo_server *server, npo_effect *effect, npo_time now,
                            npo_server_reply *ret_reply);
void npo_server_tick(npo_server *server, npo_time now);

/* Before the end: lets go of every request that still waits (npo_server_take_dropped). */
void npo_server_stop(npo_server *server);
/* An upload found at start; see npo_effect_list_uploads. */
void npo_server_add_upload(npo_server *server, const npo_hash *hash, uint64_t size);
/* True when the database knows this job, artifact. */
bool npo_server_has_job(npo_server *server, int64_t job);
bool npo_server_has_artifact(npo_server *server, const char *hash);
uint64_t npo_server_epoch(const npo_server *server);
/* True once after a commit that changed what others may wait for: time for a hint. */
bool npo_server_take_hint(npo_server *server);

#endif
