#include "ctl/text/terminal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

bool npo_terminal_is(void)
{
    const char *term = getenv("TERM");
    return isatty(STDOUT_FILENO) && !(term && strcmp(term, "dumb") == 0);
}

size_t npo_terminal_width(void)
{
    enum { FALLBACK = 80 };
    struct winsize size;
    if (!isatty(STDOUT_FILENO))
        return 0;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
        return FALLBACK;
    return size.ws_col;
}

static size_t count_lines(const char *text)
{
    size_t lines = 0;
    for (; *text; text++)
        lines += *text == '\n';
    return lines;
}

void npo_terminal_paint(npo_terminal_block *block, const char *text)
{
    if (block->lines > 0)
        printf("\x1b[%zuA", block->lines);
    /* Each line is cleared behind its new text, the rest of the old block at the end: no flicker.
     */
    for (const char *line = text; *line;) {
        size_t len = strcspn(line, "\n");
        printf("%.*s\x1b[K\n", (int)len, line);
        line += len + (line[len] == '\n');
    }
    printf("\x1b[J");
    fflush(stdout);
    block->lines = count_lines(text);
}

bool npo_terminal_print(const npo_buf *buf)
{
    if (npo_buf_err(buf) != NPO_OK)
        return false;
    return (buf->len == 0 || fwrite(buf->data, 1, buf->len, stdout) == buf->len) &&
           fflush(stdout) == 0;
}
