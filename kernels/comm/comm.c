#include "kernels/comm/comm.h"

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

npo_err npo_comm_barrier(npo_comm *comm, npo_error *error)
{
    NPO_TRY(check_usable(comm, "barrier", error));
    npo_err err = comm->ops->barrier(comm, error);
    comm->broken = err != NPO_OK;
    return err;
}

void npo_comm_free(npo_comm *comm)
{
    if (comm)
        comm->ops->free(comm);
}

/* ---- a gang of one ---- */

static npo_err self_allreduce_sum(npo_comm *comm, float *x, size_t n, npo_error *error)
{
    return NPO_OK;
}

static npo_err self_barrier(npo_comm *comm, npo_error *error)
{
    return NPO_OK;
}

static void self_free(npo_comm *comm)
{
    free(comm);
}

static const npo_comm_ops self_ops = {
    .allreduce_sum = self_allreduce_sum,
    .barrier = self_barrier,
    .free = self_free,
};

npo_err npo_comm_new_self(npo_comm **ret_comm)
{
    npo_comm *comm = calloc(1, sizeof *comm);
    if (!comm)
        return NPO_E_NOMEM;
    *comm = (npo_comm){.ops = &self_ops, .rank = 0, .world = 1, .name = "self"};
    *ret_comm = comm;
    return NPO_OK;
}
