#include "worker/tasks/kinds.h"
#include "worker/train/checkpoint.h"

#include "common/file.h"

#include <stdlib.h>

/* Half precision for a model trained on images, as pipelines are published; full precision for a
 * negative network, whose offset may be smaller than the spacing of half precision. */
static npo_tensor_dtype dtype_of(npo_recipe recipe)
{
    return recipe == NPO_RECIPE_DIFFUSION ? NPO_TENSOR_F16 : NPO_TENSOR_F32;
}

static npo_loaded_weights_kind weights_of(const npo_job *job)
{
    return job->train.weights == NPO_WEIGHTS_EMA ? NPO_LOADED_EMA : NPO_LOADED_STUDENT;
}

static npo_err export_pipeline(npo_context *ctx, const char *out)
{
    const char *model_path = NULL, *path = npo_task_input_path(ctx->task, "checkpoint");
    npo_loaded_weights_kind kind = weights_of(ctx->task->spec);
    npo_model *model = NULL;
    const npo_params *params = NULL;
    if (!path) {
        NPO_TRY(npo_context_input(ctx, "negative", &path));
        kind = NPO_LOADED_FOLDER;
    }
    NPO_TRY(npo_context_input(ctx, "model", &model_path));
    NPO_TRY(npo_loaded_model(ctx->cache, model_path, &model, ctx->error));
    NPO_TRY(npo_loaded_weights(ctx->cache, path, kind, &params, ctx->error));
    npo_weights_made weights = npo_weights_of(params);
    return npo_folder_save(&model->folder, &weights, dtype_of(ctx->task->spec->recipe), out,
                           ctx->error);
}

/* ---- classifier ---- */

static npo_err load_sets(npo_context *ctx, const char *path, npo_layout *layout,
                         npo_params **ret_student, npo_params **ret_ema)
{
    npo_err err = npo_params_new(layout, ret_student);
    if (err == NPO_OK)
        err = npo_params_new(layout, ret_ema);
    if (err != NPO_OK)
        return npo_context_fail(ctx, err, "weights");
    npo_checkpoint_sets sets = {.student = *ret_student, .ema = *ret_ema};
    npo_checkpoint_meta meta;
    return npo_checkpoint_load(path, &sets, &meta, ctx->error);
}

static npo_err export_classifier(npo_context *ctx, const char *out)
{
    npo_layout *layout = NULL;
    npo_params *student = NULL, *ema = NULL;
    const char *path = NULL;
    char *file = npo_file_join(out, "model.safetensors");
    npo_err err = file ? NPO_OK : npo_context_fail(ctx, NPO_E_NOMEM, "model");
    if (err == NPO_OK)
        err = npo_context_input(ctx, "checkpoint", &path);
    if (err == NPO_OK)
        err = npo_classifier_layout(npo_loaded_backend(ctx->cache), &layout, ctx->error);
    if (err == NPO_OK)
        err = load_sets(ctx, path, layout, &student, &ema);
    if (err == NPO_OK)
        err = npo_file_make_dirs(out, ctx->error);
    if (err == NPO_OK)
        err = npo_classifier_save(file,
                                  ctx->task->spec->train.weights == NPO_WEIGHTS_EMA ? ema : student,
                                  NPO_TENSOR_F32, ctx->error);
    npo_params_free(student);
    npo_params_free(ema);
    npo_layout_unref(layout);
    free(file);
    return err;
}

npo_err npo_kind_export(npo_context *ctx)
{
    char *out = NULL;
    NPO_TRY(npo_context_check(ctx));
    NPO_TRY(npo_context_out(ctx, "model", &out));
    npo_err err = ctx->task->spec->recipe == NPO_RECIPE_CLASSIFIER ? export_classifier(ctx, out)
                                                                   : export_pipeline(ctx, out);
    free(out);
    return err == NPO_OK ? npo_context_publish(ctx, "model", "model") : err;
}
