/* When a child of `npoctl up` that ended is started again. Pure: times are handed in. */
#ifndef NPO_CTL_CLUSTER_RESTART_H
#define NPO_CTL_CLUSTER_RESTART_H

#include <stdbool.h>
#include <stdint.h>

enum {
    NPO_RESTART_BASE_MS = 500, /* after the first end; doubles ... */
    NPO_RESTART_MAX_MS = 30000,
    NPO_RESTART_GOOD_MS = 60000, /* a life this long starts the count anew */
    NPO_RESTARTS_MAX = 8         /* ends in a row before it is given up */
};

typedef struct {
    int ends;                   /* in a row */
    int64_t started_ms, due_ms; /* monotonic */
    bool given_up;
} npo_restart;

void npo_restart_started(npo_restart *restart, int64_t now_ms);
/* Sets due_ms, or given_up. */
void npo_restart_ended(npo_restart *restart, int64_t now_ms);

#endif
