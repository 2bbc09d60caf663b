/* Running a planned graph. */
#include "kernels/graph/state.h"

#include "common/clock.h"

#include <assert.h>
#include <string.h>

typedef struct {
    npo_graph *graph;
    const float *params;
    const float *base;     /* of an adapter's set, else NULL */
    uint64_t base_version; /* 0: none */
    float *grads;
    const npo_pack_slot *slot; /* NULL: weights are packed as they are needed */
} run;

static void *at(const run *r, npo_place place)
{
    char *const bases[] = {
        [NPO_PLACE_NONE] = NULL,
        [NPO_PLACE_ARENA] = r->graph->backend->arena,
        [NPO_PLACE_PRIVATE] = r->graph->memory,
        [NPO_PLACE_PARAM] = (char *)r->params,
        [NPO_PLACE_BASE] = (char *)r->base,
        [NPO_PLACE_GRAD] = (char *)r->grads,
        [NPO_PLACE_SLOT] = r->slot ? r->slot->memory : NULL,
    };
    return place.region == NPO_PLACE_NONE ? NULL : bases[place.region] + place.offset;
}

static npo_value find_input(const npo_graph *graph, const char *name)
{
    for (size_t v = 0; v < graph->value_count; v++) {
        const npo_graph_value *value = npo_graph_at(graph, (npo_value)v);
        if (value->source == NPO_SOURCE_INPUT && strcmp(value->name, name) == 0)
            return (npo_value)v;
    }
    return NPO_VALUE_NONE;
}

void *npo_graph_input_data(npo_graph *graph, const char *name)
{
    npo_value value = find_input(graph, name);
    assert(graph->memory);
    if (value == NPO_VALUE_NONE)
        return NULL;
    return at(&(run){.graph = graph}, npo_graph_at(graph, value)->place);
}

const float *npo_graph_input_grad(npo_graph *graph, const char *name)
{
    npo_value value = find_input(graph, name);
    assert(graph->memory);
    if (value == NPO_VALUE_NONE)
        return NULL;
    return at(&(run){.graph = graph}, npo_graph_at(graph, value)->grad);
}

const float *npo_graph_output_data(npo_graph *graph, const char *name, npo_shape *ret_shape)
{
    assert(graph->memory);
    for (size_t i = 0; i < graph->output_count; i++) {
        if (strcmp(graph->outputs[i].name, name) != 0)
            continue;
        const npo_graph_value *value = npo_graph_at(graph, graph->outputs[i].value);
        if (ret_shape)
            *ret_shape = value->shape;
        return at(&(run){.graph = graph}, npo_graph_at(graph, value->root)->place);
    }
    return NULL;
}

/* ---- weights ---- */

static npo_err explain_packing(npo_err err, npo_error *error)
{
    return err ? npo_error_set(error, err, "cannot pack weights: %s", npo_err_text(err)) : NPO_OK;
}

static npo_place weight_of(const run *r, size_t node)
{
    const npo_graph *g = r->graph;
    npo_value value = g->nodes[node].in[1];
    return npo_graph_at(g, npo_graph_at(g, value)->root)->place;
}

/* Packs both sides of all weights in the slot, but for frozen ones that it has; the arena is free
 * to round them in. */
static npo_err pack_all(const run *r)
{
    const npo_graph *g = r->graph;
    const npo_backend_ops *ops = g->backend->ops;
    for (size_t i = 0; i < g->node_count; i++)
        for (int side = 0; side < NPO_PACK_SIDES; side++) {
            const npo_op_work *work = &g->steps[i].work;
            if (g->steps[i].slot[side].region != NPO_PLACE_SLOT)
                continue;
            npo_place place = weight_of(r, i);
            if (place.region == NPO_PLACE_BASE && r->slot->base_version == r->base_version)
                continue;
            const float *weight = at(r, place);
            if (g->bf16) {
                ops->round_bf16(g->backend, (size_t)npo_shape_count(&work->desc.in[1]), weight,
                                g->backend->arena);
                weight = g->backend->arena;
            }
            NPO_TRY(ops->op_pack(g->backend, work, (npo_pack_side)side, weight,
                                 at(r, g->steps[i].slot[side])));
        }
    return NPO_OK;
}

/* The slot that holds this version of the weights; packs them where none does, in place of those
 * that have not been used for longest. */
static npo_err find_slot(run *r, uint64_t version)
{
    npo_graph *g = r->graph;
    if (!g->slot_count)
        return NPO_OK;
    npo_pack_slot *slot = &g->slots[0];
    for (size_t i = 0; i < g->slot_count; i++) {
        npo_pack_slot *other = &g->slots[i];
        if (other->version == version && other->base_version == r->base_version) {
            slot = other;
            break;
        }
        if (other->used < slot->used)
            slot = other;
    }
    slot->used = ++g->slot_clock;
    r->slot = slot;
    if (slot->version == version && slot->base_version == r->base_version)
        return NPO_OK;
    slot->version = 0;
    npo_err err = pack_all(r);
    slot->version = err ? 0 : version;
    slot->base_version = err ? 0 : r->base_version;
    return err;
}

/* Rounds and packs what is not kept in a slot. */
static npo_err take_weights(const run *r, const npo_graph_call *call, npo_op_args *args)
{
    npo_backend *be = r->graph->backend;
    const npo_op_work *work = &r->graph->steps[call->node].work;
    if (call->at[NPO_AT_ROUNDED].region != NPO_PLACE_NONE) {
        float *rounded = at(r, call->at[NPO_AT_ROUNDED]);
        be->ops->round_bf16(be, (size_t)npo_shape_count(&work->desc.in[1]), args->in[1], rounded);
        args->in[1] = rounded;
    }
    if (call->at[NPO_AT_PACKED].region != NPO_PLACE_ARENA)
        return NPO_OK;
    return be->ops->op_pack(be, work, call->side, args->in[1], at(r, call->at[NPO_AT_PACKED]));
}

/* ---- calls ---- */

static size_t floats_at(const npo_op_desc *desc, int place)
{
    if (place < NPO_AT_OUT)
        return (size_t)npo_shape_count(&desc->in[place]);
    size_t count = (size_t)npo_shape_count(&desc->out);
    if (place != NPO_AT_CHANNELS)
        return count;
    return (size_t)(desc->out.dims[0] * npo_shape_last(&desc->out));
}

static void widen(const run *r, const npo_graph_call *call)
{
    npo_backend *be = r->graph->backend;
    const npo_op_desc *desc = &r->graph->steps[call->node].work.desc;
    for (int k = 0; k < NPO_AT_BF16; k++)
        if (k != NPO_AT_OUT && call->at[NPO_AT_BF16 + k].region != NPO_PLACE_NONE)
            be->ops->widen_bf16(be, floats_at(desc, k), at(r, call->at[NPO_AT_BF16 + k]),
                                at(r, call->at[k]));
}

static void narrow(const run *r, const npo_graph_call *call)
{
    npo_backend *be = r->graph->backend;
    if (call->at[NPO_AT_BF16 + NPO_AT_OUT].region != NPO_PLACE_NONE)
        be->ops->narrow_bf16(be, floats_at(&r->graph->steps[call->node].work.desc, NPO_AT_OUT),
                             at(r, call->at[NPO_AT_OUT]),
                             at(r, call->at[NPO_AT_BF16 + NPO_AT_OUT]));
}

static void fill_args(const run *r, const npo_graph_call *call, npo_op_args *args)
{
    const npo_place *place = call->at;
    *args = (npo_op_args){
        .out = at(r, place[NPO_AT_OUT]),
        .fused_channels = at(r, place[NPO_AT_CHANNELS]),
        .fused_add = at(r, place[NPO_AT_ADD]),
        .saved = at(r, place[NPO_AT_SAVED]),
        .scratch = at(r, place[NPO_AT_SCRATCH]),
        .packed = at(r, place[NPO_AT_PACKED]),
        .grad_out = at(r, place[NPO_AT_GRAD_OUT]),
    };
    for (int k = 0; k < NPO_OP_INPUTS_MAX; k++) {
        args->in[k] = at(r, place[NPO_AT_IN + k]);
        args->grad_in[k] = at(r, place[NPO_AT_GRAD_IN + k]);
        args->grad_prev[k] = at(r, place[NPO_AT_GRAD_PREV + k]);
    }
}

void npo_graph_observe(npo_graph *graph, npo_op_observer observer, void *context)
{
    graph->observer = observer;
    graph->observer_context = context;
}

static void tell_observer(const npo_graph *g, const npo_graph_call *call, int64_t began_ns)
{
    const npo_op_desc *desc = &g->steps[call->node].work.desc;
    const npo_op_rule *rule = npo_op_rule_of(desc->kind);
    const bool backward = call->side == NPO_PACK_BACKWARD;
    npo_op_time time = {
        .name = rule->name,
        .index = (size_t)call->node,
        .backward = backward,
        .a = &desc->in[0],
        .b = desc->given & 2 ? &desc->in[1] : NULL,
        .out = &desc->out,
        .flops = backward ? rule->flops_backward(desc) : rule->flops(desc),
        .ns = npo_clock_ns() - began_ns,
    };
    g->observer(g->observer_context, &time);
}

static npo_err run_calls(const run *r, size_t first, size_t last, npo_error *error)
{
    npo_backend *be = r->graph->backend;
    for (size_t i = first; i < last; i++) {
        const npo_graph_call *call = &r->graph->calls[i];
        const npo_op_work *work = &r->graph->steps[call->node].work;
        npo_op_args args;
        const int64_t began_ns = r->graph->observer ? npo_clock_ns() : 0;
        fill_args(r, call, &args);
        widen(r, call);
        NPO_TRY(explain_packing(take_weights(r, call, &args), error));
        NPO_TRY(call->side == NPO_PACK_FORWARD ? be->ops->op_forward(be, work, &args, error)
                                               : be->ops->op_backward(be, work, &args, error));
        narrow(r, call);
        if (r->graph->observer)
            tell_observer(r->graph, call, began_ns);
    }
    return NPO_OK;
}

/* ---- the passes ---- */

static npo_err run_forward(run *r, uint64_t version, npo_error *error)
{
    NPO_TRY(explain_packing(find_slot(r, version), error));
    return run_calls(r, 0, r->graph->forward_calls, error);
}

static npo_err run_backward(run *r, float scale, npo_error *error)
{
    npo_graph *g = r->graph;
    NPO_TRY(explain_packing(find_slot(r, g->forward_version), error));
    if (g->loss_grad.region != NPO_PLACE_NONE)
        g->backend->ops->put(g->backend, scale, at(r, g->loss_grad));
    return run_calls(r, g->forward_calls, g->call_count, error);
}

static run run_with(npo_graph *graph, const npo_params *params)
{
    const npo_params *base = npo_params_base(params);
    assert(!npo_layout_base(graph->layout) == !base);
    return (run){.graph = graph,
                 .params = npo_params_data(params),
                 .base = base ? npo_params_data(base) : NULL,
                 .base_version = base ? npo_params_version(base) : 0};
}

npo_err npo_graph_forward(npo_graph *graph, const npo_params *params, npo_error *error)
{
    npo_backend *be = graph->backend;
    run r = run_with(graph, params);
    assert(graph->planned && !graph->err && npo_params_layout(params) == graph->layout);
    uint64_t version = npo_params_version(params);
    be->arena_stamp = graph->stamp = 0;
    be->ops->enter(be);
    npo_err err = run_forward(&r, version, error);
    be->ops->leave(be);
    if (err)
        return err;
    be->arena_stamp = graph->stamp = ++be->last_stamp;
    graph->forward_version = version;
    return NPO_OK;
}

npo_err npo_graph_backward(npo_graph *graph, const npo_params *params, float scale,
                           npo_params *grads, npo_error *error)
{
    npo_backend *be = graph->backend;
    assert(graph->planned && !graph->err && graph->loss != NPO_VALUE_NONE);
    assert(npo_params_layout(params) == graph->layout && npo_params_layout(grads) == graph->layout);
    if (!graph->stamp || be->arena_stamp != graph->stamp ||
        graph->forward_version != npo_params_version(params))
        return npo_error_set(error, NPO_E_STATE,
                             "backward without a forward of the same graph and "
                             "parameters just before");
    run r = run_with(graph, params);
    r.grads = npo_params_edit(grads);
    be->ops->enter(be);
    npo_err err = run_backward(&r, scale, error);
    be->ops->leave(be);
    /* Gradients may have been written over values that a second backward would read. */
    graph->stamp = 0;
    return err;
}
