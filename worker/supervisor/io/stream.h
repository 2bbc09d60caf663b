/* One log or metrics stream of a task on its way to npod: lines are gathered and appended in parts,
 * one request out at a time. Bytes that npod refuses (over its bound) are given up with one
 * warning. Belongs to the loop's thread. */
#ifndef NPO_WORKER_SUPERVISOR_IO_STREAM_H
#define NPO_WORKER_SUPERVISOR_IO_STREAM_H

#include "proto/transfer.h"
#include "worker/supervisor/io/link.h"

enum {
    NPO_STREAM_PART_BYTES = 256 << 10,
    NPO_STREAM_GATHER_MS = 100 /* lines of so long go together */
};

typedef struct npo_stream npo_stream;

typedef struct {
    npo_link *link;
    const char *name; /* "log" or "metrics"; borrowed */
    npo_transfer_fence fence;
    void *self;
    uint64_t tag;
    void (*ended)(void *self, uint64_t tag);  /* after npo_stream_end, all is out or given up */
    void (*fenced)(void *self, uint64_t tag); /* the attempt is not ours any more */
} npo_stream_options;

npo_err npo_stream_open(uv_loop_t *loop, const npo_stream_options *options, npo_stream **ret_stream,
                        npo_error *error) NPO_MUST_CHECK;
/* Adds a line and its newline. */
void npo_stream_add(npo_stream *stream, const char *line);
/* No more lines come: sends what is left, then calls ended, possibly at once. */
void npo_stream_end(npo_stream *stream);
/* Forgets what was not sent; no callback is called any more. NULL allowed. */
void npo_stream_close(npo_stream *stream);

#endif
