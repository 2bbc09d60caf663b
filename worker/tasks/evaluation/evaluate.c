#include "worker/eval/json_out.h"
#include "worker/tasks/evaluation/feature_set.h"
#include "worker/tasks/evaluation/plan.h"
#include "worker/tasks/evaluation/report.h"
#include "worker/tasks/kinds.h"
#include "worker/tasks/sampling/drawer.h"
#include "worker/train/offset.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    npo_context *ctx;
    npo_setup setup;
    npo_plan plan;
    npo_drawer drawer;
    npo_classifier *classifier;
    const npo_params *base;
    const npo_params *negative; /* whole, as trained */
    double beta;                /* of the blend in use; NaN: none yet */
    npo_features features;
    int64_t row, picture; /* filled so far */
    float *images;        /* [plan.batch, ...] */
} evaluation;

static bool is_own(const evaluation *e, int64_t unit)
{
    return unit % e->ctx->task->shards == e->ctx->task->shard;
}

static int64_t unit_samples(const npo_plan *plan, int64_t unit)
{
    int64_t first = unit % plan->units * plan->batch;
    return plan->samples - first < plan->batch ? plan->samples - first : plan->batch;
}

static bool is_shown(const npo_plan *plan, const npo_cell_key *key, int64_t sample)
{
    return key->seed == plan->cells[0].seed && sample < NPO_REPORT_GRID_ROWS;
}

/* ---- offset ---- */

/* NULL when out of memory. */
static char *print_offset(const npo_offset_norms *norms)
{
    npo_buf buf = NPO_BUF_INIT;
    npo_json_out_member(&buf, "{", "total", norms->total);
    npo_buf_str(&buf, ", \"blocks\": {");
    for (size_t i = 0; i < norms->count; i++)
        npo_json_out_member(&buf, i ? ", " : "", norms->blocks[i].name, norms->blocks[i].relative);
    npo_buf_str(&buf, "}}");
    char *text = npo_buf_take(&buf);
    npo_buf_fini(&buf);
    return text;
}

static npo_err measure_offset(evaluation *e)
{
    npo_params *scratch = NULL;
    npo_offset_norms norms;
    npo_err err = npo_params_new(e->setup.model->layout, &scratch);
    if (err != NPO_OK)
        return npo_context_fail(e->ctx, err, "offset");
    npo_offset_base base = npo_offset_base_of(e->base);
    err = npo_offset_measure(npo_loaded_backend(e->ctx->cache), e->negative, &base, scratch, &norms,
                             e->ctx->error);
    npo_params_free(scratch);
    if (err != NPO_OK)
        return err;
    e->features.offset = print_offset(&norms);
    return e->features.offset ? NPO_OK : npo_context_fail(e->ctx, NPO_E_NOMEM, "offset");
}

/* ---- one unit ---- */

static npo_err choose_blend(evaluation *e, const npo_cell_key *key)
{
    const npo_params *blend = NULL;
    if (key->method != NPO_METHOD_SELF_NPO || key->beta == e->beta)
        return NPO_OK;
    NPO_TRY(
        npo_loaded_blend(e->ctx->cache, e->base, e->negative, key->beta, &blend, e->ctx->error));
    npo_drawer_use_negative(&e->drawer, blend);
    e->beta = key->beta;
    return NPO_OK;
}

static npo_err draw(evaluation *e, const npo_cell_key *key, int64_t first, int64_t n)
{
    npo_drawing drawing = {.scale = key->scale,
                           .two = key->method == NPO_METHOD_SELF_NPO,
                           .seed = (uint64_t)key->seed,
                           .first = first,
                           .n = n};
    return npo_drawer_run(&e->drawer, &drawing, e->images);
}

static npo_err classify(evaluation *e, int64_t n)
{
    for (int64_t at = 0; at < n; at += NPO_LOADED_CLASSIFIER_BATCH) {
        int64_t count = n - at < NPO_LOADED_CLASSIFIER_BATCH ? n - at : NPO_LOADED_CLASSIFIER_BATCH;
        size_t row = (size_t)(e->row + at);
        NPO_TRY(npo_classifier_eval(
            e->classifier, (size_t)count, e->images + (size_t)at * e->drawer.floats,
            e->features.features + row * NPO_FEATURES_DIMS,
            e->features.logits + row * NPO_FEATURES_CLASSES, e->ctx->error));
    }
    return NPO_OK;
}

static void keep_rows(evaluation *e, int64_t cell, int64_t first, int64_t n)
{
    npo_features *f = &e->features;
    size_t floats = e->drawer.floats;
    for (int64_t i = 0; i < n; i++, e->row++) {
        f->cell[e->row] = (int32_t)cell;
        f->sample[e->row] = first + i;
        if (!is_shown(&e->plan, &e->plan.cells[cell], first + i))
            continue;
        f->picture_cell[e->picture] = (int32_t)cell;
        f->picture_sample[e->picture] = first + i;
        memcpy(f->pictures + (size_t)e->picture * floats, e->images + (size_t)i * floats,
               floats * sizeof *f->pictures);
        e->picture++;
    }
}

static npo_err run_unit(evaluation *e, int64_t unit)
{
    int64_t cell = unit / e->plan.units, first = unit % e->plan.units * e->plan.batch;
    int64_t n = unit_samples(&e->plan, unit);
    const npo_cell_key *key = &e->plan.cells[cell];
    NPO_TRY(choose_blend(e, key));
    NPO_TRY(draw(e, key, first, n));
    NPO_TRY(classify(e, n));
    keep_rows(e, cell, first, n);
    return NPO_OK;
}

static npo_err run_units(evaluation *e)
{
    int64_t all = (int64_t)e->plan.count * e->plan.units;
    npo_context_start(e->ctx);
    for (int64_t unit = 0; unit < all; unit++) {
        if (!is_own(e, unit))
            continue;
        NPO_TRY(run_unit(e, unit));
        npo_context_progress(e->ctx, "evaluate", e->row, e->features.count, NAN, e->row);
    }
    return NPO_OK;
}

/* ---- beginning and end ---- */

static npo_err size_features(evaluation *e)
{
    int64_t rows = 0, pictures = 0, all = (int64_t)e->plan.count * e->plan.units;
    for (int64_t unit = 0; unit < all; unit++) {
        if (!is_own(e, unit))
            continue;
        int64_t n = unit_samples(&e->plan, unit), first = unit % e->plan.units * e->plan.batch;
        rows += n;
        for (int64_t i = 0; i < n; i++)
            pictures += is_shown(&e->plan, &e->plan.cells[unit / e->plan.units], first + i);
    }
    npo_err err = npo_features_init(&e->features, e->setup.model->image, rows, pictures);
    return err == NPO_OK ? err : npo_context_fail(e->ctx, err, "features");
}

static npo_err check_fit(evaluation *e)
{
    npo_latent_shape shape = e->setup.model->image;
    if (shape.height != NPO_CLASSIFIER_SIDE || shape.width != NPO_CLASSIFIER_SIDE ||
        shape.channels != 1)
        return npo_error_set(
            e->ctx->error, NPO_E_SHAPE,
            "model '%s' makes images of %lld x %lld with %lld channels, expected %d "
            "x %d with 1 as the classifier reads them",
            e->setup.model->folder.root, (long long)shape.width, (long long)shape.height,
            (long long)shape.channels, NPO_CLASSIFIER_SIDE, NPO_CLASSIFIER_SIDE);
    if (!e->ctx->task->spec->prompts)
        return npo_error_set(e->ctx->error, NPO_E_USAGE,
                             "the job names no prompts, expected them: prompt i is judged by the "
                             "classifier's class i");
    if (e->setup.prompt_count > NPO_CLASSIFIER_CLASSES)
        return npo_error_set(
            e->ctx->error, NPO_E_RANGE,
            "the job has %zu prompts, expected at most %d: prompt i is judged by the "
            "classifier's class i",
            e->setup.prompt_count, NPO_CLASSIFIER_CLASSES);
    NPO_TRY(npo_model_need_base(e->setup.model, &e->base, e->ctx->error));
    if (!e->base)
        return npo_error_set(e->ctx->error, NPO_E_NOT_FOUND,
                             "model '%s' has no weights to sample "
                             "with",
                             e->setup.model->folder.root);
    return NPO_OK;
}

static npo_err begin(evaluation *e)
{
    npo_context *ctx = e->ctx;
    const char *negative = NULL, *classifier = NULL;
    NPO_TRY(npo_context_input(ctx, "negative", &negative));
    NPO_TRY(npo_context_input(ctx, "classifier", &classifier));
    NPO_TRY(npo_plan_make(ctx, &e->plan));
    NPO_TRY(npo_setup_open(ctx, false, &e->setup));
    NPO_TRY(check_fit(e));
    NPO_TRY(npo_loaded_weights(ctx->cache, negative, NPO_LOADED_FOLDER, &e->negative, ctx->error));
    NPO_TRY(npo_loaded_classifier(ctx->cache, classifier, &e->classifier, ctx->error));
    NPO_TRY(npo_drawer_init(&e->drawer, ctx, &e->setup, NPO_SPACING_METHOD, e->base, e->negative));
    NPO_TRY(size_features(e));
    NPO_TRY(measure_offset(e));
    e->images = calloc((size_t)e->plan.batch * e->drawer.floats, sizeof *e->images);
    return e->images ? NPO_OK : npo_context_fail(ctx, NPO_E_NOMEM, "images");
}

static npo_err save(evaluation *e)
{
    npo_context *ctx = e->ctx;
    char name[32], *path = NULL;
    snprintf(name, sizeof name, "features.%d", ctx->task->shard);
    NPO_TRY(npo_context_out(ctx, "features.safetensors", &path));
    npo_err err = npo_features_save(&e->features, path, ctx->error);
    free(path);
    return err == NPO_OK ? npo_context_publish(ctx, name, "features.safetensors") : err;
}

npo_err npo_kind_evaluate(npo_context *ctx)
{
    evaluation e = {.ctx = ctx, .beta = NAN};
    npo_err err = begin(&e);
    if (err == NPO_OK)
        err = run_units(&e);
    if (err == NPO_OK)
        err = save(&e);
    npo_drawer_fini(&e.drawer);
    npo_features_fini(&e.features);
    npo_plan_fini(&e.plan);
    npo_setup_fini(&e.setup);
    free(e.images);
    return err;
}
