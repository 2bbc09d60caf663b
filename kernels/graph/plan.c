/* Planning, the whole. Ops are prepared once; where everything lies is then worked out for as many
 * choices of blocks that are computed twice as it takes to fit the memory. */
#include "kernels/graph/plan.h"

#include <stdlib.h>

enum { SLOTS_SHARE = 4 }; /* of a limited memory, packed weights may take this part */

static npo_err prepare_ops(npo_plan *p, npo_error *error)
{
    npo_graph *g = p->graph;
    for (int i = 0; i < p->n; i++) {
        npo_graph_step *step = &g->steps[i];
        step->work = (npo_op_work){.desc = g->nodes[i].desc};
        if (!p->nodes[i].live)
            continue;
        NPO_TRY(g->backend->ops->op_prepare(g->backend, &step->work, error));
        step->prepared = true;
    }
    return NPO_OK;
}

/* ---- packed weights ---- */

/* Slots hold whole sets of weights. A graph that trains sees a new version of one set each time;
 * one that only infers alternates between a few sets (two networks of a guidance, and one spare).
 * Without a slot weights are packed in the arena for the time of a call. */
static void choose_slots(npo_plan *p)
{
    npo_graph *g = p->graph;
    size_t bytes = 0;
    for (int i = 0; i < p->n; i++)
        bytes += npo_plan_round(g->steps[i].work.packed_forward) +
                 npo_plan_round(g->steps[i].work.packed_backward);
    size_t limit = p->options->packed_bytes ? p->options->packed_bytes : NPO_PACKED_BYTES_DEFAULT;
    if (p->options->memory_bytes && limit > p->options->memory_bytes / SLOTS_SHARE)
        limit = p->options->memory_bytes / SLOTS_SHARE;
    size_t wanted = p->options->loss != NPO_VALUE_NONE ? 1 : NPO_PACK_SLOTS_MAX;
    size_t most = bytes ? limit / bytes : 0;
    g->slot_count = most < wanted ? most : wanted;
    g->slot_bytes = g->slot_count ? bytes : 0;
}

static void place_slots(npo_plan *p)
{
    npo_graph *g = p->graph;
    size_t offset = 0;
    choose_slots(p);
    for (int i = 0; g->slot_count && i < p->n; i++) {
        npo_graph_step *step = &g->steps[i];
        const size_t bytes[] = {step->work.packed_forward, step->work.packed_backward};
        for (int side = 0; side < NPO_PACK_SIDES; side++) {
            if (bytes[side])
                step->slot[side] = (npo_place){NPO_PLACE_SLOT, offset};
            offset += npo_plan_round(bytes[side]);
        }
    }
}

/* Bytes at the beginning of the arena in which weights are rounded on their way to a slot, which
 * happens before a run has put anything there. */
static size_t rounding_bytes(const npo_plan *p)
{
    size_t most = 0;
    for (int i = 0; p->graph->slot_count && p->graph->bf16 && i < p->n; i++) {
        const npo_op_desc *desc = &p->graph->nodes[i].desc;
        bool weights = npo_in_set(npo_op_rule_of(desc->kind)->weights, 1);
        if (weights && npo_plan_bytes(&desc->in[1]) > most)
            most = npo_plan_bytes(&desc->in[1]);
    }
    return most;
}

/* ---- memory ---- */

static npo_err allocate(npo_plan *p, size_t arena, npo_error *error)
{
    npo_graph *g = p->graph;
    const npo_backend_ops *ops = g->backend->ops;
    npo_err err = npo_backend_reserve(g->backend, arena);
    if (!err)
        err = ops->alloc(g->backend, p->private_bytes + 64, &g->memory);
    for (size_t i = 0; !err && i < g->slot_count; i++)
        err = ops->alloc(g->backend, g->slot_bytes, &g->slots[i].memory);
    if (err)
        return npo_error_set(error, err,
                             "cannot plan a graph of %d ops: %zu MiB of activations, "
                             "%zu MiB of inputs and outputs, %zu times %zu MiB of weights: %s",
                             p->n, arena >> 20, p->private_bytes >> 20, g->slot_count,
                             g->slot_bytes >> 20, npo_err_text(err));
    p->info.arena_bytes = arena;
    p->info.private_bytes = npo_plan_fixed_bytes(p);
    return NPO_OK;
}

/* Spans have their offsets now: the calls go to the graph. */
static npo_err keep_calls(npo_plan *p, npo_error *error)
{
    npo_graph *g = p->graph;
    g->calls = calloc(p->call_count + 1, sizeof *g->calls);
    if (!g->calls)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory while planning a graph");
    for (size_t i = 0; i < p->call_count; i++) {
        g->calls[i] = p->calls[i];
        for (int k = 0; k < NPO_CALL_PLACES; k++) {
            npo_place *place = &g->calls[i].at[k];
            if (place->region == NPO_PLACE_ARENA)
                place->offset = p->spans[place->offset].offset;
        }
    }
    g->call_count = p->call_count;
    g->forward_calls = p->forward_calls;
    g->loss_grad = p->loss_grad;
    if (g->loss_grad.region == NPO_PLACE_ARENA)
        g->loss_grad.offset = p->spans[g->loss_grad.offset].offset;
    return NPO_OK;
}

static void count_flops(npo_plan *p)
{
    for (int i = 0; i < p->n; i++) {
        const npo_op_desc *desc = &p->graph->nodes[i].desc;
        const npo_op_rule *rule = npo_op_rule_of(desc->kind);
        if (!p->nodes[i].live)
            continue;
        p->info.forward_flops += rule->flops(desc);
        p->info.backward_flops += rule->flops_backward(desc);
    }
}

/* ---- the whole ---- */

static npo_err check_loss(const npo_graph *g, npo_value loss, npo_error *error)
{
    if (loss == NPO_VALUE_NONE)
        return NPO_OK;
    assert(loss >= 0 && (size_t)loss < g->value_count);
    const npo_graph_value *value = npo_graph_at(g, loss);
    char text[NPO_SHAPE_TEXT_MAX];
    if (npo_shape_count(&value->shape) != 1 ||
        npo_graph_at(g, value->root)->source != NPO_SOURCE_NODE)
        return npo_error_set(error, NPO_E_SHAPE, "loss: shape %s, expected a computed scalar",
                             npo_shape_format(&value->shape, text));
    return NPO_OK;
}

static npo_err open_plan(npo_plan *p, npo_error *error)
{
    npo_graph *g = p->graph;
    size_t n = g->node_count, values = g->value_count, spans = n * NPO_PLAN_SPANS + 1;
    p->n = (int)n;
    p->block_count = n ? g->nodes[n - 1].block + 1 : 1;
    p->nodes = calloc(n + 1, sizeof *p->nodes);
    p->roots = calloc(values + 1, sizeof *p->roots);
    p->blocks = calloc((size_t)p->block_count, sizeof *p->blocks);
    p->spans = calloc(spans, sizeof *p->spans);
    p->users = calloc(spans, sizeof *p->users);
    p->calls = calloc(n * NPO_PLAN_CALLS + 1, sizeof *p->calls);
    g->steps = calloc(n + 1, sizeof *g->steps);
    if (!p->nodes || !p->roots || !p->blocks || !p->spans || !p->users || !p->calls || !g->steps)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory while planning a graph");
    for (size_t v = 0; v < values; v++)
        p->roots[v].writer = -1;
    return NPO_OK;
}

static void close_plan(npo_plan *p)
{
    free(p->nodes);
    free(p->roots);
    free(p->blocks);
    free(p->spans);
    free(p->users);
    free(p->calls);
}

static npo_err make_plan(npo_plan *p, npo_error *error)
{
    npo_graph *g = p->graph;
    size_t arena = 0;
    if (p->options->loss != NPO_VALUE_NONE)
        npo_graph_at(g, npo_plan_root(p, p->options->loss))->is_private = true;
    npo_plan_need(p);
    npo_plan_fuse(p);
    NPO_TRY(prepare_ops(p, error));
    npo_plan_place_fixed(p);
    place_slots(p);
    NPO_TRY(npo_plan_fit(p, &arena, error));
    size_t rounding = rounding_bytes(p);
    NPO_TRY(allocate(p, arena > rounding ? arena : rounding, error));
    NPO_TRY(keep_calls(p, error));
    count_flops(p);
    p->info.blocks = p->block_count;
    return NPO_OK;
}

npo_err npo_graph_plan(npo_graph *graph, const npo_plan_options *options, npo_plan_info *ret_info,
                       npo_error *error)
{
    npo_plan p = {.graph = graph, .options = options};
    assert(!graph->planned);
    if (graph->err) {
        if (error)
            *error = graph->error;
        return graph->err;
    }
    NPO_TRY(check_loss(graph, options->loss, error));
    graph->planned = true;
    graph->loss = options->loss;
    graph->bf16 = options->compute == NPO_COMPUTE_BF16;
    npo_err err = open_plan(&p, error);
    if (!err) {
        graph->backend->ops->enter(graph->backend);
        err = make_plan(&p, error);
        graph->backend->ops->leave(graph->backend);
    }
    if (err)
        graph->err = err;
    else if (ret_info)
        *ret_info = p.info;
    close_plan(&p);
    return err;
}
