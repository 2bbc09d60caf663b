/* PNG files through libpng. Settings of a picture travel inside it as tEXt or iTXt chunks. */
#ifndef NPO_WORKER_IMAGE_PNG_H
#define NPO_WORKER_IMAGE_PNG_H

#include "common/buf.h"
#include "worker/image/image.h"

typedef struct {
    const char *key;  /* 1 .. 79 bytes of Latin-1, such as "npo.settings" */
    const char *text; /* UTF-8; JSON for settings */
} npo_png_text;

#define NPO_PNG_FILE_BYTES_MAX (256 << 20)

/* The bytes of a PNG file, appended to ret_buf. Same input, same bytes (no time chunk). Errors:
 * NPO_E_NOMEM, NPO_E_LIBRARY. */
npo_err npo_png_encode(const npo_image *image, const npo_png_text *texts, size_t text_count,
                       npo_buf *ret_buf, npo_error *error) NPO_MUST_CHECK;
/* npo_png_encode into a file, replaced atomically. */
npo_err npo_png_write(const char *path, const npo_image *image, const npo_png_text *texts,
                      size_t text_count, npo_error *error) NPO_MUST_CHECK;

/* Grey stays grey; palettes become RGB, 16 bits become 8, an alpha channel is dropped (colours are
 * taken as stored). `name` stands in the sentence. Errors: NPO_E_FORMAT for anything that is no
 * whole PNG, also for sides over NPO_IMAGE_SIDE_MAX; NPO_E_NOMEM. */
npo_err npo_png_decode(const void *data, size_t len, const char *name, npo_image *ret_image,
                       npo_error *error) NPO_MUST_CHECK;
npo_err npo_png_read(const char *path, npo_image *ret_image, npo_error *error) NPO_MUST_CHECK;

#endif
