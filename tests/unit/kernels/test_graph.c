/* Recording, planning and running of graphs. */
#include "tests/unit/cmocka.h"

#include "tests/unit/kernels/network.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- allocations that fail (linked with --wrap) ---- */

static long allocations_left = -1; /* -1: any number */

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void *__wrap_aligned_alloc(size_t align, size_t size);
char *__wrap_strdup(const char *text);

static bool may_allocate(void)
{
    return allocations_left < 0 || allocations_left-- > 0;
}

void *__wrap_malloc(size_t size)
{
    return may_allocate() ? __real_malloc(size) : NULL;
}

void *__wrap_calloc(size_t count, size_t size)
{
    return may_allocate() ? __real_calloc(count, size) : NULL;
}

void *__wrap_realloc(void *memory, size_t size)
{
    return may_allocate() ? __real_realloc(memory, size) : NULL;
}

void *__wrap_aligned_alloc(size_t align, size_t size)
{
    return may_allocate() ? __real_aligned_alloc(align, size) : NULL;
}

char *__wrap_strdup(const char *text)
{
    return may_allocate() ? __real_strdup(text) : NULL;
}

/* ---- running ---- */

static void test_graph_adds_up_gradients_of_a_value_used_often(void **state)
{
    enum { N = 37 };
    npo_layout *layout;
    npo_graph *g;
    npo_params *empty, *grads;
    assert_int_equal(npo_layout_new(&layout), NPO_OK);
    assert_int_equal(npo_graph_new(backend, layout, &g), NPO_OK);
    npo_value x = npo_graph_input(g, "x", NPO_F32, 1, (int64_t[]){N});
    npo_value zero = npo_graph_input(g, "zero", NPO_F32, 1, (int64_t[]){N});
    npo_value twice = npo_op_add(g, x, x), silu = npo_op_activation(g, x, NPO_ACT_SILU);
    npo_value sum = npo_op_add(g, npo_op_add(g, twice, silu), npo_op_scale(g, twice, 3));
    npo_value loss = npo_op_mse_loss(g, npo_op_add(g, sum, twice), zero);
    npo_plan_options options = {.loss = loss, .input_grads = true};
    assert_int_equal(npo_graph_plan(g, &options, NULL, NULL), NPO_OK);
    assert_int_equal(npo_params_new(layout, &empty), NPO_OK);
    assert_int_equal(npo_params_new(layout, &grads), NPO_OK);
    network_fill(npo_graph_input_data(g, "x"), N, 5, 2);
    for (int run = 0; run < 2; run++) {
        assert_int_equal(npo_graph_forward(g, empty, NULL), NPO_OK);
        assert_int_equal(npo_graph_backward(g, empty, 1, grads, NULL), NPO_OK);
    }
    const float *in = npo_graph_input_data(g, "x"), *slope = npo_graph_input_grad(g, "x");
    for (int i = 0; i < N; i++) {
        double v = in[i], s = 1 / (1 + exp(-v));
        double y = 10 * v + v * s, dy = 10 + s * (1 + v * (1 - s));
        assert_true(fabs(slope[i] - 2 * y * dy / N) < 1e-5 * fabs(2 * y * dy / N) + 1e-6);
    }
    npo_params_free(empty);
    npo_params_free(grads);
    npo_graph_free(g);
    npo_layout_unref(layout);
}

typedef struct {
    size_t forward, backward, last_forward;
    double flops;
} watched;

static void watch(void *context, const npo_op_time *time)
{
    watched *w = context;
    assert_non_null(time->name);
    assert_true(time->ns >= 0 && time->a && time->out);
    *(time->backward ? &w->backward : &w->forward) += 1;
    if (time->backward)
        assert_true(time->index <= w->last_forward);
    else
        w->last_forward = time->index;
    w->flops += time->flops;
}

static void test_graph_shows_each_op_to_an_observer(void **state)
{
    network n;
    watched w = {0};
    network_open(&n, (network_options){.n = 2, .loss = true});
    network_fill_params(n.params, 3);
    network_feed(&n, 0);
    npo_graph_observe(n.graph, watch, &w);
    network_forward(&n, n.params);
    assert_true(w.forward > 0 && w.backward == 0 && w.flops > 0);
    network_backward(&n, 1);
    assert_true(w.backward > 0);
    watched before = w;
    npo_graph_observe(n.graph, NULL, NULL);
    network_forward(&n, n.params);
    assert_memory_equal(&w, &before, sizeof w);
    network_close(&n);
}

static void test_graph_adds_up_micro_batches_with_scale(void **state)
{
    network whole, half;
    network_open(&whole, (network_options){.n = 4, .loss = true});
    network_open(&half, (network_options){.n = 2, .loss = true, .layout = whole.layout});
    network_fill_params(whole.params, 3);
    npo_params_copy(half.params, whole.params);
    network_feed(&whole, 0);
    network_forward(&whole, whole.params);
    network_backward(&whole, 1);
    for (int i = 0; i < 2; i++) {
        network_feed(&half, 2 * i);
        network_forward(&half, half.params);
        network_backward(&half, 0.5f);
    }
    size_t n = npo_layout_floats(whole.layout);
    assert_true(network_difference(npo_params_data(half.grads), npo_params_data(whole.grads), n) <
                2e-6);
    network_close(&half);
    network_close(&whole);
}

static void test_graph_fusion_changes_no_result(void **state)
{
    network fused, plain;
    network_open(&fused, (network_options){.n = 3, .loss = true, .input_grads = true});
    network_open(
        &plain,
        (network_options){
            .n = 3, .loss = true, .named = true, .input_grads = true, .layout = fused.layout});
    network_fill_params(fused.params, 8);
    npo_params_copy(plain.params, fused.params);
    network *nets[] = {&fused, &plain};
    for (int i = 0; i < 2; i++) {
        network_feed(nets[i], 0);
        network_forward(nets[i], nets[i]->params);
        network_backward(nets[i], 1);
    }
    size_t n = npo_layout_floats(fused.layout);
    assert_true(network_difference(network_output(&fused), network_output(&plain),
                                   network_output_floats(&fused)) < 1e-6);
    assert_true(network_difference(npo_params_data(fused.grads), npo_params_data(plain.grads), n) <
                2e-6);
    assert_true(network_difference(npo_graph_input_grad(fused.graph, "x"),
                                   npo_graph_input_grad(plain.graph, "x"),
                                   3 * SIDE * SIDE * IN) < 2e-6);
    assert_true(fused.info.arena_bytes < plain.info.arena_bytes + plain.info.private_bytes);
    network_close(&plain);
    network_close(&fused);
}

static void test_graph_runs_give_the_same_bytes(void **state)
{
    network net;
    network_open(&net, (network_options){.n = 5, .loss = true});
    network_fill_params(net.params, 2);
    size_t bytes = npo_layout_floats(net.layout) * sizeof(float);
    float *first = malloc(bytes), *y = malloc(network_output_floats(&net) * sizeof(float));
    for (int run = 0; run < 4; run++) {
        network_feed(&net, 0);
        memset(npo_params_edit(net.grads), 0, bytes);
        network_forward(&net, net.params);
        network_backward(&net, 1);
        if (run == 0) {
            memcpy(first, npo_params_data(net.grads), bytes);
            memcpy(y, network_output(&net), network_output_floats(&net) * sizeof(float));
        }
        assert_memory_equal(first, npo_params_data(net.grads), bytes);
        assert_memory_equal(y, network_output(&net), network_output_floats(&net) * sizeof(float));
    }
    free(first);
    free(y);
    network_close(&net);
}

static void test_graph_alternates_between_parameter_sets(void **state)
{
    enum { SETS = 4 }; /* more than a graph keeps packed */
    network net, fresh;
    npo_params *sets[SETS];
    float *expected[SETS];
    network_open(&net, (network_options){.n = 2});
    size_t bytes = network_output_floats(&net) * sizeof(float);
    network_feed(&net, 0);
    for (int i = 0; i < SETS; i++) {
        assert_int_equal(npo_params_new(net.layout, &sets[i]), NPO_OK);
        network_fill_params(sets[i], 10 + (uint64_t)i);
        network_open(&fresh, (network_options){.n = 2, .layout = net.layout});
        network_feed(&fresh, 0);
        network_forward(&fresh, sets[i]);
        expected[i] = malloc(bytes);
        memcpy(expected[i], network_output(&fresh), bytes);
        network_close(&fresh);
    }
    for (int run = 0; run < 3 * SETS; run++) {
        int set = (run * 3) % SETS;
        network_forward(&net, sets[set]);
        assert_memory_equal(network_output(&net), expected[set], bytes);
    }
    for (int i = 0; i < SETS; i++) {
        npo_params_free(sets[i]);
        free(expected[i]);
    }
    network_close(&net);
}

static void test_graph_sees_an_edit_of_its_parameters(void **state)
{
    network net;
    network_open(&net, (network_options){.n = 1});
    network_fill_params(net.params, 1);
    network_feed(&net, 0);
    network_forward(&net, net.params);
    float before = network_output(&net)[0];
    network_fill_params(net.params, 2);
    network_forward(&net, net.params);
    assert_true(network_output(&net)[0] != before);
    network_fill_params(net.params, 1);
    network_forward(&net, net.params);
    assert_true(network_output(&net)[0] == before);
    network_close(&net);
}

static void test_graph_forward_only_wants_less_memory(void **state)
{
    network train, infer;
    network_open(&train, (network_options){.n = 8, .loss = true});
    network_open(&infer, (network_options){.n = 8, .layout = train.layout});
    assert_true(infer.info.arena_bytes < train.info.arena_bytes);
    assert_true(infer.info.forward_flops > 0);
    assert_true(infer.info.backward_flops == 0);
    assert_true(train.info.backward_flops > 1.5 * train.info.forward_flops);
    network_close(&infer);
    network_close(&train);
}

static void test_graph_backward_wants_its_forward(void **state)
{
    network a, b;
    npo_error error = {0};
    network_open(&a, (network_options){.n = 1, .loss = true});
    network_open(&b, (network_options){.n = 1, .layout = a.layout});
    network_feed(&a, 0);
    assert_int_equal(npo_graph_backward(a.graph, a.params, 1, a.grads, &error), NPO_E_STATE);
    assert_string_equal(error.text,
                        "backward without a forward of the same graph and parameters just before");
    network_forward(&a, a.params);
    network_forward(&b, a.params); /* the arena is shared */
    assert_int_equal(npo_graph_backward(a.graph, a.params, 1, a.grads, &error), NPO_E_STATE);
    network_forward(&a, a.params);
    npo_params_edit(a.params);
    assert_int_equal(npo_graph_backward(a.graph, a.params, 1, a.grads, &error), NPO_E_STATE);
    network_forward(&a, a.params);
    network_backward(&a, 1);
    assert_int_equal(npo_graph_backward(a.graph, a.params, 1, a.grads, &error), NPO_E_STATE);
    network_close(&b);
    network_close(&a);
}

static void test_graph_names_what_can_be_read(void **state)
{
    network net;
    npo_shape shape;
    network_open(&net, (network_options){.n = 2, .loss = true, .named = true});
    assert_null(npo_graph_input_data(net.graph, "y"));
    assert_null(npo_graph_output_data(net.graph, "x", NULL));
    assert_null(npo_graph_input_grad(net.graph, "x")); /* not asked for */
    assert_non_null(npo_graph_output_data(net.graph, "v1", &shape));
    assert_int_equal(shape.ndim, 4);
    assert_int_equal(shape.dims[3], WIDTH);
    assert_non_null(npo_graph_output_data(net.graph, "loss", &shape));
    assert_int_equal(shape.ndim, 0);
    network_close(&net);
}

/* ---- failures while recording ---- */

typedef struct {
    npo_value image, tokens, ids, vector, weight,
        square; /* [2,4,6,8] [2,5,8] [2,3]i32 [8] [4,8,3,3] [8,8] */
} values;

typedef void (*recorder)(npo_graph *g, const values *v);

static const npo_conv_options plain = {1, 0, 0, 0, 0};

#define RECORD(name, call)                                                                         \
    static void record_##name(npo_graph *g, const values *v)                                       \
    {                                                                                              \
        call;                                                                                      \
    }

RECORD(conv_tokens, npo_op_conv2d(g, v->tokens, v->weight, NPO_VALUE_NONE, plain))
RECORD(conv_weight, npo_op_conv2d(g, v->image, v->square, NPO_VALUE_NONE, plain))
RECORD(conv_bias, npo_op_conv2d(g, v->image, v->weight, v->vector, plain))
RECORD(conv_stride, npo_op_conv2d(g, v->image, v->weight, NPO_VALUE_NONE, (npo_conv_options){0}))
RECORD(conv_none, npo_op_conv2d(g, v->image, NPO_VALUE_NONE, NPO_VALUE_NONE, plain))
RECORD(linear, npo_op_linear(g, v->tokens, v->weight, NPO_VALUE_NONE))
RECORD(linear_ids, npo_op_linear(g, v->ids, v->square, NPO_VALUE_NONE))
RECORD(group_norm, npo_op_group_norm(g, v->image, v->vector, v->vector, 3, 1e-5f, NPO_ACT_NONE))
RECORD(group_norm_act, npo_op_group_norm(g, v->image, v->vector, v->vector, 2, 1e-5f, NPO_ACT_GELU))
RECORD(layer_norm, npo_op_layer_norm(g, v->ids, v->vector, v->vector, 1e-5f))
RECORD(add, npo_op_add(g, v->image, v->tokens))
RECORD(add_channels, npo_op_add_channels(g, v->image, v->square))
RECORD(concat, npo_op_concat(g, v->image, v->tokens))
RECORD(upsample, npo_op_upsample(g, v->image, 3, 12))
RECORD(attention, npo_op_attention(g, v->tokens, v->tokens, v->tokens, 3, false))
RECORD(attention_k, npo_op_attention(g, v->tokens, v->image, v->image, 2, false))
RECORD(reshape, npo_op_reshape(g, v->image, 2, (int64_t[]){5, 5}))
RECORD(embedding, npo_op_embedding(g, v->tokens, v->square))
RECORD(add_rows, npo_op_add_rows(g, v->tokens, v->vector))
RECORD(mse, npo_op_mse_loss(g, v->image, v->tokens))
RECORD(huber, npo_op_pseudo_huber_loss(g, v->image, v->image, 0))
RECORD(cross_entropy, npo_op_cross_entropy_loss(g, v->square, v->ids))
RECORD(param, npo_graph_param(g, "square", 1, (int64_t[]){8}))
RECORD(input, npo_graph_input(g, "bad", NPO_F32, 2, (int64_t[]){3, 0}))
RECORD(output, npo_graph_output(g, "w", v->square))
RECORD(fail, npo_graph_fail(g, NPO_E_UNSUPPORTED, "config asks for '%s'", "dropout"))

static const struct {
    recorder record;
    npo_err code;
    const char *text;
} failures[] = {
    {record_conv_tokens, NPO_E_SHAPE, "op 'conv2d': x [2,5,8], expected [N,H,W,C]"},
    {record_conv_weight, NPO_E_SHAPE, "op 'conv2d': weight [8,8], expected [O,8,kh,kw]"},
    {record_conv_bias, NPO_E_SHAPE, "op 'conv2d': bias [8], expected [4]"},
    {record_conv_stride, NPO_E_RANGE,
     "op 'conv2d': stride 0, padding 0 0 0 0, expected a stride of at least 1 and no negative "
     "padding"},
    {record_conv_none, NPO_E_USAGE, "op 'conv2d': operand 1 is missing"},
    {record_linear, NPO_E_SHAPE, "op 'linear': weight [4,8,3,3], expected [O,8]"},
    {record_linear_ids, NPO_E_SHAPE,
     "op 'linear': x [2,3] i32, expected f32 of 1 or more dimensions"},
    {record_group_norm, NPO_E_SHAPE,
     "op 'group_norm': 8 channels in 3 groups, expected a multiple"},
    {record_group_norm_act, NPO_E_UNSUPPORTED,
     "op 'group_norm': activation 2, expected none or silu"},
    {record_layer_norm, NPO_E_SHAPE,
     "op 'layer_norm': x [2,3] i32, expected f32 of 1 or more dimensions"},
    {record_add, NPO_E_SHAPE, "op 'add': b [2,5,8], expected [2,4,6,8]"},
    {record_add_channels, NPO_E_SHAPE, "op 'add_channels': e [8,8], expected [2,8]"},
    {record_concat, NPO_E_SHAPE,
     "op 'concat': b [2,5,8], expected [2,4,6,8] but for the last axis"},
    {record_upsample, NPO_E_RANGE, "op 'upsample': to 3x12, expected at least 4x6"},
    {record_attention, NPO_E_SHAPE, "op 'attention': 8 channels in 3 heads, expected a multiple"},
    {record_attention_k, NPO_E_SHAPE, "op 'attention': k [2,4,6,8], expected [2,Lk,8]"},
    {record_reshape, NPO_E_SHAPE, "op 'reshape': [2,4,6,8] to [5,5], expected as many elements"},
    {record_embedding, NPO_E_SHAPE, "op 'embedding': ids [2,5,8], expected [N,L] i32"},
    {record_add_rows, NPO_E_SHAPE, "op 'add_rows': p [8], expected [5 or more,8]"},
    {record_mse, NPO_E_SHAPE, "op 'mse_loss': target [2,5,8], expected [2,4,6,8]"},
    {record_huber, NPO_E_RANGE, "op 'pseudo_huber_loss': h 0, expected a positive number"},
    {record_cross_entropy, NPO_E_SHAPE,
     "op 'cross_entropy_loss': labels [2,3] i32, expected [8] i32"},
    {record_param, NPO_E_SHAPE, "parameter 'square': shape [8], expected [8,8]"},
    {record_input, NPO_E_SHAPE, "'bad': expected at most 4 dimensions, each of at least 1"},
    {record_output, NPO_E_USAGE, "output 'w': expected a computed value, found a parameter"},
    {record_fail, NPO_E_UNSUPPORTED, "config asks for 'dropout'"},
};

static void record_values(npo_graph *g, values *v)
{
    v->image = npo_graph_input(g, "image", NPO_F32, 4, (int64_t[]){2, 4, 6, 8});
    v->tokens = npo_graph_input(g, "tokens", NPO_F32, 3, (int64_t[]){2, 5, 8});
    v->ids = npo_graph_input(g, "ids", NPO_I32, 2, (int64_t[]){2, 3});
    v->vector = npo_graph_param(g, "vector", 1, (int64_t[]){8});
    v->weight = npo_graph_param(g, "weight", 4, (int64_t[]){4, 8, 3, 3});
    v->square = npo_graph_param(g, "square", 2, (int64_t[]){8, 8});
}

static void test_graph_failures_are_sticky_and_say_why(void **state)
{
    for (size_t i = 0; i < sizeof failures / sizeof *failures; i++) {
        npo_layout *layout;
        npo_graph *g;
        values v;
        npo_error error = {0};
        npo_plan_options options = {.loss = NPO_VALUE_NONE};
        assert_int_equal(npo_layout_new(&layout), NPO_OK);
        assert_int_equal(npo_graph_new(backend, layout, &g), NPO_OK);
        record_values(g, &v);
        assert_false(npo_graph_failed(g));
        failures[i].record(g, &v);
        assert_true(npo_graph_failed(g));
        /* What follows is passed through and changes nothing. */
        npo_value y = npo_op_add(g, v.image, v.image);
        assert_int_equal(y, NPO_VALUE_NONE);
        assert_int_equal(npo_op_reshape(g, y, 1, (int64_t[]){3}), NPO_VALUE_NONE);
        assert_null(npo_graph_shape(g, y));
        npo_graph_output(g, "y", y);
        npo_graph_fail(g, NPO_E_IO, "later");
        assert_int_equal(npo_graph_plan(g, &options, NULL, &error), failures[i].code);
        assert_string_equal(error.text, failures[i].text);
        npo_graph_free(g);
        npo_layout_unref(layout);
    }
}

static void test_graph_loss_is_a_computed_scalar(void **state)
{
    npo_layout *layout;
    npo_graph *g;
    values v;
    npo_error error = {0};
    assert_int_equal(npo_layout_new(&layout), NPO_OK);
    assert_int_equal(npo_graph_new(backend, layout, &g), NPO_OK);
    record_values(g, &v);
    npo_plan_options options = {.loss = npo_op_scale(g, v.tokens, 2)};
    assert_int_equal(npo_graph_plan(g, &options, NULL, &error), NPO_E_SHAPE);
    assert_string_equal(error.text, "loss: shape [2,5,8], expected a computed scalar");
    npo_graph_free(g);
    npo_layout_unref(layout);
}

static void test_graph_ids_out_of_range_fail_the_run(void **state)
{
    npo_layout *layout;
    npo_graph *g;
    npo_params *params;
    npo_error error = {0};
    assert_int_equal(npo_layout_new(&layout), NPO_OK);
    assert_int_equal(npo_graph_new(backend, layout, &g), NPO_OK);
    npo_value ids = npo_graph_input(g, "ids", NPO_I32, 2, (int64_t[]){2, 3});
    npo_value labels = npo_graph_input(g, "labels", NPO_I32, 1, (int64_t[]){6});
    npo_value y = npo_op_embedding(g, ids, npo_graph_param(g, "table", 2, (int64_t[]){7, 4}));
    y = npo_op_reshape(g, y, 2, (int64_t[]){6, 4});
    npo_graph_output(g, "loss", npo_op_cross_entropy_loss(g, y, labels));
    npo_plan_options options = {.loss = NPO_VALUE_NONE};
    assert_int_equal(npo_graph_plan(g, &options, NULL, NULL), NPO_OK);
    assert_int_equal(npo_params_new(layout, &params), NPO_OK);
    int32_t *id = npo_graph_input_data(g, "ids"), *label = npo_graph_input_data(g, "labels");
    assert_int_equal(npo_graph_forward(g, params, &error), NPO_OK);
    id[4] = 7;
    assert_int_equal(npo_graph_forward(g, params, &error), NPO_E_RANGE);
    assert_string_equal(error.text, "op 'embedding': id 7 at 4, expected 0 to 6");
    id[4] = -1;
    assert_int_equal(npo_graph_forward(g, params, &error), NPO_E_RANGE);
    id[4] = 6;
    label[2] = 4;
    assert_int_equal(npo_graph_forward(g, params, &error), NPO_E_RANGE);
    assert_string_equal(error.text, "op 'cross_entropy_loss': label 4 at 2, expected 0 to 3");
    npo_params_free(params);
    npo_graph_free(g);
    npo_layout_unref(layout);
}

/* ---- memory that is not there ---- */

/* Everything from layout to a run; the first failure ends it. */
static npo_err build_and_run(npo_error *error)
{
    npo_layout *layout = NULL;
    npo_graph *graph = NULL;
    npo_params *params = NULL, *grads = NULL;
    npo_plan_options options = {.loss = NPO_VALUE_NONE};
    npo_err err = npo_layout_new(&layout);
    if (!err)
        err = npo_graph_new(backend, layout, &graph);
    if (err)
        goto out;
    npo_value y = network_record(graph, 2, true);
    if (!npo_graph_failed(graph)) {
        const npo_shape *s = npo_graph_shape(graph, y);
        options.loss =
            npo_op_mse_loss(graph, y, npo_graph_input(graph, "target", NPO_F32, s->ndim, s->dims));
    }
    err = npo_graph_plan(graph, &options, NULL, error);
    if (!err)
        err = npo_params_new(layout, &params);
    if (!err)
        err = npo_params_new(layout, &grads);
    if (err)
        goto out;
    /* A run allocates nothing. */
    long left = allocations_left;
    allocations_left = 0;
    err = npo_graph_forward(graph, params, error);
    if (!err)
        err = npo_graph_backward(graph, params, 1, grads, error);
    assert_int_equal(err, NPO_OK);
    allocations_left = left;
out:
    npo_params_free(grads);
    npo_params_free(params);
    npo_graph_free(graph);
    npo_layout_unref(layout);
    return err;
}

static void test_graph_survives_each_failed_allocation(void **state)
{
    npo_error error = {0};
    long count = 0;
    for (npo_err err = NPO_E_NOMEM; err; count++) {
        error = (npo_error){0};
        allocations_left = count;
        err = build_and_run(&error);
        allocations_left = -1;
        if (err && err != NPO_E_NOMEM)
            fail_msg("allocation %ld: %s: %s", count, npo_err_name(err), error.text);
        assert_true(count < 2000);
    }
    print_message("%ld allocations\n", count);
    assert_true(count > 30);
}

/* ---- backends ---- */

static void test_backend_refuses_what_is_not_there(void **state)
{
    static const struct {
        npo_backend_options options;
        npo_err code;
        const char *text;
    } bad[] = {
        {{.device = "tpu"}, NPO_E_NOT_FOUND, "device 'tpu' is unknown, expected 'cpu'"},
        {{.device = "cpu", .isa = "sse9"},
         NPO_E_NOT_FOUND,
         "instruction set 'sse9': not of this machine"},
        {{.device = "cpu", .threads = -1}, NPO_E_RANGE, "-1 threads, expected 0 to 4096"},
        {{.device = "cpu", .products = "mkl"},
         NPO_E_NOT_FOUND,
         "products 'mkl', expected 'auto', 'own', 'gemm', 'winograd' or 'dnnl'"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        npo_backend *other = NULL;
        npo_error error = {0};
        assert_int_equal(npo_backend_new(&bad[i].options, &other, &error), bad[i].code);
        assert_string_equal(error.text, bad[i].text);
        assert_null(other);
    }
    npo_backend_free(NULL);
}

static void test_backend_class_names_its_parts(void **state)
{
    const char *text = npo_backend_class(backend);
    assert_true(strncmp(text, "cpu ", 4) == 0);
    assert_non_null(strstr(text, " dnnl-"));
    assert_non_null(strstr(text, " threads-2"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_graph_adds_up_gradients_of_a_value_used_often),
        cmocka_unit_test(test_graph_shows_each_op_to_an_observer),
        cmocka_unit_test(test_graph_adds_up_micro_batches_with_scale),
        cmocka_unit_test(test_graph_fusion_changes_no_result),
        cmocka_unit_test(test_graph_runs_give_the_same_bytes),
        cmocka_unit_test(test_graph_alternates_between_parameter_sets),
        cmocka_unit_test(test_graph_sees_an_edit_of_its_parameters),
        cmocka_unit_test(test_graph_forward_only_wants_less_memory),
        cmocka_unit_test(test_graph_backward_wants_its_forward),
        cmocka_unit_test(test_graph_names_what_can_be_read),
        cmocka_unit_test(test_graph_failures_are_sticky_and_say_why),
        cmocka_unit_test(test_graph_loss_is_a_computed_scalar),
        cmocka_unit_test(test_graph_ids_out_of_range_fail_the_run),
        cmocka_unit_test(test_graph_survives_each_failed_allocation),
        cmocka_unit_test(test_backend_refuses_what_is_not_there),
        cmocka_unit_test(test_backend_class_names_its_parts),
    };
    return cmocka_run_group_tests(tests, network_setup, network_teardown);
}
