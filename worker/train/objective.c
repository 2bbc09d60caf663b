#include "worker/train/objective.h"

#include "kernels/op.h"
#include "worker/model/networks/unet.h"

static npo_value record_loss(npo_graph *graph, const npo_trainer_options *options,
                             npo_value prediction, npo_value target)
{
    if (options->loss == NPO_LOSS_MSE)
        return npo_op_mse_loss(graph, prediction, target);
    return npo_op_pseudo_huber_loss(graph, prediction, target, (float)options->huber_c);
}

static npo_value record(npo_graph *graph, const npo_trainer_options *options)
{
    const npo_unet_config *config = options->config;
    const npo_network_shape *shape = &options->shape;
    int64_t n = options->micro_batch;
    const int64_t target_dims[] = {n, shape->height, shape->width, config->out_channels};
    npo_unet_inputs inputs =
        npo_unet_declare(graph, config, n, shape->height, shape->width, shape->context_len);
    npo_value target = npo_graph_input(graph, "target", NPO_F32, 4, target_dims);
    npo_value ca = npo_graph_input(graph, "ca", NPO_F32, 1, &n);
    npo_value cb = npo_graph_input(graph, "cb", NPO_F32, 1, &n);
    npo_value out = npo_unet_record(graph, config, inputs, NULL);
    npo_value prediction = npo_op_mix(graph, inputs.x, out, ca, cb);
    npo_value loss = record_loss(graph, options, prediction, target);
    npo_graph_output(graph, "prediction", prediction);
    npo_graph_output(graph, "loss", loss);
    return loss;
}

npo_err npo_objective_init(npo_objective *objective, const npo_trainer_options *options,
                           npo_error *error)
{
    *objective = (npo_objective){0};
    npo_err err = npo_graph_new(options->backend, options->layout, &objective->graph);
    if (err)
        return npo_error_set(error, err, "training graph: %s", npo_err_text(err));
    npo_plan_options plan = {
        .loss = record(objective->graph, options),
        .compute = options->compute,
        .memory_bytes = options->memory_bytes,
    };
    err = npo_graph_plan(objective->graph, &plan, &objective->info, error);
    if (err) {
        npo_objective_fini(objective);
        return npo_error_prefix(error, err, "training graph of %lld samples",
                                (long long)options->micro_batch);
    }
    npo_graph *graph = objective->graph;
    objective->x = npo_graph_input_data(graph, "x");
    objective->t = npo_graph_input_data(graph, "t");
    objective->context = npo_graph_input_data(graph, "context");
    objective->pooled = npo_graph_input_data(graph, "pooled");
    objective->time_ids = npo_graph_input_data(graph, "time_ids");
    objective->target = npo_graph_input_data(graph, "target");
    objective->ca = npo_graph_input_data(graph, "ca");
    objective->cb = npo_graph_input_data(graph, "cb");
    npo_shape shape;
    objective->prediction = npo_graph_output_data(graph, "prediction", &shape);
    objective->loss = npo_graph_output_data(graph, "loss", &shape);
    return NPO_OK;
}

void npo_objective_fini(npo_objective *objective)
{
    npo_graph_free(objective->graph);
    *objective = (npo_objective){0};
}
