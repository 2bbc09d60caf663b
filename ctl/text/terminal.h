/* What stdout is: a terminal of some width, or a file. */
#ifndef NPO_CTL_TEXT_TERMINAL_H
#define NPO_CTL_TEXT_TERMINAL_H

#include "common/buf.h"
#include <stdbool.h>
#include <stddef.h>

bool npo_terminal_is(void);
/* Columns, or 0 where stdout is no terminal: then nothing is cut. */
size_t npo_terminal_width(void);

/* A block of lines at the end of the screen that is painted over. Lines must fit the width. */
typedef struct {
    size_t lines; /* shown now */
} npo_terminal_block;

/* text: whole lines. Flushes. */
void npo_terminal_paint(npo_terminal_block *block, const char *text);
/* Prints a buffer on stdout; false when it cannot be written or the buffer has failed. */
bool npo_terminal_print(const npo_buf *buf);

#endif
