#include "kernels/comm/comm.h"

#include <assert.h>
#include <stdlib.h>

static npo_err check_usable(const npo_comm *comm, const char *operation, npo_error *error)
{
    if (!comm->broken)
        return NPO_OK;
    return npo_error_set(error, NPO_E_STATE,
                         "%s of rank %d: the gang broke in an earlier operation", operation,
                         comm->rank);
}

npo_err npo_comm_allreduce_sum(npo_comm *comm, float *x, size_t n, npo_error *error)
{
    NPO_TRY(check_usable(comm, "allreduce", error));
    npo_err err = comm->ops->allreduce_sum(comm, x, n, error);
    comm->broken = err != NPO_OK;
    return err;
}

npo_err npo_comm_broadcast(npo_comm *comm, void *data, size_t bytes, int root, npo_error *error)
{
    assert(root >= 0 && root < comm->world);
    NPO_TRY(check_usable(comm, "broadcast", error));
    npo_err err = comm->ops->broadcast(comm, data, bytes, root, error);
    comm->broken = err != NPO_OK;
    return err;
}

npo_err npo_comm_barrier(npo_comm *comm, npo_error *error)
{
    NPO_TRY(check_usable(comm, "barrier", error));
    npo_err err = comm->ops->barrier(comm, error);
    comm->broken = err != NPO_OK;
    return err;
}

void npo_comm_abort(npo_comm *comm)
{
    comm->ops->abort(comm);
}

void npo_comm_free(npo_comm *comm)
{
    if (comm)
        comm->ops->free(comm);
}

/* ---- a gang of one ---- */

typedef struct {
    npo_comm base;
    int aborted; /* atomic */
} self_comm;

static npo_err self_check(npo_comm *comm, npo_error *error)
{
    if (!__atomic_load_n(&((self_comm *)comm)->aborted, __ATOMIC_ACQUIRE))
        return NPO_OK;
    return npo_error_set(error, NPO_E_CANCELLED, "collective of rank 0: aborted");
}

static npo_err self_allreduce_sum(npo_comm *comm, float *x, size_t n, npo_error *error)
{
    return self_check(comm, error);
}

static npo_err self_broadcast(npo_comm *comm, void *data, size_t bytes, int root, npo_error *error)
{
    return self_check(comm, error);
}

static void self_abort(npo_comm *comm)
{
    __atomic_store_n(&((self_comm *)comm)->aborted, 1, __ATOMIC_RELEASE);
}

static void self_free(npo_comm *comm)
{
    free(comm);
}

static const npo_comm_ops self_ops = {
    .allreduce_sum = self_allreduce_sum,
    .broadcast = self_broadcast,
    .barrier = self_check,
    .abort = self_abort,
    .free = self_free,
};

npo_err npo_comm_new_self(npo_comm **ret_comm)
{
    self_comm *comm = calloc(1, sizeof *comm);
    if (!comm)
        return NPO_E_NOMEM;
    comm->base = (npo_comm){.ops = &self_ops, .rank = 0, .world = 1, .name = "self"};
    *ret_comm = &comm->base;
    return NPO_OK;
}
