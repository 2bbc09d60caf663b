/* A graph's inside, shared by recording (record.c), planning (plan.c) and running (run.c). */
#ifndef NPO_KERNELS_GRAPH_STATE_H
#define NPO_KERNELS_GRAPH_STATE_H

#include "kernels/backend-ops.h"

enum {
    NPO_GRAPH_VALUES_MAX = 1 << 20,
    NPO_GRAPH_CHUNK = 256, /* values are kept in chunks, so that their shapes never move */
    NPO_PACK_SLOTS_MAX = 3,
};

/* Where a tensor lies. offset in bytes. */
typedef enum {
    NPO_PLACE_NONE,
    NPO_PLACE_ARENA,   /* the backend's shared arena */
    NPO_PLACE_PRIVATE, /* the graph's own memory */
    NPO_PLACE_PARAM,   /* the run's parameter set */
    NPO_PLACE_GRAD,    /* the run's gradient set */
    NPO_PLACE_SLOT,    /* weights kept packed for this version of the parameters */
} npo_region;

typedef struct {
    npo_region region;
    size_t offset;
} npo_place;

typedef enum { NPO_SOURCE_INPUT, NPO_SOURCE_PARAM, NPO_SOURCE_NODE, NPO_SOURCE_VIEW } npo_source;

typedef struct {
    npo_shape shape;
    npo_source source;
    npo_value root;  /* whose memory it is: itself, but for a view */
    int node;        /* NODE: producer */
    size_t param;    /* PARAM: index in the layout */
    char *name;      /* INPUT, or NULL */
    bool is_private; /* input, output or loss: stays readable after a run */
    npo_place place;
    npo_place grad; /* of an input, with input_grads */
} npo_graph_value;

/* A recorded op. */
typedef struct {
    npo_op_desc desc;
    npo_value in[NPO_OP_INPUTS_MAX]; /* NONE where not given */
    npo_value out;
} npo_graph_node;

/* A planned op: the node's work and where everything lies. */
typedef struct {
    npo_op_work work;
    bool prepared;
    bool forward, backward; /* whether there is something to call */
    npo_place in[NPO_OP_INPUTS_MAX], out;
    npo_place fused_channels, fused_add;
    npo_place grad_out, grad_in[NPO_OP_INPUTS_MAX], grad_prev[NPO_OP_INPUTS_MAX];
    npo_place saved, scratch_forward, scratch_backward;
    npo_place packed[NPO_PACK_SIDES]; /* in a slot, or in the arena during the call */
} npo_graph_step;

typedef struct {
    char *name;
    npo_value value;
} npo_graph_name;

/* Packed weights of one version of a parameter set: both sides of every op. */
typedef struct {
    uint64_t version; /* 0: empty */
    uint64_t used;    /* for choosing the oldest */
    void *memory;
} npo_pack_slot;

struct npo_graph {
    npo_backend *backend;
    npo_layout *layout;
    npo_err err; /* sticky */
    npo_error error;

    npo_graph_value **chunks;
    size_t value_count, chunk_cap;
    npo_graph_node *nodes;
    size_t node_count, node_cap;
    npo_graph_name *outputs;
    size_t output_count, output_cap;
    npo_value *params; /* by index in the layout */
    size_t param_cap;

    bool planned;
    npo_value loss;
    npo_place loss_grad;
    npo_graph_step *steps; /* node_count */
    void *memory;          /* NPO_PLACE_PRIVATE */
    npo_pack_slot slots[NPO_PACK_SLOTS_MAX];
    size_t slot_count, slot_bytes;
    uint64_t slot_clock;
    uint64_t stamp; /* of the last forward; 0: none */
    uint64_t forward_version;
};

static inline npo_graph_value *npo_graph_at(const npo_graph *graph, npo_value value)
{
    return &graph->chunks[value / NPO_GRAPH_CHUNK][value % NPO_GRAPH_CHUNK];
}

/* Records an op; in: rule->inputs values, NONE where optional and not given. */
npo_value npo_graph_record(npo_graph *graph, npo_op_kind kind, const npo_op_attrs *attrs,
                           const npo_value *in);
/* A value that shows root's memory in another shape. */
npo_value npo_graph_view(npo_graph *graph, npo_value of, const npo_shape *shape);

/* ---- memory planning (arena.c) ---- */

/* A piece of memory that is in use from step `first` to step `last`, both included. */
typedef struct {
    size_t bytes;
    int first, last;
    size_t offset; /* found by npo_arena_pack, a multiple of 64 */
} npo_span;

/* Places spans so that none that are in use together overlap: largest first, each into the smallest
 * gap that holds it. ret_bytes: size of the whole. Errors: NPO_E_NOMEM, NPO_E_LIMIT. */
npo_err npo_arena_pack(npo_span *spans, size_t count, size_t *ret_bytes) NPO_MUST_CHECK;

#endif
