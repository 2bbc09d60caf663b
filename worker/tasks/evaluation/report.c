#include "worker/tasks/evaluation/report.h"

#include "common/file.h"
#include "worker/eval/json_out.h"
#include "worker/tasks/evaluation/report_cells.h"
#include "worker/tasks/evaluation/report_grids.h"
#include "worker/tasks/kinds.h"
#include "worker/tasks/setup.h"
#include "worker/tasks/training/test_accuracy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { OFFSET_BLOCKS_MAX = 64, BATCH = NPO_LOADED_CLASSIFIER_BATCH };

typedef struct {
    npo_context *ctx;
    npo_plan plan;
    npo_features *files;
    size_t file_count;
    const char **prompts;
    size_t prompt_count;
    int64_t real_samples;
    npo_gaussian real;
    npo_report_cells cells;
    npo_report_grid *grids;
    size_t grid_count;
    cJSON *offset;
    npo_buf settings;
    npo_offset_block blocks[OFFSET_BLOCKS_MAX];
    npo_results results;
} report;

/* ---- input ---- */

static npo_err load_files(report *r)
{
    npo_context *ctx = r->ctx;
    r->file_count = npo_context_input_count(ctx, "features");
    if (r->file_count == 0)
        return npo_error_set(ctx->error, NPO_E_USAGE, "task 'report' has no input 'features.0'");
    r->files = calloc(r->file_count, sizeof *r->files);
    if (!r->files)
        return npo_context_fail(ctx, NPO_E_NOMEM, "features");
    for (size_t i = 0; i < r->file_count; i++) {
        const char *path = npo_context_input_at(ctx, "features", i);
        NPO_TRY(npo_features_load(path, &r->files[i], ctx->error));
        if (memcmp(&r->files[i].shape, &r->files[0].shape, sizeof r->files[0].shape) != 0)
            return npo_error_set(ctx->error, NPO_E_SHAPE,
                                 "'%s' has pictures of another shape than the features before it",
                                 path);
    }
    return NPO_OK;
}

static npo_err real_features(report *r, const npo_dataset *data, npo_classifier *classifier,
                             float *features)
{
    size_t floats = npo_dataset_floats(data);
    float *images = malloc(BATCH * floats * sizeof *images);
    npo_err err = images ? NPO_OK : npo_context_fail(r->ctx, NPO_E_NOMEM, "real images");
    for (int64_t at = 0; err == NPO_OK && at < r->real_samples; at += BATCH) {
        int64_t n = r->real_samples - at < BATCH ? r->real_samples - at : BATCH;
        for (int64_t i = 0; i < n; i++)
            npo_dataset_image(data, at + i, images + (size_t)i * floats);
        err = npo_context_check(r->ctx);
        if (err == NPO_OK)
            err =
                npo_classifier_eval(classifier, (size_t)n, images,
                                    features + (size_t)at * NPO_FEATURES_DIMS, NULL, r->ctx->error);
        npo_context_progress(r->ctx, "report", at + n, r->real_samples, NAN, at + n);
    }
    free(images);
    return err;
}

static npo_err fit_real(report *r)
{
    npo_context *ctx = r->ctx;
    const char *data_path = NULL, *classifier_path = NULL;
    const npo_dataset *data = NULL;
    npo_classifier *classifier = NULL;
    npo_dataset_options options = {.split = NPO_SPLIT_TRAIN};
    NPO_TRY(npo_context_input(ctx, "data", &data_path));
    NPO_TRY(npo_context_input(ctx, "classifier", &classifier_path));
    NPO_TRY(npo_loaded_dataset(ctx->cache, data_path, &options, &data, ctx->error));
    NPO_TRY(npo_test_check_data(ctx, data, data_path));
    NPO_TRY(npo_loaded_classifier(ctx->cache, classifier_path, &classifier, ctx->error));
    int64_t wanted = ctx->task->spec->evaluate.real_samples, have = npo_dataset_count(data);
    r->real_samples = wanted < have ? wanted : have;
    float *features = malloc((size_t)r->real_samples * NPO_FEATURES_DIMS * sizeof *features);
    if (!features)
        return npo_context_fail(ctx, NPO_E_NOMEM, "real images");
    npo_err err = real_features(r, data, classifier, features);
    if (err == NPO_OK) {
        err = npo_gaussian_fit(features, (size_t)r->real_samples, NPO_FEATURES_DIMS, &r->real);
        if (err != NPO_OK)
            err = npo_context_fail(ctx, err, "real images");
    }
    free(features);
    return err;
}

static npo_err choose_prompts(report *r)
{
    NPO_TRY(npo_setup_job_prompts(r->ctx, &r->prompts, &r->prompt_count));
    if (r->prompt_count == 0 || r->prompt_count > NPO_CLASSIFIER_CLASSES)
        return npo_error_set(r->ctx->error, NPO_E_USAGE,
                             "the job names %zu prompts, expected 1 to %d to judge samples by",
                             r->prompt_count, NPO_CLASSIFIER_CLASSES);
    return NPO_OK;
}

/* ---- results ---- */

static npo_err take_offset(report *r)
{
    npo_results *results = &r->results;
    const char *text = r->files[0].offset;
    const cJSON *block;
    NPO_TRY(npo_json_parse(text, strlen(text), "the offset in the features", &r->offset,
                           r->ctx->error));
    results->offset_total = npo_json_number(r->offset, "total", NAN);
    results->blocks = r->blocks;
    cJSON_ArrayForEach(block, cJSON_GetObjectItem(r->offset, "blocks"))
    {
        if (results->block_count == OFFSET_BLOCKS_MAX)
            return npo_error_set(r->ctx->error, NPO_E_LIMIT,
                                 "the features have an offset of more than %d blocks",
                                 OFFSET_BLOCKS_MAX);
        /* null: a block that is all zero in the base has no relative norm. */
        double relative = cJSON_IsNumber(block) ? block->valuedouble : NAN;
        r->blocks[results->block_count++] = (npo_offset_block){block->string, relative};
    }
    return NPO_OK;
}

/* The numbers that decide what the cells mean. */
static npo_err take_settings(report *r)
{
    const npo_job *job = r->ctx->task->spec;
    npo_buf *buf = &r->settings;
    npo_buf_printf(buf, "{\n  \"recipe\": \"%s\"", npo_job_recipe_name(job->recipe));
    npo_json_out_member(buf, ",\n  ", "samples", (double)r->plan.samples);
    npo_json_out_member(buf, ",\n  ", "prompts", (double)r->prompt_count);
    npo_json_out_member(buf, ",\n  \"sample\": {", "steps", (double)job->sample.steps);
    npo_json_out_member(buf, ", ", "rescale", job->sample.rescale);
    npo_json_out_member(buf, ", ", "interval_start", job->sample.interval_start);
    npo_json_out_member(buf, ", ", "interval_end", job->sample.interval_end);
    npo_buf_str(buf, "}");
    if (job->recipe == NPO_RECIPE_SELF_NPO) {
        npo_json_out_member(buf, ",\n  \"train\": {", "steps", (double)job->train.steps);
        npo_json_out_member(buf, ", ", "batch", (double)job->train.batch);
        npo_json_out_member(buf, ", ", "lr", job->train.lr);
        npo_buf_printf(buf, ", \"lr_schedule\": \"%s\"", npo_job_lr_schedule_name(job));
        npo_json_out_member(buf, ", ", "warmup_steps", (double)job->train.warmup_steps);
        npo_json_out_member(buf, ", ", "empty_prompt_share", job->train.empty_prompt_share);
        npo_json_out_member(buf, ", ", "weight_decay", job->train.weight_decay);
        npo_json_out_member(buf, ", ", "ema_decay", job->train.ema_decay);
        npo_json_out_member(buf, ", ", "seed", (double)job->seed);
        npo_json_out_member(buf, "},\n  \"generate\": {", "w_gen", job->generate.w_gen);
        npo_buf_printf(buf, ", \"starts\": \"%s\"}", npo_job_starts_name(job));
    }
    npo_buf_str(buf, "\n}");
    return npo_buf_err(buf) == NPO_OK ? NPO_OK
                                      : npo_context_fail(r->ctx, npo_buf_err(buf), "settings");
}

static npo_err compute(report *r)
{
    NPO_TRY(npo_plan_make(r->ctx, &r->plan));
    NPO_TRY(choose_prompts(r));
    NPO_TRY(load_files(r));
    NPO_TRY(fit_real(r));
    NPO_TRY(npo_report_cells_make(r->ctx, &r->plan, r->files, r->file_count, &r->real,
                                  r->prompt_count, &r->cells));
    NPO_TRY(npo_report_grids_make(r->ctx, &r->plan, r->files, r->file_count, r->prompts,
                                  r->prompt_count, &r->grids, &r->grid_count));
    NPO_TRY(take_offset(r));
    NPO_TRY(take_settings(r));
    r->results.title = r->ctx->task->spec->name;
    r->results.settings = r->settings.data;
    r->results.real_samples = r->real_samples;
    r->results.cells = r->cells.cells;
    r->results.cell_count = r->plan.count;
    return NPO_OK;
}

/* ---- output ---- */

static npo_err write_output(report *r, const char *name, const void *data, size_t len)
{
    char *path = NULL;
    NPO_TRY(npo_context_out(r->ctx, name, &path));
    npo_err err = npo_file_write(path, data, len, 0644, r->ctx->error);
    free(path);
    return err == NPO_OK ? npo_context_publish(r->ctx, name, name) : err;
}

static npo_err write_json(report *r)
{
    npo_buf buf = NPO_BUF_INIT;
    npo_results_json(&r->results, &buf);
    npo_err err = npo_buf_err(&buf) == NPO_OK
                      ? write_output(r, "metrics.json", buf.data, buf.len)
                      : npo_context_fail(r->ctx, npo_buf_err(&buf), "metrics.json");
    npo_buf_fini(&buf);
    return err;
}

static npo_err write_page(report *r)
{
    npo_page_picture *pictures = calloc(r->grid_count ? r->grid_count : 1, sizeof *pictures);
    npo_buf page = NPO_BUF_INIT;
    npo_err err = pictures ? NPO_OK : npo_context_fail(r->ctx, NPO_E_NOMEM, "report.html");
    if (err == NPO_OK) {
        for (size_t i = 0; i < r->grid_count; i++)
            pictures[i] =
                (npo_page_picture){r->grids[i].title, r->grids[i].png.data, r->grids[i].png.len};
        npo_page_write(&r->results, pictures, r->grid_count, &page);
        err = npo_buf_err(&page) == NPO_OK
                  ? write_output(r, "report.html", page.data, page.len)
                  : npo_context_fail(r->ctx, npo_buf_err(&page), "report.html");
    }
    npo_buf_fini(&page);
    free(pictures);
    return err;
}

static npo_err write_all(report *r)
{
    NPO_TRY(write_json(r));
    NPO_TRY(write_page(r));
    for (size_t i = 0; i < r->grid_count; i++)
        NPO_TRY(write_output(r, r->grids[i].name, r->grids[i].png.data, r->grids[i].png.len));
    return NPO_OK;
}

npo_err npo_kind_report(npo_context *ctx)
{
    report r = {.ctx = ctx};
    npo_err err = compute(&r);
    if (err == NPO_OK)
        err = write_all(&r);
    npo_report_grids_free(r.grids, r.grid_count);
    npo_report_cells_fini(&r.cells);
    npo_gaussian_fini(&r.real);
    for (size_t i = 0; r.files && i < r.file_count; i++)
        npo_features_fini(&r.files[i]);
    free(r.files);
    free(r.prompts);
    npo_plan_fini(&r.plan);
    cJSON_Delete(r.offset);
    npo_buf_fini(&r.settings);
    return err;
}
