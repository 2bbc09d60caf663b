/* unet-TAG.safetensors beside unet/: x [N,C,H,W], t [N], context [N,L,C'], the output of every
 * module (out.<path>), y, target, loss = mean((y - target)^2), and its gradients for x and context.
 * A network with added conditioning has pooled [N,P] and time_ids [N,6] too.
 * unet-TAG-grads.safetensors: the gradient for every parameter. unet-grad-digests.json beside
 * unet.safetensors: of every parameter's gradient g, its length, sum, and sum of g[i] sin(i). */
#include "tests/reference/case.h"

#include "common/file.h"
#include "kernels/op.h"
#include "worker/model/networks/unet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIGESTS_BYTES_MAX = 1 << 24 };

typedef struct {
    npo_unet_config config;
    npo_layout *layout;
    npo_params *params, *grads;
    npo_graph *graph;
    npo_safetensors *file; /* of inputs and outputs */
} unet_case;

static void unload(unet_case *c)
{
    npo_graph_free(c->graph);
    npo_params_free(c->params);
    npo_params_free(c->grads);
    npo_layout_unref(c->layout);
    npo_safetensors_close(c->file);
}

static npo_err load_network(unet_case *c, const case_env *env, npo_error *error)
{
    npo_err err = NPO_E_NOMEM;
    char *config = npo_file_join(env->dir, "unet/config.json");
    char *weights = npo_file_join(env->dir, "unet/diffusion_pytorch_model.safetensors");
    if (!config || !weights)
        goto out;
    err = npo_unet_config_load(config, &c->config, error);
    if (!err)
        err = npo_unet_layout(env->backend, &c->config, &c->layout, error);
    if (!err)
        err = npo_params_new(c->layout, &c->params);
    if (!err)
        err = npo_params_new(c->layout, &c->grads);
    if (!err)
        err = npo_graph_new(env->backend, c->layout, &c->graph);
    if (!err)
        err = npo_weights_load(weights, NULL, c->params, error);
out:
    free(config);
    free(weights);
    return err;
}

/* ---- the graph ---- */

/* An input shaped as the file's tensor, channels last. */
static npo_value input(unet_case *c, const char *name, npo_error *error, npo_err *err)
{
    const npo_tensor *tensor;
    if (*err || (*err = case_find(c->file, name, &tensor, error)) != NPO_OK)
        return NPO_VALUE_NONE;
    const int64_t *d = tensor->dims;
    int64_t image[] = {d[0], d[2], d[3], d[1]};
    return npo_graph_input(c->graph, name, NPO_F32, tensor->ndim, tensor->ndim == 4 ? image : d);
}

static npo_err record(unet_case *c, npo_error *error)
{
    npo_err err = NPO_OK;
    npo_plan_info info;
    npo_unet_inputs inputs = {
        .context = NPO_VALUE_NONE, .pooled = NPO_VALUE_NONE, .time_ids = NPO_VALUE_NONE};
    inputs.x = input(c, "x", error, &err);
    inputs.t = input(c, "t", error, &err);
    if (npo_unet_config_context(&c->config))
        inputs.context = input(c, "context", error, &err);
    if (npo_unet_config_added(&c->config)) {
        inputs.pooled = input(c, "pooled", error, &err);
        inputs.time_ids = input(c, "time_ids", error, &err);
    }
    npo_value target = input(c, "target", error, &err);
    if (err)
        return err;
    npo_value y =
        npo_unet_record(c->graph, &c->config, inputs, &(npo_unet_options){.name_modules = true});
    npo_value loss = npo_op_mse_loss(c->graph, y, target);
    npo_graph_output(c->graph, "y", y);
    npo_graph_output(c->graph, "loss", loss);
    return npo_graph_plan(c->graph, &(npo_plan_options){.loss = loss, .input_grads = true}, &info,
                          error);
}

static npo_err run(unet_case *c, npo_error *error)
{
    static const char *const names[] = {"x", "t", "context", "pooled", "time_ids", "target"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const npo_tensor *tensor = npo_safetensors_find(c->file, names[i]);
        float *to = npo_graph_input_data(c->graph, names[i]);
        if (to)
            NPO_TRY(case_read_into(tensor, to, error));
    }
    NPO_TRY(npo_graph_forward(c->graph, c->params, error));
    return npo_graph_backward(c->graph, c->params, 1, c->grads, error);
}

static npo_err prepare(unet_case *c, const case_env *env, const char *file, npo_error *error)
{
    NPO_TRY(case_open(env, file, &c->file, error));
    NPO_TRY(load_network(c, env, error));
    NPO_TRY(record(c, error));
    return run(c, error);
}

/* ---- forward and input gradients ---- */

static npo_err compare_loss(unet_case *c, case_worst *worst, npo_error *error)
{
    npo_shape shape;
    const npo_tensor *expected;
    float loss;
    NPO_TRY(case_find(c->file, "loss", &expected, error));
    npo_tensor_read_f32(expected, 0, 1, &loss);
    case_compare(worst, "loss", npo_graph_output_data(c->graph, "loss", &shape), &loss, 1);
    return NPO_OK;
}

static npo_err compare_outputs(unet_case *c, case_worst *worst, npo_error *error)
{
    for (size_t i = 0; i < npo_safetensors_count(c->file); i++) {
        const npo_tensor *expected = npo_safetensors_at(c->file, i);
        npo_shape shape;
        if (strncmp(expected->name, "out.", 4) != 0 && strcmp(expected->name, "y") != 0)
            continue;
        const float *values = npo_graph_output_data(c->graph, expected->name, &shape);
        if (!values)
            return npo_error_set(error, NPO_E_NOT_FOUND, "this project has no '%s'",
                                 expected->name);
        NPO_TRY(case_compare_tensor(worst, expected, &shape, values, error));
    }
    return compare_loss(c, worst, error);
}

static npo_err compare_input_grads(unet_case *c, case_worst *worst, npo_error *error)
{
    static const char *const inputs[] = {"x", "context", "pooled"};
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) {
        char name[32];
        float *reference = NULL;
        const npo_tensor *expected;
        const float *values = npo_graph_input_grad(c->graph, inputs[i]);
        snprintf(name, sizeof name, "grad.%s", inputs[i]);
        expected = npo_safetensors_find(c->file, name);
        if (!values || !expected) /* the network has no such input, or the file no gradients */
            continue;
        NPO_TRY(case_read(expected, &reference, error));
        case_compare(worst, name, values, reference, expected->count);
        free(reference);
    }
    return NPO_OK;
}

/* ---- digests of parameter gradients ---- */

/* A digest's error is measured by the gradient's length: sums may cancel to nearly nothing. */
static npo_err compare_digest(const unet_case *c, const cJSON *expected, case_worst *worst,
                              npo_error *error)
{
    double squares = 0, sum = 0, sines = 0;
    const npo_param_info *info = npo_layout_find(c->layout, expected->string);
    if (!info)
        return npo_error_set(error, NPO_E_NOT_FOUND, "this project has no '%s'", expected->string);
    const float *g = npo_params_data(c->grads) + info->offset;
    for (size_t i = 0; i < info->count; i++) {
        squares += (double)g[i] * (double)g[i];
        sum += (double)g[i];
        sines += (double)g[i] * sin((double)i);
    }
    double length = npo_json_number(expected, "l2", NAN);
    const float values[] = {(float)(sqrt(squares) / length), (float)(sum / length),
                            (float)(sines / length)};
    const float references[] = {1, (float)(npo_json_number(expected, "sum", NAN) / length),
                                (float)(npo_json_number(expected, "sin", NAN) / length)};
    for (int i = 0; i < 3; i++) {
        /* Each next to 1, so that case_compare divides by the length. */
        const float value[] = {1, values[i]}, reference[] = {1, references[i]};
        case_compare(worst, expected->string, value, reference, 2);
    }
    return NPO_OK;
}

static npo_err compare_digests(const unet_case *c, const case_env *env, case_worst *worst,
                               npo_error *error)
{
    cJSON *json = NULL;
    const cJSON *item;
    char *path = npo_file_join(env->dir, "unet-grad-digests.json");
    if (!path)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    bool is_there = strcmp(env->file, "unet.safetensors") == 0 && npo_file_exists(path);
    npo_err err = is_there ? npo_json_load(path, DIGESTS_BYTES_MAX, &json, error) : NPO_OK;
    if (!err && json && (size_t)cJSON_GetArraySize(json) != npo_layout_count(c->layout))
        err = npo_error_set(error, NPO_E_SHAPE, "'%s' has %d tensors, expected %zu", path,
                            cJSON_GetArraySize(json), npo_layout_count(c->layout));
    if (!err && json)
        cJSON_ArrayForEach(item, json)
        {
            if (!err)
                err = compare_digest(c, item, worst, error);
        }
    cJSON_Delete(json);
    free(path);
    return err;
}

npo_err case_run_unet(case_env *env, npo_error *error)
{
    unet_case c = {0};
    case_worst outputs = {0}, grads = {0}, digests = {0};
    npo_err err = prepare(&c, env, env->file, error);
    if (!err)
        err = compare_outputs(&c, &outputs, error);
    if (!err)
        err = compare_input_grads(&c, &grads, error);
    if (!err)
        err = compare_digests(&c, env, &digests, error);
    if (!err)
        case_report(env, "-forward", &outputs, CASE_OUTPUT_TOLERANCE);
    if (!err && *grads.tensor)
        case_report(env, "-input-grads", &grads, CASE_GRADIENT_TOLERANCE);
    if (!err && *digests.tensor)
        case_report(env, "-grad-digests", &digests, CASE_GRADIENT_TOLERANCE);
    unload(&c);
    return err;
}

/* ---- parameter gradients ---- */

static npo_err compare_param_grads(const unet_case *c, const npo_safetensors *file,
                                   case_worst *worst, npo_error *error)
{
    size_t count = npo_layout_count(c->layout);
    if (npo_safetensors_count(file) != count)
        return npo_error_set(error, NPO_E_SHAPE, "'%s' has %zu tensors, expected %zu",
                             npo_safetensors_path(file), npo_safetensors_count(file), count);
    for (size_t i = 0; i < count; i++) {
        const npo_param_info *info = npo_layout_at(c->layout, i);
        const npo_tensor *expected;
        NPO_TRY(case_find(file, info->name, &expected, error));
        float *reference = calloc(expected->count + 1, sizeof *reference);
        if (!reference)
            return npo_error_set(error, NPO_E_NOMEM, "out of memory");
        npo_tensor_read_f32(expected, 0, expected->count, reference);
        if (expected->count == info->count)
            case_compare(worst, info->name, npo_params_data(c->grads) + info->offset, reference,
                         info->count);
        free(reference);
        if (expected->count != info->count)
            return npo_error_set(error, NPO_E_SHAPE, "'%s': found %zu elements, expected %zu",
                                 info->name, expected->count, info->count);
    }
    return NPO_OK;
}

npo_err case_run_unet_grads(case_env *env, npo_error *error)
{
    static const char suffix[] = "-grads.safetensors";
    unet_case c = {0};
    case_worst worst = {0};
    char *inputs = NULL;
    npo_safetensors *file = NULL;
    int stem = (int)(strlen(env->file) - strlen(suffix));
    if (asprintf(&inputs, "%.*s.safetensors", stem, env->file) < 0)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    npo_err err = prepare(&c, env, inputs, error);
    if (!err)
        err = case_open(env, env->file, &file, error);
    if (!err)
        err = compare_param_grads(&c, file, &worst, error);
    if (!err)
        case_report(env, "", &worst, CASE_GRADIENT_TOLERANCE);
    npo_safetensors_close(file);
    free(inputs);
    unload(&c);
    return err;
}
