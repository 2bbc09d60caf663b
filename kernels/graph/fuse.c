/* Planning: adds that are done by the op before. */
#include "kernels/graph/plan.h"

/* Whether node `add` can be done by the op that writes its operand k: nobody else sees that
 * operand, and the other one is there in time. */
static bool can_fuse(const npo_plan *p, int add, int k)
{
    const npo_graph *g = p->graph;
    const npo_graph_node *node = &g->nodes[add];
    npo_value root = npo_plan_root(p, node->in[k]);
    const npo_root_plan *mine = &p->roots[root], *other = npo_plan_root_at(p, node->in[1 - k]);
    if (npo_graph_at(g, root)->source != NPO_SOURCE_NODE || npo_graph_at(g, root)->is_private ||
        mine->uses != 1 || other->writer >= mine->writer ||
        g->nodes[mine->writer].block != node->block)
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

static void fuse_into(npo_plan *p, int add, int k)
{
    npo_graph_node *node = &p->graph->nodes[add];
    npo_root_plan *mine = npo_plan_root_at(p, node->in[k]);
    npo_op_desc *desc = &p->graph->nodes[mine->writer].desc;
    npo_node_plan *writer = &p->nodes[mine->writer];
    if (node->desc.kind == NPO_OP_ADD) {
        desc->fused_add = true;
        writer->fused_add = node->in[1 - k];
    } else {
        desc->fused_channels = true;
        writer->fused_channels = node->in[1 - k];
    }
    mine->absorbed = true;
    writer->result = add;
    p->roots[node->out].writer = mine->writer;
    p->nodes[add].forward = false;
}

void npo_plan_fuse(npo_plan *p)
{
    for (int i = 0; i < p->n; i++) {
        const npo_graph_node *node = &p->graph->nodes[i];
        npo_node_plan *plan = &p->nodes[i];
        plan->forward = plan->live;
        plan->result = i;
        plan->fused_channels = plan->fused_add = NPO_VALUE_NONE;
        p->roots[node->out].writer = i;
        bool add = node->desc.kind == NPO_OP_ADD;
        if (!plan->live || !(add || node->desc.kind == NPO_OP_ADD_CHANNELS))
            continue;
        if (add && can_fuse(p, i, 1))
            fuse_into(p, i, 1);
        else if (can_fuse(p, i, 0))
            fuse_into(p, i, 0);
    }
}
