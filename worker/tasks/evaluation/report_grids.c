#include "worker/tasks/evaluation/report_grids.h"

#include "worker/image/grid.h"
#include "worker/image/png.h"
#include "worker/tasks/evaluation/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS_MAX = 16, ZOOM = 3, GAP = 6 };

typedef struct {
    npo_context *ctx;
    const npo_plan *plan;
    const npo_features *files;
    size_t file_count;
    const char *const *prompts;
    size_t prompt_count;
    int rows;
    npo_latent_shape shape;
} sheet_source;

static const float *find_picture(const sheet_source *s, size_t cell, int64_t sample)
{
    size_t floats = npo_latent_floats(s->shape);
    for (size_t f = 0; f < s->file_count; f++)
        for (int64_t i = 0; i < s->files[f].picture_count; i++)
            if (s->files[f].picture_cell[i] == (int32_t)cell &&
                s->files[f].picture_sample[i] == sample)
                return s->files[f].pictures + (size_t)i * floats;
    return NULL;
}

/* Cells of the first seed that belong on the sheet of a scale: no guidance, then that scale's. */
static int choose_columns(const npo_plan *plan, double scale, size_t *ret_cells)
{
    int count = 0;
    for (size_t i = 0; i < plan->count && count < COLUMNS_MAX; i++) {
        const npo_cell_key *key = &plan->cells[i];
        if (key->seed == plan->cells[0].seed &&
            (key->method == NPO_METHOD_NONE || key->scale == scale))
            ret_cells[count++] = i;
    }
    return count;
}

static npo_err collect(const sheet_source *s, const size_t *cells, int columns, float *ret_pictures)
{
    size_t floats = npo_latent_floats(s->shape);
    for (int row = 0; row < s->rows; row++)
        for (int c = 0; c < columns; c++) {
            const float *picture = find_picture(s, cells[c], row);
            if (!picture)
                return npo_error_set(s->ctx->error, NPO_E_FORMAT,
                                     "the features lack the picture of sample %d of cell %zu", row,
                                     cells[c]);
            memcpy(ret_pictures + (size_t)(row * columns + c) * floats, picture,
                   floats * sizeof *picture);
        }
    return NPO_OK;
}

static npo_err encode(const sheet_source *s, const size_t *cells, int columns,
                      const float *pictures, npo_report_grid *grid)
{
    char names[COLUMNS_MAX][64];
    const char *column_labels[COLUMNS_MAX], *row_labels[NPO_REPORT_GRID_ROWS];
    for (int c = 0; c < columns; c++) {
        npo_cell_key_format(&s->plan->cells[cells[c]], names[c], sizeof names[c]);
        column_labels[c] = names[c];
    }
    for (int row = 0; row < s->rows; row++)
        row_labels[row] = s->prompts[(size_t)row % s->prompt_count];
    npo_grid_options options = {
        .columns = columns,
        .rows = s->rows,
        .width = (int)s->shape.width,
        .height = (int)s->shape.height,
        .channels = (int)s->shape.channels,
        .zoom = ZOOM,
        .gap = GAP,
        .column_labels = column_labels,
        .row_labels = row_labels,
    };
    npo_image image = {0};
    npo_png_text text = {"npo.settings", grid->title};
    npo_err err = npo_grid_draw(&options, pictures, &image);
    if (err != NPO_OK)
        return npo_context_fail(s->ctx, err, grid->name);
    err = npo_png_encode(&image, &text, 1, &grid->png, s->ctx->error);
    npo_image_fini(&image);
    return err;
}

static npo_err draw_grid(const sheet_source *s, double scale, npo_report_grid *grid)
{
    size_t cells[COLUMNS_MAX];
    int columns = choose_columns(s->plan, scale, cells);
    size_t floats = npo_latent_floats(s->shape);
    float *pictures = malloc((size_t)(s->rows * columns) * floats * sizeof *pictures);
    if (!pictures)
        return npo_context_fail(s->ctx, NPO_E_NOMEM, "grid");
    snprintf(grid->name, sizeof grid->name, "grid-scale-%.9g.png", scale);
    snprintf(grid->title, sizeof grid->title, "guidance scale %.9g, seed %lld", scale,
             (long long)s->plan->cells[0].seed);
    npo_err err = collect(s, cells, columns, pictures);
    if (err == NPO_OK)
        err = encode(s, cells, columns, pictures, grid);
    free(pictures);
    return err;
}

npo_err npo_report_grids_make(npo_context *ctx, const npo_plan *plan, const npo_features *files,
                              size_t file_count, const char *const *prompts, size_t prompt_count,
                              npo_report_grid **ret_grids, size_t *ret_count)
{
    sheet_source s = {
        ctx,
        plan,
        files,
        file_count,
        prompts,
        prompt_count,
        (int)(plan->samples < NPO_REPORT_GRID_ROWS ? plan->samples : NPO_REPORT_GRID_ROWS),
        files[0].shape};
    npo_report_grid *grids = calloc(plan->count, sizeof *grids);
    size_t count = 0;
    npo_err err = grids ? NPO_OK : npo_context_fail(ctx, NPO_E_NOMEM, "grids");
    for (size_t i = 0; err == NPO_OK && i < plan->count; i++) {
        const npo_cell_key *key = &plan->cells[i];
        if (key->method == NPO_METHOD_PLAIN && key->seed == plan->cells[0].seed)
            err = draw_grid(&s, key->scale, &grids[count++]);
    }
    if (err != NPO_OK) {
        npo_report_grids_free(grids, count);
        return err;
    }
    *ret_grids = grids;
    *ret_count = count;
    return NPO_OK;
}

void npo_report_grids_free(npo_report_grid *grids, size_t count)
{
    for (size_t i = 0; i < count; i++)
        npo_buf_fini(&grids[i].png);
    free(grids);
}
