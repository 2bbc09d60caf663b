/* text.safetensors beside text_encoder/ and tokenizer/: ids [N,L] of prompts, every hidden state
 * [N,L,C], the last one normed, and the pooled state [N,C]. */
#include "tests/reference/case.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    npo_folder folder;
    npo_clip_text_config config;
    npo_layout *layout;
    npo_params *params;
    npo_graph *graph;
    npo_safetensors *file;
    const npo_tensor *ids;
    case_worst worst;
} text_case;

static npo_err load(text_case *c, const case_env *env, npo_error *error)
{
    NPO_TRY(case_open(env, env->file, &c->file, error));
    NPO_TRY(case_find(c->file, "ids", &c->ids, error));
    NPO_TRY(npo_folder_open(env->dir, &c->folder, error));
    NPO_TRY(
        npo_folder_load_text(&c->folder, env->backend, &c->config, &c->layout, &c->params, error));
    return npo_graph_new(env->backend, c->layout, &c->graph);
}

static npo_err forward(text_case *c, npo_error *error)
{
    npo_plan_info info;
    npo_value ids = npo_graph_input(c->graph, "ids", NPO_I32, 2, c->ids->dims);
    npo_graph_output(c->graph, "last_hidden_state",
                     npo_clip_text_record(c->graph, &c->config, ids, true).last);
    NPO_TRY(npo_graph_plan(c->graph, &(npo_plan_options){.loss = NPO_VALUE_NONE}, &info, error));
    int64_t *wide = calloc(c->ids->count + 1, sizeof *wide);
    int32_t *to = npo_graph_input_data(c->graph, "ids");
    if (!wide)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    npo_tensor_read_i64(c->ids, 0, c->ids->count, wide);
    for (size_t i = 0; i < c->ids->count; i++)
        to[i] = (int32_t)wide[i];
    free(wide);
    return npo_graph_forward(c->graph, c->params, error);
}

static npo_err compare_states(text_case *c, npo_error *error)
{
    for (size_t i = 0; i < npo_safetensors_count(c->file); i++) {
        const npo_tensor *expected = npo_safetensors_at(c->file, i);
        npo_shape shape;
        if (strcmp(expected->name, "ids") == 0 || strcmp(expected->name, "pooler_output") == 0)
            continue;
        const float *values = npo_graph_output_data(c->graph, expected->name, &shape);
        if (!values)
            return npo_error_set(error, NPO_E_NOT_FOUND, "this project has no '%s'",
                                 expected->name);
        NPO_TRY(case_compare_tensor(&c->worst, expected, &shape, values, error));
    }
    return NPO_OK;
}

static npo_err compare_pooled(text_case *c, npo_error *error)
{
    const npo_tensor *expected;
    npo_shape shape;
    NPO_TRY(case_find(c->file, "pooler_output", &expected, error));
    const float *last = npo_graph_output_data(c->graph, "last_hidden_state", &shape);
    const int32_t *ids = npo_graph_input_data(c->graph, "ids");
    size_t length = (size_t)shape.dims[1], width = (size_t)shape.dims[2];
    npo_shape pooled_shape = {NPO_F32, 2, {shape.dims[0], shape.dims[2]}};
    float *pooled = calloc((size_t)shape.dims[0] * width + 1, sizeof *pooled);
    if (!pooled)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    for (size_t n = 0; n < (size_t)shape.dims[0]; n++) {
        size_t at = (size_t)npo_clip_text_pooled_index(&c->config, ids + n * length, shape.dims[1]);
        memcpy(pooled + n * width, last + (n * length + at) * width, width * sizeof *pooled);
    }
    npo_err err = case_compare_tensor(&c->worst, expected, &pooled_shape, pooled, error);
    free(pooled);
    return err;
}

npo_err case_run_text(case_env *env, npo_error *error)
{
    text_case c = {0};
    npo_err err = load(&c, env, error);
    if (!err)
        err = forward(&c, error);
    if (!err)
        err = compare_states(&c, error);
    if (!err)
        err = compare_pooled(&c, error);
    if (!err)
        case_report(env, "", &c.worst, CASE_OUTPUT_TOLERANCE);
    npo_graph_free(c.graph);
    npo_params_free(c.params);
    npo_layout_unref(c.layout);
    npo_folder_fini(&c.folder);
    npo_safetensors_close(c.file);
    return err;
}
