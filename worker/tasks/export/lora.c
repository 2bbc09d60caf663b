#include "worker/tasks/export/forms.h"

#include "worker/eval/json_out.h"
#include "worker/model/files/lora.h"
#include "worker/model/lowrank.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ENERGY_RANK_MAX = 128 }; /* where only an energy is given */

/* Squared norms over the network. */
typedef struct {
    double whole;    /* of the offset */
    double left_out; /* of tensors that a LoRA has no place for, or that were not asked for */
    double cut;      /* of what the layers' ranks and their rounding leave out */
} lora_sums;

typedef struct {
    npo_export_work *work;
    npo_lowrank_options options;
    npo_lora lora;
    lora_sums sums;
    float *matrix; /* of the largest tensor */
} extraction;

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text), n = strlen(end);
    return len >= n && strcmp(text + len - n, end) == 0;
}

static bool is_layer(const npo_param_info *info, int layers)
{
    bool matrix = (info->ndim == 2 || info->ndim == 4) && ends_with(info->name, ".weight");
    return matrix && (layers == NPO_LAYERS_ALL || strstr(info->name, ".attn1.") ||
                      strstr(info->name, ".attn2."));
}

static void round_factors(npo_tensor_dtype dtype, size_t n, float *values)
{
    for (size_t i = 0; i < n; i++)
        values[i] = npo_blend_round(dtype, values[i]);
}

static void report_layer(extraction *e, const npo_lora_layer *layer, double error)
{
    npo_buf *report = &e->work->report;
    npo_buf_printf(report, "%s{\"module\": \"%s\"", e->lora.count > 1 ? ", " : "", layer->module);
    npo_json_out_member(report, ", ", "rank", (double)layer->rank);
    npo_json_out_member(report, ", ", "error", error);
    npo_buf_str(report, "}");
}

/* Takes the factors over as the LoRA's next layer. */
static npo_err add_layer(extraction *e, const npo_param_info *info, npo_lowrank *factors)
{
    double distance;
    npo_lora_layer *layer = &e->lora.layers[e->lora.count++];
    *layer = (npo_lora_layer){.rank = (int64_t)factors->rank,
                              .alpha = (float)factors->rank,
                              .ndim = info->ndim,
                              .down = factors->down,
                              .up = factors->up};
    memcpy(layer->dims, info->dims, sizeof layer->dims);
    snprintf(layer->module, sizeof layer->module, "%.*s",
             (int)(strlen(info->name) - strlen(".weight")), info->name);
    round_factors(e->work->blend.dtype, factors->rows * factors->rank, factors->up);
    round_factors(e->work->blend.dtype, factors->columns * factors->rank, factors->down);
    npo_err err = npo_lowrank_distance(npo_loaded_backend(e->work->ctx->cache), factors, e->matrix,
                                       &distance);
    if (err)
        return npo_context_fail(e->work->ctx, err, layer->module);
    e->sums.cut += distance * distance;
    report_layer(e, layer, distance / factors->norm);
    return NPO_OK;
}

static npo_err factor(extraction *e, const npo_param_info *info)
{
    npo_lowrank factors;
    size_t rows = (size_t)info->dims[0], columns = info->count / rows;
    npo_err err = npo_lowrank_factor(npo_loaded_backend(e->work->ctx->cache), rows, columns,
                                     e->matrix, &e->options, &factors, e->work->ctx->error);
    if (err)
        return npo_error_prefix(e->work->ctx->error, err, "'%s'", info->name);
    return factors.rank > 0 ? add_layer(e, info, &factors) : NPO_OK;
}

static npo_err extract(extraction *e)
{
    npo_context *ctx = e->work->ctx;
    const npo_layout *layout = e->work->blend.layout;
    size_t count = npo_layout_count(layout);
    for (size_t i = 0; i < count; i++) {
        const npo_param_info *info = npo_layout_at(layout, i);
        double before = e->work->blend.sums.offset;
        NPO_TRY(npo_export_fill(e->work, i, 0, info->count, e->matrix, ctx->error));
        double norm = e->work->blend.sums.offset - before;
        e->sums.whole += norm;
        if (!is_layer(info, ctx->task->spec->export.layers))
            e->sums.left_out += norm;
        else
            NPO_TRY(factor(e, info));
    }
    if (e->lora.count == 0)
        return npo_error_set(ctx->error, NPO_E_USAGE,
                             "the negative network does not differ from the model in any layer "
                             "that a LoRA could hold");
    return NPO_OK;
}

static void tell(extraction *e)
{
    double error = npo_export_share(e->sums.cut + e->sums.left_out, e->sums.whole);
    double left_out = e->sums.whole > 0 ? e->sums.left_out / e->sums.whole : 0;
    npo_buf *report = &e->work->report;
    npo_buf_str(report, "]");
    npo_json_out_member(report, ", ", "error", error);
    npo_json_out_member(report, ", ", "left_out", left_out);
    npo_context_log(e->work->ctx,
                    "a LoRA of %zu layers: the error is %.3g of the offset's norm; tensors without "
                    "a place in it have %.3g of its square",
                    e->lora.count, error, left_out);
    /* What became of the single elements says nothing here: the layers' errors do. */
    e->work->blend.sums.error = e->sums.cut + e->sums.left_out;
    e->work->blend.sums.lost = 0;
}

static npo_err new_room(extraction *e)
{
    const npo_layout *layout = e->work->blend.layout;
    size_t count = npo_layout_count(layout), most = 1;
    for (size_t i = 0; i < count; i++)
        if (npo_layout_at(layout, i)->count > most)
            most = npo_layout_at(layout, i)->count;
    e->matrix = calloc(most, sizeof *e->matrix);
    e->lora.layers = calloc(count + 1, sizeof *e->lora.layers);
    return e->matrix && e->lora.layers ? NPO_OK
                                       : npo_context_fail(e->work->ctx, NPO_E_NOMEM, "lora");
}

npo_err npo_export_lora(npo_export_work *work, const char *path)
{
    const npo_job_export *export = &work->ctx->task->spec->export;
    extraction e = {
        .work = work,
        .options = {.rank = export->rank > 0 ? (size_t) export->rank : (size_t)ENERGY_RANK_MAX,
                    .energy = export->energy}};
    npo_buf_str(&work->report, ", \"layers\": [");
    npo_err err = new_room(&e);
    if (!err)
        err = extract(&e);
    if (!err) {
        tell(&e);
        err = npo_lora_save(path, &e.lora,
                            export->naming == NPO_NAMING_KOHYA ? NPO_LORA_KOHYA : NPO_LORA_PEFT,
                            work->blend.dtype, work->ctx->error);
    }
    npo_lora_fini(&e.lora);
    free(e.matrix);
    return err;
}
