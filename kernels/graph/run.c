/* Running a planned graph. */
#include "kernels/graph/state.h"

#include <assert.h>
#include <string.h>

typedef struct {
    npo_graph *graph;
    const float *params;
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

/* ---- packed weights ---- */

static npo_err pack(const run *r, const npo_graph_step *step, npo_pack_side side)
{
    npo_backend *be = r->graph->backend;
    return be->ops->op_pack(be, &step->work, side, at(r, step->in[1]), at(r, step->packed[side]));
}

static npo_err pack_all(const run *r)
{
    npo_graph *g = r->graph;
    for (size_t i = 0; i < g->node_count; i++)
        for (int side = 0; side < NPO_PACK_SIDES; side++)
            if (g->steps[i].packed[side].region == NPO_PLACE_SLOT)
                NPO_TRY(pack(r, &g->steps[i], (npo_pack_side)side));
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
        if (other->version == version) {
            slot = other;
            break;
        }
        if (other->used < slot->used)
            slot = other;
    }
    slot->used = ++g->slot_clock;
    r->slot = slot;
    if (slot->version == version)
        return NPO_OK;
    slot->version = 0;
    NPO_TRY(pack_all(r));
    slot->version = version;
    return NPO_OK;
}

/* ---- the passes ---- */

/* Arguments of a pass, its side of the weights packed. */
static npo_err fill_args(const run *r, const npo_graph_step *step, npo_pack_side side,
                         npo_op_args *args)
{
    *args = (npo_op_args){
        .out = at(r, step->out),
        .fused_channels = at(r, step->fused_channels),
        .fused_add = at(r, step->fused_add),
        .saved = at(r, step->saved),
        .scratch = at(r, step->scratch_forward),
        .packed = at(r, step->packed[side]),
    };
    for (int k = 0; k < NPO_OP_INPUTS_MAX; k++)
        args->in[k] = at(r, step->in[k]);
    return step->packed[side].region == NPO_PLACE_ARENA ? pack(r, step, side) : NPO_OK;
}

static npo_err explain_packing(npo_err err, npo_error *error)
{
    return err ? npo_error_set(error, err, "cannot pack weights: %s", npo_err_text(err)) : NPO_OK;
}

static npo_err run_forward(run *r, uint64_t version, npo_error *error)
{
    npo_graph *g = r->graph;
    NPO_TRY(explain_packing(find_slot(r, version), error));
    for (size_t i = 0; i < g->node_count; i++) {
        const npo_graph_step *step = &g->steps[i];
        npo_op_args args;
        if (!step->forward)
            continue;
        NPO_TRY(explain_packing(fill_args(r, step, NPO_PACK_FORWARD, &args), error));
        NPO_TRY(g->backend->ops->op_forward(g->backend, &step->work, &args, error));
    }
    return NPO_OK;
}

npo_err npo_graph_forward(npo_graph *graph, const npo_params *params, npo_error *error)
{
    npo_backend *be = graph->backend;
    run r = {.graph = graph, .params = npo_params_data(params)};
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

static npo_err run_backward(run *r, float scale, npo_error *error)
{
    npo_graph *g = r->graph;
    NPO_TRY(explain_packing(find_slot(r, g->forward_version), error));
    if (g->loss_grad.region != NPO_PLACE_NONE)
        g->backend->ops->put(g->backend, scale, at(r, g->loss_grad));
    for (size_t i = g->node_count; i-- > 0;) {
        const npo_graph_step *step = &g->steps[i];
        npo_op_args args;
        if (!step->backward)
            continue;
        NPO_TRY(explain_packing(fill_args(r, step, NPO_PACK_BACKWARD, &args), error));
        args.scratch = at(r, step->scratch_backward);
        args.grad_out = at(r, step->grad_out);
        for (int k = 0; k < NPO_OP_INPUTS_MAX; k++) {
            args.grad_in[k] = at(r, step->grad_in[k]);
            args.grad_prev[k] = at(r, step->grad_prev[k]);
        }
        NPO_TRY(g->backend->ops->op_backward(g->backend, &step->work, &args, error));
    }
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
    run r = {.graph = graph, .params = npo_params_data(params), .grads = npo_params_edit(grads)};
    be->ops->enter(be);
    npo_err err = run_backward(&r, scale, error);
    be->ops->leave(be);
    /* Gradients may have been written over values that a second backward would read. */
    graph->stamp = 0;
    return err;
}
