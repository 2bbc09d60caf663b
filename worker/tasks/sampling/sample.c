#include "common/file.h"
#include "worker/eval/json_out.h"
#include "worker/image/grid.h"
#include "worker/image/png.h"
#include "worker/tasks/kinds.h"
#include "worker/tasks/sampling/drawer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    PREVIEW_ROWS_MAX = 10,
    PREVIEW_COLUMNS = 4,
    GRID_ZOOM = 2,
    GRID_GAP = 4,
    GRID_IMAGES_MAX = 256
};

typedef struct {
    npo_context *ctx;
    npo_setup setup;
    npo_drawer drawer;
    const npo_params *positive, *negative; /* negative NULL: one network */
    int64_t count;
    float *images; /* [count, ...]; previews: as many for each column */
} sampling;

/* Images first .. first+n-1, prompts taking turns, into x. */
static npo_err draw_some(sampling *s, double scale, bool two, int64_t first, int64_t n, float *x)
{
    const npo_job_sample *sample = &s->ctx->task->spec->sample;
    for (int64_t at = 0; at < n; at += sample->batch) {
        npo_drawing drawing = {
            .scale = scale,
            .two = two,
            .seed = (uint64_t)sample->seed,
            .first = first + at,
            .n = n - at < sample->batch ? n - at : sample->batch,
        };
        NPO_TRY(npo_drawer_run(&s->drawer, &drawing, x + (size_t)at * s->drawer.floats));
        npo_context_progress(s->ctx, "sample", at + drawing.n, n, NAN, at + drawing.n);
    }
    return NPO_OK;
}

static npo_err open_drawer(sampling *s, npo_spacing spacing, int64_t copies)
{
    NPO_TRY(npo_drawer_init(&s->drawer, s->ctx, &s->setup, spacing, s->positive, s->negative));
    s->images = calloc((size_t)(s->count * copies), s->drawer.floats * sizeof *s->images);
    if (!s->images)
        return npo_context_fail(s->ctx, NPO_E_NOMEM, "images");
    return NPO_OK;
}

static npo_err write_grid(sampling *s, const npo_grid_options *options, const float *pictures,
                          const char *path, const char *settings)
{
    npo_image sheet = {0};
    npo_png_text text = {"npo.settings", settings};
    npo_err err = npo_grid_draw(options, pictures, &sheet);
    if (err != NPO_OK)
        return npo_context_fail(s->ctx, err, "grid");
    err = npo_png_write(path, &sheet, &text, 1, s->ctx->error);
    npo_image_fini(&sheet);
    return err;
}

static npo_grid_options grid_of(const sampling *s, int columns, int rows)
{
    npo_latent_shape shape = s->setup.model->latent;
    return (npo_grid_options){.columns = columns,
                              .rows = rows,
                              .width = (int)shape.width,
                              .height = (int)shape.height,
                              .channels = (int)shape.channels,
                              .zoom = GRID_ZOOM,
                              .gap = GRID_GAP};
}

static npo_err write_settings(sampling *s, int64_t image, const char *prompt, npo_buf *buf)
{
    const npo_job_sample *sample = &s->ctx->task->spec->sample;
    npo_buf_clear(buf);
    npo_buf_str(buf, "{");
    if (prompt) {
        npo_buf_str(buf, "\"prompt\": ");
        npo_json_out_text(buf, prompt);
        npo_json_out_member(buf, ", ", "image", (double)image);
        npo_buf_str(buf, ", ");
    }
    npo_json_out_member(buf, "", "seed", (double)sample->seed);
    npo_json_out_member(buf, ", ", "guidance_scale", sample->guidance_scale);
    if (s->negative)
        npo_json_out_member(buf, ", ", "beta", sample->beta);
    npo_json_out_member(buf, ", ", "steps", (double)sample->steps);
    npo_buf_str(buf, "}");
    return npo_buf_err(buf) == NPO_OK ? NPO_OK
                                      : npo_context_fail(s->ctx, npo_buf_err(buf), "settings");
}

/* ---- recipe sample ---- */

static npo_err write_image(sampling *s, int64_t i, const char *dir, npo_buf *settings)
{
    npo_latent_shape shape = s->setup.model->latent;
    const char *prompt = s->setup.prompts[(size_t)i % s->setup.prompt_count];
    npo_image image = {0};
    char name[64];
    NPO_TRY(write_settings(s, i, prompt, settings));
    snprintf(name, sizeof name, "image-%05lld.png", (long long)i);
    char *path = npo_file_join(dir, name);
    npo_err err =
        path ? npo_image_from_values(&image, s->images + (size_t)i * s->drawer.floats,
                                     (int)shape.width, (int)shape.height, (int)shape.channels)
             : NPO_E_NOMEM;
    if (err != NPO_OK) {
        err = npo_context_fail(s->ctx, err, name);
    } else {
        npo_png_text text = {"npo.settings", settings->data};
        err = npo_png_write(path, &image, &text, 1, s->ctx->error);
    }
    npo_image_fini(&image);
    free(path);
    return err;
}

static npo_err write_sheet(sampling *s, const char *dir, npo_buf *settings)
{
    int64_t shown = s->count < GRID_IMAGES_MAX ? s->count : GRID_IMAGES_MAX;
    int columns = npo_grid_columns(shown), rows = (int)(shown / columns);
    if (rows * columns < shown)
        rows++;
    /* The last row may be short: what lies behind the images is background. */
    size_t floats = s->drawer.floats, cells = (size_t)rows * (size_t)columns;
    float *pictures = malloc(cells * floats * sizeof *pictures);
    char *path = npo_file_join(dir, "grid.png");
    npo_err err = pictures && path ? write_settings(s, 0, NULL, settings)
                                   : npo_context_fail(s->ctx, NPO_E_NOMEM, "grid");
    if (err == NPO_OK) {
        for (size_t i = 0; i < cells * floats; i++)
            pictures[i] = i < (size_t)shown * floats ? s->images[i] : 1;
        npo_grid_options options = grid_of(s, columns, rows);
        err = write_grid(s, &options, pictures, path, settings->data);
    }
    free(pictures);
    free(path);
    return err;
}

static npo_err write_images(sampling *s, const char *dir)
{
    npo_buf settings = NPO_BUF_INIT;
    npo_err err = npo_file_make_dirs(dir, s->ctx->error);
    for (int64_t i = 0; err == NPO_OK && i < s->count; i++)
        err = write_image(s, i, dir, &settings);
    if (err == NPO_OK)
        err = write_sheet(s, dir, &settings);
    npo_buf_fini(&settings);
    return err;
}

static npo_err choose_negative(sampling *s)
{
    const char *path = npo_task_input_path(s->ctx->task, "negative");
    const npo_params *whole = NULL;
    if (!path)
        return NPO_OK;
    NPO_TRY(npo_loaded_weights(s->ctx->cache, path, NPO_LOADED_FOLDER, &whole, s->ctx->error));
    return npo_loaded_blend(s->ctx->cache, s->positive, whole, s->ctx->task->spec->sample.beta,
                            &s->negative, s->ctx->error);
}

static npo_err sample_images(sampling *s)
{
    npo_context *ctx = s->ctx;
    char *dir = NULL;
    s->positive = s->setup.model->base;
    if (!s->positive)
        return npo_error_set(ctx->error, NPO_E_NOT_FOUND,
                             "model '%s' has no weights to sample with",
                             s->setup.model->folder.root);
    NPO_TRY(choose_negative(s));
    s->count = ctx->task->spec->sample.count;
    npo_spacing spacing = (npo_spacing)npo_schedule_config_of(s->setup.model->schedule)->spacing;
    NPO_TRY(open_drawer(s, spacing, 1));
    npo_context_start(ctx);
    NPO_TRY(draw_some(s, ctx->task->spec->sample.guidance_scale, s->negative != NULL, 0, s->count,
                      s->images));
    NPO_TRY(npo_context_out(ctx, "images", &dir));
    npo_err err = write_images(s, dir);
    free(dir);
    return err == NPO_OK ? npo_context_publish(ctx, "images", "images") : err;
}

/* ---- previews ---- */

/* Columns of a preview: plain guidance beside guidance with the network in training; of a network
 * that is trained on images several starting noises. */
static int preview_columns(const sampling *s)
{
    return s->negative ? 2 : PREVIEW_COLUMNS;
}

/* Column by column, rows are prompts. Prompts take turns over the images, so image c * prompts +
 * row has the prompt of its row. */
static npo_err draw_preview(sampling *s)
{
    double scale = s->ctx->task->spec->sample.guidance_scale;
    for (int c = 0; c < preview_columns(s); c++) {
        float *column = s->images + (size_t)c * (size_t)s->count * s->drawer.floats;
        int64_t first = s->negative ? 0 : c * (int64_t)s->setup.prompt_count;
        NPO_TRY(draw_some(s, scale, s->negative && c == 1, first, s->count, column));
    }
    return NPO_OK;
}

static npo_err write_preview(sampling *s, const char *path)
{
    size_t floats = s->drawer.floats;
    int columns = preview_columns(s);
    static const char *const labels[] = {"plain", "self-npo"};
    float *pictures = malloc((size_t)s->count * (size_t)columns * floats * sizeof *pictures);
    npo_buf settings = NPO_BUF_INIT;
    npo_err err = pictures ? write_settings(s, 0, NULL, &settings)
                           : npo_context_fail(s->ctx, NPO_E_NOMEM, "preview");
    if (err == NPO_OK) {
        for (size_t i = 0; i < (size_t)s->count * (size_t)columns * floats; i++) {
            size_t cell = i / floats, row = cell / (size_t)columns, column = cell % (size_t)columns;
            pictures[i] = s->images[(column * (size_t)s->count + row) * floats + i % floats];
        }
        npo_grid_options options = grid_of(s, columns, (int)s->count);
        options.column_labels = s->negative ? labels : NULL;
        options.row_labels = s->setup.prompts;
        err = write_grid(s, &options, pictures, path, settings.data);
    }
    npo_buf_fini(&settings);
    free(pictures);
    return err;
}

/* The weights under training, and what they stand for. */
static npo_err choose_preview(sampling *s)
{
    const npo_job *job = s->ctx->task->spec;
    const char *path = NULL;
    const npo_params *trained = NULL;
    npo_loaded_weights_kind kind =
        job->train.weights == NPO_WEIGHTS_EMA ? NPO_LOADED_EMA : NPO_LOADED_STUDENT;
    NPO_TRY(npo_context_input(s->ctx, "checkpoint", &path));
    NPO_TRY(npo_loaded_weights(s->ctx->cache, path, kind, &trained, s->ctx->error));
    if (job->recipe != NPO_RECIPE_SELF_NPO) {
        s->positive = trained;
        return NPO_OK;
    }
    s->positive = s->setup.model->base;
    return npo_loaded_blend(s->ctx->cache, s->positive, trained, job->sample.beta, &s->negative,
                            s->ctx->error);
}

static npo_err sample_preview(sampling *s)
{
    npo_context *ctx = s->ctx;
    char name[64], *path = NULL;
    int64_t prompts = (int64_t)s->setup.prompt_count;
    NPO_TRY(choose_preview(s));
    s->count = prompts < PREVIEW_ROWS_MAX ? prompts : PREVIEW_ROWS_MAX;
    NPO_TRY(open_drawer(s, NPO_SPACING_METHOD, preview_columns(s)));
    npo_context_start(ctx);
    NPO_TRY(draw_preview(s));
    snprintf(name, sizeof name, "preview-%lld.png",
             (long long)npo_json_int(ctx->task->params, "step", 0));
    NPO_TRY(npo_context_out(ctx, name, &path));
    npo_err err = write_preview(s, path);
    free(path);
    return err == NPO_OK ? npo_context_publish(ctx, name, name) : err;
}

npo_err npo_kind_sample(npo_context *ctx)
{
    sampling s = {.ctx = ctx};
    npo_err err = npo_setup_open(ctx, false, &s.setup);
    if (err == NPO_OK)
        err = npo_json_bool(ctx->task->params, "preview", false) ? sample_preview(&s)
                                                                 : sample_images(&s);
    npo_drawer_fini(&s.drawer);
    free(s.images);
    npo_setup_fini(&s.setup);
    return err;
}
