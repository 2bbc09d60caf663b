#include "worker/tasks/setup.h"

#include <stdlib.h>
#include <string.h>

npo_err npo_setup_job_prompts(npo_context *ctx, const char ***ret_prompts, size_t *ret_count)
{
    const cJSON *list = ctx->task->spec->prompts;
    int count = list ? cJSON_GetArraySize(list) : 0;
    const char **prompts = calloc(count ? (size_t)count : 1, sizeof *prompts);
    if (!prompts)
        return npo_context_fail(ctx, NPO_E_NOMEM, "prompts");
    size_t at = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsString(item)) {
            free(prompts);
            return npo_error_set(ctx->error, NPO_E_TYPE, "prompts[%zu]: expected a text", at);
        }
        prompts[at++] = item->valuestring;
    }
    *ret_prompts = prompts;
    *ret_count = at;
    return NPO_OK;
}

npo_err npo_setup_check_pixels(npo_context *ctx, const npo_model *model)
{
    if (model->folder.vae_config)
        return npo_error_set(ctx->error, NPO_E_UNSUPPORTED,
                             "model '%s' has a VAE: this version samples and reads images in pixel "
                             "space only",
                             model->folder.root);
    return NPO_OK;
}

static npo_err check_images(npo_context *ctx, const npo_setup *setup)
{
    npo_latent_shape want = setup->model->latent;
    const npo_dataset *data = setup->data;
    if (npo_dataset_height(data) == want.height && npo_dataset_width(data) == want.width &&
        npo_dataset_channels(data) == want.channels)
        return NPO_OK;
    return npo_error_set(
        ctx->error, NPO_E_SHAPE,
        "the data has images of %d x %d with %d channels, expected %lld x %lld with "
        "%lld as model '%s' makes them",
        npo_dataset_width(data), npo_dataset_height(data), npo_dataset_channels(data),
        (long long)want.width, (long long)want.height, (long long)want.channels,
        setup->model->folder.root);
}

/* Prompts are numbered over one list in all tasks of a job, so there must not be two. */
static npo_err check_prompts(npo_context *ctx, const npo_setup *setup, const char *path)
{
    size_t count = npo_dataset_prompt_count(setup->data);
    bool same = count == setup->prompt_count;
    for (size_t i = 0; same && i < count; i++)
        same = strcmp(npo_dataset_prompt(setup->data, i), setup->prompts[i]) == 0;
    if (setup->prompt_count && !same)
        return npo_error_set(
            ctx->error, NPO_E_USAGE,
            "'%s' has captions, and the job names prompts as well: leave one of them "
            "out",
            path);
    return NPO_OK;
}

/* The prompts of the data stand in for the job's: for IDX they are the same list. */
static npo_err adopt_data(npo_context *ctx, const char *path, npo_setup *setup)
{
    npo_dataset_options options = {NPO_SPLIT_TRAIN, setup->prompt_count ? setup->prompts : NULL,
                                   setup->prompt_count};
    NPO_TRY(npo_setup_check_pixels(ctx, setup->model));
    NPO_TRY(npo_loaded_dataset(ctx->cache, path, &options, &setup->data, ctx->error));
    NPO_TRY(check_images(ctx, setup));
    NPO_TRY(check_prompts(ctx, setup, path));
    size_t count = npo_dataset_prompt_count(setup->data);
    const char **prompts = calloc(count ? count : 1, sizeof *prompts);
    if (!prompts)
        return npo_context_fail(ctx, NPO_E_NOMEM, "prompts");
    for (size_t i = 0; i < count; i++)
        prompts[i] = npo_dataset_prompt(setup->data, i);
    free(setup->prompts);
    setup->prompts = prompts;
    setup->prompt_count = count;
    return NPO_OK;
}

static npo_err open_parts(npo_context *ctx, bool wants_images, npo_setup *setup)
{
    const char *model = NULL, *data = npo_task_input_path(ctx->task, "data");
    NPO_TRY(npo_context_input(ctx, "model", &model));
    NPO_TRY(npo_loaded_model(ctx->cache, model, &setup->model, ctx->error));
    NPO_TRY(npo_setup_job_prompts(ctx, &setup->prompts, &setup->prompt_count));
    if (wants_images)
        NPO_TRY(npo_context_input(ctx, "data", &data));
    if (data && (wants_images || setup->prompt_count == 0))
        NPO_TRY(adopt_data(ctx, data, setup));
    if (setup->prompt_count == 0)
        return npo_error_set(
            ctx->error, NPO_E_USAGE,
            "found no prompts, expected \"prompts\" in the job (of IDX data: one for "
            "each label) or data with captions");
    return npo_model_encode(setup->model, setup->prompts, setup->prompt_count, ctx->error);
}

npo_err npo_setup_open(npo_context *ctx, bool wants_images, npo_setup *ret_setup)
{
    npo_setup setup = {0};
    npo_err err = open_parts(ctx, wants_images, &setup);
    if (err != NPO_OK) {
        npo_setup_fini(&setup);
        return err;
    }
    *ret_setup = setup;
    return NPO_OK;
}

void npo_setup_fini(npo_setup *setup)
{
    free(setup->prompts);
    *setup = (npo_setup){0};
}
