/* Previews of training: plain guidance beside guidance with the network in training; of a network
 * that is trained on images several starting noises. */
#include "worker/tasks/sampling/sampling.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROWS_MAX = 10, COLUMNS = 4 };

typedef struct {
    npo_sampling *s;
    int columns;
    int64_t rows;  /* one prompt each */
    float *images; /* [columns, rows, ...] */
} preview;

/* The weights under training, and what they stand for. */
static npo_err choose_weights(npo_sampling *s)
{
    const npo_job *job = s->ctx->task->spec;
    const char *path = NULL;
    const npo_params *trained = NULL;
    npo_loaded_weights_kind kind =
        job->train.weights == NPO_WEIGHTS_EMA ? NPO_LOADED_EMA : NPO_LOADED_STUDENT;
    NPO_TRY(npo_context_input(s->ctx, "checkpoint", &path));
    NPO_TRY(npo_loaded_weights(s->ctx->cache, path, kind, &trained, s->ctx->error));
    NPO_TRY(npo_loaded_whole(s->ctx->cache, trained, &trained, s->ctx->error));
    if (job->recipe != NPO_RECIPE_SELF_NPO) {
        s->positive = trained;
        return NPO_OK;
    }
    NPO_TRY(npo_model_need_base(s->setup.model, &s->positive, s->ctx->error));
    return npo_loaded_blend(s->ctx->cache, s->positive, trained, job->sample.beta, &s->negative,
                            s->ctx->error);
}

/* Prompts take turns over the images, so image column * prompts + row has the prompt of its row. */
static npo_err draw(preview *p)
{
    npo_sampling *s = p->s;
    int64_t batch = s->drawer.batch, all = p->rows * p->columns;
    size_t floats = s->drawer.floats;
    for (int column = 0; column < p->columns; column++) {
        int64_t first = s->negative ? 0 : column * (int64_t)s->setup.prompt_count;
        for (int64_t at = 0; at < p->rows; at += batch) {
            int64_t n = p->rows - at < batch ? p->rows - at : batch, done = column * p->rows + at;
            NPO_TRY(npo_sampling_draw(s, s->negative && column == 1, first + at, n,
                                      p->images + (size_t)done * floats));
            npo_context_progress(s->ctx, "sample", done + n, all, NAN, done + n);
        }
    }
    return NPO_OK;
}

static npo_err write(preview *p, const char *path)
{
    static const char *const labels[] = {"plain", "self-npo"};
    size_t floats = p->s->drawer.floats, columns = (size_t)p->columns, rows = (size_t)p->rows;
    float *pictures = malloc(rows * columns * floats * sizeof *pictures);
    if (!pictures)
        return npo_context_fail(p->s->ctx, NPO_E_NOMEM, "preview");
    for (size_t i = 0; i < rows * columns * floats; i++) {
        size_t cell = i / floats, row = cell / columns, column = cell % columns;
        pictures[i] = p->images[(column * rows + row) * floats + i % floats];
    }
    npo_grid_options options = npo_sampling_grid(p->s, p->columns, (int)p->rows);
    options.column_labels = p->s->negative ? labels : NULL;
    options.row_labels = p->s->setup.prompts;
    npo_err err = npo_sampling_write_grid(p->s, path, &options, pictures);
    free(pictures);
    return err;
}

static npo_err publish(preview *p)
{
    npo_context *ctx = p->s->ctx;
    char name[64], *path = NULL;
    snprintf(name, sizeof name, "preview-%lld.png",
             (long long)npo_json_int(ctx->task->params, "step", 0));
    NPO_TRY(npo_context_out(ctx, name, &path));
    npo_err err = write(p, path);
    free(path);
    return err == NPO_OK ? npo_context_publish(ctx, name, name) : err;
}

npo_err npo_sampling_preview(npo_sampling *s)
{
    NPO_TRY(choose_weights(s));
    int64_t prompts = (int64_t)s->setup.prompt_count;
    preview p = {.s = s,
                 .columns = s->negative ? 2 : COLUMNS,
                 .rows = prompts < ROWS_MAX ? prompts : ROWS_MAX};
    NPO_TRY(npo_drawer_init(&s->drawer, s->ctx, &s->setup, NPO_SPACING_METHOD, s->positive,
                            s->negative));
    p.images = calloc((size_t)(p.rows * p.columns), s->drawer.floats * sizeof *p.images);
    if (!p.images)
        return npo_context_fail(s->ctx, NPO_E_NOMEM, "images");
    npo_context_start(s->ctx);
    npo_err err = draw(&p);
    if (err == NPO_OK)
        err = publish(&p);
    free(p.images);
    return err;
}
