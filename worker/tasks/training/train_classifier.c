#include "common/crash.h"
#include "kernels/op.h"
#include "kernels/vec.h"
#include "worker/data/order.h"
#include "worker/tasks/kinds.h"
#include "worker/tasks/training/fit.h"
#include "worker/tasks/training/test_accuracy.h"
#include "worker/train/metrics.h"
#include "worker/train/random_weights.h"

#include <stdlib.h>
#include <string.h>

enum { STUDENT, EMA, GRADS, SETS };

typedef struct {
    npo_context *ctx;
    const npo_dataset *data;
    int64_t first_step, steps, step; /* step: optimizer steps done */
    npo_layout *layout;
    npo_graph *graph;
    npo_order *order;
    npo_params *sets[SETS];
    npo_moments *moments;
    float *images; /* inputs of the graph, [batch, ...] */
    int32_t *labels;
    const float *loss;
} classifier;

static npo_err open_data(classifier *c)
{
    const char *path = NULL;
    npo_dataset_options options = {.split = NPO_SPLIT_TRAIN};
    NPO_TRY(npo_context_input(c->ctx, "data", &path));
    NPO_TRY(npo_loaded_dataset(c->ctx->cache, path, &options, &c->data, c->ctx->error));
    NPO_TRY(npo_test_check_data(c->ctx, c->data, path));
    npo_err err =
        npo_order_new((uint64_t)c->ctx->task->spec->seed, npo_dataset_count(c->data), &c->order);
    return err == NPO_OK ? err : npo_context_fail(c->ctx, err, "order of the data");
}

static npo_err record(classifier *c)
{
    npo_context *ctx = c->ctx;
    int64_t batch = ctx->task->spec->train.batch, side = NPO_CLASSIFIER_SIDE;
    NPO_TRY(npo_classifier_layout(npo_loaded_backend(ctx->cache), &c->layout, ctx->error));
    npo_err err = npo_graph_new(npo_loaded_backend(ctx->cache), c->layout, &c->graph);
    if (err != NPO_OK)
        return npo_context_fail(ctx, err, "graph");
    npo_value x = npo_graph_input(c->graph, "x", NPO_F32, 4, (int64_t[]){batch, side, side, 1});
    npo_value labels = npo_graph_input(c->graph, "labels", NPO_I32, 1, &batch);
    npo_value logits = npo_classifier_record(c->graph, x).logits;
    npo_value loss = npo_op_cross_entropy_loss(c->graph, logits, labels);
    npo_graph_output(c->graph, "loss", loss);
    npo_plan_options options = {.loss = loss};
    NPO_TRY(npo_graph_plan(c->graph, &options, NULL, ctx->error));
    c->images = npo_graph_input_data(c->graph, "x");
    c->labels = npo_graph_input_data(c->graph, "labels");
    c->loss = npo_graph_output_data(c->graph, "loss", NULL);
    return NPO_OK;
}

static npo_err load_state(classifier *c)
{
    const char *path = npo_task_input_path(c->ctx->task, "checkpoint");
    npo_checkpoint_meta meta = {0};
    for (int i = 0; i < SETS; i++) {
        npo_err err = npo_params_new(c->layout, &c->sets[i]);
        if (err != NPO_OK)
            return npo_context_fail(c->ctx, err, "weights");
    }
    npo_err err = npo_moments_new(c->layout, NPO_OPTIMIZER_ADAMW, &c->moments);
    if (err != NPO_OK)
        return npo_context_fail(c->ctx, err, "optimizer");
    if (path) {
        npo_checkpoint_sets sets = {c->sets[STUDENT], c->sets[EMA], c->moments};
        NPO_TRY(npo_checkpoint_load(path, &sets, &meta, c->ctx->error));
    } else {
        NPO_TRY(npo_random_weights(c->sets[STUDENT], (uint64_t)c->ctx->task->spec->seed,
                                   c->ctx->error));
        npo_params_copy(c->sets[EMA], c->sets[STUDENT]);
    }
    c->step = meta.step;
    return npo_fit_check_step(c->ctx, &meta, c->first_step);
}

static void fill_batch(classifier *c)
{
    int64_t batch = c->ctx->task->spec->train.batch;
    size_t floats = npo_dataset_floats(c->data);
    for (int64_t i = 0; i < batch; i++) {
        int64_t index = npo_order_at(c->order, c->step * batch + i);
        npo_dataset_image(c->data, index, c->images + (size_t)i * floats);
        c->labels[i] = npo_dataset_label(c->data, index);
    }
}

/* Clipping, AdamW and EMA as the denoiser's trainer has them. */
static void update_weights(classifier *c, const npo_train_hyper *hyper, npo_train_result *result)
{
    npo_backend *backend = npo_loaded_backend(c->ctx->cache);
    bool clips = hyper->clip > 0 && result->grad_norm > hyper->clip;
    const npo_update update = {
        .adamw = {.lr = (float)result->lr,
                  .beta1 = (float)hyper->beta1,
                  .beta2 = (float)hyper->beta2,
                  .eps = (float)hyper->eps,
                  .weight_decay = (float)hyper->weight_decay,
                  .step = c->step + 1},
        .grad_scale = clips ? (float)(hyper->clip / result->grad_norm) : 1,
        .ema_weight = (float)(1 - hyper->ema_decay),
        .grad = npo_params_data(c->sets[GRADS]),
        .param = npo_params_edit(c->sets[STUDENT]),
        .ema = npo_params_edit(c->sets[EMA]),
    };
    npo_moments_update(c->moments, backend, &update);
}

static void report(classifier *c, const npo_train_result *result)
{
    npo_buf line = NPO_BUF_INIT;
    int64_t samples = (c->step - c->first_step) * c->ctx->task->spec->train.batch;
    double rate = npo_context_progress(c->ctx, "train", c->step, c->ctx->task->spec->train.steps,
                                       result->loss, samples);
    if (npo_metrics_line(&line, c->step, result, rate, NULL) == NPO_OK)
        npo_context_metrics(c->ctx, &line);
    npo_buf_fini(&line);
}

static npo_err take_step(classifier *c)
{
    npo_train_hyper hyper = npo_fit_hyper(c->ctx->task->spec);
    size_t bytes = npo_layout_floats(c->layout) * sizeof(float);
    NPO_TRY(npo_context_check(c->ctx));
    fill_batch(c);
    memset(npo_params_edit(c->sets[GRADS]), 0, bytes);
    NPO_TRY(npo_graph_forward(c->graph, c->sets[STUDENT], c->ctx->error));
    NPO_TRY(npo_graph_backward(c->graph, c->sets[STUDENT], 1, c->sets[GRADS], c->ctx->error));
    npo_train_result result = {
        .loss = *c->loss,
        .grad_norm = npo_vec_norm(npo_loaded_backend(c->ctx->cache), npo_layout_floats(c->layout),
                                  npo_params_data(c->sets[GRADS])),
        .lr = npo_train_lr(&hyper, c->step),
    };
    if (!(result.loss < 1e30) || !(result.grad_norm < 1e30))
        return npo_error_set(c->ctx->error, NPO_E_DIVERGED,
                             "step %lld of the classifier: loss %g, gradient norm %g",
                             (long long)c->step, result.loss, result.grad_norm);
    update_weights(c, &hyper, &result);
    c->step++;
    npo_crash_point("train.step");
    report(c, &result);
    return NPO_OK;
}

static npo_err save(classifier *c)
{
    npo_context *ctx = c->ctx;
    npo_checkpoint_sets sets = {c->sets[STUDENT], c->sets[EMA], c->moments};
    npo_checkpoint_meta meta;
    char *path = NULL;
    NPO_TRY(npo_fit_meta(ctx, ctx->task->spec->train.batch, c->step, &meta));
    NPO_TRY(npo_context_out(ctx, "checkpoint.safetensors", &path));
    npo_crash_point("checkpoint.write");
    npo_err err = npo_checkpoint_save(path, &sets, &meta, ctx->error);
    free(path);
    return err == NPO_OK ? npo_context_publish(ctx, "checkpoint", "checkpoint.safetensors") : err;
}

/* Tells how good the weights are that export will hand out. */
static npo_err test(classifier *c)
{
    npo_context *ctx = c->ctx;
    const char *data = NULL;
    double accuracy = 0;
    bool ema = ctx->task->spec->train.weights == NPO_WEIGHTS_EMA;
    NPO_TRY(npo_context_input(ctx, "data", &data));
    NPO_TRY(npo_test_accuracy(ctx, c->layout, c->sets[ema ? EMA : STUDENT], data, &accuracy));
    npo_context_log(ctx, "test accuracy of the classifier after %lld steps: %.4f",
                    (long long)c->step, accuracy);
    npo_buf line = NPO_BUF_INIT;
    npo_buf_printf(&line, "{\"phase\": \"test\", \"step\": %lld, \"accuracy\": %.6f}",
                   (long long)c->step, accuracy);
    npo_context_metrics(ctx, &line);
    npo_buf_fini(&line);
    return NPO_OK;
}

static npo_err train(classifier *c)
{
    npo_context *ctx = c->ctx;
    c->first_step = npo_json_int(ctx->task->params, "first_step", -1);
    c->steps = npo_json_int(ctx->task->params, "steps", -1);
    if (ctx->task->world != 1 || c->first_step < 0 || c->steps < 1)
        return npo_error_set(ctx->error, NPO_E_USAGE,
                             "the classifier's training got %d ranks and steps from %lld, expected "
                             "one rank and \"first_step\" and \"steps\"",
                             ctx->task->world, (long long)c->first_step);
    NPO_TRY(open_data(c));
    NPO_TRY(record(c));
    NPO_TRY(load_state(c));
    npo_context_start(ctx);
    for (int64_t i = 0; i < c->steps; i++)
        NPO_TRY(take_step(c));
    NPO_TRY(save(c));
    return c->step == ctx->task->spec->train.steps ? test(c) : NPO_OK;
}

npo_err npo_kind_train_classifier(npo_context *ctx)
{
    classifier c = {.ctx = ctx};
    npo_err err = train(&c);
    for (int i = 0; i < SETS; i++)
        npo_params_free(c.sets[i]);
    npo_moments_free(c.moments);
    npo_order_free(c.order);
    npo_graph_free(c.graph);
    npo_layout_unref(c.layout);
    return err;
}
