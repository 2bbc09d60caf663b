#include "worker/tasks/export/forms.h"

#include "common/file.h"
#include "worker/eval/json_out.h"
#include "worker/tasks/kinds.h"
#include "worker/train/checkpoint.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* An offset that rounding changes by more than this share of its norm is worth a word. */
#define ROUNDING_WORTH_A_WORD 0.01

static const struct {
    const char *name;
    const char *file; /* of the output "model" */
    bool needs_base;
    bool without_base; /* the offset alone leaves */
    npo_err (*write)(npo_export_work *work, const char *path);
} forms[] = {
    [NPO_FORM_NEGATIVE] = {"negative", "model", false, false, npo_export_pipeline},
    [NPO_FORM_DELTA] = {"delta", "delta.safetensors", true, true, npo_export_delta},
    [NPO_FORM_MERGE] = {"merge", "model", true, false, npo_export_pipeline},
    [NPO_FORM_LORA] = {"lora", "lora.safetensors", true, true, npo_export_lora},
    [NPO_FORM_ONE_NETWORK] = {"one-network", "model", true, false, npo_export_pipeline},
};

static const npo_tensor_dtype dtypes[] = {
    [NPO_DTYPE_F32] = NPO_TENSOR_F32,
    [NPO_DTYPE_F16] = NPO_TENSOR_F16,
    [NPO_DTYPE_BF16] = NPO_TENSOR_BF16,
};

/* ---- what forms share ---- */

npo_err npo_export_fill(void *user, size_t tensor, size_t first, size_t n, float *ret_values,
                        npo_error *error)
{
    npo_export_work *work = user;
    const npo_export_inputs *inputs = work->inputs;
    if (first == 0)
        NPO_TRY(npo_context_check(work->ctx));
    NPO_TRY(npo_blend_fill(&work->blend, tensor, first, n, ret_values, error));
    if (first + n < npo_layout_at(work->blend.layout, tensor)->count)
        return NPO_OK;
    const npo_weight_view *views[] = {inputs->base, inputs->negative, inputs->positive};
    for (size_t i = 0; i < sizeof views / sizeof *views; i++)
        if (views[i])
            npo_weight_view_release(views[i], tensor);
    work->tensors++;
    npo_context_progress(work->ctx, "export", work->tensors,
                         (int64_t)npo_layout_count(work->blend.layout), NAN, work->tensors);
    return NPO_OK;
}

double npo_export_share(double part, double whole)
{
    return part > 0 ? sqrt(part / whole) : 0;
}

npo_err npo_export_pipeline(npo_export_work *work, const char *path)
{
    npo_weights_made weights = {work->blend.layout, npo_export_fill, work};
    return npo_folder_save(&work->inputs->folder, &weights, work->blend.dtype, path,
                           work->ctx->error);
}

/* ---- settings ---- */

/* Half precision for a model trained on images, as pipelines are published; full precision for a
 * negative network, whose offset may be smaller than the spacing of half precision. */
static npo_tensor_dtype dtype_of(const npo_job *job)
{
    return job->recipe == NPO_RECIPE_DIFFUSION ? NPO_TENSOR_F16 : dtypes[job->export.dtype];
}

static npo_err set_blend(npo_export_work *work)
{
    const npo_export_inputs *inputs = work->inputs;
    const npo_job_export *export = &work->ctx->task->spec->export;
    double scale = export->form == NPO_FORM_ONE_NETWORK ? -export->w : export->beta;
    work->blend = (npo_blend){
        .layout = inputs->layout,
        .base = inputs->base,
        .terms = {{inputs->negative, scale}, {inputs->positive, export->alpha}},
        .count = inputs->positive ? 2 : 1,
        .without_base = forms[export->form].without_base,
        .dtype = dtype_of(work->ctx->task->spec),
    };
    bool needed =
        forms[export->form].needs_base || scale != 1 || npo_weight_view_is_offset(inputs->negative);
    if (needed && !inputs->base)
        return npo_error_set(work->ctx->error, NPO_E_NOT_FOUND,
                             "model '%s' has no weights that an offset could be measured from",
                             inputs->folder.root);
    return NPO_OK;
}

/* ---- report ---- */

static void log_sums(npo_export_work *work)
{
    const npo_blend_sums *sums = &work->blend.sums;
    const char *name = npo_tensor_dtype_name(work->blend.dtype);
    double rounding = npo_export_share(sums->error, sums->offset);
    npo_context_log(work->ctx, "the offset is %.4g of the model's norm",
                    npo_export_share(sums->offset, sums->base));
    if (work->ctx->task->spec->export.form != NPO_FORM_LORA && rounding > ROUNDING_WORTH_A_WORD)
        npo_context_log(work->ctx,
                        "warning: rounding to %s changes the weights by %.3g of the offset's norm "
                        "and loses the offset of %zu of %zu elements; dtype f32 keeps it",
                        name, rounding, sums->lost, sums->moved);
}

static npo_err write_report(npo_export_work *work)
{
    npo_buf text = NPO_BUF_INIT;
    char *path = NULL;
    const npo_blend_sums *sums = &work->blend.sums;
    npo_buf_printf(&text, "{\"form\": \"%s\", \"dtype\": \"%s\"",
                   forms[work->ctx->task->spec->export.form].name,
                   npo_tensor_dtype_name(work->blend.dtype));
    npo_json_out_member(&text, ", ", "offset", npo_export_share(sums->offset, sums->base));
    npo_json_out_member(&text, ", ", "rounding", npo_export_share(sums->error, sums->offset));
    npo_json_out_member(&text, ", ", "moved", (double)sums->moved);
    npo_json_out_member(&text, ", ", "lost", (double)sums->lost);
    npo_buf_add(&text, work->report.data ? work->report.data : "", work->report.len);
    npo_buf_str(&text, "}\n");
    npo_err err = npo_buf_err(&work->report) ? npo_buf_err(&work->report) : npo_buf_err(&text);
    if (err)
        err = npo_context_fail(work->ctx, err, "export.json");
    if (!err)
        err = npo_context_out(work->ctx, "export.json", &path);
    if (!err)
        err = npo_file_write(path, text.data, text.len, 0666, work->ctx->error);
    free(path);
    npo_buf_fini(&text);
    return err ? err : npo_context_publish(work->ctx, "export.json", "export.json");
}

static npo_err export_form(npo_export_work *work, const char *path)
{
    NPO_TRY(set_blend(work));
    npo_context_start(work->ctx);
    NPO_TRY(forms[work->ctx->task->spec->export.form].write(work, path));
    if (work->ctx->task->spec->recipe != NPO_RECIPE_EXPORT)
        return NPO_OK;
    log_sums(work);
    return write_report(work);
}

static npo_err export_network(npo_context *ctx, const char *path)
{
    npo_export_inputs inputs = {0};
    npo_export_work work = {.ctx = ctx, .inputs = &inputs, .report = NPO_BUF_INIT};
    npo_err err = npo_export_inputs_open(ctx, &inputs);
    if (!err)
        err = export_form(&work, path);
    npo_buf_fini(&work.report);
    npo_export_inputs_fini(&inputs);
    return err;
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
    char *path = NULL;
    bool is_classifier = ctx->task->spec->recipe == NPO_RECIPE_CLASSIFIER;
    const char *file = is_classifier ? "model" : forms[ctx->task->spec->export.form].file;
    NPO_TRY(npo_context_check(ctx));
    NPO_TRY(npo_context_out(ctx, file, &path));
    npo_err err = is_classifier ? export_classifier(ctx, path) : export_network(ctx, path);
    free(path);
    return err == NPO_OK ? npo_context_publish(ctx, "model", file) : err;
}
