/* The op table: what graph, planner and backends know of an op. Internal to kernels/. */
#ifndef NPO_KERNELS_OP_TABLE_H
#define NPO_KERNELS_OP_TABLE_H

#include "kernels/op.h"

enum { NPO_OP_INPUTS_MAX = 4 };

typedef enum {
#define NPO_OP(KIND, ...) NPO_OP_##KIND,
#include "kernels/op.def"
#undef NPO_OP
    NPO_OP_COUNT
} npo_op_kind;

/* Attributes of any op; each reads its own. */
typedef struct {
    npo_conv_options conv;
    npo_act act;
    int groups, heads;
    bool causal, flip;
    float eps, factor; /* factor: of scale; frequency shift of timestep; h of pseudo-Huber */
    int64_t height, width, channels;
} npo_op_attrs;

/* One recorded op with all its shapes. want, fused and keep are the planner's: gradients to compute
 * (bit per operand), adds that the output takes along, and whether a backward follows. */
typedef struct {
    npo_op_kind kind;
    npo_op_attrs attrs;
    unsigned given; /* bit per operand */
    npo_shape in[NPO_OP_INPUTS_MAX];
    npo_shape out;
    unsigned want;
    bool keep;
    bool fused_channels; /* out += e [N,C] over positions */
    bool fused_add;      /* out += r, same shape */
} npo_op_desc;

/* A row of op.def. */
typedef struct {
    const char *name;
    /* in and attrs are set; fills out. */
    npo_err (*shape)(npo_op_desc *desc, npo_error *error);
    double (*flops)(const npo_op_desc *desc); /* forward */
    double (*flops_backward)(const npo_op_desc *desc);
    int inputs, required;
    unsigned grads, identity, reads, inplace;
    bool overwrite;
    unsigned weights, exact;
} npo_op_rule;

const npo_op_rule *npo_op_rule_of(npo_op_kind kind);

/* ---- shapes ---- */

npo_shape npo_shape_make(npo_dtype dtype, int ndim, const int64_t *dims);
int64_t npo_shape_count(const npo_shape *shape); /* elements */
int64_t npo_shape_last(const npo_shape *shape);  /* size of the last axis */
/* Elements over the size of the last axis. */
int64_t npo_shape_rows(const npo_shape *shape);
bool npo_shape_equal(const npo_shape *a, const npo_shape *b);

#define NPO_SHAPE_TEXT_MAX 100
/* "[2,8,8,16]", "[2,77] i32". Returns text. */
const char *npo_shape_format(const npo_shape *shape, char text[NPO_SHAPE_TEXT_MAX]);

#endif
