#include "worker/image/grid.h"
#include "worker/image/font.h"
#include <math.h>
#include <string.h>

enum {
    LABEL_ZOOM = 2,
    LINE_HEIGHT = NPO_FONT_HEIGHT * LABEL_ZOOM,
    LETTER_WIDTH = NPO_FONT_WIDTH * LABEL_ZOOM,
    LABEL_LINES_MAX = 4,
    ROW_LABEL_LETTERS_MAX = 24,
    PAPER = 255,
    INK = 0,
};

/* One line of a label: the words that fit into `letters`, at least one letter. */
static size_t take_line(const char *text, size_t letters)
{
    size_t len = strlen(text);
    if (len <= letters)
        return len;
    for (size_t at = letters; at > 0; at--)
        if (text[at] == ' ')
            return at;
    return letters;
}

static int label_lines(const char *text, size_t letters)
{
    int lines = 0;
    while (*text && lines < LABEL_LINES_MAX) {
        text += take_line(text, letters);
        text += strspn(text, " ");
        lines++;
    }
    return lines;
}

static void draw_label(npo_image *image, int x, int y, size_t letters, const char *text)
{
    for (int line = 0; *text && line < LABEL_LINES_MAX; line++) {
        size_t len = take_line(text, letters);
        npo_font_draw(image, x, y + line * LINE_HEIGHT, LABEL_ZOOM, INK, text, len);
        text += len;
        text += strspn(text, " ");
    }
}

typedef struct {
    int64_t left, top;      /* of the first picture */
    int64_t step_x, step_y; /* from one picture to the next */
    int64_t width, height;  /* of the sheet */
    size_t column_letters, row_letters;
} sheet;

static size_t letters_in(int64_t pixels)
{
    return pixels < LETTER_WIDTH ? 1 : (size_t)(pixels / LETTER_WIDTH);
}

static sheet plan_sheet(const npo_grid_options *o)
{
    sheet s = {0};
    s.step_x = (int64_t)o->width * o->zoom + o->gap;
    s.step_y = (int64_t)o->height * o->zoom + o->gap;
    s.column_letters = letters_in(s.step_x - LETTER_WIDTH / 2); /* headings do not touch */
    int lines = 0;
    for (int c = 0; o->column_labels && c < o->columns; c++) {
        int need = label_lines(o->column_labels[c], s.column_letters);
        lines = need > lines ? need : lines;
    }
    for (int r = 0; o->row_labels && r < o->rows; r++) {
        size_t len = strlen(o->row_labels[r]);
        len = len > ROW_LABEL_LETTERS_MAX ? ROW_LABEL_LETTERS_MAX : len;
        s.row_letters = len > s.row_letters ? len : s.row_letters;
    }
    s.left = o->gap + (int64_t)s.row_letters * LETTER_WIDTH;
    s.top = o->gap + (int64_t)lines * LINE_HEIGHT;
    s.width = s.left + o->columns * s.step_x;
    s.height = s.top + o->rows * s.step_y;
    return s;
}

static void draw_picture(npo_image *image, const npo_grid_options *o, const float *x, int64_t left,
                         int64_t top)
{
    int channels = o->channels;
    for (int v = 0; v < o->height * o->zoom; v++) {
        uint8_t *to = image->pixels +
                      ((size_t)(top + v) * (size_t)image->width + (size_t)left) * (size_t)channels;
        const float *row = x + (size_t)(v / o->zoom) * (size_t)o->width * (size_t)channels;
        for (int u = 0; u < o->width * o->zoom; u++)
            for (int c = 0; c < channels; c++)
                *to++ =
                    npo_image_byte_of(row[(size_t)(u / o->zoom) * (size_t)channels + (size_t)c]);
    }
}

static void draw_labels(npo_image *image, const npo_grid_options *o, const sheet *s)
{
    for (int c = 0; o->column_labels && c < o->columns; c++)
        draw_label(image, (int)(s->left + c * s->step_x), o->gap, s->column_letters,
                   o->column_labels[c]);
    for (int r = 0; o->row_labels && r < o->rows; r++) {
        int y = (int)(s->top + r * s->step_y + (o->height * o->zoom - LINE_HEIGHT) / 2);
        draw_label(image, o->gap, y, s->row_letters, o->row_labels[r]);
    }
}

npo_err npo_grid_draw(const npo_grid_options *options, const float *pictures, npo_image *ret_image)
{
    const npo_grid_options *o = options;
    if (o->columns < 1 || o->rows < 1 || o->width < 1 || o->height < 1 || o->zoom < 1 || o->gap < 0)
        return NPO_E_RANGE;
    if (o->width > NPO_IMAGE_SIDE_MAX || o->height > NPO_IMAGE_SIDE_MAX ||
        o->zoom > NPO_IMAGE_SIDE_MAX || o->gap > NPO_IMAGE_SIDE_MAX)
        return NPO_E_RANGE;
    sheet s = plan_sheet(o);
    if (s.width > NPO_IMAGE_SIDE_MAX || s.height > NPO_IMAGE_SIDE_MAX)
        return NPO_E_RANGE;
    NPO_TRY(npo_image_init(ret_image, (int)s.width, (int)s.height, o->channels, PAPER));
    size_t floats = (size_t)o->width * (size_t)o->height * (size_t)o->channels;
    for (int r = 0; r < o->rows; r++)
        for (int c = 0; c < o->columns; c++)
            draw_picture(ret_image, o,
                         pictures + ((size_t)r * (size_t)o->columns + (size_t)c) * floats,
                         s.left + c * s.step_x, s.top + r * s.step_y);
    draw_labels(ret_image, o, &s);
    return NPO_OK;
}

int npo_grid_columns(int64_t count)
{
    int columns = (int)ceil(sqrt((double)count));
    return columns < 1 ? 1 : columns;
}
