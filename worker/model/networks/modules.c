#include "worker/model/networks/modules.h"

#include <stdarg.h>
#include <stdio.h>

void npo_module_path(npo_graph *graph, char ret_path[NPO_PATH_MAX], const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int len = vsnprintf(ret_path, NPO_PATH_MAX, format, args);
    va_end(args);
    if (len >= NPO_PATH_MAX)
        npo_graph_fail(graph, NPO_E_LIMIT, "module name of %d bytes, expected less than %d", len,
                       NPO_PATH_MAX);
}

int64_t npo_module_channels(const npo_graph *graph, npo_value x)
{
    const npo_shape *shape = npo_graph_shape(graph, x);
    return shape ? shape->dims[shape->ndim - 1] : 1;
}

static npo_value weight_of(npo_graph *graph, const char *path, int ndim, const int64_t *dims)
{
    char name[NPO_PATH_MAX];
    npo_module_path(graph, name, "%s.weight", path);
    return npo_graph_param(graph, name, ndim, dims);
}

static npo_value bias_of(npo_graph *graph, const char *path, int64_t size)
{
    char name[NPO_PATH_MAX];
    npo_module_path(graph, name, "%s.bias", path);
    return npo_graph_param(graph, name, 1, &size);
}

/* Declares an adapter's tensor of the layer; NONE where there is none. */
static npo_value adapter_weight(npo_graph *graph, const char *path, const char *part)
{
    char name[NPO_PATH_MAX];
    const npo_layout *layout = npo_graph_layout(graph);
    if (!npo_layout_base(layout))
        return NPO_VALUE_NONE;
    npo_module_path(graph, name, "%s.%s.weight", path, part);
    const npo_param_info *info = npo_layout_find(layout, name);
    return info ? npo_graph_param(graph, name, info->ndim, info->dims) : NPO_VALUE_NONE;
}

/* y + scale up(hidden), hidden = down(x). The small value is scaled, not the large one. */
static npo_value add_adapter(npo_graph *graph, const char *path, npo_value y, npo_value hidden)
{
    npo_value up = adapter_weight(graph, path, "lora_B");
    float scale = npo_layout_scale(npo_graph_layout(graph));
    if (scale != 1)
        hidden = npo_op_scale(graph, hidden, scale);
    return npo_op_add(graph, y, npo_op_linear(graph, hidden, up, NPO_VALUE_NONE));
}

static npo_value adapted_linear(npo_graph *graph, const char *path, npo_value x, npo_value weight,
                                npo_value bias)
{
    npo_value y = npo_op_linear(graph, x, weight, bias);
    npo_value down = adapter_weight(graph, path, "lora_A");
    if (down == NPO_VALUE_NONE)
        return y;
    return add_adapter(graph, path, y, npo_op_linear(graph, x, down, NPO_VALUE_NONE));
}

npo_value npo_module_linear(npo_graph *graph, const char *path, npo_value x, int64_t out, bool bias)
{
    int64_t dims[] = {out, npo_module_channels(graph, x)};
    npo_value weight = weight_of(graph, path, 2, dims);
    return adapted_linear(graph, path, x, weight,
                          bias ? bias_of(graph, path, out) : NPO_VALUE_NONE);
}

npo_value npo_module_pointwise(npo_graph *graph, const char *path, npo_value x, int64_t out)
{
    int64_t dims[] = {out, npo_module_channels(graph, x), 1, 1};
    npo_value weight = weight_of(graph, path, 4, dims);
    return adapted_linear(graph, path, x, weight, bias_of(graph, path, out));
}

npo_value npo_module_conv(npo_graph *graph, const char *path, npo_value x, int64_t out, int kernel,
                          npo_conv_options options)
{
    int64_t dims[] = {out, npo_module_channels(graph, x), kernel, kernel};
    npo_value weight = weight_of(graph, path, 4, dims);
    npo_value y = npo_op_conv2d(graph, x, weight, bias_of(graph, path, out), options);
    npo_value down = adapter_weight(graph, path, "lora_A");
    if (down == NPO_VALUE_NONE)
        return y;
    return add_adapter(graph, path, y, npo_op_conv2d(graph, x, down, NPO_VALUE_NONE, options));
}

npo_value npo_module_group_norm(npo_graph *graph, const char *path, npo_value x, int groups,
                                float eps, npo_act act)
{
    int64_t channels = npo_module_channels(graph, x);
    npo_value gamma = weight_of(graph, path, 1, &channels);
    return npo_op_group_norm(graph, x, gamma, bias_of(graph, path, channels), groups, eps, act);
}

npo_value npo_module_layer_norm(npo_graph *graph, const char *path, npo_value x, float eps)
{
    int64_t channels = npo_module_channels(graph, x);
    npo_value gamma = weight_of(graph, path, 1, &channels);
    return npo_op_layer_norm(graph, x, gamma, bias_of(graph, path, channels), eps);
}

npo_err npo_module_layout(npo_backend *backend, const char *what,
                          void (*record)(npo_graph *graph, const void *config), const void *config,
                          npo_layout **ret_layout, npo_error *error)
{
    npo_layout *layout = NULL;
    npo_graph *graph = NULL;
    npo_err err = npo_layout_new(&layout);
    if (!err)
        err = npo_graph_new(backend, layout, &graph);
    if (err) {
        npo_error_set(error, err, "cannot lay out %s: %s", what, npo_err_text(err));
        goto out;
    }
    record(graph, config);
    /* Shapes are all that is wanted; planning is for the sentence of a failure. */
    if (npo_graph_failed(graph))
        err = npo_graph_plan(graph, &(npo_plan_options){.loss = NPO_VALUE_NONE}, NULL, error);
out:
    npo_graph_free(graph);
    if (err)
        npo_layout_unref(layout);
    else
        *ret_layout = layout;
    return err;
}
