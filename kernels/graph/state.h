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
    NPO_PLACE_BASE,    /* the frozen base of the run's parameter set */
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
    bool is_frozen;  /* PARAM: in the layout's base */
    char *name;      /* INPUT, or NULL */
    bool is_private; /* input, output or loss: stays readable after a run */
    npo_place place; /* of a parameter, or of what is private */
    npo_place grad;  /* of an input, with input_grads */
} npo_graph_value;

/* A recorded op. */
typedef struct {
    npo_op_desc desc;
    npo_value in[NPO_OP_INPUTS_MAX]; /* NONE where not given */
    npo_value out;
    int block;
} npo_graph_node;

/* What a planned op keeps from call to call. */
typedef struct {
    npo_op_work work;
    bool prepared;
    npo_place slot[NPO_PACK_SIDES]; /* packed weights; NONE without slots */
} npo_graph_step;

/* What a call is handed, by place. The values that are stored in bf16 lie at BF16 and are copied to
 * and from f32 at IN, OUT, CHANNELS and ADD. */
enum {
    NPO_AT_IN, /* one for each operand, as below where the next name leaves room */
    NPO_AT_OUT = NPO_AT_IN + NPO_OP_INPUTS_MAX,
    NPO_AT_CHANNELS,
    NPO_AT_ADD,
    NPO_AT_BF16, /* of IN to ADD, in their order */
    NPO_AT_GRAD_OUT = 2 * NPO_AT_BF16,
    NPO_AT_GRAD_IN,
    NPO_AT_GRAD_PREV = NPO_AT_GRAD_IN + NPO_OP_INPUTS_MAX,
    NPO_AT_SAVED = NPO_AT_GRAD_PREV + NPO_OP_INPUTS_MAX,
    NPO_AT_SCRATCH,
    NPO_AT_PACKED,
    NPO_AT_ROUNDED, /* a copy of the weights, rounded to bf16 */
    NPO_CALL_PLACES
};

/* One call of an op. A run makes them in order: the forward of all nodes; for a backward then, last
 * block first, the forward again of those nodes of the block that are computed twice, and the
 * backward of its nodes, last first. */
typedef struct {
    int node;
    npo_pack_side side;
    npo_place at[NPO_CALL_PLACES];
} npo_graph_call;

typedef struct {
    char *name;
    npo_value value;
} npo_graph_name;

/* Packed weights of one version of a parameter set: both sides of every op. */
typedef struct {
    uint64_t version; /* 0: empty */
    uint64_t base_version;
    uint64_t used; /* for choosing the oldest */
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
    int block; /* of the nodes that are recorded next */
    npo_graph_name *outputs;
    size_t output_count, output_cap;
    npo_value *params; /* by index in the layout */
    size_t param_cap;
    npo_value *frozen; /* by index in the layout's base */
    size_t frozen_cap;

    bool planned;
    npo_value loss;
    npo_place loss_grad;
    npo_graph_step *steps; /* node_count */
    npo_graph_call *calls;
    size_t call_count, forward_calls;
    bool bf16;    /* weights of products are rounded when they are packed */
    void *memory; /* NPO_PLACE_PRIVATE */
    npo_pack_slot slots[NPO_PACK_SLOTS_MAX];
    size_t slot_count, slot_bytes;
    uint64_t slot_clock;
    uint64_t stamp; /* of the last forward; 0: none */
    uint64_t forward_version;
    npo_op_observer observer; /* or NULL */
    void *observer_context;
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
