/* npod and its workers on this machine, as children: started together, restarted when one dies,
 * stopped in order. Runs in the one thread that started them: the kernel ends them with it. */
#ifndef NPO_CTL_CLUSTER_CLUSTER_H
#define NPO_CTL_CLUSTER_CLUSTER_H

#include "ctl/exit.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const char *state;            /* absolute */
    const char *address;          /* where npod listens */
    const char *npod, *npoworker; /* programs */
    int64_t workers, threads;     /* threads of each worker */
    int64_t memory;               /* bytes of each worker; 0: what the machine has */
    bool listen;                  /* npod is told the address; else it is its default */
    /* Called once when npod answers and all workers have come; false ends everything. */
    bool (*ready)(void *self);
    void *self;
    int watch_fd; /* an error on it ends everything before `ready`; -1: none */
} npo_cluster_options;

/* Returns when told to leave (SIGINT, SIGTERM, SIGHUP: NPO_EXIT_OK), or when it cannot go on; no
 * child is left then. A second signal kills what has not left yet. */
npo_exit npo_cluster_run(const npo_cluster_options *options);

#endif
