/* Record, plan, run.
 *
 * A network is written once, as forward code that records ops (kernels/op.h) on a graph; shapes are
 * known while recording. Planning derives the backward pass from the op table, packs activation
 * lifetimes into one arena and prepares the backend's primitives. Running allocates nothing.
 *
 * Values are small handles, valid within their graph. A recording error (shape, memory) is sticky:
 * ops after it return NPO_VALUE_NONE, npo_graph_plan reports it, and model code needs no checks.
 * Values may be used by any number of ops; their gradients add up in a fixed order, the last
 * recorded use first.
 *
 * Activations are f32 for the caller, channels last: images [N, H, W, C], tokens [N, L, C]. A graph
 * belongs to one thread at a time; a backend's graphs share its arena, so only one of them runs at
 * a time, and the inputs, outputs and gradients that can be read after a run live outside the
 * shared part. */
#ifndef NPO_KERNELS_GRAPH_H
#define NPO_KERNELS_GRAPH_H

#include "kernels/backend.h"
#include "kernels/params.h"

#define NPO_DIMS_MAX 4

typedef enum { NPO_F32, NPO_I32 } npo_dtype;

typedef struct {
    npo_dtype dtype;
    int ndim;
    int64_t dims[NPO_DIMS_MAX];
} npo_shape;

typedef struct npo_graph npo_graph;
typedef int32_t npo_value;
#define NPO_VALUE_NONE ((npo_value)-1)

/* The layout is shared between the graphs of one network (train, generate, other batch sizes). */
npo_err npo_graph_new(npo_backend *backend, npo_layout *layout,
                      npo_graph **ret_graph) NPO_MUST_CHECK;
void npo_graph_free(npo_graph *graph);
npo_layout *npo_graph_layout(const npo_graph *graph); /* borrowed */

/* ---- recording (ops are in kernels/op.h) ---- */

/* Fed by the caller before each run through npo_graph_input_data. */
npo_value npo_graph_input(npo_graph *graph, const char *name, npo_dtype dtype, int ndim,
                          const int64_t *dims);
/* A tensor of the layout, by its published name: trainable, but for those of an adapter's base. */
npo_value npo_graph_param(npo_graph *graph, const char *name, int ndim, const int64_t *dims);
/* Names a value that can be read after a run (network output, a block's output in tests). */
void npo_graph_output(npo_graph *graph, const char *name, npo_value value);
/* Begins a block: a piece of the network, such as a residual block, that a plan may compute again
 * before its backward instead of keeping its activations. */
void npo_graph_block(npo_graph *graph);
const npo_shape *npo_graph_shape(const npo_graph *graph, npo_value value); /* NULL for NONE */
/* Records a failure of model code ("config asks for X"), sticky like an op's own. */
void npo_graph_fail(npo_graph *graph, npo_err code, const char *format, ...) NPO_PRINTF(3, 4);
bool npo_graph_failed(const npo_graph *graph);

/* ---- planning ---- */

enum { NPO_PACKED_BYTES_DEFAULT = 256 << 20 };

/* F32: everything. BF16: activations are stored and weights of products rounded to bf16;
 * parameters, sums, statistics, losses and what they read, and all gradients stay f32. */
typedef enum { NPO_COMPUTE_F32, NPO_COMPUTE_BF16 } npo_compute;

typedef struct {
    npo_value loss;   /* scalar to differentiate, NPO_VALUE_NONE: forward only */
    bool input_grads; /* also keep gradients of f32 inputs (tests) */
    /* Bytes of weights in the device's layout that the graph may hold from run to run, 0:
     * NPO_PACKED_BYTES_DEFAULT. What does not fit is packed layer by layer, just before its use. */
    size_t packed_bytes;
    /* Bytes for the arena and what is private, 0: no limit. Blocks (npo_graph_block) are computed
     * again in the backward pass, those with the fewest flops a byte first, until what is left
     * fits; the results stay the same bit for bit. */
    size_t memory_bytes;
    npo_compute compute;
} npo_plan_options;

typedef struct {
    size_t arena_bytes;   /* shared activations and scratch */
    size_t private_bytes; /* inputs, outputs, packed weights */
    double forward_flops, backward_flops;
    int blocks, recomputed_blocks;
    double recompute_flops; /* of a backward pass, beside backward_flops */
} npo_plan_info;

/* ret_info: NULL where not wanted. Errors: NPO_E_NOMEM where the system has not enough, or where
 * memory_bytes is too little with every block recomputed: the sentence says what is needed. */
npo_err npo_graph_plan(npo_graph *graph, const npo_plan_options *options, npo_plan_info *ret_info,
                       npo_error *error) NPO_MUST_CHECK;

/* ---- running ---- */

/* Memory of an input, output or (after backward) input gradient; NULL for an unknown name. Stable
 * from plan to free. f32 or i32 as recorded. */
void *npo_graph_input_data(npo_graph *graph, const char *name);
const float *npo_graph_output_data(npo_graph *graph, const char *name, npo_shape *ret_shape);
const float *npo_graph_input_grad(npo_graph *graph, const char *name);

/* Forward. params must have the graph's layout and, where that is an adapter's, a base
 * (asserted). */
npo_err npo_graph_forward(npo_graph *graph, const npo_params *params,
                          npo_error *error) NPO_MUST_CHECK;
/* Backward of the loss after a forward with the same params; ADDS scale * gradient into grads (a
 * set of the same layout), so that micro-batches accumulate. Sums run in a fixed order: same
 * inputs, same thread count give the same bytes. */
npo_err npo_graph_backward(npo_graph *graph, const npo_params *params, float scale,
                           npo_params *grads, npo_error *error) NPO_MUST_CHECK;

/* ---- watching (bench/profile) ---- */

/* One op of a run that has just ended. Borrows all. */
typedef struct {
    const char *name; /* "conv2d" */
    size_t index;     /* among the graph's ops as they were recorded */
    bool backward;
    const npo_shape *a, *b, *out; /* first operands, b NULL where there is one; output */
    double flops;
    int64_t ns;
} npo_op_time;
typedef void (*npo_op_observer)(void *context, const npo_op_time *time);

/* observer is called after every op of every run from now on, recomputed ones too; NULL: no more.
 */
void npo_graph_observe(npo_graph *graph, npo_op_observer observer, void *context);

#endif
