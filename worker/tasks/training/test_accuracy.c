#include "worker/tasks/training/test_accuracy.h"

#include "worker/eval/scores.h"

enum { BATCH = 100, CLASSES = NPO_CLASSIFIER_CLASSES };

npo_err npo_test_check_data(npo_context *ctx, const npo_dataset *data, const char *path)
{
    if (npo_dataset_height(data) != NPO_CLASSIFIER_SIDE ||
        npo_dataset_width(data) != NPO_CLASSIFIER_SIDE || npo_dataset_channels(data) != 1)
        return npo_error_set(
            ctx->error, NPO_E_SHAPE,
            "'%s' has images of %d x %d with %d channels, expected %d x %d with 1 as "
            "the classifier reads them",
            path, npo_dataset_width(data), npo_dataset_height(data), npo_dataset_channels(data),
            NPO_CLASSIFIER_SIDE, NPO_CLASSIFIER_SIDE);
    for (int64_t i = 0; i < npo_dataset_count(data); i++)
        if (npo_dataset_label(data, i) >= CLASSES)
            return npo_error_set(ctx->error, NPO_E_RANGE,
                                 "image %lld of '%s' has label %d, expected one of %d classes",
                                 (long long)i, path, npo_dataset_label(data, i), CLASSES);
    return NPO_OK;
}

/* One batch; the last is filled up with what stands in the input, and not counted. */
static npo_err count_batch(npo_context *ctx, npo_graph *graph, const npo_params *params,
                           const npo_dataset *data, int64_t first, double *right)
{
    float *images = npo_graph_input_data(graph, "x");
    const float *logits = npo_graph_output_data(graph, "logits", NULL);
    int32_t labels[BATCH];
    int64_t left = npo_dataset_count(data) - first, n = left < BATCH ? left : BATCH;
    npo_scores scores;
    for (int64_t i = 0; i < n; i++) {
        npo_dataset_image(data, first + i, images + (size_t)i * npo_dataset_floats(data));
        labels[i] = npo_dataset_label(data, first + i);
    }
    NPO_TRY(npo_graph_forward(graph, params, ctx->error));
    npo_err err = npo_scores_of((size_t)n, CLASSES, logits, labels, NULL, &scores);
    if (err != NPO_OK)
        return npo_context_fail(ctx, err, "test accuracy");
    *right += scores.accuracy * (double)n;
    return NPO_OK;
}

static npo_err record(npo_context *ctx, npo_graph *graph)
{
    int64_t dims[] = {BATCH, NPO_CLASSIFIER_SIDE, NPO_CLASSIFIER_SIDE, 1};
    npo_plan_options options = {.loss = NPO_VALUE_NONE};
    npo_value x = npo_graph_input(graph, "x", NPO_F32, 4, dims);
    npo_graph_output(graph, "logits", npo_classifier_record(graph, x).logits);
    return npo_graph_plan(graph, &options, NULL, ctx->error);
}

npo_err npo_test_accuracy(npo_context *ctx, npo_layout *layout, const npo_params *params,
                          const char *data_path, double *ret_accuracy)
{
    const npo_dataset *data = NULL;
    npo_dataset_options options = {.split = NPO_SPLIT_TEST};
    npo_graph *graph = NULL;
    double right = 0;
    NPO_TRY(npo_loaded_dataset(ctx->cache, data_path, &options, &data, ctx->error));
    NPO_TRY(npo_test_check_data(ctx, data, data_path));
    npo_err err = npo_graph_new(npo_loaded_backend(ctx->cache), layout, &graph);
    if (err != NPO_OK)
        return npo_context_fail(ctx, err, "test accuracy");
    err = record(ctx, graph);
    for (int64_t at = 0; err == NPO_OK && at < npo_dataset_count(data); at += BATCH) {
        err = npo_context_check(ctx);
        if (err == NPO_OK)
            err = count_batch(ctx, graph, params, data, at, &right);
    }
    npo_graph_free(graph);
    if (err == NPO_OK)
        *ret_accuracy = right / (double)npo_dataset_count(data);
    return err;
}
