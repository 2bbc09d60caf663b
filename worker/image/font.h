/* A 4x6 pixel font for labels (glyph 3x5, one pixel of space): digits, letters without case, and
 * the signs of numbers and settings. Other bytes are drawn as a box. */
#ifndef NPO_WORKER_IMAGE_FONT_H
#define NPO_WORKER_IMAGE_FONT_H

#include "worker/image/image.h"

enum { NPO_FONT_WIDTH = 4, NPO_FONT_HEIGHT = 6 }; /* of one character cell, before zoom */

/* Draws `len` bytes of text with the top left corner at (x, y); what falls outside is left out. */
void npo_font_draw(npo_image *image, int x, int y, int zoom, uint8_t ink, const char *text,
                   size_t len);

#endif
