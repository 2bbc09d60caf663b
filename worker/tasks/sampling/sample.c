/* Task kind sample: the images of recipe sample, and the previews of training. */
#include "common/file.h"
#include "worker/tasks/kinds.h"
#include "worker/tasks/sampling/sampling.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GRID_IMAGES_MAX = 256, GRID_BYTES_MAX = 256 << 20 };

typedef struct {
    npo_sampling sampling;
    int64_t count;
    char *dir;
    float *images; /* [drawer.batch, ...] */
    float *shown;  /* [shown_count, ...] for the sheet; NULL: none is wanted */
    int64_t shown_count;
} pictures;

static npo_err write_image(pictures *p, int64_t i, const float *x)
{
    npo_sampling *s = &p->sampling;
    npo_latent_shape shape = s->setup.model->image;
    npo_picture_text text = npo_sampling_text(s, i);
    npo_image image = {0};
    char name[64];
    snprintf(name, sizeof name, "image-%05lld.png", (long long)i);
    char *path = npo_file_join(p->dir, name);
    npo_err err = path ? npo_image_from_values(&image, x, (int)shape.width, (int)shape.height,
                                               (int)shape.channels)
                       : NPO_E_NOMEM;
    err = err == NPO_OK ? npo_sampling_write(s, path, &image, &text)
                        : npo_context_fail(s->ctx, err, name);
    npo_image_fini(&image);
    free(path);
    return err;
}

/* Batch by batch, so that only one batch and the sheet's images stand in memory. */
static npo_err draw_images(pictures *p)
{
    npo_sampling *s = &p->sampling;
    int64_t batch = s->drawer.batch;
    size_t floats = s->drawer.floats;
    npo_context_start(s->ctx);
    for (int64_t at = 0; at < p->count; at += batch) {
        int64_t n = p->count - at < batch ? p->count - at : batch;
        NPO_TRY(npo_sampling_draw(s, s->negative != NULL, at, n, p->images));
        for (int64_t i = 0; i < n; i++) {
            const float *x = p->images + (size_t)i * floats;
            NPO_TRY(write_image(p, at + i, x));
            if (at + i < p->shown_count)
                memcpy(p->shown + (size_t)(at + i) * floats, x, floats * sizeof *x);
        }
        npo_context_progress(s->ctx, "sample", at + n, p->count, NAN, at + n);
    }
    return NPO_OK;
}

/* ---- sheet ---- */

static int rows_for(int64_t count, int columns)
{
    return (int)((count + columns - 1) / columns);
}

/* As many of the first images as a sheet has room for. */
static int64_t count_shown(const pictures *p)
{
    const npo_sampling *s = &p->sampling;
    int64_t room = GRID_BYTES_MAX / (int64_t)(s->drawer.floats * sizeof(float));
    int64_t shown = p->count < GRID_IMAGES_MAX ? p->count : GRID_IMAGES_MAX;
    shown = shown < room ? shown : room;
    for (; shown > 1; shown--) {
        npo_grid_options one = npo_sampling_grid(s, 1, 1);
        int64_t columns = npo_grid_columns(shown), rows = rows_for(shown, (int)columns);
        if (columns * (one.width * one.zoom + one.gap) + one.gap <= NPO_IMAGE_SIDE_MAX &&
            rows * (one.height * one.zoom + one.gap) + one.gap <= NPO_IMAGE_SIDE_MAX)
            break;
    }
    return shown > 1 ? shown : 1;
}

/* Images of the sheet; what lies behind the last one is background. */
static npo_err open_sheet(pictures *p)
{
    npo_sampling *s = &p->sampling;
    if (!s->ctx->task->spec->sample.grid)
        return NPO_OK;
    p->shown_count = count_shown(p);
    int columns = npo_grid_columns(p->shown_count);
    size_t cells = (size_t)columns * (size_t)rows_for(p->shown_count, columns);
    p->shown = malloc(cells * s->drawer.floats * sizeof *p->shown);
    if (!p->shown)
        return npo_context_fail(s->ctx, NPO_E_NOMEM, "grid");
    for (size_t i = 0; i < cells * s->drawer.floats; i++)
        p->shown[i] = 1;
    return NPO_OK;
}

static npo_err write_sheet(pictures *p)
{
    if (!p->shown)
        return NPO_OK;
    int columns = npo_grid_columns(p->shown_count);
    npo_grid_options options =
        npo_sampling_grid(&p->sampling, columns, rows_for(p->shown_count, columns));
    char *path = npo_file_join(p->dir, "grid.png");
    npo_err err = path ? npo_sampling_write_grid(&p->sampling, path, &options, p->shown)
                       : npo_context_fail(p->sampling.ctx, NPO_E_NOMEM, "grid");
    free(path);
    return err;
}

/* ---- recipe sample ---- */

static npo_err choose_negative(npo_sampling *s)
{
    const char *path = npo_task_input_path(s->ctx->task, "negative");
    const npo_params *whole = NULL;
    if (!path)
        return NPO_OK;
    NPO_TRY(npo_loaded_weights(s->ctx->cache, path, NPO_LOADED_FOLDER, &whole, s->ctx->error));
    return npo_loaded_blend(s->ctx->cache, s->positive, whole, s->ctx->task->spec->sample.beta,
                            &s->negative, s->ctx->error);
}

static npo_err open_pictures(pictures *p)
{
    npo_sampling *s = &p->sampling;
    NPO_TRY(npo_model_need_base(s->setup.model, &s->positive, s->ctx->error));
    if (!s->positive)
        return npo_error_set(s->ctx->error, NPO_E_NOT_FOUND,
                             "model '%s' has no weights to sample with",
                             s->setup.model->folder.root);
    NPO_TRY(choose_negative(s));
    NPO_TRY(npo_drawer_init(&s->drawer, s->ctx, &s->setup, NPO_SPACING_DEFAULT, s->positive,
                            s->negative));
    p->count = s->ctx->task->spec->sample.count;
    p->images = calloc((size_t)s->drawer.batch, s->drawer.floats * sizeof *p->images);
    if (!p->images)
        return npo_context_fail(s->ctx, NPO_E_NOMEM, "images");
    NPO_TRY(open_sheet(p));
    NPO_TRY(npo_context_out(s->ctx, "images", &p->dir));
    return npo_file_make_dirs(p->dir, s->ctx->error);
}

static npo_err sample_images(pictures *p)
{
    npo_err err = open_pictures(p);
    if (err == NPO_OK)
        err = draw_images(p);
    if (err == NPO_OK)
        err = write_sheet(p);
    if (err == NPO_OK)
        err = npo_context_publish(p->sampling.ctx, "images", "images");
    else if (p->dir)
        (void)!npo_file_remove(p->dir, NULL); /* half of the images are none */
    return err;
}

npo_err npo_kind_sample(npo_context *ctx)
{
    pictures p = {.sampling.ctx = ctx};
    npo_sampling *s = &p.sampling;
    npo_err err = npo_setup_open(ctx, false, &s->setup);
    if (err == NPO_OK)
        err = npo_json_bool(ctx->task->params, "preview", false) ? npo_sampling_preview(s)
                                                                 : sample_images(&p);
    npo_drawer_fini(&s->drawer);
    free(p.images);
    free(p.shown);
    free(p.dir);
    npo_setup_fini(&s->setup);
    return err;
}
