#include "kernels/backend-ops.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static const npo_backend_ops *const devices[] = {
    &npo_cpu_backend_ops,
};

npo_err npo_backend_new(const npo_backend_options *options, npo_backend **ret_backend,
                        npo_error *error)
{
    npo_backend *be = calloc(1, sizeof *be);
    if (!be)
        return npo_error_set(error, NPO_E_NOMEM, "device '%s': out of memory", options->device);
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
        if (strcmp(options->device, devices[i]->device) == 0)
            be->ops = devices[i];
    npo_err err = be->ops
                      ? be->ops->open(be, options, error)
                      : npo_error_set(error, NPO_E_NOT_FOUND,
                                      "device '%s' is unknown, expected 'cpu'", options->device);
    if (err) {
        free(be);
        return err;
    }
    *ret_backend = be;
    return NPO_OK;
}

void npo_backend_free(npo_backend *backend)
{
    if (!backend)
        return;
    backend->ops->release(backend, backend->arena);
    backend->ops->close(backend);
    free(backend);
}

const char *npo_backend_class(const npo_backend *backend)
{
    return backend->class_text;
}

size_t npo_backend_arena_bytes(const npo_backend *backend)
{
    return backend->arena_bytes;
}

npo_err npo_backend_reserve(npo_backend *be, size_t bytes)
{
    void *arena;
    if (bytes <= be->arena_bytes)
        return NPO_OK;
    /* First, so that memory never holds both. */
    be->ops->release(be, be->arena);
    be->arena = NULL;
    be->arena_bytes = 0;
    be->arena_stamp = 0;
    NPO_TRY(be->ops->alloc(be, bytes, &arena));
    be->arena = arena;
    be->arena_bytes = bytes;
    return NPO_OK;
}
