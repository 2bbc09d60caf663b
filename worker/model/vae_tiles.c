#include "worker/model/vae_tiles.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Of the tiles in one row; all memory is for full tiles. */
typedef struct {
    float **tiles;  /* outputs, blended */
    int64_t height; /* of this row's tiles */
} tile_row;

typedef struct {
    const npo_vae_tiling *t;
    int64_t step; /* from tile to tile */
    int64_t columns;
    float *in;        /* of one tile */
    tile_row rows[2]; /* the one above and the current one */
} tiler;

bool npo_vae_tiling_needed(const npo_vae_tiling *tiling)
{
    return tiling->height > tiling->tile || tiling->width > tiling->tile;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static size_t tile_floats(const npo_vae_tiling *t, int64_t scale, int64_t channels)
{
    return (size_t)(t->tile * scale * t->tile * scale * channels);
}

static int64_t tile_width(const tiler *r, int64_t column)
{
    return smaller(r->t->tile, r->t->width - column * r->step);
}

/* ---- memory ---- */

static void fini(tiler *r)
{
    for (int k = 0; k < 2; k++) {
        for (int64_t i = 0; r->rows[k].tiles && i < r->columns; i++)
            free(r->rows[k].tiles[i]);
        free(r->rows[k].tiles);
    }
    free(r->in);
}

static npo_err init(tiler *r, const npo_vae_tiling *t)
{
    *r = (tiler){.t = t, .step = t->tile - t->tile / NPO_VAE_TILE_MULTIPLE};
    r->columns = (t->width + r->step - 1) / r->step;
    r->in = malloc(tile_floats(t, t->in_scale, t->in_channels) * sizeof *r->in);
    bool failed = !r->in;
    for (int k = 0; k < 2; k++) {
        tile_row *row = &r->rows[k];
        row->tiles = calloc((size_t)r->columns, sizeof *row->tiles);
        failed = failed || !row->tiles;
        for (int64_t i = 0; !failed && i < r->columns; i++) {
            row->tiles[i] = malloc(tile_floats(t, t->out_scale, t->out_channels) * sizeof(float));
            failed = !row->tiles[i];
        }
    }
    return failed ? NPO_E_NOMEM : NPO_OK;
}

/* ---- blending ---- */

/* n values: from `from` at share 0 to `to` at share 1, into `to`. */
static void blend(const float *from, float share, size_t n, float *to)
{
    for (size_t i = 0; i < n; i++)
        to[i] = from[i] * (1 - share) + to[i] * share;
}

/* The top of the current row's tile over the bottom of the one above. */
static void blend_above(const tiler *r, int64_t column)
{
    const npo_vae_tiling *t = r->t;
    int64_t scale = t->out_scale, above = r->rows[0].height, here = r->rows[1].height;
    int64_t extent = smaller(t->tile / NPO_VAE_TILE_MULTIPLE, smaller(above, here)) * scale;
    size_t line = (size_t)(tile_width(r, column) * scale * t->out_channels);
    const float *from = r->rows[0].tiles[column] + (size_t)(above * scale - extent) * line;
    for (int64_t y = 0; y < extent; y++)
        blend(from + (size_t)y * line, (float)y / (float)extent, line,
              r->rows[1].tiles[column] + (size_t)y * line);
}

/* The left of the current row's tile over the right of the one before. */
static void blend_left(const tiler *r, int64_t column)
{
    const npo_vae_tiling *t = r->t;
    size_t channels = (size_t)t->out_channels;
    int64_t scale = t->out_scale, left = tile_width(r, column - 1), here = tile_width(r, column);
    int64_t extent = smaller(t->tile / NPO_VAE_TILE_MULTIPLE, smaller(left, here)) * scale;
    for (int64_t y = 0; y < r->rows[1].height * scale; y++) {
        size_t from = (size_t)(y * left * scale + left * scale - extent);
        size_t to = (size_t)(y * here * scale);
        for (int64_t x = 0; x < extent; x++)
            blend(r->rows[1].tiles[column - 1] + (from + (size_t)x) * channels,
                  (float)x / (float)extent, channels,
                  r->rows[1].tiles[column] + (to + (size_t)x) * channels);
    }
}

/* ---- running ---- */

/* A window of lines of `from` to packed lines, or the other way round. */
static void copy_lines(const float *from, size_t from_line, float *to, size_t to_line, size_t n,
                       int64_t lines)
{
    for (int64_t y = 0; y < lines; y++)
        memcpy(to + (size_t)y * to_line, from + (size_t)y * from_line, n * sizeof *to);
}

static npo_err run_tile(const tiler *r, const float *in, int64_t row, int64_t column,
                        npo_error *error)
{
    const npo_vae_tiling *t = r->t;
    int64_t scale = t->in_scale, height = r->rows[1].height, width = tile_width(r, column);
    size_t line = (size_t)(t->width * scale * t->in_channels);
    size_t part = (size_t)(width * scale * t->in_channels);
    const float *from = in + (size_t)(row * r->step * scale) * line +
                        (size_t)(column * r->step * scale * t->in_channels);
    copy_lines(from, line, r->in, part, part, height * scale);
    return t->run(t->self, r->in, height, width, r->rows[1].tiles[column], error);
}

/* The part of a blended tile that no later tile overlaps. */
static void keep_tile(const tiler *r, int64_t row, int64_t column, float *ret_out)
{
    const npo_vae_tiling *t = r->t;
    int64_t scale = t->out_scale, width = tile_width(r, column);
    size_t line = (size_t)(t->width * scale * t->out_channels);
    float *to = ret_out + (size_t)(row * r->step * scale) * line +
                (size_t)(column * r->step * scale * t->out_channels);
    copy_lines(r->rows[1].tiles[column], (size_t)(width * scale * t->out_channels), to, line,
               (size_t)(smaller(width, r->step) * scale * t->out_channels),
               smaller(r->rows[1].height, r->step) * scale);
}

static npo_err run_row(tiler *r, int64_t row, const float *in, float *ret_out, npo_error *error)
{
    r->rows[1].height = smaller(r->t->tile, r->t->height - row * r->step);
    for (int64_t column = 0; column < r->columns; column++)
        NPO_TRY(run_tile(r, in, row, column, error));
    for (int64_t column = 0; column < r->columns; column++) {
        if (row > 0)
            blend_above(r, column);
        if (column > 0)
            blend_left(r, column);
        keep_tile(r, row, column, ret_out);
    }
    tile_row above = r->rows[0];
    r->rows[0] = r->rows[1];
    r->rows[1] = above;
    return NPO_OK;
}

npo_err npo_vae_tiling_run(const npo_vae_tiling *tiling, const float *in, float *ret_out,
                           npo_error *error)
{
    tiler r;
    assert(tiling->tile > 0 && tiling->tile % NPO_VAE_TILE_MULTIPLE == 0);
    npo_err err = init(&r, tiling);
    if (err)
        npo_error_set(error, err, "no memory for tiles of %lld x %lld", (long long)tiling->tile,
                      (long long)tiling->tile);
    for (int64_t row = 0; !err && row * r.step < tiling->height; row++)
        err = run_row(&r, row, in, ret_out, error);
    fini(&r);
    return err;
}
