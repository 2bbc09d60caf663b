#include "worker/image/image.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

npo_err npo_image_init(npo_image *ret_image, int width, int height, int channels, uint8_t fill)
{
    if (width < 1 || height < 1 || width > NPO_IMAGE_SIDE_MAX || height > NPO_IMAGE_SIDE_MAX)
        return NPO_E_RANGE;
    if (channels != 1 && channels != 3)
        return NPO_E_RANGE;
    size_t bytes = (size_t)width * (size_t)height * (size_t)channels;
    uint8_t *pixels = malloc(bytes);
    if (!pixels)
        return NPO_E_NOMEM;
    memset(pixels, fill, bytes);
    *ret_image = (npo_image){width, height, channels, pixels};
    return NPO_OK;
}

void npo_image_fini(npo_image *image)
{
    free(image->pixels);
    *image = (npo_image){0};
}

size_t npo_image_bytes(const npo_image *image)
{
    return (size_t)image->width * (size_t)image->height * (size_t)image->channels;
}

uint8_t npo_image_byte_of(float value)
{
    /* The comparisons are written so that NaN falls into the first branch. */
    if (!(value > -1.0f))
        return 0;
    if (value >= 1.0f)
        return 255;
    return (uint8_t)lrintf((value + 1.0f) * 127.5f);
}

float npo_image_value_of(uint8_t byte)
{
    return (float)byte / 127.5f - 1.0f;
}

npo_err npo_image_from_values(npo_image *ret_image, const float *x, int width, int height,
                              int channels)
{
    NPO_TRY(npo_image_init(ret_image, width, height, channels, 0));
    size_t bytes = npo_image_bytes(ret_image);
    for (size_t i = 0; i < bytes; i++)
        ret_image->pixels[i] = npo_image_byte_of(x[i]);
    return NPO_OK;
}
