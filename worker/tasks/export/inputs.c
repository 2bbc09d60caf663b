#include "worker/tasks/export/inputs.h"

#include "common/file.h"
#include "worker/tasks/export/trained_lora.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Where diffusers saves and looks for a LoRA in a folder. */
static const char lora_file[] = "pytorch_lora_weights.safetensors";

static npo_err open_pipeline(const char *path, const npo_layout *layout, npo_weight_view **ret_view,
                             npo_error *error)
{
    npo_folder folder;
    NPO_TRY(npo_folder_open(path, &folder, error));
    npo_err err = npo_folder_view_unet(&folder, layout, ret_view, error);
    npo_folder_fini(&folder);
    return err;
}

static bool is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* Checkpoints have no tensor that is named after a LoRA, LoRA files nothing but such. */
static npo_err open_file(const char *path, const npo_layout *layout, npo_weight_view **ret_view,
                         npo_error *error)
{
    bool is_lora = false;
    npo_safetensors *file = NULL;
    NPO_TRY(npo_safetensors_open(path, &file, error));
    for (size_t i = 0; i < npo_safetensors_count(file); i++)
        is_lora = is_lora || strstr(npo_safetensors_at(file, i)->name, "lora");
    npo_safetensors_close(file);
    return is_lora ? npo_weight_view_open_lora(path, layout, ret_view, error)
                   : open_pipeline(path, layout, ret_view, error);
}

/* A pipeline, a LoRA file, or a folder that holds one. */
static npo_err open_network(const char *path, const npo_layout *layout, npo_weight_view **ret_view,
                            npo_error *error)
{
    if (is_file(path))
        return open_file(path, layout, ret_view, error);
    char *lora = npo_file_join(path, lora_file);
    if (!lora)
        return npo_error_set(error, NPO_E_NOMEM, "cannot open '%s': out of memory", path);
    npo_err err = npo_file_exists(lora) ? npo_weight_view_open_lora(lora, layout, ret_view, error)
                                        : open_pipeline(path, layout, ret_view, error);
    free(lora);
    return err;
}

/* A LoRA by way of the file that the export hands out with the rest. */
static npo_err open_trained_lora(npo_context *ctx, const npo_trained_lora *trained,
                                 npo_weight_view **ret_view)
{
    char *path = NULL;
    NPO_TRY(npo_trained_lora_export(ctx, trained, &path));
    npo_err err = npo_weight_view_open_lora(path, trained->base, ret_view, ctx->error);
    free(path);
    return err;
}

static npo_err open_checkpoint(npo_context *ctx, const char *path, npo_layout *layout,
                               npo_weight_view **ret_view)
{
    npo_checkpoint_meta meta;
    const npo_job *job = ctx->task->spec;
    int weights = job->recipe == NPO_RECIPE_EXPORT ? job->export.weights : job->train.weights;
    bool ema = weights == NPO_WEIGHTS_EMA;
    NPO_TRY(npo_checkpoint_read_meta(path, &meta, ctx->error));
    const npo_trained_lora trained = {path, &meta.lora, ema, layout};
    if (meta.lora.rank)
        return open_trained_lora(ctx, &trained, ret_view);
    return npo_weight_view_open_set(path, ema ? "ema." : "student.", layout, ret_view, ctx->error);
}

static npo_err open_negative(npo_context *ctx, npo_export_inputs *inputs)
{
    const char *path = npo_task_input_path(ctx->task, "checkpoint");
    if (path)
        return open_checkpoint(ctx, path, inputs->layout, &inputs->negative);
    NPO_TRY(npo_context_input(ctx, "negative", &path));
    npo_err err = open_network(path, inputs->layout, &inputs->negative, ctx->error);
    return err ? npo_error_prefix(ctx->error, err, "negative") : NPO_OK;
}

static npo_err open_positive(npo_context *ctx, npo_export_inputs *inputs)
{
    const char *path = npo_task_input_path(ctx->task, "positive");
    npo_err err = path ? open_network(path, inputs->layout, &inputs->positive, ctx->error) : NPO_OK;
    return err ? npo_error_prefix(ctx->error, err, "positive") : NPO_OK;
}

static npo_err open_all(npo_context *ctx, npo_export_inputs *inputs)
{
    const char *path = NULL;
    npo_unet_config config;
    if (!npo_task_input_path(ctx->task, "checkpoint"))
        NPO_TRY(npo_context_input(ctx, "negative", &path));
    NPO_TRY(npo_context_input(ctx, "model", &path));
    NPO_TRY(npo_folder_open(path, &inputs->folder, ctx->error));
    NPO_TRY(npo_folder_unet(&inputs->folder, npo_loaded_backend(ctx->cache), &config,
                            &inputs->layout, ctx->error));
    if (inputs->folder.unet_weights)
        NPO_TRY(npo_folder_view_unet(&inputs->folder, inputs->layout, &inputs->base, ctx->error));
    NPO_TRY(open_negative(ctx, inputs));
    return open_positive(ctx, inputs);
}

npo_err npo_export_inputs_open(npo_context *ctx, npo_export_inputs *ret_inputs)
{
    npo_export_inputs inputs = {0};
    npo_err err = open_all(ctx, &inputs);
    if (err)
        npo_export_inputs_fini(&inputs);
    else
        *ret_inputs = inputs;
    return err;
}

void npo_export_inputs_fini(npo_export_inputs *inputs)
{
    npo_weight_view_close(inputs->base);
    npo_weight_view_close(inputs->negative);
    npo_weight_view_close(inputs->positive);
    npo_layout_unref(inputs->layout);
    npo_folder_fini(&inputs->folder);
    *inputs = (npo_export_inputs){0};
}
