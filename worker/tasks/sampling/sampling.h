/* What the pictures of recipe sample and the previews of training share. Internal to
 * worker/tasks/sampling. */
#ifndef NPO_WORKER_TASKS_SAMPLING_SAMPLING_H
#define NPO_WORKER_TASKS_SAMPLING_SAMPLING_H

#include "worker/image/grid.h"
#include "worker/tasks/sampling/drawer.h"
#include "worker/tasks/sampling/picture_text.h"

typedef struct {
    npo_context *ctx;
    npo_setup setup;
    npo_drawer drawer;
    const npo_params *positive, *negative; /* negative NULL: one network */
} npo_sampling;

/* Images first .. first + n - 1, n at most drawer.batch, into ret_images. */
npo_err npo_sampling_draw(npo_sampling *s, bool two, int64_t first, int64_t n,
                          float *ret_images) NPO_MUST_CHECK;
npo_grid_options npo_sampling_grid(const npo_sampling *s, int columns, int rows);
/* Of image number `image`; below 0: of a sheet. */
npo_picture_text npo_sampling_text(const npo_sampling *s, int64_t image);
/* Writes a picture with its settings inside. */
npo_err npo_sampling_write(npo_sampling *s, const char *path, const npo_image *picture,
                           const npo_picture_text *text) NPO_MUST_CHECK;
/* Draws and writes a sheet. */
npo_err npo_sampling_write_grid(npo_sampling *s, const char *path, const npo_grid_options *options,
                                const float *pictures) NPO_MUST_CHECK;

/* Task kind sample of a training job. */
npo_err npo_sampling_preview(npo_sampling *s) NPO_MUST_CHECK;

#endif
