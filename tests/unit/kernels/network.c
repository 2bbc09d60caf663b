#include "tests/unit/kernels/network.h"

#include "tests/unit/cmocka.h"

#include <math.h>
#include <stdio.h>

npo_backend *backend;

int network_setup(void **state)
{
    npo_error error = {0};
    npo_backend_options options = {.device = "cpu", .threads = 2};
    if (npo_backend_new(&options, &backend, &error) == NPO_OK)
        return 0;
    fprintf(stderr, "%s\n", error.text);
    return -1;
}

int network_teardown(void **state)
{
    npo_backend_free(backend);
    return 0;
}

static npo_value param(npo_graph *g, const char *name, int ndim, int64_t a, int64_t b, int64_t c,
                       int64_t d)
{
    return npo_graph_param(g, name, ndim, (int64_t[]){a, b, c, d});
}

npo_value network_record(npo_graph *g, int64_t n, bool named)
{
    static const npo_conv_options same = {1, 1, 1, 1, 1};
    npo_value x = npo_graph_input(g, "x", NPO_F32, 4, (int64_t[]){n, SIDE, SIDE, IN});
    npo_value t = npo_graph_input(g, "t", NPO_F32, 1, &n);
    npo_value e = npo_op_timestep(g, t, 16, true, 0);
    npo_value v[8];
    e = npo_op_linear(g, e, param(g, "time.weight", 2, WIDTH, 16, 0, 0),
                      param(g, "time.bias", 1, WIDTH, 0, 0, 0));
    v[0] = npo_op_group_norm(g, x, param(g, "norm.weight", 1, IN, 0, 0, 0),
                             param(g, "norm.bias", 1, IN, 0, 0, 0), 4, 1e-5f, NPO_ACT_SILU);
    v[1] = npo_op_conv2d(g, v[0], param(g, "conv1.weight", 4, WIDTH, IN, 3, 3),
                         param(g, "conv1.bias", 1, WIDTH, 0, 0, 0), same);
    v[2] = npo_op_add_channels(g, v[1], npo_op_activation(g, e, NPO_ACT_SILU));
    v[3] = npo_op_conv2d(g, x, param(g, "short.weight", 4, WIDTH, IN, 1, 1), NPO_VALUE_NONE,
                         (npo_conv_options){1, 0, 0, 0, 0});
    v[4] = npo_op_conv2d(g, v[2], param(g, "conv2.weight", 4, WIDTH, WIDTH, 3, 3), NPO_VALUE_NONE,
                         same);
    v[5] = npo_op_add(g, v[3], v[4]);
    npo_value tokens = npo_op_reshape(g, v[5], 3, (int64_t[]){n, SIDE * SIDE, WIDTH});
    npo_value q =
        npo_op_linear(g, tokens, param(g, "q.weight", 2, WIDTH, WIDTH, 0, 0), NPO_VALUE_NONE);
    v[6] = npo_op_attention(g, q, tokens, tokens, 2, false);
    v[7] = npo_op_add(g, v[6], tokens);
    for (int i = 0; named && i < 8; i++) {
        char name[8];
        snprintf(name, sizeof name, "v%d", i);
        npo_graph_output(g, name, v[i]);
    }
    return npo_op_concat(g, v[7], npo_op_scale(g, v[7], 0.5f));
}

void network_fill(float *x, size_t count, uint64_t seed, float scale)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x[i] = scale * (float)((double)(int64_t)(seed >> 11) / (double)(1ull << 52) - 1);
    }
}

void network_open(network *net, network_options o)
{
    *net = (network){.n = o.n};
    npo_error error = {0};
    if (o.layout)
        net->layout = npo_layout_ref(o.layout);
    else
        assert_int_equal(npo_layout_new(&net->layout), NPO_OK);
    assert_int_equal(npo_graph_new(backend, net->layout, &net->graph), NPO_OK);
    npo_value y = network_record(net->graph, o.n, o.named), loss = NPO_VALUE_NONE;
    npo_graph_output(net->graph, "y", y);
    if (o.loss) {
        const npo_shape *s = npo_graph_shape(net->graph, y);
        loss = npo_op_mse_loss(net->graph, y,
                               npo_graph_input(net->graph, "target", NPO_F32, s->ndim, s->dims));
        npo_graph_output(net->graph, "loss", loss);
    }
    npo_plan_options plan = {.loss = loss,
                             .input_grads = o.input_grads,
                             .packed_bytes = o.packed_bytes,
                             .compute = o.compute};
    if (npo_graph_plan(net->graph, &plan, &net->info, &error))
        fail_msg("%s", error.text);
    assert_int_equal(npo_params_new(net->layout, &net->params), NPO_OK);
    assert_int_equal(npo_params_new(net->layout, &net->grads), NPO_OK);
}

void network_close(network *net)
{
    npo_params_free(net->params);
    npo_params_free(net->grads);
    npo_graph_free(net->graph);
    npo_layout_unref(net->layout);
}

void network_fill_params(npo_params *params, uint64_t seed)
{
    npo_layout *layout = npo_params_layout(params);
    float *flat = npo_params_edit(params);
    for (size_t i = 0; i < npo_layout_count(layout); i++) {
        const npo_param_info *info = npo_layout_at(layout, i);
        network_fill(flat + info->offset, info->count, seed + i, 0.3f);
    }
}

void network_feed(network *net, int64_t first)
{
    size_t x = SIDE * SIDE * IN, y = SIDE * SIDE * WIDTH * 2;
    float *target = npo_graph_input_data(net->graph, "target");
    for (int64_t i = 0; i < net->n; i++) {
        uint64_t seed = (uint64_t)(first + i) * 1000;
        network_fill((float *)npo_graph_input_data(net->graph, "x") + (size_t)i * x, x, seed + 1,
                     1);
        ((float *)npo_graph_input_data(net->graph, "t"))[i] = (float)(first + i) * 10;
        if (target)
            network_fill(target + (size_t)i * y, y, seed + 2, 1);
    }
}

void network_forward(network *net, const npo_params *params)
{
    npo_error error = {0};
    if (npo_graph_forward(net->graph, params, &error))
        fail_msg("%s", error.text);
}

void network_backward(network *net, float scale)
{
    npo_error error = {0};
    if (npo_graph_backward(net->graph, net->params, scale, net->grads, &error))
        fail_msg("%s", error.text);
}

double network_difference(const float *a, const float *b, size_t n)
{
    double largest = 0, worst = 0;
    for (size_t i = 0; i < n; i++) {
        largest = fmax(largest, fabs((double)b[i]));
        worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
    }
    return worst / largest;
}

size_t network_output_floats(const network *net)
{
    return (size_t)net->n * SIDE * SIDE * WIDTH * 2;
}

const float *network_output(const network *net)
{
    return npo_graph_output_data(net->graph, "y", NULL);
}
