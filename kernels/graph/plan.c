/* Planning: which ops run, which gradients are wanted, where every tensor lies.
 *
 * Time: the forward of node i is step i, its backward step 2n - 1 - i. Every buffer of the arena is
 * a span of steps. Gradients may share a buffer (both operands of an add have the gradient of its
 * output): a shared buffer is never added to, the sum goes to a new one. */
#include "kernels/graph/state.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { NO_SPAN = -1, SPANS_PER_NODE = 4 + NPO_PACK_SIDES + NPO_OP_INPUTS_MAX };

typedef struct {
    bool needs_grad; /* depends on something that is trained, or on an input with input_grads */
    bool has_grad;   /* needs one, and the loss depends on it */
    int uses;        /* operands of live nodes that show this memory */
    int last;        /* last step that reads it */
    int span;        /* its memory in the arena */
    int grad;        /* span of its gradient so far; NO_SPAN: none, or not in the arena */
    bool grad_begun; /* of an input: something was written */
    bool absorbed;   /* never written: an add is fused into its writer */
    int writer;      /* the node whose forward writes it, after fusion; -1: none */
} root_plan;

typedef struct {
    npo_graph *graph;
    const npo_plan_options *options;
    int n; /* nodes */
    bool *live;
    root_plan *roots; /* by value; only those of roots are used */
    npo_span *spans;
    int *users; /* by span: gradients in it that are still to be read */
    int span_count;
    size_t private_bytes;
    npo_plan_info info;
} plan;

static npo_value root_of(const plan *p, npo_value value)
{
    return npo_graph_at(p->graph, value)->root;
}

static root_plan *root_at(const plan *p, npo_value value)
{
    return &p->roots[root_of(p, value)];
}

static bool in_set(unsigned set, int i)
{
    return set >> i & 1;
}

static int backward_step(const plan *p, int node)
{
    return 2 * p->n - 1 - node;
}

static size_t bytes_of(const npo_shape *shape)
{
    return (size_t)npo_shape_count(shape) * 4;
}

static size_t round_bytes(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* ---- what is needed ---- */

static void mark_live(plan *p)
{
    const npo_graph *g = p->graph;
    bool *wanted = p->live + p->n; /* by value */
    for (size_t i = 0; i < g->output_count; i++)
        wanted[root_of(p, g->outputs[i].value)] = true;
    if (p->options->loss != NPO_VALUE_NONE)
        wanted[root_of(p, p->options->loss)] = true;
    for (int i = p->n - 1; i >= 0; i--) {
        const npo_graph_node *node = &g->nodes[i];
        p->live[i] = wanted[node->out];
        for (int k = 0; p->live[i] && k < NPO_OP_INPUTS_MAX; k++)
            if (node->in[k] != NPO_VALUE_NONE)
                wanted[root_of(p, node->in[k])] = true;
    }
}

static void mark_needs_grad(plan *p)
{
    const npo_graph *g = p->graph;
    for (size_t v = 0; v < g->value_count; v++) {
        const npo_graph_value *value = npo_graph_at(g, (npo_value)v);
        bool input = value->source == NPO_SOURCE_INPUT && value->shape.dtype == NPO_F32;
        p->roots[v].needs_grad =
            value->source == NPO_SOURCE_PARAM || (input && p->options->input_grads);
    }
    for (int i = 0; i < p->n; i++) {
        const npo_graph_node *node = &g->nodes[i];
        unsigned grads = npo_op_rule_of(node->desc.kind)->grads;
        for (int k = 0; k < NPO_OP_INPUTS_MAX; k++)
            if (in_set(grads, k) && node->in[k] != NPO_VALUE_NONE &&
                root_at(p, node->in[k])->needs_grad)
                p->roots[node->out].needs_grad = true;
    }
}

static void mark_has_grad(plan *p)
{
    const npo_graph *g = p->graph;
    root_plan *loss = root_at(p, p->options->loss);
    loss->has_grad = loss->needs_grad;
    for (int i = p->n - 1; i >= 0; i--) {
        npo_graph_node *node = &g->nodes[i];
        unsigned grads = npo_op_rule_of(node->desc.kind)->grads;
        for (int k = 0; p->roots[node->out].has_grad && k < NPO_OP_INPUTS_MAX; k++) {
            if (!in_set(grads, k) || node->in[k] == NPO_VALUE_NONE ||
                !root_at(p, node->in[k])->needs_grad)
                continue;
            root_at(p, node->in[k])->has_grad = true;
            node->desc.want |= 1u << k;
        }
        node->desc.keep = node->desc.want != 0;
    }
}

static void count_uses(plan *p)
{
    for (int i = 0; i < p->n; i++) {
        const npo_graph_node *node = &p->graph->nodes[i];
        for (int k = 0; p->live[i] && k < NPO_OP_INPUTS_MAX; k++)
            if (node->in[k] != NPO_VALUE_NONE)
                root_at(p, node->in[k])->uses++;
    }
}

/* ---- fusion of adds into the op before ---- */

/* Whether node `add` can be done by the op that writes its operand k: nobody else sees that
 * operand, and the other one is there in time. */
static bool can_fuse(const plan *p, int add, int k)
{
    const npo_graph *g = p->graph;
    const npo_graph_node *node = &g->nodes[add];
    npo_value root = root_of(p, node->in[k]);
    const root_plan *mine = &p->roots[root], *other = root_at(p, node->in[1 - k]);
    if (npo_graph_at(g, root)->source != NPO_SOURCE_NODE || npo_graph_at(g, root)->is_private ||
        mine->uses != 1 || other->writer >= mine->writer)
        return false;
    const npo_op_desc *desc = &g->nodes[mine->writer].desc;
    if (!g->backend->ops->op_fuses(g->backend, desc, node->desc.kind))
        return false;
    if (node->desc.kind == NPO_OP_ADD)
        return !desc->fused_add;
    return !desc->fused_channels && !desc->fused_add &&
           desc->out.dims[0] == node->desc.out.dims[0] &&
           npo_shape_last(&desc->out) == npo_shape_last(&node->desc.out);
}

static void fuse_into(plan *p, int add, int k)
{
    npo_graph_node *node = &p->graph->nodes[add];
    int writer = root_at(p, node->in[k])->writer;
    npo_op_desc *desc = &p->graph->nodes[writer].desc;
    *(node->desc.kind == NPO_OP_ADD ? &desc->fused_add : &desc->fused_channels) = true;
    p->roots[node->out].writer = writer;
    root_at(p, node->in[k])->absorbed = true;
    npo_graph_step *step = &p->graph->steps[writer];
    /* The value, until places are known (place_steps). */
    npo_place *place = node->desc.kind == NPO_OP_ADD ? &step->fused_add : &step->fused_channels;
    place->offset = (size_t)node->in[1 - k];
    p->graph->steps[add].forward = false;
}

static void fuse_adds(plan *p)
{
    for (int i = 0; i < p->n; i++) {
        const npo_graph_node *node = &p->graph->nodes[i];
        p->roots[node->out].writer = i;
        p->graph->steps[i].forward = p->live[i];
        bool add = node->desc.kind == NPO_OP_ADD;
        if (!p->live[i] || !(add || node->desc.kind == NPO_OP_ADD_CHANNELS))
            continue;
        if (add && can_fuse(p, i, 1))
            fuse_into(p, i, 1);
        else if (can_fuse(p, i, 0))
            fuse_into(p, i, 0);
    }
}

/* ---- lifetimes ---- */

static void read_at(plan *p, npo_value value, int step)
{
    root_plan *root = root_at(p, value);
    if (root->last < step)
        root->last = step;
}

static void find_last_uses(plan *p)
{
    for (int i = 0; i < p->n; i++) {
        const npo_graph_node *node = &p->graph->nodes[i];
        const npo_op_rule *rule = npo_op_rule_of(node->desc.kind);
        for (int k = 0; p->live[i] && k < NPO_OP_INPUTS_MAX; k++) {
            if (node->in[k] == NPO_VALUE_NONE)
                continue;
            read_at(p, node->in[k], p->roots[node->out].writer);
            if (node->desc.want && in_set(rule->reads, k))
                read_at(p, node->in[k], backward_step(p, i));
        }
    }
}

static int add_span(plan *p, size_t bytes, int first, int last)
{
    p->spans[p->span_count] = (npo_span){.bytes = bytes, .first = first, .last = last};
    return p->span_count++;
}

static npo_place in_span(int span)
{
    return (npo_place){.region = NPO_PLACE_ARENA, .offset = (size_t)span};
}

static npo_place scratch(plan *p, size_t bytes, int step)
{
    return bytes ? in_span(add_span(p, bytes, step, step)) : (npo_place){0};
}

static npo_place add_private(plan *p, const npo_shape *shape)
{
    npo_place place = {NPO_PLACE_PRIVATE, p->private_bytes};
    p->private_bytes += round_bytes(bytes_of(shape));
    return place;
}

static void place_fixed(plan *p)
{
    const npo_graph *g = p->graph;
    for (size_t v = 0; v < g->value_count; v++) {
        npo_graph_value *value = npo_graph_at(g, (npo_value)v);
        if (value->source == NPO_SOURCE_PARAM)
            value->place =
                (npo_place){NPO_PLACE_PARAM, npo_layout_at(g->layout, value->param)->offset * 4};
        else if (value->is_private && value->root == (npo_value)v)
            value->place = add_private(p, &value->shape);
        if (value->source == NPO_SOURCE_INPUT && p->roots[v].needs_grad)
            value->grad = add_private(p, &value->shape);
    }
}

/* The span of an operand that node's forward, in step `step`, reads as the last one and may write
 * over, or NO_SPAN. */
static int find_inplace(const plan *p, const npo_graph_node *node, int step)
{
    unsigned set = npo_op_rule_of(node->desc.kind)->inplace;
    for (int k = 0; k < NPO_OP_INPUTS_MAX; k++) {
        if (!in_set(set, k) || node->in[k] == NPO_VALUE_NONE)
            continue;
        const root_plan *root = root_at(p, node->in[k]);
        if (root->span != NO_SPAN && root->last == step && p->spans[root->span].last == step &&
            bytes_of(&node->desc.in[k]) == bytes_of(&node->desc.out))
            return root->span;
    }
    return NO_SPAN;
}

static void place_activations(plan *p)
{
    const npo_graph *g = p->graph;
    for (int i = 0; i < p->n; i++) {
        const npo_graph_node *node = &g->nodes[i];
        npo_graph_value *out = npo_graph_at(g, node->out);
        root_plan *root = &p->roots[node->out];
        if (!p->live[i] || out->is_private || root->absorbed)
            continue;
        int step = root->writer;
        if (root->last < step)
            root->last = step;
        root->span = find_inplace(p, node, step);
        if (root->span == NO_SPAN)
            root->span = add_span(p, bytes_of(&out->shape), step, root->last);
        else if (p->spans[root->span].last < root->last)
            p->spans[root->span].last = root->last;
        out->place = in_span(root->span);
    }
}

/* ---- preparing ops ---- */

static npo_place place_of(const plan *p, npo_value value)
{
    if (value == NPO_VALUE_NONE)
        return (npo_place){0};
    return npo_graph_at(p->graph, root_of(p, value))->place;
}

static void place_steps(plan *p)
{
    npo_graph *g = p->graph;
    for (int i = 0; i < p->n; i++) {
        const npo_graph_node *node = &g->nodes[i];
        npo_graph_step *step = &g->steps[i];
        for (int k = 0; k < NPO_OP_INPUTS_MAX; k++)
            step->in[k] = place_of(p, node->in[k]);
        if (p->live[i] && !p->roots[node->out].absorbed)
            g->steps[p->roots[node->out].writer].out = place_of(p, node->out);
        if (node->desc.fused_channels)
            step->fused_channels = place_of(p, (npo_value)step->fused_channels.offset);
        if (node->desc.fused_add)
            step->fused_add = place_of(p, (npo_value)step->fused_add.offset);
    }
}

static npo_err prepare_ops(plan *p, npo_error *error)
{
    npo_graph *g = p->graph;
    for (int i = 0; i < p->n; i++) {
        npo_graph_step *step = &g->steps[i];
        step->work = (npo_op_work){.desc = g->nodes[i].desc};
        if (!p->live[i])
            continue;
        NPO_TRY(g->backend->ops->op_prepare(g->backend, &step->work, error));
        step->prepared = true;
        int end = step->work.desc.keep ? backward_step(p, i) : i;
        if (step->work.saved)
            step->saved = in_span(add_span(p, step->work.saved, i, end));
        if (step->forward)
            step->scratch_forward = scratch(p, step->work.scratch_forward, i);
    }
    return NPO_OK;
}

/* ---- packed weights ---- */

/* Slots hold whole sets of weights. A graph that trains sees a new version of one set each time;
 * one that only infers alternates between a few sets (two networks of a guidance, and one spare).
 * Without a slot weights are packed in the arena for the time of a call. */
static void choose_slots(plan *p)
{
    npo_graph *g = p->graph;
    size_t bytes = 0;
    for (int i = 0; i < p->n; i++)
        bytes += round_bytes(g->steps[i].work.packed_forward) +
                 round_bytes(g->steps[i].work.packed_backward);
    size_t limit = p->options->packed_bytes ? p->options->packed_bytes : NPO_PACKED_BYTES_DEFAULT;
    size_t wanted = p->options->loss != NPO_VALUE_NONE ? 1 : NPO_PACK_SLOTS_MAX;
    size_t most = bytes ? limit / bytes : 0;
    g->slot_count = most < wanted ? most : wanted;
    g->slot_bytes = g->slot_count ? bytes : 0;
}

static void place_packed(plan *p)
{
    npo_graph *g = p->graph;
    size_t offset = 0;
    choose_slots(p);
    for (int i = 0; i < p->n; i++) {
        npo_graph_step *step = &g->steps[i];
        const size_t bytes[] = {step->work.packed_forward, step->work.packed_backward};
        const int times[] = {i, backward_step(p, i)};
        for (int side = 0; side < NPO_PACK_SIDES; side++) {
            step->packed[side] = g->slot_count && bytes[side]
                                     ? (npo_place){NPO_PLACE_SLOT, offset}
                                     : scratch(p, bytes[side], times[side]);
            offset += round_bytes(bytes[side]);
        }
    }
}

/* ---- gradients ---- */

static int begin_grad(plan *p, npo_value root, int step)
{
    int span = add_span(p, bytes_of(&npo_graph_at(p->graph, root)->shape), step, step);
    p->users[span] = 1;
    p->roots[root].grad = span;
    return span;
}

static void leave_grad(plan *p, int span, int step)
{
    p->users[span]--;
    if (p->spans[span].last < step)
        p->spans[span].last = step;
}

/* Gradients that lie outside the arena: of parameters, which always add up, and of inputs. */
static bool place_outer_grad(plan *p, npo_graph_step *step, int k, npo_value root)
{
    const npo_graph_value *value = npo_graph_at(p->graph, root);
    if (value->source == NPO_SOURCE_PARAM) {
        step->grad_in[k] = (npo_place){NPO_PLACE_GRAD, value->place.offset};
        step->grad_prev[k] = step->grad_in[k];
        return true;
    }
    if (value->source != NPO_SOURCE_INPUT)
        return false;
    step->grad_in[k] = value->grad;
    if (p->roots[root].grad_begun)
        step->grad_prev[k] = value->grad;
    p->roots[root].grad_begun = true;
    return true;
}

/* Decides where operand k's gradient goes in the backward of a node: into the output's own buffer
 * (nothing to do), over it, into a new buffer, or added to what others have left. */
static void place_grad(plan *p, const npo_graph_node *node, npo_graph_step *step, int k, int time)
{
    const npo_op_rule *rule = npo_op_rule_of(node->desc.kind);
    npo_value root = root_of(p, node->in[k]);
    if (place_outer_grad(p, step, k, root)) {
        step->backward = true;
        return;
    }
    int out = p->roots[node->out].grad, old = p->roots[root].grad;
    if (old == NO_SPAN && in_set(rule->identity, k)) {
        p->roots[root].grad = out;
        p->users[out]++;
        return;
    }
    step->backward = true;
    if (old == NO_SPAN && k == 0 && rule->overwrite && p->users[out] == 1) {
        p->roots[root].grad = out;
        p->users[out]++;
    } else if (old == NO_SPAN) {
        begin_grad(p, root, time);
    } else {
        step->grad_prev[k] = in_span(old);
        if (p->users[old] > 1) {
            leave_grad(p, old, time);
            begin_grad(p, root, time);
        }
    }
    step->grad_in[k] = in_span(p->roots[root].grad);
}

static void place_gradients(plan *p)
{
    npo_graph *g = p->graph;
    if (p->options->loss == NPO_VALUE_NONE || !root_at(p, p->options->loss)->has_grad)
        return;
    npo_value loss = root_of(p, p->options->loss);
    g->loss_grad = in_span(begin_grad(p, loss, p->n - 1));
    for (int i = p->n - 1; i >= 0; i--) {
        const npo_graph_node *node = &g->nodes[i];
        npo_graph_step *step = &g->steps[i];
        int out = p->roots[node->out].grad, time = backward_step(p, i);
        if (!node->desc.want)
            continue;
        assert(out != NO_SPAN);
        step->grad_out = in_span(out);
        for (int k = 0; k < NPO_OP_INPUTS_MAX; k++)
            if (in_set(node->desc.want, k))
                place_grad(p, node, step, k, time);
        leave_grad(p, out, time);
        if (step->backward)
            step->scratch_backward = scratch(p, step->work.scratch_backward, time);
    }
}

/* ---- memory ---- */

static void resolve(const plan *p, npo_place *place)
{
    if (place->region == NPO_PLACE_ARENA)
        place->offset = p->spans[place->offset].offset;
}

static void resolve_places(plan *p)
{
    npo_graph *g = p->graph;
    for (size_t v = 0; v < g->value_count; v++)
        resolve(p, &npo_graph_at(g, (npo_value)v)->place);
    for (int i = 0; i < p->n; i++) {
        npo_graph_step *s = &g->steps[i];
        npo_place *const single[] = {&s->out,
                                     &s->fused_channels,
                                     &s->fused_add,
                                     &s->grad_out,
                                     &s->saved,
                                     &s->scratch_forward,
                                     &s->scratch_backward,
                                     &s->packed[NPO_PACK_FORWARD],
                                     &s->packed[NPO_PACK_BACKWARD]};
        for (size_t k = 0; k < sizeof single / sizeof *single; k++)
            resolve(p, single[k]);
        for (int k = 0; k < NPO_OP_INPUTS_MAX; k++) {
            resolve(p, &s->in[k]);
            resolve(p, &s->grad_in[k]);
            resolve(p, &s->grad_prev[k]);
        }
    }
    resolve(p, &g->loss_grad);
}

static npo_err allocate(plan *p, npo_error *error)
{
    npo_graph *g = p->graph;
    const npo_backend_ops *ops = g->backend->ops;
    size_t arena = 0;
    npo_err err = npo_arena_pack(p->spans, (size_t)p->span_count, &arena);
    if (!err)
        err = npo_backend_reserve(g->backend, arena);
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
    p->info.private_bytes = p->private_bytes + g->slot_count * g->slot_bytes;
    return NPO_OK;
}

static void count_flops(plan *p)
{
    for (int i = 0; i < p->n; i++) {
        const npo_op_desc *desc = &p->graph->nodes[i].desc;
        const npo_op_rule *rule = npo_op_rule_of(desc->kind);
        if (!p->live[i])
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

static npo_err open_plan(plan *p, npo_error *error)
{
    npo_graph *g = p->graph;
    size_t n = g->node_count, values = g->value_count;
    p->n = (int)n;
    p->live = calloc(n + values + 1, sizeof *p->live);
    p->roots = calloc(values + 1, sizeof *p->roots);
    p->spans = calloc(n * SPANS_PER_NODE + 1, sizeof *p->spans);
    p->users = calloc(n * SPANS_PER_NODE + 1, sizeof *p->users);
    g->steps = calloc(n + 1, sizeof *g->steps);
    if (!p->live || !p->roots || !p->spans || !p->users || !g->steps)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory while planning a graph");
    for (size_t v = 0; v < values; v++)
        p->roots[v] = (root_plan){.last = -1, .span = NO_SPAN, .grad = NO_SPAN, .writer = -1};
    return NPO_OK;
}

static npo_err make_plan(plan *p, npo_error *error)
{
    npo_graph *g = p->graph;
    npo_value loss = p->options->loss;
    if (loss != NPO_VALUE_NONE)
        npo_graph_at(g, root_of(p, loss))->is_private = true;
    mark_live(p);
    if (loss != NPO_VALUE_NONE) {
        mark_needs_grad(p);
        mark_has_grad(p);
    }
    count_uses(p);
    fuse_adds(p);
    find_last_uses(p);
    place_fixed(p);
    place_activations(p);
    place_steps(p);
    NPO_TRY(prepare_ops(p, error));
    place_packed(p);
    place_gradients(p);
    NPO_TRY(allocate(p, error));
    resolve_places(p);
    count_flops(p);
    return NPO_OK;
}

npo_err npo_graph_plan(npo_graph *graph, const npo_plan_options *options, npo_plan_info *ret_info,
                       npo_error *error)
{
    plan p = {.graph = graph, .options = options};
    assert(!graph->planned);
    if (graph->err) {
        if (error)
            *error = graph->error;
        return graph->err;
    }
    NPO_TRY(check_loss(graph, options->loss, error));
    graph->planned = true;
    graph->loss = options->loss;
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
    free(p.live);
    free(p.roots);
    free(p.spans);
    free(p.users);
    return err;
}
