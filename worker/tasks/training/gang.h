/* The communicator of a task's gang, over the rendezvous that the task's services offer. */
#ifndef NPO_WORKER_TASKS_TRAINING_GANG_H
#define NPO_WORKER_TASKS_TRAINING_GANG_H

#include "kernels/comm/comm.h"
#include "worker/tasks/context.h"

typedef struct {
    npo_comm_store store;
    npo_comm *comm;
} npo_gang;

/* *gang must stay where it is: the communicator borrows its store. */
npo_err npo_gang_join(npo_context *ctx, npo_gang *gang) NPO_MUST_CHECK;
void npo_gang_leave(npo_gang *gang);

#endif
