/* Planning: where every tensor lies, and the calls that are handed those places.
 *
 * Every buffer of the arena is a span of times, a time being a call's place in the order of a run.
 * A value that is computed twice has two spans: one from the forward pass, until the last call
 * outside its block's backward reads it, and one from the forward again. Gradients may share a
 * buffer (both operands of an add have the gradient of its output): a shared buffer is never added
 * to, the sum goes to a new one. */
#include "kernels/graph/plan.h"

#include <string.h>

/* ---- spans ---- */

static int add_span(npo_plan *p, size_t bytes, int first, int last)
{
    assert(p->span_count < p->n * NPO_PLAN_SPANS + 1);
    p->users[p->span_count] = 0;
    p->spans[p->span_count] = (npo_span){.bytes = bytes, .first = first, .last = last};
    return p->span_count++;
}

static npo_place in_span(int span)
{
    return (npo_place){.region = NPO_PLACE_ARENA, .offset = (size_t)span};
}

static npo_place scratch(npo_plan *p, size_t bytes, int time)
{
    return bytes ? in_span(add_span(p, bytes, time, time)) : (npo_place){0};
}

static npo_place add_private(npo_plan *p, const npo_shape *shape)
{
    npo_place place = {NPO_PLACE_PRIVATE, p->private_bytes};
    p->private_bytes += npo_plan_round(npo_plan_bytes(shape));
    return place;
}

static npo_place place_param(const npo_graph *g, const npo_graph_value *value)
{
    const npo_layout *layout = value->is_frozen ? npo_layout_base(g->layout) : g->layout;
    return (npo_place){value->is_frozen ? NPO_PLACE_BASE : NPO_PLACE_PARAM,
                       npo_layout_at(layout, value->param)->offset * sizeof(float)};
}

void npo_plan_place_fixed(npo_plan *p)
{
    const npo_graph *g = p->graph;
    for (size_t v = 0; v < g->value_count; v++) {
        npo_graph_value *value = npo_graph_at(g, (npo_value)v);
        if (value->source == NPO_SOURCE_PARAM)
            value->place = place_param(g, value);
        else if (value->is_private && value->root == (npo_value)v)
            value->place = add_private(p, &value->shape);
        if (value->source == NPO_SOURCE_INPUT && p->roots[v].needs_grad)
            value->grad = add_private(p, &value->shape);
    }
}

/* ---- what is computed twice, and when ---- */

static void want_twice(npo_plan *p, npo_value value, int block)
{
    if (value == NPO_VALUE_NONE)
        return;
    npo_value root = npo_plan_root(p, value);
    npo_root_plan *r = &p->roots[root];
    if (r->writer >= 0 && p->graph->nodes[r->writer].block == block &&
        !npo_graph_at(p->graph, root)->is_private)
        r->twice = true;
}

/* What the backward of a block reads of the block's own values, and what those are computed from,
 * up to what other blocks have left. */
static void mark_twice(npo_plan *p)
{
    for (int i = p->n - 1; i >= 0; i--) {
        const npo_graph_node *node = &p->graph->nodes[i];
        npo_node_plan *plan = &p->nodes[i];
        unsigned reads = npo_op_rule_of(node->desc.kind)->reads;
        if (!plan->live || !p->blocks[node->block].recompute)
            continue;
        for (int k = 0; node->desc.want && k < NPO_OP_INPUTS_MAX; k++)
            if (npo_in_set(reads, k))
                want_twice(p, node->in[k], node->block);
        plan->again = plan->forward && p->roots[p->graph->nodes[plan->result].out].twice;
        if (!plan->again)
            continue;
        for (int k = 0; k < NPO_OP_INPUTS_MAX; k++)
            want_twice(p, node->in[k], node->block);
        want_twice(p, plan->fused_channels, node->block);
        want_twice(p, plan->fused_add, node->block);
    }
}

static int first_of_block(const npo_plan *p, int node)
{
    while (node > 0 && p->graph->nodes[node - 1].block == p->graph->nodes[node].block)
        node--;
    return node;
}

static void set_times(npo_plan *p)
{
    int time = p->n;
    for (int i = 0; i < p->n; i++)
        p->nodes[i].forward_at = i;
    for (int end = p->n, first; end > 0; end = first) {
        first = first_of_block(p, end - 1);
        for (int i = first; i < end; i++)
            if (p->nodes[i].again)
                p->nodes[i].again_at = time++;
        for (int i = end - 1; i >= first; i--)
            p->nodes[i].backward_at = time++;
    }
}

/* ---- stays ---- */

/* The stay of a value that a node of a block reads, in the forward pass or behind it. */
static npo_stay *stay_of(const npo_plan *p, npo_value value, int block, bool forward)
{
    npo_root_plan *root = npo_plan_root_at(p, value);
    bool own = root->twice && p->graph->nodes[root->writer].block == block;
    return own && !forward ? &root->again : &root->first;
}

static void read_at(npo_stay *stay, int time)
{
    if (stay->last < time)
        stay->last = time;
}

static void find_last_uses(npo_plan *p)
{
    for (int i = 0; i < p->n; i++) {
        const npo_graph_node *node = &p->graph->nodes[i];
        const npo_op_rule *rule = npo_op_rule_of(node->desc.kind);
        const npo_node_plan *writer = &p->nodes[p->roots[node->out].writer];
        for (int k = 0; p->nodes[i].live && k < NPO_OP_INPUTS_MAX; k++) {
            if (node->in[k] == NPO_VALUE_NONE)
                continue;
            npo_stay *behind = stay_of(p, node->in[k], node->block, false);
            read_at(stay_of(p, node->in[k], node->block, true), writer->forward_at);
            if (writer->again)
                read_at(behind, writer->again_at);
            if (node->desc.want && npo_in_set(rule->reads, k))
                read_at(behind, p->nodes[i].backward_at);
        }
    }
}

static size_t stored_bytes(const npo_plan *p, npo_value root)
{
    size_t bytes = npo_plan_bytes(&npo_graph_at(p->graph, root)->shape);
    return p->roots[root].bf16 ? bytes / 2 : bytes;
}

/* The span of an operand that the call at `time` reads as the last one and may write over, or
 * NO_SPAN. */
static int find_inplace(const npo_plan *p, const npo_graph_node *node, int time, bool forward)
{
    unsigned set = npo_op_rule_of(node->desc.kind)->inplace;
    for (int k = 0; k < NPO_OP_INPUTS_MAX; k++) {
        if (!npo_in_set(set, k) || node->in[k] == NPO_VALUE_NONE)
            continue;
        const npo_stay *stay = stay_of(p, node->in[k], node->block, forward);
        if (stay->span != NPO_NO_SPAN && stay->last == time && p->spans[stay->span].last == time &&
            stored_bytes(p, npo_plan_root(p, node->in[k])) == stored_bytes(p, node->out))
            return stay->span;
    }
    return NPO_NO_SPAN;
}

/* Where the output of a call goes that computes node's value. */
static npo_place place_output(npo_plan *p, const npo_graph_node *node, int time, bool forward)
{
    const npo_graph_value *out = npo_graph_at(p->graph, node->out);
    if (out->is_private)
        return out->place;
    npo_stay *stay = stay_of(p, node->out, node->block, forward);
    read_at(stay, time);
    stay->span = find_inplace(p, node, time, forward);
    if (stay->span == NPO_NO_SPAN)
        stay->span = add_span(p, stored_bytes(p, node->out), time, stay->last);
    else if (p->spans[stay->span].last < stay->last)
        p->spans[stay->span].last = stay->last;
    return in_span(stay->span);
}

static npo_place place_of(const npo_plan *p, npo_value value, int block, bool forward)
{
    const npo_graph_value *root = npo_graph_at(p->graph, npo_plan_root(p, value));
    if (root->source != NPO_SOURCE_NODE || root->is_private)
        return root->place;
    return in_span(stay_of(p, value, block, forward)->span);
}

/* ---- calls ---- */

static npo_graph_call *add_call(npo_plan *p, int node, npo_pack_side side)
{
    npo_graph_call *call = &p->calls[p->call_count++];
    *call = (npo_graph_call){.node = node, .side = side};
    return call;
}

/* Hands a call a value that lies at `place`: in f32 where it lies, in bf16 by a copy. */
static void hand(npo_plan *p, npo_graph_call *call, int at, npo_value value, npo_place place,
                 int time)
{
    npo_value root = npo_plan_root(p, value);
    if (!p->roots[root].bf16) {
        call->at[at] = place;
        return;
    }
    call->at[NPO_AT_BF16 + at] = place;
    call->at[at] = scratch(p, npo_plan_bytes(&npo_graph_at(p->graph, root)->shape), time);
}

static void hand_operand(npo_plan *p, npo_graph_call *call, int at, npo_value value, int time,
                         bool forward)
{
    int block = p->graph->nodes[call->node].block;
    if (value != NPO_VALUE_NONE)
        hand(p, call, at, value, place_of(p, value, block, forward), time);
}

/* Weights that are packed or rounded for this call. */
static void hand_weights(npo_plan *p, npo_graph_call *call, int time)
{
    const npo_graph_node *node = &p->graph->nodes[call->node];
    const npo_graph_step *step = &p->graph->steps[call->node];
    size_t bytes =
        call->side == NPO_PACK_FORWARD ? step->work.packed_forward : step->work.packed_backward;
    bool kept = step->slot[call->side].region != NPO_PLACE_NONE;
    call->at[NPO_AT_PACKED] = kept ? step->slot[call->side] : scratch(p, bytes, time);
    if (!kept && p->options->compute == NPO_COMPUTE_BF16 &&
        npo_in_set(npo_op_rule_of(node->desc.kind)->weights, 1) &&
        (call->at[NPO_AT_IN + 1].region == NPO_PLACE_PARAM ||
         call->at[NPO_AT_IN + 1].region == NPO_PLACE_BASE))
        call->at[NPO_AT_ROUNDED] = scratch(p, npo_plan_bytes(&node->desc.in[1]), time);
}

static void place_forward(npo_plan *p, int i, int time, bool again)
{
    const npo_graph_node *node = &p->graph->nodes[i];
    const npo_op_work *work = &p->graph->steps[i].work;
    npo_node_plan *plan = &p->nodes[i];
    const npo_graph_node *result = &p->graph->nodes[plan->result];
    npo_graph_call *call = add_call(p, i, NPO_PACK_FORWARD);
    for (int k = 0; k < NPO_OP_INPUTS_MAX; k++)
        hand_operand(p, call, NPO_AT_IN + k, node->in[k], time, !again);
    hand_operand(p, call, NPO_AT_CHANNELS, plan->fused_channels, time, !again);
    hand_operand(p, call, NPO_AT_ADD, plan->fused_add, time, !again);
    hand(p, call, NPO_AT_OUT, result->out, place_output(p, result, time, !again), time);
    /* The forward again writes the same there. */
    if (!again && work->saved)
        plan->saved =
            in_span(add_span(p, work->saved, time, work->desc.keep ? plan->backward_at : time));
    call->at[NPO_AT_SAVED] = plan->saved;
    call->at[NPO_AT_SCRATCH] = scratch(p, work->scratch_forward, time);
    hand_weights(p, call, time);
}

/* ---- gradients ---- */

static int begin_grad(npo_plan *p, npo_value root, int time)
{
    int span = add_span(p, npo_plan_bytes(&npo_graph_at(p->graph, root)->shape), time, time);
    p->users[span] = 1;
    p->roots[root].grad = span;
    return span;
}

static void leave_grad(npo_plan *p, int span, int time)
{
    p->users[span]--;
    if (p->spans[span].last < time)
        p->spans[span].last = time;
}

/* Gradients that lie outside the arena: of parameters, which always add up, and of inputs. */
static bool place_outer_grad(npo_plan *p, npo_graph_call *call, int k, npo_value root)
{
    const npo_graph_value *value = npo_graph_at(p->graph, root);
    if (value->source == NPO_SOURCE_PARAM) {
        call->at[NPO_AT_GRAD_IN + k] = (npo_place){NPO_PLACE_GRAD, value->place.offset};
        call->at[NPO_AT_GRAD_PREV + k] = call->at[NPO_AT_GRAD_IN + k];
        return true;
    }
    if (value->source != NPO_SOURCE_INPUT)
        return false;
    call->at[NPO_AT_GRAD_IN + k] = value->grad;
    if (p->roots[root].grad_begun)
        call->at[NPO_AT_GRAD_PREV + k] = value->grad;
    p->roots[root].grad_begun = true;
    return true;
}

/* Decides where operand k's gradient goes in the backward of a node: into the output's own buffer
 * (nothing to do: false), over it, into a new buffer, or added to what others have left. */
static bool place_grad(npo_plan *p, npo_graph_call *call, int k, int time)
{
    const npo_graph_node *node = &p->graph->nodes[call->node];
    const npo_op_rule *rule = npo_op_rule_of(node->desc.kind);
    npo_value root = npo_plan_root(p, node->in[k]);
    if (place_outer_grad(p, call, k, root))
        return true;
    int out = p->roots[node->out].grad, old = p->roots[root].grad;
    if (old == NPO_NO_SPAN && npo_in_set(rule->identity, k)) {
        p->roots[root].grad = out;
        p->users[out]++;
        return false;
    }
    if (old == NPO_NO_SPAN && k == 0 && rule->overwrite && p->users[out] == 1) {
        p->roots[root].grad = out;
        p->users[out]++;
    } else if (old == NPO_NO_SPAN) {
        begin_grad(p, root, time);
    } else {
        call->at[NPO_AT_GRAD_PREV + k] = in_span(old);
        if (p->users[old] > 1) {
            leave_grad(p, old, time);
            begin_grad(p, root, time);
        }
    }
    call->at[NPO_AT_GRAD_IN + k] = in_span(p->roots[root].grad);
    return true;
}

static void place_backward(npo_plan *p, int i, int time)
{
    const npo_graph_node *node = &p->graph->nodes[i];
    unsigned reads = npo_op_rule_of(node->desc.kind)->reads;
    int out = p->roots[node->out].grad;
    bool work = false;
    if (!node->desc.want)
        return;
    assert(out != NPO_NO_SPAN);
    npo_graph_call *call = add_call(p, i, NPO_PACK_BACKWARD);
    call->at[NPO_AT_GRAD_OUT] = in_span(out);
    for (int k = 0; k < NPO_OP_INPUTS_MAX; k++)
        if (npo_in_set(node->desc.want, k) && place_grad(p, call, k, time))
            work = true;
    leave_grad(p, out, time);
    if (!work) {
        p->call_count--;
        return;
    }
    for (int k = 0; k < NPO_OP_INPUTS_MAX; k++)
        if (npo_in_set(reads, k))
            hand_operand(p, call, NPO_AT_IN + k, node->in[k], time, false);
    call->at[NPO_AT_SAVED] = p->nodes[i].saved;
    call->at[NPO_AT_SCRATCH] = scratch(p, p->graph->steps[i].work.scratch_backward, time);
    hand_weights(p, call, time);
}

/* ---- the whole ---- */

static void reset(npo_plan *p)
{
    for (size_t v = 0; v < p->graph->value_count; v++) {
        npo_root_plan *root = &p->roots[v];
        root->twice = root->grad_begun = false;
        root->grad = NPO_NO_SPAN;
        root->first = root->again = (npo_stay){NPO_NEVER, NPO_NO_SPAN};
    }
    for (int i = 0; i < p->n; i++) {
        p->nodes[i].again = false;
        p->nodes[i].saved = (npo_place){0};
    }
    p->span_count = 0;
    p->call_count = 0;
    p->loss_grad = (npo_place){0};
}

static void place_backward_pass(npo_plan *p)
{
    if (p->options->loss == NPO_VALUE_NONE || !npo_plan_root_at(p, p->options->loss)->has_grad)
        return;
    p->loss_grad = in_span(begin_grad(p, npo_plan_root(p, p->options->loss), p->n - 1));
    for (int end = p->n, first; end > 0; end = first) {
        first = first_of_block(p, end - 1);
        for (int i = first; i < end; i++)
            if (p->nodes[i].again)
                place_forward(p, i, p->nodes[i].again_at, true);
        for (int i = end - 1; i >= first; i--)
            place_backward(p, i, p->nodes[i].backward_at);
    }
}

void npo_plan_place(npo_plan *p)
{
    reset(p);
    mark_twice(p);
    set_times(p);
    find_last_uses(p);
    for (int i = 0; i < p->n; i++)
        if (p->nodes[i].forward)
            place_forward(p, i, i, false);
    p->forward_calls = p->call_count;
    place_backward_pass(p);
}
