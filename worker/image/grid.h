/* A sheet of equally sized pictures with a label over each column and beside each row. */
#ifndef NPO_WORKER_IMAGE_GRID_H
#define NPO_WORKER_IMAGE_GRID_H

#include "worker/image/image.h"

typedef struct {
    int columns, rows;
    int width, height, channels;      /* of one picture, before zoom */
    int zoom;                         /* >= 1: every pixel becomes zoom x zoom */
    int gap;                          /* pixels between pictures and around the sheet */
    const char *const *column_labels; /* [columns], or NULL: none. ASCII; drawn as capitals */
    const char *const *row_labels;    /* [rows], or NULL */
} npo_grid_options;

/* pictures: [rows * columns, height, width, channels] f32 in [-1,1], row by row. A label that does
 * not fit its place is broken at blanks and then cut. Errors: NPO_E_RANGE for an empty grid or a
 * sheet wider or higher than NPO_IMAGE_SIDE_MAX, NPO_E_NOMEM. */
npo_err npo_grid_draw(const npo_grid_options *options, const float *pictures,
                      npo_image *ret_image) NPO_MUST_CHECK;

/* Columns of the squarest sheet of `count` pictures: ceil(sqrt(count)). */
int npo_grid_columns(int64_t count);

#endif
