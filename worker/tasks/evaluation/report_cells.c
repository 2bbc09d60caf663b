#include "worker/tasks/evaluation/report_cells.h"

#include <stdlib.h>
#include <string.h>

static npo_err allocate(npo_report_cells *cells)
{
    size_t rows = cells->plan->count * (size_t)cells->plan->samples;
    cells->features = calloc(rows, NPO_FEATURES_DIMS * sizeof *cells->features);
    cells->logits = calloc(rows, NPO_FEATURES_CLASSES * sizeof *cells->logits);
    cells->confidence = calloc(rows, sizeof *cells->confidence);
    cells->cells = calloc(cells->plan->count, sizeof *cells->cells);
    return cells->features && cells->logits && cells->confidence && cells->cells ? NPO_OK
                                                                                 : NPO_E_NOMEM;
}

static npo_err place_file(npo_context *ctx, npo_report_cells *cells, const npo_features *file,
                          bool *seen)
{
    const npo_plan *plan = cells->plan;
    for (int64_t i = 0; i < file->count; i++) {
        int64_t cell = file->cell[i], sample = file->sample[i];
        if (cell < 0 || cell >= (int64_t)plan->count || sample < 0 || sample >= plan->samples)
            return npo_error_set(
                ctx->error, NPO_E_FORMAT,
                "features hold sample %lld of cell %lld, expected %zu cells of %lld "
                "samples",
                (long long)sample, (long long)cell, plan->count, (long long)plan->samples);
        size_t row = (size_t)(cell * plan->samples + sample);
        if (seen[row])
            return npo_error_set(ctx->error, NPO_E_FORMAT,
                                 "sample %lld of cell %lld stands twice in the features",
                                 (long long)sample, (long long)cell);
        seen[row] = true;
        memcpy(cells->features + row * NPO_FEATURES_DIMS,
               file->features + (size_t)i * NPO_FEATURES_DIMS,
               NPO_FEATURES_DIMS * sizeof *file->features);
        memcpy(cells->logits + row * NPO_FEATURES_CLASSES,
               file->logits + (size_t)i * NPO_FEATURES_CLASSES,
               NPO_FEATURES_CLASSES * sizeof *file->logits);
    }
    return NPO_OK;
}

static npo_err place_all(npo_context *ctx, npo_report_cells *cells, const npo_features *files,
                         size_t file_count)
{
    size_t rows = cells->plan->count * (size_t)cells->plan->samples;
    bool *seen = calloc(rows, sizeof *seen);
    npo_err err = seen ? NPO_OK : npo_context_fail(ctx, NPO_E_NOMEM, "features");
    for (size_t i = 0; err == NPO_OK && i < file_count; i++)
        err = place_file(ctx, cells, &files[i], seen);
    for (size_t row = 0; err == NPO_OK && row < rows; row++)
        if (!seen[row])
            err = npo_error_set(
                ctx->error, NPO_E_FORMAT,
                "sample %zu of cell %zu stands in none of the %zu files of features",
                row % (size_t)cells->plan->samples, row / (size_t)cells->plan->samples, file_count);
    free(seen);
    return err;
}

static npo_err judge_cell(npo_report_cells *cells, size_t index, const npo_gaussian *real,
                          const int32_t *labels)
{
    size_t n = (size_t)cells->plan->samples, row = index * n;
    npo_cell *cell = &cells->cells[index];
    npo_gaussian own;
    cell->key = cells->plan->cells[index];
    cell->samples = cells->plan->samples;
    NPO_TRY(npo_scores_of(n, NPO_FEATURES_CLASSES, cells->logits + row * NPO_FEATURES_CLASSES,
                          labels, cells->confidence + row, &cell->scores));
    NPO_TRY(
        npo_gaussian_fit(cells->features + row * NPO_FEATURES_DIMS, n, NPO_FEATURES_DIMS, &own));
    npo_err err = npo_frechet_distance(&own, real, &cell->frechet);
    npo_gaussian_fini(&own);
    return err;
}

static void compare_cells(npo_report_cells *cells)
{
    size_t n = (size_t)cells->plan->samples, count = cells->plan->count;
    for (size_t i = 0; i < count; i++) {
        int64_t other = npo_cells_reference(cells->cells, count, &cells->cells[i].key);
        if (other >= 0)
            cells->cells[i].wins =
                npo_wins_count(n, cells->confidence + i * n, cells->confidence + (size_t)other * n);
    }
}

static npo_err judge_all(npo_context *ctx, npo_report_cells *cells, const npo_gaussian *real,
                         size_t prompt_count)
{
    size_t n = (size_t)cells->plan->samples;
    int32_t *labels = calloc(n, sizeof *labels);
    npo_err err = labels ? NPO_OK : npo_context_fail(ctx, NPO_E_NOMEM, "cells");
    for (size_t i = 0; err == NPO_OK && i < n; i++)
        labels[i] = (int32_t)(i % prompt_count);
    for (size_t i = 0; err == NPO_OK && i < cells->plan->count; i++) {
        err = judge_cell(cells, i, real, labels);
        if (err != NPO_OK) {
            char name[64];
            npo_cell_key_format(&cells->plan->cells[i], name, sizeof name);
            err = npo_context_fail(ctx, err, name);
        } else {
            err = npo_context_check(ctx);
        }
    }
    if (err == NPO_OK)
        compare_cells(cells);
    free(labels);
    return err;
}

npo_err npo_report_cells_make(npo_context *ctx, const npo_plan *plan, const npo_features *files,
                              size_t file_count, const npo_gaussian *real, size_t prompt_count,
                              npo_report_cells *ret_cells)
{
    npo_report_cells cells = {.plan = plan};
    npo_err err = allocate(&cells);
    if (err != NPO_OK)
        err = npo_context_fail(ctx, err, "cells");
    if (err == NPO_OK)
        err = place_all(ctx, &cells, files, file_count);
    if (err == NPO_OK)
        err = judge_all(ctx, &cells, real, prompt_count);
    if (err != NPO_OK) {
        npo_report_cells_fini(&cells);
        return err;
    }
    *ret_cells = cells;
    return NPO_OK;
}

void npo_report_cells_fini(npo_report_cells *cells)
{
    free(cells->features);
    free(cells->logits);
    free(cells->confidence);
    free(cells->cells);
    *cells = (npo_report_cells){0};
}
