#include "kernels/cpu/product/dnnl-call.h"

#include <string.h>

const dnnl_memory_desc_t *npo_dnnl_md(const_dnnl_primitive_desc_t desc, int arg)
{
    return dnnl_primitive_desc_query_md(desc, dnnl_query_exec_arg_md, arg);
}

dnnl_primitive_attr_t npo_dnnl_attr(void)
{
    dnnl_primitive_attr_t attr = NULL;
    if (dnnl_primitive_attr_create(&attr) != dnnl_success)
        return NULL;
    if (dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user) == dnnl_success)
        return attr;
    dnnl_primitive_attr_destroy(attr);
    return NULL;
}

static npo_err add_arg(npo_dnnl_call *call, const npo_cpu *cpu, int name,
                       const dnnl_memory_desc_t *md)
{
    dnnl_exec_arg_t *arg = &call->args[call->count];
    if (!md || dnnl_memory_create(&arg->memory, md, cpu->engine, DNNL_MEMORY_NONE) != dnnl_success)
        return NPO_E_LIBRARY;
    arg->arg = name;
    call->count++;
    return NPO_OK;
}

npo_err npo_dnnl_call_init(npo_dnnl_call *call, const npo_cpu *cpu, dnnl_primitive_desc_t desc,
                           const int *names)
{
    *call = (npo_dnnl_call){0};
    npo_err err = NPO_OK;
    for (int i = 0; !err && names[i]; i++)
        err = add_arg(call, cpu, names[i], npo_dnnl_md(desc, names[i]));
    const dnnl_memory_desc_t *pad = npo_dnnl_md(desc, DNNL_ARG_SCRATCHPAD);
    call->scratchpad = pad ? dnnl_memory_desc_get_size(pad) : 0;
    if (!err)
        err = add_arg(call, cpu, DNNL_ARG_SCRATCHPAD, pad);
    if (!err && dnnl_primitive_create(&call->primitive, desc) != dnnl_success)
        err = NPO_E_LIBRARY;
    if (err)
        npo_dnnl_call_fini(call);
    dnnl_primitive_desc_destroy(desc);
    return err;
}

void npo_dnnl_call_fini(npo_dnnl_call *call)
{
    for (int i = 0; i < call->count; i++)
        dnnl_memory_destroy(call->args[i].memory);
    if (call->primitive)
        dnnl_primitive_destroy(call->primitive);
    *call = (npo_dnnl_call){0};
}

npo_err npo_dnnl_call_run(const npo_dnnl_call *call, const npo_cpu *cpu, void *const *data,
                          void *scratchpad)
{
    for (int i = 0; i < call->count; i++)
        if (dnnl_memory_set_data_handle(call->args[i].memory,
                                        i < call->count - 1 ? data[i] : scratchpad) != dnnl_success)
            return NPO_E_LIBRARY;
    if (dnnl_primitive_execute(call->primitive, cpu->stream, call->count, call->args) !=
        dnnl_success)
        return NPO_E_LIBRARY;
    return NPO_OK;
}

npo_err npo_dnnl_reorder_init(npo_dnnl_call *call, const npo_cpu *cpu,
                              const dnnl_memory_desc_t *from, const dnnl_memory_desc_t *to,
                              bool sum)
{
    static const int names[] = {DNNL_ARG_FROM, DNNL_ARG_TO, 0};
    dnnl_primitive_desc_t desc = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_primitive_attr_t attr = npo_dnnl_attr();
    npo_err err = attr ? NPO_OK : NPO_E_NOMEM;
    if (!err && sum &&
        (dnnl_post_ops_create(&ops) != dnnl_success ||
         dnnl_post_ops_append_sum(ops, 1) != dnnl_success ||
         dnnl_primitive_attr_set_post_ops(attr, ops) != dnnl_success))
        err = NPO_E_LIBRARY;
    if (!err && dnnl_reorder_primitive_desc_create(&desc, from, cpu->engine, to, cpu->engine,
                                                   attr) != dnnl_success)
        err = NPO_E_LIBRARY;
    if (!err)
        err = npo_dnnl_call_init(call, cpu, desc, names);
    if (ops)
        dnnl_post_ops_destroy(ops);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    return err;
}
