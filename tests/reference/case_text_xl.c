/* text.safetensors beside text_encoder/ and text_encoder_2/: ids_1, ids_2 [N,L] of prompts, the
 * next-to-last hidden states of both side by side as context [N,L,C1+C2], and the projected pooled
 * state of the second [N,P]. */
#include "tests/reference/case.h"

#include <stdlib.h>
#include <string.h>

/* One of the two encoders. */
typedef struct {
    npo_clip_text_config config;
    npo_layout *layout;
    npo_params *params;
    npo_graph *graph;
    const float *last, *penultimate;
    const int32_t *ids;
} encoder;

typedef struct {
    npo_folder folder;
    encoder encoders[2];
    npo_safetensors *file;
    int64_t n, length;
    case_worst worst;
} text_case;

static npo_err run_encoder(text_case *c, npo_backend *backend, int index, npo_error *error)
{
    encoder *e = &c->encoders[index];
    const npo_tensor *ids;
    npo_shape shape;
    NPO_TRY(case_find(c->file, index ? "ids_2" : "ids_1", &ids, error));
    NPO_TRY((index ? npo_folder_load_text_2 : npo_folder_load_text)(&c->folder, backend, &e->config,
                                                                    &e->layout, &e->params, error));
    NPO_TRY(npo_graph_new(backend, e->layout, &e->graph));
    npo_value input = npo_graph_input(e->graph, "ids", NPO_I32, 2, ids->dims);
    npo_clip_text_states states = npo_clip_text_record(e->graph, &e->config, input, false);
    npo_graph_output(e->graph, "last", states.last);
    npo_graph_output(e->graph, "penultimate", states.penultimate);
    NPO_TRY(npo_graph_plan(e->graph, &(npo_plan_options){.loss = NPO_VALUE_NONE}, NULL, error));
    int32_t *to = npo_graph_input_data(e->graph, "ids");
    for (size_t i = 0; i < ids->count; i++) {
        int64_t id;
        npo_tensor_read_i64(ids, i, 1, &id);
        to[i] = (int32_t)id;
    }
    c->n = ids->dims[0];
    c->length = ids->dims[1];
    e->ids = to;
    e->last = npo_graph_output_data(e->graph, "last", &shape);
    e->penultimate = npo_graph_output_data(e->graph, "penultimate", &shape);
    return npo_graph_forward(e->graph, e->params, error);
}

static npo_err compare_context(text_case *c, npo_error *error)
{
    const npo_tensor *expected;
    int64_t channels = c->encoders[0].config.hidden + c->encoders[1].config.hidden;
    npo_shape shape = {NPO_F32, 3, {c->n, c->length, channels}};
    NPO_TRY(case_find(c->file, "context", &expected, error));
    float *context = calloc((size_t)(c->n * c->length * channels) + 1, sizeof *context);
    if (!context)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    for (int64_t i = 0; i < c->n * c->length; i++) {
        float *to = context + i * channels;
        for (int k = 0; k < 2; k++) {
            int64_t hidden = c->encoders[k].config.hidden;
            memcpy(to, c->encoders[k].penultimate + i * hidden, (size_t)hidden * sizeof *to);
            to += hidden;
        }
    }
    npo_err err = case_compare_tensor(&c->worst, expected, &shape, context, error);
    free(context);
    return err;
}

static npo_err compare_pooled(text_case *c, npo_error *error)
{
    const encoder *e = &c->encoders[1];
    const npo_tensor *expected;
    npo_shape shape = {NPO_F32, 2, {c->n, e->config.projection}};
    NPO_TRY(case_find(c->file, "pooled", &expected, error));
    float *pooled = calloc((size_t)(c->n * e->config.projection) + 1, sizeof *pooled);
    if (!pooled)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    for (int64_t i = 0; i < c->n; i++) {
        int64_t at = npo_clip_text_pooled_index(&e->config, e->ids + i * c->length, c->length);
        npo_clip_text_project(&e->config, e->params,
                              e->last + (i * c->length + at) * e->config.hidden,
                              pooled + i * e->config.projection);
    }
    npo_err err = case_compare_tensor(&c->worst, expected, &shape, pooled, error);
    free(pooled);
    return err;
}

npo_err case_run_text_xl(case_env *env, npo_error *error)
{
    text_case c = {0};
    npo_err err = case_open(env, env->file, &c.file, error);
    if (!err)
        err = npo_folder_open(env->dir, &c.folder, error);
    for (int i = 0; !err && i < 2; i++)
        err = run_encoder(&c, env->backend, i, error);
    if (!err)
        err = compare_context(&c, error);
    if (!err)
        err = compare_pooled(&c, error);
    if (!err)
        case_report(env, "", &c.worst, CASE_OUTPUT_TOLERANCE);
    for (int i = 0; i < 2; i++) {
        npo_graph_free(c.encoders[i].graph);
        npo_params_free(c.encoders[i].params);
        npo_layout_unref(c.encoders[i].layout);
    }
    npo_folder_fini(&c.folder);
    npo_safetensors_close(c.file);
    return err;
}
