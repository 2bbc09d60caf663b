#include "worker/image/font.h"
#include <ctype.h>

enum { GLYPH_WIDTH = 3, GLYPH_HEIGHT = 5 };

typedef struct {
    char letter;
    const char rows[GLYPH_HEIGHT][GLYPH_WIDTH + 1];
} glyph;

static const glyph glyphs[] = {
    {'0', {"###", "# #", "# #", "# #", "###"}}, {'1', {" # ", "## ", " # ", " # ", "###"}},
    {'2', {"###", "  #", "###", "#  ", "###"}}, {'3', {"###", "  #", " ##", "  #", "###"}},
    {'4', {"# #", "# #", "###", "  #", "  #"}}, {'5', {"###", "#  ", "###", "  #", "###"}},
    {'6', {"###", "#  ", "###", "# #", "###"}}, {'7', {"###", "  #", " # ", " # ", " # "}},
    {'8', {"###", "# #", "###", "# #", "###"}}, {'9', {"###", "# #", "###", "  #", "###"}},
    {'A', {" # ", "# #", "###", "# #", "# #"}}, {'B', {"## ", "# #", "## ", "# #", "## "}},
    {'C', {" ##", "#  ", "#  ", "#  ", " ##"}}, {'D', {"## ", "# #", "# #", "# #", "## "}},
    {'E', {"###", "#  ", "## ", "#  ", "###"}}, {'F', {"###", "#  ", "## ", "#  ", "#  "}},
    {'G', {" ##", "#  ", "# #", "# #", " ##"}}, {'H', {"# #", "# #", "###", "# #", "# #"}},
    {'I', {"###", " # ", " # ", " # ", "###"}}, {'J', {"  #", "  #", "  #", "# #", " # "}},
    {'K', {"# #", "# #", "## ", "# #", "# #"}}, {'L', {"#  ", "#  ", "#  ", "#  ", "###"}},
    {'M', {"# #", "###", "###", "# #", "# #"}}, {'N', {"## ", "# #", "# #", "# #", "# #"}},
    {'O', {" # ", "# #", "# #", "# #", " # "}}, {'P', {"## ", "# #", "## ", "#  ", "#  "}},
    {'Q', {" # ", "# #", "# #", "## ", " ##"}}, {'R', {"## ", "# #", "## ", "# #", "# #"}},
    {'S', {" ##", "#  ", " # ", "  #", "## "}}, {'T', {"###", " # ", " # ", " # ", " # "}},
    {'U', {"# #", "# #", "# #", "# #", "###"}}, {'V', {"# #", "# #", "# #", "# #", " # "}},
    {'W', {"# #", "# #", "###", "###", "# #"}}, {'X', {"# #", "# #", " # ", "# #", "# #"}},
    {'Y', {"# #", "# #", " # ", " # ", " # "}}, {'Z', {"###", "  #", " # ", "#  ", "###"}},
    {' ', {"   ", "   ", "   ", "   ", "   "}}, {'.', {"   ", "   ", "   ", "   ", " # "}},
    {',', {"   ", "   ", "   ", " # ", "#  "}}, {':', {"   ", " # ", "   ", " # ", "   "}},
    {'-', {"   ", "   ", "###", "   ", "   "}}, {'+', {"   ", " # ", "###", " # ", "   "}},
    {'=', {"   ", "###", "   ", "###", "   "}}, {'/', {"  #", "  #", " # ", "#  ", "#  "}},
    {'(', {" # ", "#  ", "#  ", "#  ", " # "}}, {')', {" # ", "  #", "  #", "  #", " # "}},
    {'%', {"# #", "  #", " # ", "#  ", "# #"}}, {'#', {"# #", "###", "# #", "###", "# #"}},
};

static const glyph unknown = {0, {"###", "# #", "# #", "# #", "###"}};

static const glyph *find(char letter)
{
    char upper = (char)toupper((unsigned char)letter);
    for (size_t i = 0; i < sizeof glyphs / sizeof *glyphs; i++)
        if (glyphs[i].letter == upper)
            return &glyphs[i];
    return &unknown;
}

static void draw_block(npo_image *image, int x, int y, int side, uint8_t ink)
{
    for (int v = y < 0 ? 0 : y; v < y + side && v < image->height; v++) {
        for (int u = x < 0 ? 0 : x; u < x + side && u < image->width; u++) {
            size_t at = ((size_t)v * (size_t)image->width + (size_t)u) * (size_t)image->channels;
            for (int c = 0; c < image->channels; c++)
                image->pixels[at + (size_t)c] = ink;
        }
    }
}

void npo_font_draw(npo_image *image, int x, int y, int zoom, uint8_t ink, const char *text,
                   size_t len)
{
    for (size_t i = 0; i < len && x < image->width; i++, x += NPO_FONT_WIDTH * zoom) {
        const glyph *shape = find(text[i]);
        for (int v = 0; v < GLYPH_HEIGHT; v++)
            for (int u = 0; u < GLYPH_WIDTH; u++)
                if (shape->rows[v][u] == '#')
                    draw_block(image, x + u * zoom, y + v * zoom, zoom, ink);
    }
}
