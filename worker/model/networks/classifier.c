#include "worker/model/networks/classifier.h"

#include "worker/model/files/weights.h"
#include "worker/model/networks/modules.h"

#include <stdlib.h>
#include <string.h>

enum {
    POOLED_SIDE = NPO_CLASSIFIER_SIDE / 4,
    CHANNELS_1 = 32,
    CHANNELS_2 = 64,
};

/* PyTorch flattens [C,H,W], so its linear weight [128, 64*7*7] is, element for element, the weight
 * [128,64,7,7] of a convolution over the whole pooled image; recorded as that, no order changes. */
static const npo_weights_map map = {
    .reshaped = "f.7.weight",
    .reshaped_ndim = 2,
    .reshaped_dims = {NPO_CLASSIFIER_FEATURES, CHANNELS_2 *POOLED_SIDE *POOLED_SIDE},
};

npo_classifier_outputs npo_classifier_record(npo_graph *graph, npo_value x)
{
    static const npo_conv_options same = {1, 1, 1, 1, 1}, valid = {1, 0, 0, 0, 0};
    npo_classifier_outputs outputs;
    const npo_shape *shape = npo_graph_shape(graph, x);
    int64_t n = shape ? shape->dims[0] : 1;
    x = npo_module_conv(graph, "f.0", x, CHANNELS_1, 3, same);
    x = npo_op_max_pool(graph, npo_op_activation(graph, x, NPO_ACT_RELU));
    x = npo_module_conv(graph, "f.3", x, CHANNELS_2, 3, same);
    x = npo_op_max_pool(graph, npo_op_activation(graph, x, NPO_ACT_RELU));
    x = npo_module_conv(graph, "f.7", x, NPO_CLASSIFIER_FEATURES, POOLED_SIDE, valid);
    x = npo_op_reshape(graph, x, 2, (int64_t[]){n, NPO_CLASSIFIER_FEATURES});
    outputs.features = npo_op_activation(graph, x, NPO_ACT_RELU);
    outputs.logits = npo_module_linear(graph, "o", outputs.features, NPO_CLASSIFIER_CLASSES, true);
    return outputs;
}

static void record_with_input(npo_graph *graph, int64_t n)
{
    npo_value x = npo_graph_input(graph, "x", NPO_F32, 4,
                                  (int64_t[]){n, NPO_CLASSIFIER_SIDE, NPO_CLASSIFIER_SIDE, 1});
    npo_classifier_outputs outputs = npo_classifier_record(graph, x);
    npo_graph_output(graph, "features", outputs.features);
    npo_graph_output(graph, "logits", outputs.logits);
}

static void record_layout(npo_graph *graph, const void *user)
{
    record_with_input(graph, 1);
}

npo_err npo_classifier_layout(npo_backend *backend, npo_layout **ret_layout, npo_error *error)
{
    return npo_module_layout(backend, "the classifier", record_layout, NULL, ret_layout, error);
}

npo_err npo_classifier_load(const char *path, npo_params *params, npo_error *error)
{
    return npo_weights_load(path, &map, params, error);
}

npo_err npo_classifier_save(const char *path, const npo_params *params, npo_tensor_dtype dtype,
                            npo_error *error)
{
    return npo_weights_save(path, params, dtype, &map, error);
}

/* ---- evaluation ---- */

struct npo_classifier {
    npo_layout *layout;
    npo_params *params;
    npo_graph *graph;
    size_t batch;
};

npo_err npo_classifier_new(npo_backend *backend, const char *path, int64_t batch_max,
                           npo_classifier **ret_classifier, npo_error *error)
{
    npo_classifier *classifier = calloc(1, sizeof *classifier);
    if (!classifier)
        return npo_error_set(error, NPO_E_NOMEM, "cannot create a classifier: out of memory");
    classifier->batch = (size_t)batch_max;
    npo_err err = npo_classifier_layout(backend, &classifier->layout, error);
    if (err)
        goto out;
    err = npo_params_new(classifier->layout, &classifier->params);
    if (!err)
        err = npo_graph_new(backend, classifier->layout, &classifier->graph);
    if (err) {
        npo_error_set(error, err, "cannot create a classifier: %s", npo_err_text(err));
        goto out;
    }
    err = npo_classifier_load(path, classifier->params, error);
    if (err)
        goto out;
    record_with_input(classifier->graph, batch_max);
    err =
        npo_graph_plan(classifier->graph, &(npo_plan_options){.loss = NPO_VALUE_NONE}, NULL, error);
out:
    if (err)
        npo_classifier_free(classifier);
    else
        *ret_classifier = classifier;
    return err;
}

void npo_classifier_free(npo_classifier *classifier)
{
    if (!classifier)
        return;
    npo_graph_free(classifier->graph);
    npo_params_free(classifier->params);
    npo_layout_unref(classifier->layout);
    free(classifier);
}

static void copy_out(const npo_classifier *classifier, const char *name, size_t first, size_t n,
                     size_t width, float *ret_values)
{
    npo_shape shape;
    if (ret_values)
        memcpy(ret_values + first * width, npo_graph_output_data(classifier->graph, name, &shape),
               n * width * sizeof *ret_values);
}

npo_err npo_classifier_eval(npo_classifier *classifier, size_t n, const float *images,
                            float *ret_features, float *ret_logits, npo_error *error)
{
    enum { PIXELS = NPO_CLASSIFIER_SIDE * NPO_CLASSIFIER_SIDE };
    float *x = npo_graph_input_data(classifier->graph, "x");
    for (size_t first = 0; first < n; first += classifier->batch) {
        size_t now = n - first < classifier->batch ? n - first : classifier->batch;
        /* A last, smaller batch runs with zero images behind it, whose results nobody reads. */
        memset(x, 0, classifier->batch * PIXELS * sizeof *x);
        memcpy(x, images + first * PIXELS, now * PIXELS * sizeof *x);
        NPO_TRY(npo_graph_forward(classifier->graph, classifier->params, error));
        copy_out(classifier, "features", first, now, NPO_CLASSIFIER_FEATURES, ret_features);
        copy_out(classifier, "logits", first, now, NPO_CLASSIFIER_CLASSES, ret_logits);
    }
    return NPO_OK;
}
