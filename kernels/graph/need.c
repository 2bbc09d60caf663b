/* Planning: which ops run and which gradients are wanted. */
#include "kernels/graph/plan.h"

/* An output counts as a use. */
static void mark_live(npo_plan *p)
{
    const npo_graph *g = p->graph;
    for (size_t i = 0; i < g->output_count; i++)
        npo_plan_root_at(p, g->outputs[i].value)->uses = 1;
    if (p->options->loss != NPO_VALUE_NONE)
        npo_plan_root_at(p, p->options->loss)->uses = 1;
    for (int i = p->n - 1; i >= 0; i--) {
        const npo_graph_node *node = &g->nodes[i];
        p->nodes[i].live = p->roots[node->out].uses > 0;
        for (int k = 0; p->nodes[i].live && k < NPO_OP_INPUTS_MAX; k++)
            if (node->in[k] != NPO_VALUE_NONE)
                npo_plan_root_at(p, node->in[k])->uses++;
    }
}

static void mark_needs_grad(npo_plan *p)
{
    const npo_graph *g = p->graph;
    for (size_t v = 0; v < g->value_count; v++) {
        const npo_graph_value *value = npo_graph_at(g, (npo_value)v);
        bool input = value->source == NPO_SOURCE_INPUT && value->shape.dtype == NPO_F32;
        p->roots[v].needs_grad = (value->source == NPO_SOURCE_PARAM && !value->is_frozen) ||
                                 (input && p->options->input_grads);
    }
    for (int i = 0; i < p->n; i++) {
        const npo_graph_node *node = &g->nodes[i];
        unsigned grads = npo_op_rule_of(node->desc.kind)->grads;
        for (int k = 0; k < NPO_OP_INPUTS_MAX; k++)
            if (npo_in_set(grads, k) && node->in[k] != NPO_VALUE_NONE &&
                npo_plan_root_at(p, node->in[k])->needs_grad)
                p->roots[node->out].needs_grad = true;
    }
}

static void mark_has_grad(npo_plan *p)
{
    const npo_graph *g = p->graph;
    npo_root_plan *loss = npo_plan_root_at(p, p->options->loss);
    loss->has_grad = loss->needs_grad;
    for (int i = p->n - 1; i >= 0; i--) {
        npo_graph_node *node = &g->nodes[i];
        unsigned grads = npo_op_rule_of(node->desc.kind)->grads;
        for (int k = 0; p->roots[node->out].has_grad && k < NPO_OP_INPUTS_MAX; k++) {
            if (!npo_in_set(grads, k) || node->in[k] == NPO_VALUE_NONE ||
                !npo_plan_root_at(p, node->in[k])->needs_grad)
                continue;
            npo_plan_root_at(p, node->in[k])->has_grad = true;
            node->desc.want |= 1u << k;
        }
        node->desc.keep = node->desc.want != 0;
    }
}

/* Computed values, but for those that the caller reads and what ops want exact. */
static void mark_bf16(npo_plan *p)
{
    const npo_graph *g = p->graph;
    for (size_t v = 0; v < g->value_count; v++) {
        const npo_graph_value *value = npo_graph_at(g, (npo_value)v);
        p->roots[v].bf16 = value->source == NPO_SOURCE_NODE && !value->is_private;
    }
    for (int i = 0; i < p->n; i++) {
        const npo_graph_node *node = &g->nodes[i];
        unsigned exact = npo_op_rule_of(node->desc.kind)->exact;
        for (int k = 0; k < NPO_OP_INPUTS_MAX; k++)
            if (npo_in_set(exact, k) && node->in[k] != NPO_VALUE_NONE)
                npo_plan_root_at(p, node->in[k])->bf16 = false;
    }
}

void npo_plan_need(npo_plan *p)
{
    mark_live(p);
    if (p->options->loss != NPO_VALUE_NONE) {
        mark_needs_grad(p);
        mark_has_grad(p);
    }
    if (p->options->compute == NPO_COMPUTE_BF16)
        mark_bf16(p);
}
