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

static npo_err check_images(npo_context *ctx, const npo_setup *setup)
{
    npo_latent_shape want = setup->model->image;
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

const char *npo_setup_negative_prompt(const npo_job *job, size_t i)
{
    const cJSON *negative = job->sample.negative_prompt;
    const cJSON *own = cJSON_IsArray(negative) ? cJSON_GetArrayItem(negative, (int)i) : negative;
    return own ? own->valuestring : "";
}

/* Prompts have the first ids; behind them stand the negative prompts, each text once. */
static npo_err encode_prompts(npo_context *ctx, npo_setup *setup)
{
    size_t count = setup->prompt_count, all = count;
    const char **texts = calloc(2 * count, sizeof *texts);
    setup->negative = calloc(count, sizeof *setup->negative);
    if (!texts || !setup->negative) {
        free(texts);
        return npo_context_fail(ctx, NPO_E_NOMEM, "prompts");
    }
    memcpy(texts, setup->prompts, count * sizeof *texts);
    for (size_t i = 0; i < count; i++) {
        const char *text = npo_setup_negative_prompt(ctx->task->spec, i);
        size_t at = count;
        while (at < all && strcmp(texts[at], text) != 0)
            at++;
        setup->negative[i] = *text ? (int32_t)at : NPO_PROMPT_EMPTY;
        if (*text && at == all)
            texts[all++] = text;
    }
    npo_err err = npo_model_encode(setup->model, texts, all, ctx->error);
    free(texts);
    return err;
}

static npo_err open_parts(npo_context *ctx, bool wants_images, npo_setup *setup)
{
    const char *model = NULL, *data = npo_task_input_path(ctx->task, "data");
    NPO_TRY(npo_context_input(ctx, "model", &model));
    NPO_TRY(npo_loaded_model(ctx->cache, model, &setup->model, ctx->error));
    NPO_TRY(npo_model_set_size(setup->model, npo_loaded_backend(ctx->cache),
                               ctx->task->spec->height, ctx->task->spec->width, ctx->error));
    NPO_TRY(npo_setup_job_prompts(ctx, &setup->prompts, &setup->prompt_count));
    if (wants_images)
        NPO_TRY(npo_context_input(ctx, "data", &data));
    if (data && (wants_images || setup->prompt_count == 0))
        NPO_TRY(adopt_data(ctx, data, setup));
    if (wants_images && setup->model->folder.vae_config)
        NPO_TRY(npo_loaded_latents(ctx->cache, &setup->latents, ctx->error));
    if (setup->prompt_count == 0)
        return npo_error_set(
            ctx->error, NPO_E_USAGE,
            "found no prompts, expected \"prompts\" in the job (of IDX data: one for "
            "each label) or data with captions");
    return encode_prompts(ctx, setup);
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

npo_network_plan npo_setup_plan(const npo_context *ctx, int compute)
{
    return (npo_network_plan){.compute = (npo_compute)compute,
                              .packed_bytes = npo_loaded_memory(ctx->cache) / 4};
}

void npo_setup_fini(npo_setup *setup)
{
    free(setup->prompts);
    free(setup->negative);
    *setup = (npo_setup){0};
}

npo_err npo_setup_sample(const npo_setup *setup, int64_t index, float *ret_x, npo_error *error)
{
    if (setup->latents)
        return npo_latents_get(setup->latents, index, ret_x, error);
    npo_dataset_image(setup->data, index, ret_x);
    return NPO_OK;
}
