/* What planning knows, shared by its parts: need.c (which ops run, which gradients are wanted),
 * fuse.c (adds that an op before takes along), place.c (where every tensor lies), budget.c (which
 * blocks are computed twice), plan.c (the whole). Internal to kernels/graph. */
#ifndef NPO_KERNELS_GRAPH_PLAN_H
#define NPO_KERNELS_GRAPH_PLAN_H

#include "kernels/graph/state.h"

#include <assert.h>

enum { NPO_NO_SPAN = -1, NPO_NEVER = -1 };

/* A stay of a value in the arena. */
typedef struct {
    int last; /* time of the last call that reads it; NPO_NEVER: nobody does */
    int span; /* NPO_NO_SPAN: not in the arena, or not yet */
} npo_stay;

/* Of a value whose memory is its own. */
typedef struct {
    bool needs_grad; /* depends on something that is trained, or on an input with input_grads */
    bool has_grad;   /* needs one, and the loss depends on it */
    bool bf16;       /* stored so */
    bool absorbed;   /* never written: an add is fused into its writer */
    int uses;        /* operands of live nodes that show this memory; an output counts too */
    int writer;      /* the node whose forward writes it, after fusion; -1: none */
    /* Of one placement: */
    bool twice;            /* computed again for the backward of its block */
    npo_stay first, again; /* from the forward pass; from the forward again */
    int grad;              /* span of its gradient so far; NO_SPAN: none, or not in the arena */
    bool grad_begun;       /* of an input: something was written */
} npo_root_plan;

typedef struct {
    bool live;
    bool forward; /* whether there is something to call: live, and not fused away */
    int result;   /* the node whose output its forward writes, itself but for fusion */
    npo_value fused_channels, fused_add;
    /* Of one placement: */
    bool again;
    int forward_at, again_at, backward_at; /* times */
    npo_place saved;
} npo_node_plan;

typedef struct {
    bool recompute;
    /* What it would bring and cost (budget.c) */
    size_t saved;
    double flops;
} npo_block_plan;

typedef struct {
    npo_graph *graph;
    const npo_plan_options *options;
    int n; /* nodes */
    npo_node_plan *nodes;
    npo_root_plan *roots; /* by value; only those of roots are used */
    npo_block_plan *blocks;
    int block_count;
    size_t private_bytes;
    npo_plan_info info;

    /* Of one placement. A time is a place in the order of calls. */
    npo_span *spans;
    int *users; /* by span: gradients in it that are still to be read */
    int span_count;
    npo_graph_call *calls;
    size_t call_count, forward_calls;
    npo_place loss_grad;
} npo_plan;

/* Room for what one placement makes of a node: three calls, each with up to seven copies between
 * bf16 and f32, scratch, packed and rounded weights; its output twice, saved, and gradients. */
enum {
    NPO_PLAN_CALLS = 3,
    NPO_PLAN_SPANS = NPO_PLAN_CALLS * (NPO_AT_BF16 + 3) + 3 + NPO_OP_INPUTS_MAX,
};

static inline npo_value npo_plan_root(const npo_plan *p, npo_value value)
{
    return npo_graph_at(p->graph, value)->root;
}

static inline npo_root_plan *npo_plan_root_at(const npo_plan *p, npo_value value)
{
    return &p->roots[npo_plan_root(p, value)];
}

static inline bool npo_in_set(unsigned set, int i)
{
    return set >> i & 1;
}

static inline size_t npo_plan_bytes(const npo_shape *shape)
{
    return (size_t)npo_shape_count(shape) * 4;
}

static inline size_t npo_plan_round(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* Private memory and slots. */
static inline size_t npo_plan_fixed_bytes(const npo_plan *p)
{
    return p->private_bytes + p->graph->slot_count * p->graph->slot_bytes;
}

/* need.c: live, needs_grad, has_grad, uses, bf16; a node's desc.want and desc.keep. */
void npo_plan_need(npo_plan *p);
/* fuse.c: writer, absorbed, forward, result, fused_*; a node's desc.fused_*. */
void npo_plan_fuse(npo_plan *p);
/* place.c: memory that does not depend on what is computed twice: parameters, inputs, outputs. */
void npo_plan_place_fixed(npo_plan *p);
/* place.c: spans and calls with the blocks that are marked computed twice, the spans not packed. */
void npo_plan_place(npo_plan *p);
/* budget.c: places and packs, with blocks computed twice until options->memory_bytes is enough. */
npo_err npo_plan_fit(npo_plan *p, size_t *ret_bytes, npo_error *error) NPO_MUST_CHECK;

#endif
