/* Every bound of the system in one place: a message, a queue, a retry, a file. Units are in the
 * names. A change here is a change of the interface: docs/protocol.md and docs/operations.md
 * repeat those that a user can meet. */
#ifndef NPO_COMMON_BOUNDS_H
#define NPO_COMMON_BOUNDS_H

enum {
    /* wire */
    NPO_MESSAGE_BYTES_MAX = 8 << 20,  /* one frame; checked by the sender too */
    NPO_RECEIVE_BYTES_MAX = 16 << 20, /* NN_RCVMAXSIZE; never -1 (a hostile header aborts) */
    NPO_REPLY_BYTES_MAX = 1 << 20,    /* control replies stay small: raw REP drops on a full pipe */
    NPO_CHUNK_BYTES = 4 << 20,        /* artifact transfer */
    NPO_UPLOAD_WINDOW = 2,            /* chunks in flight a connection */
    NPO_DRAIN_MAX = 256,              /* messages handled in one wake, one commit */
    NPO_RESEND_MS = 5000,             /* NN_REQ_RESEND_IVL */
    NPO_RENEW_MS = 2000,              /* an answer overdue so long: connect anew; then twice ... */
    NPO_RENEW_MAX_MS = 30000,         /* ... that, up to this */
    NPO_CLIENT_DEADLINE_MS = 5000,    /* npoctl: coordinator unreachable */

    /* leases */
    NPO_LEASE_MS = 15000,
    NPO_HEARTBEAT_MS = 3000,
    NPO_CANCEL_GRACE_MS = 5000, /* executor gets this long before SIGKILL */

    /* retries: attempt k waits min(BASE << k, MAX) */
    NPO_RETRY_BASE_MS = 500,
    NPO_RETRY_MAX_MS = 60000,
    NPO_RETRIES_DEFAULT = 3, /* failures of one task before its job fails; lost workers excepted */

    /* names and files */
    NPO_IMAGE_SIDE_MAX = 16384, /* pixels */
    NPO_NAME_MAX = 128,         /* bytes, workers, jobs, outputs */
    NPO_JOB_FILE_BYTES_MAX = 1 << 20,
    NPO_JSON_DEPTH_MAX = 64,
    NPO_MANIFEST_FILES_MAX = 100000,
    NPO_MANIFEST_BYTES_MAX = 64 << 20,
    NPO_WORKERS_MAX = 512,
    NPO_GANG_MAX = 256,
    NPO_TASKS_PER_JOB_MAX = 200000,
    NPO_EVENTS_PER_REPLY_MAX = 500,
    NPO_STREAM_BYTES_MAX = 64 << 20, /* one log or metrics stream of a (task, attempt) */
    NPO_SAFETENSORS_HEADER_BYTES_MAX = 100 << 20, /* as the reference implementation */
    NPO_TENSOR_DIMS_MAX = 8,
    NPO_LORA_RANK_MAX = 4096
};

#endif
