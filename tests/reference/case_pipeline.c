#include "tests/reference/case_pipeline.h"

#include <stdlib.h>

static npo_err load_prompts(case_pipeline *pipeline, const case_env *env, npo_error *error)
{
    npo_safetensors *file = NULL;
    const npo_tensor *states = NULL;
    NPO_TRY(case_open(env, "text.safetensors", &file, error));
    npo_err err = case_find(file, "last_hidden_state", &states, error);
    if (!err)
        err = case_read(states, &pipeline->embeddings, error);
    if (!err) {
        size_t floats = (size_t)(states->dims[1] * states->dims[2]);
        pipeline->shape.context_len = states->dims[1];
        pipeline->prompts =
            (npo_prompts){.rows = pipeline->embeddings,
                          .count = states->dims[0],
                          .empty = pipeline->embeddings + CASE_EMPTY_PROMPT * floats,
                          .floats = floats};
    }
    npo_safetensors_close(file);
    return err;
}

static npo_err load_schedule(case_pipeline *pipeline, npo_error *error)
{
    npo_schedule_config config;
    NPO_TRY(npo_schedule_config_load(pipeline->folder.scheduler_config, &config, error));
    return npo_schedule_new(&config, &pipeline->schedule, error);
}

npo_err case_pipeline_init(case_pipeline *pipeline, const case_env *env, const npo_tensor *x,
                           npo_error *error)
{
    *pipeline = (case_pipeline){0};
    pipeline->latent = (npo_latent_shape){x->dims[2], x->dims[3], x->dims[1]};
    pipeline->shape.height = x->dims[2];
    pipeline->shape.width = x->dims[3];
    NPO_TRY(npo_folder_open(env->dir, &pipeline->folder, error));
    NPO_TRY(npo_folder_unet(&pipeline->folder, env->backend, &pipeline->config, &pipeline->layout,
                            error));
    NPO_TRY(npo_params_new(pipeline->layout, &pipeline->params));
    NPO_TRY(npo_folder_load_unet(&pipeline->folder, pipeline->params, error));
    NPO_TRY(load_schedule(pipeline, error));
    NPO_TRY(load_prompts(pipeline, env, error));
    return npo_network_new(env->backend, pipeline->layout, &pipeline->config, &pipeline->shape,
                           &pipeline->network, error);
}

void case_pipeline_fini(case_pipeline *pipeline)
{
    npo_network_free(pipeline->network);
    npo_schedule_free(pipeline->schedule);
    npo_params_free(pipeline->params);
    npo_layout_unref(pipeline->layout);
    npo_folder_fini(&pipeline->folder);
    free(pipeline->embeddings);
}
