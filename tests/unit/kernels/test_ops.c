/* Every op, forward and backward, against the f64 reference and its finite differences. Each case
 * runs forward only, then with a loss. Arguments: instruction set, threads, products, compute. */
#include "tests/unit/cmocka.h"

#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum { X, P, IDS, NONE } operand_kind; /* input, parameter, whole numbers */

typedef struct {
    operand_kind kind;
    int ndim;
    int64_t dims[NPO_DIMS_MAX];
} operand;

typedef npo_value (*builder)(npo_graph *g, const npo_value *v, const ref_attrs *a);

typedef struct {
    const char *name;
    builder build;
    ref_function reference;
    operand in[REF_OPERANDS_MAX];
    ref_attrs attrs;
    bool scalar;      /* the op is a loss itself */
    unsigned grads;   /* operands with a gradient */
    double largest;   /* of random values; 0: 1 */
    double tolerance; /* relative to the largest value; 0: 1e-5 */
} op_case;

/* ---- recording ---- */

#define BUILD(name, call)                                                                          \
    static npo_value build_##name(npo_graph *g, const npo_value *v, const ref_attrs *a)            \
    {                                                                                              \
        return call;                                                                               \
    }

BUILD(conv2d, npo_op_conv2d(g, v[0], v[1], v[2], a->conv))
BUILD(linear, npo_op_linear(g, v[0], v[1], v[2]))
BUILD(group_norm, npo_op_group_norm(g, v[0], v[1], v[2], a->groups, (float)a->eps, a->act))
BUILD(layer_norm, npo_op_layer_norm(g, v[0], v[1], v[2], (float)a->eps))
BUILD(activation, npo_op_activation(g, v[0], a->act))
BUILD(geglu, npo_op_geglu(g, v[0]))
BUILD(add, npo_op_add(g, v[0], v[1]))
BUILD(add_channels, npo_op_add_channels(g, v[0], v[1]))
BUILD(scale, npo_op_scale(g, v[0], (float)a->factor))
BUILD(concat, npo_op_concat(g, v[0], v[1]))
BUILD(upsample, npo_op_upsample(g, v[0], a->height, a->width))
BUILD(attention, npo_op_attention(g, v[0], v[1], v[2], a->heads, a->causal))
BUILD(timestep, npo_op_timestep(g, v[0], a->channels, a->flip, (float)a->factor))
BUILD(embedding, npo_op_embedding(g, v[0], v[1]))
BUILD(add_rows, npo_op_add_rows(g, v[0], v[1]))
BUILD(max_pool, npo_op_max_pool(g, v[0]))
BUILD(mix, npo_op_mix(g, v[0], v[1], v[2], v[3]))
BUILD(mse_loss, npo_op_mse_loss(g, v[0], v[1]))
BUILD(pseudo_huber_loss, npo_op_pseudo_huber_loss(g, v[0], v[1], (float)a->factor))
BUILD(cross_entropy_loss, npo_op_cross_entropy_loss(g, v[0], v[1]))

#define OP(name) #name, build_##name, ref_##name
#define S4(a, b, c, d)                                                                             \
    4,                                                                                             \
    {                                                                                              \
        a, b, c, d                                                                                 \
    }
#define S3(a, b, c)                                                                                \
    3,                                                                                             \
    {                                                                                              \
        a, b, c                                                                                    \
    }
#define S2(a, b)                                                                                   \
    2,                                                                                             \
    {                                                                                              \
        a, b                                                                                       \
    }
#define S1(a)                                                                                      \
    1,                                                                                             \
    {                                                                                              \
        a                                                                                          \
    }
#define NO                                                                                         \
    {                                                                                              \
        NONE, 0,                                                                                   \
        {                                                                                          \
            0                                                                                      \
        }                                                                                          \
    }
#define CONV(s, t, l, b, r)                                                                        \
    {                                                                                              \
        .conv = { s, t, l, b, r }                                                                  \
    }

static const op_case cases[] = {
    {OP(conv2d),
     {{X, S4(2, 5, 7, 3)}, {P, S4(5, 3, 3, 3)}, {P, S1(5)}},
     CONV(1, 1, 1, 1, 1),
     .grads = 7},
    {OP(conv2d),
     {{X, S4(1, 6, 4, 16)}, {P, S4(32, 16, 3, 3)}, {P, S1(32)}},
     CONV(1, 1, 1, 1, 1),
     .grads = 7},
    {OP(conv2d),
     {{X, S4(3, 3, 4, 48)}, {P, S4(16, 48, 3, 3)}, {P, S1(16)}},
     CONV(1, 1, 1, 1, 1),
     .grads = 7},
    {OP(conv2d),
     {{X, S4(2, 9, 6, 17)}, {P, S4(20, 17, 3, 3)}, {P, S1(20)}},
     CONV(2, 1, 1, 1, 1),
     .grads = 7},
    {OP(conv2d),
     {{X, S4(2, 8, 6, 16)}, {P, S4(16, 16, 3, 3)}, {P, S1(16)}},
     CONV(2, 1, 1, 1, 1),
     .grads = 7},
    {OP(conv2d),
     {{X, S4(2, 8, 6, 16)}, {P, S4(16, 16, 3, 3)}, NO},
     CONV(2, 0, 0, 1, 1),
     .grads = 3},
    {OP(conv2d), {{X, S4(2, 7, 5, 4)}, {P, S4(6, 4, 3, 3)}, NO}, CONV(2, 0, 1, 1, 0), .grads = 3},
    {OP(conv2d),
     {{X, S4(3, 6, 5, 1)}, {P, S4(16, 1, 3, 3)}, {P, S1(16)}},
     CONV(1, 1, 1, 1, 1),
     .grads = 7},
    {OP(conv2d),
     {{X, S4(3, 6, 5, 16)}, {P, S4(1, 16, 3, 3)}, {P, S1(1)}},
     CONV(1, 1, 1, 1, 1),
     .grads = 7},
    {OP(conv2d),
     {{X, S4(2, 4, 3, 12)}, {P, S4(7, 12, 1, 1)}, {P, S1(7)}},
     CONV(1, 0, 0, 0, 0),
     .grads = 7},
    {OP(conv2d), {{X, S4(2, 4, 3, 12)}, {P, S4(7, 12, 1, 1)}, NO}, CONV(2, 0, 0, 0, 0), .grads = 3},
    {OP(conv2d),
     {{X, S4(1, 9, 8, 3)}, {P, S4(8, 3, 4, 4)}, {P, S1(8)}},
     CONV(4, 0, 0, 0, 0),
     .grads = 7},
    {OP(conv2d),
     {{X, S4(1, 3, 3, 2)}, {P, S4(2, 2, 3, 3)}, {P, S1(2)}},
     CONV(1, 0, 0, 0, 0),
     .grads = 7},
    {OP(conv2d),
     {{X, S4(1, 6, 9, 5)}, {P, S4(4, 5, 2, 5)}, {P, S1(4)}},
     CONV(1, 1, 2, 0, 2),
     .grads = 7},
    {OP(conv2d),
     {{X, S4(2, 4, 3, 48)}, {P, S4(96, 48, 3, 3)}, {P, S1(96)}},
     CONV(1, 1, 1, 1, 1),
     .grads = 7},
    {OP(conv2d),
     {{X, S4(3, 5, 6, 32)}, {P, S4(48, 32, 3, 3)}, {P, S1(48)}},
     CONV(1, 1, 1, 1, 1),
     .grads = 7},
    {OP(conv2d),
     {{X, S4(1, 10, 7, 48)}, {P, S4(48, 48, 3, 3)}, {P, S1(48)}},
     CONV(2, 1, 1, 1, 1),
     .grads = 7},
    {OP(conv2d),
     {{X, S4(2, 6, 5, 32)}, {P, S4(16, 32, 2, 3)}, NO},
     CONV(1, 0, 2, 1, 0),
     .grads = 3},
    {OP(conv2d),
     {{X, S4(19, 3, 4, 16)}, {P, S4(16, 16, 3, 3)}, {P, S1(16)}},
     CONV(1, 1, 1, 1, 1),
     .grads = 7},
    {OP(conv2d),
     {{X, S4(1, 5, 6, 330)}, {P, S4(20, 330, 3, 3)}, {P, S1(20)}},
     CONV(1, 1, 1, 1, 1),
     .grads = 7},
    {OP(conv2d),
     {{X, S4(2, 44, 66, 3)}, {P, S4(4, 3, 3, 3)}, {P, S1(4)}},
     CONV(1, 2, 0, 1, 2),
     .grads = 7},
    {OP(conv2d),
     {{X, S4(3, 5, 4, 20)}, {P, S4(250, 20, 3, 3)}, NO},
     CONV(1, 1, 1, 1, 1),
     .grads = 3},
    {OP(linear), {{X, S3(13, 50, 96)}, {P, S2(80, 96)}, {P, S1(80)}}, .grads = 7},
    {OP(linear), {{X, S2(7, 700)}, {P, S2(30, 700)}, {P, S1(30)}}, .grads = 7},
    {OP(linear), {{X, S2(350, 11)}, {P, S2(300, 11)}, {P, S1(300)}}, .grads = 7},
    {OP(linear), {{X, S2(3, 16)}, {P, S2(16, 16)}, {P, S1(16)}}, .grads = 7},
    {OP(linear), {{X, S2(65, 80)}, {P, S2(48, 80)}, NO}, .grads = 3},
    {OP(linear), {{X, S2(1, 1)}, {P, S2(1, 1)}, {P, S1(1)}}, .grads = 7},
    {OP(linear), {{X, S3(2, 5, 24)}, {P, S2(17, 24)}, {P, S1(17)}}, .grads = 7},
    {OP(linear), {{X, S3(3, 7, 96)}, {P, S2(48, 96)}, NO}, .grads = 3},
    {OP(linear), {{X, S4(2, 3, 3, 16)}, {P, S4(33, 16, 1, 1)}, {P, S1(33)}}, .grads = 7},
    {OP(linear), {{X, S1(10)}, {P, S2(4, 10)}, NO}, .grads = 3},
    {OP(group_norm),
     {{X, S4(2, 3, 5, 8)}, {P, S1(8)}, {P, S1(8)}},
     {.groups = 2, .eps = 1e-5},
     .grads = 7},
    {OP(group_norm),
     {{X, S4(3, 5, 3, 16)}, {P, S1(16)}, {P, S1(16)}},
     {.groups = 8, .eps = 1e-5, .act = NPO_ACT_SILU},
     .grads = 7},
    {OP(group_norm),
     {{X, S4(1, 9, 9, 21)}, {P, S1(21)}, {P, S1(21)}},
     {.groups = 3, .eps = 1e-6, .act = NPO_ACT_SILU},
     .grads = 7},
    {OP(group_norm),
     {{X, S3(2, 3, 48)}, {P, S1(48)}, {P, S1(48)}},
     {.groups = 8, .eps = 1e-6},
     .grads = 7},
    {OP(group_norm),
     {{X, S2(2, 6)}, {P, S1(6)}, {P, S1(6)}},
     {.groups = 1, .eps = 1e-2, .act = NPO_ACT_SILU},
     .grads = 7},
    {OP(layer_norm), {{X, S3(2, 5, 24)}, {P, S1(24)}, {P, S1(24)}}, {.eps = 1e-5}, .grads = 7},
    {OP(layer_norm), {{X, S2(70, 33)}, {P, S1(33)}, {P, S1(33)}}, {.eps = 1e-5}, .grads = 7},
    {OP(layer_norm), {{X, S2(1, 3)}, {P, S1(3)}, {P, S1(3)}}, {.eps = 1e-3}, .grads = 7},
    {OP(activation), {{X, S2(3, 37)}}, {.act = NPO_ACT_SILU}, .grads = 1, .largest = 8},
    {OP(activation), {{X, S2(3, 37)}}, {.act = NPO_ACT_GELU}, .grads = 1, .largest = 8},
    {OP(activation), {{X, S2(3, 37)}}, {.act = NPO_ACT_QUICK_GELU}, .grads = 1, .largest = 8},
    {OP(activation), {{X, S2(3, 37)}}, {.act = NPO_ACT_RELU}, .grads = 1},
    {OP(geglu), {{X, S3(2, 3, 34)}}, .grads = 1, .largest = 5},
    {OP(geglu), {{X, S2(1, 2)}}, .grads = 1},
    {OP(add), {{X, S3(2, 3, 7)}, {X, S3(2, 3, 7)}}, .grads = 3},
    {OP(add_channels), {{X, S4(3, 2, 5, 19)}, {X, S2(3, 19)}}, .grads = 3},
    {OP(add_channels), {{X, S3(1, 70, 4)}, {X, S2(1, 4)}}, .grads = 3},
    {OP(scale), {{X, S2(5, 5)}}, {.factor = -0.375}, .grads = 1},
    {OP(concat), {{X, S4(2, 3, 2, 16)}, {X, S4(2, 3, 2, 5)}}, .grads = 3},
    {OP(concat), {{X, S2(4, 1)}, {X, S2(4, 3)}}, .grads = 3},
    {OP(upsample), {{X, S4(2, 3, 4, 5)}}, {.height = 6, .width = 8}, .grads = 1},
    {OP(upsample), {{X, S4(1, 3, 5, 16)}}, {.height = 7, .width = 9}, .grads = 1},
    {OP(upsample), {{X, S4(1, 7, 7, 3)}}, {.height = 14, .width = 14}, .grads = 1},
    {OP(attention),
     {{X, S3(2, 9, 24)}, {X, S3(2, 5, 24)}, {X, S3(2, 5, 24)}},
     {.heads = 2},
     .grads = 7},
    {OP(attention),
     {{X, S3(1, 37, 20)}, {X, S3(1, 49, 20)}, {X, S3(1, 49, 20)}},
     {.heads = 4},
     .grads = 7,
     .largest = 3},
    {OP(attention),
     {{X, S3(2, 1, 6)}, {X, S3(2, 1, 6)}, {X, S3(2, 1, 6)}},
     {.heads = 1},
     .grads = 7},
    {OP(attention),
     {{X, S3(2, 18, 16)}, {X, S3(2, 18, 16)}, {X, S3(2, 18, 16)}},
     {.heads = 2, .causal = true},
     .grads = 7},
    {OP(attention),
     {{X, S3(1, 40, 64)}, {X, S3(1, 40, 64)}, {X, S3(1, 40, 64)}},
     {.heads = 1, .causal = true},
     .grads = 7},
    {OP(timestep), {{X, S1(4)}}, {.channels = 16, .flip = true}, .largest = 100, .tolerance = 3e-5},
    {OP(timestep), {{X, S1(2)}}, {.channels = 7, .factor = 1}, .largest = 100, .tolerance = 3e-5},
    {OP(embedding), {{IDS, S2(2, 3)}, {P, S2(4, 10)}}, .grads = 2},
    {OP(add_rows), {{X, S3(2, 3, 18)}, {P, S2(5, 18)}}, .grads = 3},
    {OP(max_pool), {{X, S4(2, 4, 6, 5)}}, .grads = 1},
    {OP(max_pool), {{X, S4(1, 5, 3, 17)}}, .grads = 1},
    {OP(mix), {{X, S4(3, 2, 2, 5)}, {X, S4(3, 2, 2, 5)}, {X, S1(3)}, {X, S1(3)}}, .grads = 3},
    {OP(mse_loss), {{X, S3(3, 5, 7)}, {X, S3(3, 5, 7)}}, .grads = 1, .scalar = true},
    {OP(pseudo_huber_loss),
     {{X, S3(3, 5, 7)}, {X, S3(3, 5, 7)}},
     {.factor = 0.03},
     .grads = 1,
     .scalar = true},
    {OP(cross_entropy_loss),
     {{X, S2(5, 4)}, {IDS, S1(5)}},
     .grads = 1,
     .scalar = true,
     .largest = 3},
};

/* ---- one case in memory ---- */

static const char *isa;
/* Relative to the largest value. Gradients see the rounding of two products and of the loss. */
#define OUTPUT_TOLERANCE   1e-5
#define GRADIENT_TOLERANCE 2e-5
static npo_backend *backend;
static uint64_t random_state;

static double draw(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)(random_state >> 11) / (double)(1ull << 52) - 1;
}

typedef struct {
    const op_case *c;
    ref_call call;
    double *values[REF_OPERANDS_MAX], *target;
    npo_layout *layout;
    npo_graph *graph;
    npo_params *params, *grads;
    npo_value value[REF_OPERANDS_MAX], loss;
} fixture;

static const char *const names[] = {"a", "b", "c", "d"};

static void fill_operands(fixture *f)
{
    for (int i = 0; i < REF_OPERANDS_MAX; i++) {
        const operand *o = &f->c->in[i];
        if (o->ndim == 0)
            continue;
        npo_shape *shape = &f->call.in[i];
        *shape = (npo_shape){.dtype = o->kind == IDS ? NPO_I32 : NPO_F32, .ndim = o->ndim};
        memcpy(shape->dims, o->dims, sizeof shape->dims);
        f->values[i] = calloc((size_t)ref_count(shape), sizeof(double));
        for (int64_t k = 0; k < ref_count(shape); k++) {
            double largest = f->c->largest > 0 ? f->c->largest : 1;
            f->values[i][k] = o->kind == IDS ? floor((draw() + 1) * 2) : (float)(draw() * largest);
        }
        f->call.x[i] = f->values[i];
    }
}

static void record(fixture *f, bool with_loss)
{
    assert_int_equal(npo_layout_new(&f->layout), NPO_OK);
    assert_int_equal(npo_graph_new(backend, f->layout, &f->graph), NPO_OK);
    for (int i = 0; i < REF_OPERANDS_MAX; i++) {
        const npo_shape *s = &f->call.in[i];
        f->value[i] = NPO_VALUE_NONE;
        if (f->values[i] && f->c->in[i].kind == P)
            f->value[i] = npo_graph_param(f->graph, names[i], s->ndim, s->dims);
        else if (f->values[i])
            f->value[i] = npo_graph_input(f->graph, names[i], s->dtype, s->ndim, s->dims);
    }
    npo_value y = f->c->build(f->graph, f->value, &f->c->attrs);
    assert_int_not_equal(y, NPO_VALUE_NONE);
    f->call.out = *npo_graph_shape(f->graph, y);
    f->loss = NPO_VALUE_NONE;
    if (!with_loss) {
        npo_graph_output(f->graph, "y", y);
        return;
    }
    f->loss = y;
    if (!f->c->scalar) {
        npo_value target =
            npo_graph_input(f->graph, "target", NPO_F32, f->call.out.ndim, f->call.out.dims);
        f->loss = npo_op_mse_loss(f->graph, y, target);
    }
    npo_graph_output(f->graph, "y", f->loss);
}

static void feed(fixture *f)
{
    float *flat = npo_params_edit(f->params);
    for (int i = 0; i < REF_OPERANDS_MAX; i++) {
        int64_t n = f->values[i] ? ref_count(&f->call.in[i]) : 0;
        void *to = n && f->c->in[i].kind != P ? npo_graph_input_data(f->graph, names[i]) : NULL;
        if (n && f->c->in[i].kind == P)
            to = flat + npo_layout_find(f->layout, names[i])->offset;
        for (int64_t k = 0; k < n; k++) {
            if (f->c->in[i].kind == IDS)
                ((int32_t *)to)[k] = (int32_t)f->values[i][k];
            else
                ((float *)to)[k] = (float)f->values[i][k];
        }
    }
    float *target = npo_graph_input_data(f->graph, "target");
    for (int64_t k = 0; target && k < ref_count(&f->call.out); k++)
        target[k] = (float)f->target[k];
}

static void open_fixture(fixture *f, const op_case *c, bool with_loss)
{
    *f = (fixture){.c = c, .call.attrs = c->attrs};
    random_state = 1234567 + (uint64_t)(c - cases);
    fill_operands(f);
    record(f, with_loss);
    npo_error error = {0};
    npo_plan_options options = {.loss = f->loss, .input_grads = true};
    if (npo_graph_plan(f->graph, &options, NULL, &error))
        fail_msg("%s: %s", c->name, error.text);
    f->target = calloc((size_t)ref_count(&f->call.out), sizeof(double));
    for (int64_t k = 0; k < ref_count(&f->call.out); k++)
        f->target[k] = (float)draw();
    assert_int_equal(npo_params_new(f->layout, &f->params), NPO_OK);
    assert_int_equal(npo_params_new(f->layout, &f->grads), NPO_OK);
    feed(f);
}

static void close_fixture(fixture *f)
{
    npo_params_free(f->params);
    npo_params_free(f->grads);
    npo_graph_free(f->graph);
    npo_layout_unref(f->layout);
    for (int i = 0; i < REF_OPERANDS_MAX; i++)
        free(f->values[i]);
    free(f->target);
}

/* ---- comparing ---- */

static void compare(const fixture *f, const char *what, int64_t n, const float *ours,
                    const double *reference, double tolerance)
{
    double largest = 1e-8, worst = 0; /* below it is noise of the differences */
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(reference[i]));
    for (int64_t i = 0; i < n; i++) {
        double error = fabs(ours[i] - reference[i]) / largest;
        if (!(error <= worst)) {
            worst = error;
            at = i;
        }
    }
    if (!(worst <= tolerance))
        fail_msg("case %d, %s: %s %s[%lld] is %.9g, expected %.9g (relative error %.2g)",
                 (int)(f->c - cases), f->c->name, isa, what, (long long)at, (double)ours[at],
                 reference[at], worst);
}

static void check_forward(const op_case *c)
{
    fixture f;
    npo_shape shape;
    open_fixture(&f, c, false);
    double *expected = calloc((size_t)ref_count(&f.call.out), sizeof(double));
    c->reference(&f.call, expected);
    npo_error error = {0};
    if (npo_graph_forward(f.graph, f.params, &error))
        fail_msg("%s: %s", c->name, error.text);
    const float *y = npo_graph_output_data(f.graph, "y", &shape);
    compare(&f, "output", ref_count(&shape), y, expected,
            c->tolerance > 0 ? c->tolerance : OUTPUT_TOLERANCE);
    free(expected);
    close_fixture(&f);
}

static double reference_loss(const fixture *f, double *out)
{
    double loss;
    f->c->reference(&f->call, out);
    if (f->c->scalar)
        return *out;
    ref_call mse = {.in = {f->call.out}, .x = {out, f->target}};
    ref_mse_loss(&mse, &loss);
    return loss;
}

/* Central differences of fourth order. */
static double slope(const fixture *f, double *at, double *out)
{
    static const double steps[] = {1, -1, 2, -2}, weights[] = {8, -8, -1, 1};
    const double h = 1e-4, x = *at;
    double sum = 0;
    for (int i = 0; i < 4; i++) {
        *at = x + steps[i] * h;
        sum += weights[i] * reference_loss(f, out);
    }
    *at = x;
    return sum / (12 * h);
}

enum { SAMPLES = 48 };

/* At most SAMPLES elements of each operand's gradient, for a scale of 1. */
typedef struct {
    int64_t count, at[SAMPLES];
    double expected[SAMPLES];
} slopes;

/* Fewer where an evaluation of the reference is expensive. */
static int64_t sample_count(const fixture *f, int k)
{
    int64_t n = ref_count(&f->call.in[k]), most = SAMPLES;
    if (f->c->reference == ref_conv2d || f->c->reference == ref_linear) {
        const npo_shape *w = &f->call.in[1];
        int64_t macs = ref_count(&f->call.out) * (ref_count(w) / w->dims[0]);
        most = 8 + 4000000 / macs;
    }
    most = most < SAMPLES ? most : SAMPLES;
    return n < most ? n : most;
}

static void find_slopes(fixture *f, int k, slopes *ret_slopes)
{
    int64_t n = ref_count(&f->call.in[k]), count = sample_count(f, k);
    double *out = calloc((size_t)ref_count(&f->call.out), sizeof(double));
    ret_slopes->count = count;
    for (int64_t i = 0; i < count; i++) {
        ret_slopes->at[i] = i * n / count;
        ret_slopes->expected[i] = slope(f, &f->values[k][ret_slopes->at[i]], out);
    }
    free(out);
}

static void check_gradient(fixture *f, int k, const slopes *s, double scale)
{
    const float *grad = f->c->in[k].kind == P ? npo_params_data(f->grads) +
                                                    npo_layout_find(f->layout, names[k])->offset
                                              : npo_graph_input_grad(f->graph, names[k]);
    float ours[SAMPLES];
    double expected[SAMPLES];
    for (int64_t i = 0; i < s->count; i++) {
        ours[i] = grad[s->at[i]];
        expected[i] = scale * s->expected[i];
    }
    compare(f, names[k], s->count, ours, expected, GRADIENT_TOLERANCE);
}

static double find_loss(const fixture *f)
{
    double *out = calloc((size_t)ref_count(&f->call.out), sizeof(double));
    double loss = reference_loss(f, out);
    free(out);
    return loss;
}

static void check_backward(const op_case *c)
{
    fixture f;
    npo_error error = {0};
    slopes expected[REF_OPERANDS_MAX];
    open_fixture(&f, c, true);
    double loss = find_loss(&f);
    for (int i = 0; i < REF_OPERANDS_MAX; i++)
        if (c->grads >> i & 1)
            find_slopes(&f, i, &expected[i]);
    for (int run = 1; run <= 2; run++) {
        if (npo_graph_forward(f.graph, f.params, &error) ||
            npo_graph_backward(f.graph, f.params, 0.5f, f.grads, &error))
            fail_msg("%s: %s", c->name, error.text);
        compare(&f, "loss", 1, npo_graph_output_data(f.graph, "y", NULL), &loss, OUTPUT_TOLERANCE);
        /* Those of parameters add up over runs, those of inputs do not. */
        for (int i = 0; i < REF_OPERANDS_MAX; i++)
            if (c->grads >> i & 1)
                check_gradient(&f, i, &expected[i], c->in[i].kind == P ? 0.5 * run : 0.5);
    }
    close_fixture(&f);
}

/* ---- the tests: all cases of one op ---- */

static void run_cases(void **state)
{
    const char *name = *state;
    int count = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (strcmp(cases[i].name, name) != 0)
            continue;
        check_forward(&cases[i]);
        if (cases[i].grads)
            check_backward(&cases[i]);
        count++;
    }
    assert_true(count > 0);
}

#define TEST(op)                                                                                   \
    {                                                                                              \
        "test_op_" #op "_matches_reference", run_cases, NULL, NULL, #op                            \
    }

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(conv2d),
        TEST(linear),
        TEST(group_norm),
        TEST(layer_norm),
        TEST(activation),
        TEST(geglu),
        TEST(add),
        TEST(add_channels),
        TEST(scale),
        TEST(concat),
        TEST(upsample),
        TEST(attention),
        TEST(timestep),
        TEST(embedding),
        TEST(add_rows),
        TEST(max_pool),
        TEST(mix),
        TEST(mse_loss),
        TEST(pseudo_huber_loss),
        TEST(cross_entropy_loss),
    };
    npo_error error = {0};
    isa = argc > 1 ? argv[1] : NULL;
    npo_backend_options options = {
        .device = "cpu",
        .threads = argc > 2 ? atoi(argv[2]) : 2,
        .isa = isa,
        .products = argc > 3 ? argv[3] : NULL,
    };
    npo_err err = npo_backend_new(&options, &backend, &error);
    if (err) {
        fprintf(stderr, "%s\n", error.text);
        return err == NPO_E_NOT_FOUND ? 77 : 1; /* meson: skipped */
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    npo_backend_free(backend);
    return failed;
}
