/* The executor as the supervisor sees it: a child process, JSON lines over a socket on its
 * descriptor 3, its stdout and stderr line by line. Belongs to the loop's thread.
 *
 * It is started by fork and immediate exec (uv_spawn): the child touches nothing of nanomsg's
 * before exec, and the executor closes every descriptor above 3 first thing. It goes away with the
 * supervisor: by the end of its socket, and by PR_SET_PDEATHSIG. */
#ifndef NPO_WORKER_SUPERVISOR_IO_CHILD_H
#define NPO_WORKER_SUPERVISOR_IO_CHILD_H

#include "common/json.h"
#include <uv.h>

enum { NPO_CHILD_LINE_MAX = 4 << 20, NPO_CHILD_TEXT_MAX = 4096 };

typedef struct npo_child npo_child;

typedef struct {
    void *self;
    void (*message)(void *self, const cJSON *message);
    void (*text)(void *self, const char *line); /* stdout and stderr, without the newline */
    /* The process has ended and all it said was delivered; how: "killed by signal 9". The child may
     * be freed from here. */
    void (*exited)(void *self, const char *how);
} npo_child_handler;

/* argv: NULL-terminated; argv[0] is only what `ps` shows. A file that cannot be started is one that
 * exited at once. */
npo_err npo_child_start(uv_loop_t *loop, const char *file, char **argv,
                        const npo_child_handler *handler, npo_child **ret_child,
                        npo_error *error) NPO_MUST_CHECK;
/* Sends one line. A child that is gone is no error: exited tells. */
void npo_child_send(npo_child *child, const cJSON *message);
void npo_child_signal(npo_child *child, int signum);

#endif
