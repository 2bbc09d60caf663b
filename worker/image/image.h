/* Pictures in memory: 8-bit pixels, rows from the top, channels interleaved. Grey or RGB only. */
#ifndef NPO_WORKER_IMAGE_IMAGE_H
#define NPO_WORKER_IMAGE_IMAGE_H

#include "common/bounds.h"
#include "common/err.h"
#include <stddef.h>
#include <stdint.h>

typedef struct {
    int width, height; /* 1 .. NPO_IMAGE_SIDE_MAX */
    int channels;      /* 1: grey, 3: RGB */
    uint8_t *pixels;   /* height * width * channels bytes, owned */
} npo_image;

/* All pixels have the value `fill`. Errors: NPO_E_RANGE for a size or channel count out of bounds,
 * NPO_E_NOMEM. */
npo_err npo_image_init(npo_image *ret_image, int width, int height, int channels,
                       uint8_t fill) NPO_MUST_CHECK;
void npo_image_fini(npo_image *image);
size_t npo_image_bytes(const npo_image *image);

/* One byte of a value in [-1, 1]: clamped, then rounded to the nearest of 0 .. 255. NaN gives 0. */
uint8_t npo_image_byte_of(float value);
/* Inverse of the above for the values it produces: byte / 127.5 - 1. */
float npo_image_value_of(uint8_t byte);
/* x: [height, width, channels] f32 in [-1, 1] -> image of that shape. Errors as npo_image_init. */
npo_err npo_image_from_values(npo_image *ret_image, const float *x, int width, int height,
                              int channels) NPO_MUST_CHECK;

#endif
