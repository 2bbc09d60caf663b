#include "worker/tasks/training/gang.h"

enum {
    CONNECT_MS = 300000,  /* a rank may still be fetching its inputs */
    OPERATION_MS = 600000 /* a rank may be that much slower in one step */
};

npo_err npo_gang_join(npo_context *ctx, npo_gang *gang)
{
    *gang = (npo_gang){0};
    if (ctx->task->world == 1) {
        npo_err err = npo_comm_new_self(&gang->comm);
        return err == NPO_OK ? err : npo_context_fail(ctx, err, "communicator");
    }
    gang->store =
        (npo_comm_store){ctx->services->self, ctx->services->store_set, ctx->services->store_get};
    npo_comm_gloo_options options = {
        .rank = ctx->task->rank,
        .world = ctx->task->world,
        .store = &gang->store,
        .connect_timeout_ms = CONNECT_MS,
        .timeout_ms = OPERATION_MS,
    };
    return npo_comm_new_gloo(&options, &gang->comm, ctx->error);
}

void npo_gang_leave(npo_gang *gang)
{
    npo_comm_free(gang->comm);
    gang->comm = NULL;
}
