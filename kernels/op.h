/* The ops a network is recorded with. One row of the op table (kernels/op.def) stands behind each:
 * shape rule, forward, backward, flops. All activations f32, channels last. Parameter shapes are
 * those of the published files. Any argument NPO_VALUE_NONE after a sticky failure is passed
 * through. */
#ifndef NPO_KERNELS_OP_H
#define NPO_KERNELS_OP_H

#include "kernels/graph.h"

typedef enum {
    NPO_ACT_NONE,
    NPO_ACT_SILU,
    NPO_ACT_GELU,       /* erf form, as torch's default */
    NPO_ACT_QUICK_GELU, /* x * sigmoid(1.702 x) */
    NPO_ACT_RELU,
} npo_act;

/* x [N,H,W,I], weight [O,I,kh,kw], bias [O] or NONE -> [N,H',W',O], H' = (H + top + bottom - kh) /
 * stride + 1. */
typedef struct {
    int stride;
    int pad_top, pad_left, pad_bottom, pad_right;
} npo_conv_options;
npo_value npo_op_conv2d(npo_graph *g, npo_value x, npo_value weight, npo_value bias,
                        npo_conv_options options);
/* x [..., I], weight [O, I] (or [O,I,1,1]), bias [O] or NONE -> [..., O]. */
npo_value npo_op_linear(npo_graph *g, npo_value x, npo_value weight, npo_value bias);
/* x [N,...,C] normalised over each sample's group of C / groups channels, then gamma, beta [C],
 * then act (NONE or SILU). */
npo_value npo_op_group_norm(npo_graph *g, npo_value x, npo_value gamma, npo_value beta, int groups,
                            float eps, npo_act act);
/* Over the last axis; gamma, beta [C]. */
npo_value npo_op_layer_norm(npo_graph *g, npo_value x, npo_value gamma, npo_value beta, float eps);
npo_value npo_op_activation(npo_graph *g, npo_value x, npo_act act);
/* x [..., 2C] -> [..., C]: first half times gelu(second half), as diffusers' GEGLU. */
npo_value npo_op_geglu(npo_graph *g, npo_value x);
npo_value npo_op_add(npo_graph *g, npo_value a, npo_value b); /* same shape */
/* x [N,H,W,C] + e [N,C] over all positions. */
npo_value npo_op_add_channels(npo_graph *g, npo_value x, npo_value e);
npo_value npo_op_scale(npo_graph *g, npo_value x, float factor);
/* Along the last axis. */
npo_value npo_op_concat(npo_graph *g, npo_value a, npo_value b);
/* Nearest neighbour to height x width, as torch's interpolate. x [N,H,W,C]. */
npo_value npo_op_upsample(npo_graph *g, npo_value x, int64_t height, int64_t width);
/* q [N,Lq,D], k, v [N,Lk,D], D = heads * head_dim, scale 1/sqrt(head_dim); causal: key j <= query
 * i. */
npo_value npo_op_attention(npo_graph *g, npo_value q, npo_value k, npo_value v, int heads,
                           bool causal);
/* Same memory, other shape with the same number of elements: [N,H,W,C] <-> [N,H*W,C]. */
npo_value npo_op_reshape(npo_graph *g, npo_value x, int ndim, const int64_t *dims);
/* Sinusoidal embedding of t [N] (f32): diffusers' Timesteps; [N, channels]. flip: cosines first. */
npo_value npo_op_timestep(npo_graph *g, npo_value t, int64_t channels, bool flip, float freq_shift);
/* ids [N,L] i32, table [V,C] -> [N,L,C]; an id out of range is NPO_E_RANGE at run time. */
npo_value npo_op_embedding(npo_graph *g, npo_value ids, npo_value table);
/* x [N,L,C] + p [L', C], first L rows, L <= L'. */
npo_value npo_op_add_rows(npo_graph *g, npo_value x, npo_value p);
/* 2x2 windows, stride 2. x [N,H,W,C]. */
npo_value npo_op_max_pool(npo_graph *g, npo_value x);

/* Per-sample mixture: y[n] = ca[n] * a[n] + cb[n] * b[n]; ca, cb [N] inputs without gradient. With
 * a = x_t and b = the network's output this is the x0- or eps-prediction of either parametrisation.
 */
npo_value npo_op_mix(npo_graph *g, npo_value a, npo_value b, npo_value ca, npo_value cb);
/* Scalars: means over all elements. target has no gradient. */
npo_value npo_op_mse_loss(npo_graph *g, npo_value pred, npo_value target);
/* mean(sqrt(d^2 + h^2) - h), computed as d^2 / (sqrt(d^2 + h^2) + h). */
npo_value npo_op_pseudo_huber_loss(npo_graph *g, npo_value pred, npo_value target, float h);
/* logits [N, K], labels [N] i32: mean cross entropy. */
npo_value npo_op_cross_entropy_loss(npo_graph *g, npo_value logits, npo_value labels);

#endif
