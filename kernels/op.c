#include "kernels/op.h"

#include "kernels/graph/state.h"

npo_value npo_op_conv2d(npo_graph *g, npo_value x, npo_value weight, npo_value bias,
                        npo_conv_options options)
{
    npo_op_attrs attrs = {.conv = options};
    return npo_graph_record(g, NPO_OP_CONV2D, &attrs, (npo_value[]){x, weight, bias});
}

npo_value npo_op_linear(npo_graph *g, npo_value x, npo_value weight, npo_value bias)
{
    return npo_graph_record(g, NPO_OP_LINEAR, &(npo_op_attrs){0}, (npo_value[]){x, weight, bias});
}

npo_value npo_op_group_norm(npo_graph *g, npo_value x, npo_value gamma, npo_value beta, int groups,
                            float eps, npo_act act)
{
    npo_op_attrs attrs = {.groups = groups, .eps = eps, .act = act};
    return npo_graph_record(g, NPO_OP_GROUP_NORM, &attrs, (npo_value[]){x, gamma, beta});
}

npo_value npo_op_layer_norm(npo_graph *g, npo_value x, npo_value gamma, npo_value beta, float eps)
{
    npo_op_attrs attrs = {.eps = eps};
    return npo_graph_record(g, NPO_OP_LAYER_NORM, &attrs, (npo_value[]){x, gamma, beta});
}

npo_value npo_op_activation(npo_graph *g, npo_value x, npo_act act)
{
    npo_op_attrs attrs = {.act = act};
    if (act == NPO_ACT_NONE)
        return x;
    return npo_graph_record(g, NPO_OP_ACTIVATION, &attrs, &x);
}

npo_value npo_op_geglu(npo_graph *g, npo_value x)
{
    return npo_graph_record(g, NPO_OP_GEGLU, &(npo_op_attrs){0}, &x);
}

npo_value npo_op_add(npo_graph *g, npo_value a, npo_value b)
{
    return npo_graph_record(g, NPO_OP_ADD, &(npo_op_attrs){0}, (npo_value[]){a, b});
}

npo_value npo_op_add_channels(npo_graph *g, npo_value x, npo_value e)
{
    return npo_graph_record(g, NPO_OP_ADD_CHANNELS, &(npo_op_attrs){0}, (npo_value[]){x, e});
}

npo_value npo_op_scale(npo_graph *g, npo_value x, float factor)
{
    npo_op_attrs attrs = {.factor = factor};
    return npo_graph_record(g, NPO_OP_SCALE, &attrs, &x);
}

/* Backward writes the gradient of each operand to a place of its own, so an operand that shows the
 * same memory as an earlier one is copied. */
static npo_value separate(npo_graph *g, npo_value value, npo_value other)
{
    if (g->err || value == NPO_VALUE_NONE || other == NPO_VALUE_NONE ||
        npo_graph_at(g, value)->root != npo_graph_at(g, other)->root)
        return value;
    return npo_op_scale(g, value, 1);
}

npo_value npo_op_concat(npo_graph *g, npo_value a, npo_value b)
{
    b = separate(g, b, a);
    return npo_graph_record(g, NPO_OP_CONCAT, &(npo_op_attrs){0}, (npo_value[]){a, b});
}

npo_value npo_op_upsample(npo_graph *g, npo_value x, int64_t height, int64_t width)
{
    npo_op_attrs attrs = {.height = height, .width = width};
    return npo_graph_record(g, NPO_OP_UPSAMPLE, &attrs, &x);
}

npo_value npo_op_attention(npo_graph *g, npo_value q, npo_value k, npo_value v, int heads,
                           bool causal)
{
    npo_op_attrs attrs = {.heads = heads, .causal = causal};
    npo_value k_own = separate(g, k, q);
    npo_value v_own = separate(g, separate(g, v, q), k);
    return npo_graph_record(g, NPO_OP_ATTENTION, &attrs, (npo_value[]){q, k_own, v_own});
}

npo_value npo_op_reshape(npo_graph *g, npo_value x, int ndim, const int64_t *dims)
{
    if (g->err)
        return NPO_VALUE_NONE;
    const npo_shape *from = npo_graph_shape(g, x);
    char found[NPO_SHAPE_TEXT_MAX], expected[NPO_SHAPE_TEXT_MAX];
    if (!from || ndim < 0 || ndim > NPO_DIMS_MAX) {
        npo_graph_fail(g, NPO_E_USAGE, "op 'reshape': %d dimensions of %s, expected 0 to %d", ndim,
                       from ? "a value" : "no value", NPO_DIMS_MAX);
        return NPO_VALUE_NONE;
    }
    npo_shape to = npo_shape_make(from->dtype, ndim, dims);
    if (npo_shape_count(&to) != npo_shape_count(from)) {
        npo_graph_fail(g, NPO_E_SHAPE, "op 'reshape': %s to %s, expected as many elements",
                       npo_shape_format(from, found), npo_shape_format(&to, expected));
        return NPO_VALUE_NONE;
    }
    return npo_graph_view(g, x, &to);
}

npo_value npo_op_timestep(npo_graph *g, npo_value t, int64_t channels, bool flip, float freq_shift)
{
    npo_op_attrs attrs = {.channels = channels, .flip = flip, .factor = freq_shift};
    return npo_graph_record(g, NPO_OP_TIMESTEP, &attrs, &t);
}

npo_value npo_op_embedding(npo_graph *g, npo_value ids, npo_value table)
{
    return npo_graph_record(g, NPO_OP_EMBEDDING, &(npo_op_attrs){0}, (npo_value[]){ids, table});
}

npo_value npo_op_add_rows(npo_graph *g, npo_value x, npo_value p)
{
    return npo_graph_record(g, NPO_OP_ADD_ROWS, &(npo_op_attrs){0}, (npo_value[]){x, p});
}

npo_value npo_op_max_pool(npo_graph *g, npo_value x)
{
    return npo_graph_record(g, NPO_OP_MAX_POOL, &(npo_op_attrs){0}, &x);
}

npo_value npo_op_mix(npo_graph *g, npo_value a, npo_value b, npo_value ca, npo_value cb)
{
    b = separate(g, b, a);
    return npo_graph_record(g, NPO_OP_MIX, &(npo_op_attrs){0}, (npo_value[]){a, b, ca, cb});
}

npo_value npo_op_mse_loss(npo_graph *g, npo_value pred, npo_value target)
{
    return npo_graph_record(g, NPO_OP_MSE_LOSS, &(npo_op_attrs){0}, (npo_value[]){pred, target});
}

npo_value npo_op_pseudo_huber_loss(npo_graph *g, npo_value pred, npo_value target, float h)
{
    npo_op_attrs attrs = {.factor = h};
    return npo_graph_record(g, NPO_OP_PSEUDO_HUBER_LOSS, &attrs, (npo_value[]){pred, target});
}

npo_value npo_op_cross_entropy_loss(npo_graph *g, npo_value logits, npo_value labels)
{
    return npo_graph_record(g, NPO_OP_CROSS_ENTROPY_LOSS, &(npo_op_attrs){0},
                            (npo_value[]){logits, labels});
}
