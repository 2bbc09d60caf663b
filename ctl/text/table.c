#include "ctl/text/table.h"

#include "ctl/text/format.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { GAP = 2, CUT_WIDTH_MIN = 8 };

struct npo_table {
    const npo_table_column *columns;
    size_t count;
    char **cells; /* [rows * count], owned, NULL where empty */
    size_t rows, cap;
    bool failed;
};

npo_table *npo_table_new(const npo_table_column *columns, size_t count)
{
    assert(count >= 1 && count <= NPO_TABLE_COLUMNS_MAX);
    npo_table *table = calloc(1, sizeof *table);
    if (table)
        *table = (npo_table){.columns = columns, .count = count};
    return table;
}

void npo_table_free(npo_table *table)
{
    if (!table)
        return;
    for (size_t i = 0; i < table->rows * table->count; i++)
        free(table->cells[i]);
    free(table->cells);
    free(table);
}

size_t npo_table_rows(const npo_table *table)
{
    return table->rows;
}

static bool make_room(npo_table *table)
{
    if (table->rows < table->cap)
        return true;
    size_t cap = table->cap ? 2 * table->cap : 16;
    char **cells = realloc(table->cells, cap * table->count * sizeof *cells);
    if (!cells)
        return false;
    table->cells = cells;
    table->cap = cap;
    return true;
}

void npo_table_add(npo_table *table, const char *const *cells)
{
    if (!make_room(table)) {
        table->failed = true;
        return;
    }
    char **row = table->cells + table->rows++ * table->count;
    for (size_t i = 0; i < table->count; i++) {
        npo_buf clean = NPO_BUF_INIT;
        row[i] = NULL;
        if (!cells[i] || !*cells[i])
            continue;
        npo_text_clean(&clean, cells[i], 0);
        table->failed |= npo_buf_err(&clean) != NPO_OK;
        row[i] = npo_buf_take(&clean);
        npo_buf_fini(&clean);
    }
}

/* Widest cell of a column with its title; 0 where all cells are empty. */
static size_t column_width(const npo_table *table, size_t column)
{
    size_t width = 0;
    for (size_t i = 0; i < table->rows; i++) {
        const char *cell = table->cells[i * table->count + column];
        size_t cell_width = cell ? npo_text_width(cell) : 0;
        width = cell_width > width ? cell_width : width;
    }
    size_t title_width = npo_text_width(table->columns[column].title);
    return width == 0 ? 0 : width > title_width ? width : title_width;
}

/* Takes up to `excess` columns from a width, leaving CUT_WIDTH_MIN. Returns what is still too much.
 */
static size_t cut(size_t *width, size_t excess)
{
    size_t room = *width > CUT_WIDTH_MIN ? *width - CUT_WIDTH_MIN : 0;
    size_t taken = room < excess ? room : excess;
    *width -= taken;
    return excess - taken;
}

/* The last column gives way first, then the widest texts. */
static void measure(const npo_table *table, size_t width, size_t *ret_widths)
{
    size_t last = 0, used = 0;
    for (size_t i = 0; i < table->count; i++) {
        ret_widths[i] = column_width(table, i);
        last = ret_widths[i] > 0 ? i : last;
        used += ret_widths[i] > 0 ? ret_widths[i] + GAP : 0;
    }
    used -= used ? GAP : 0;
    if (width == 0 || used <= width)
        return;
    size_t excess = cut(&ret_widths[last], used - width);
    while (excess > 0) {
        size_t widest = table->count;
        for (size_t i = 0; i < table->count; i++)
            if (!table->columns[i].right && ret_widths[i] > CUT_WIDTH_MIN &&
                (widest == table->count || ret_widths[i] > ret_widths[widest]))
                widest = i;
        if (widest == table->count)
            return;
        excess -= 1 - cut(&ret_widths[widest], 1);
    }
}

static void add_spaces(npo_buf *buf, size_t count)
{
    for (size_t i = 0; i < count; i++)
        npo_buf_str(buf, " ");
}

static void print_row(const npo_table *table, const size_t *widths, const char *const *cells,
                      npo_buf *buf)
{
    for (size_t i = 0; i < table->count; i++) {
        const char *cell = cells[i] ? cells[i] : "";
        size_t width = npo_text_width(cell);
        size_t pad = widths[i] > width ? widths[i] - width : 0;
        if (widths[i] == 0)
            continue;
        add_spaces(buf, table->columns[i].right ? pad : 0);
        npo_text_clean(buf, cell, widths[i]);
        add_spaces(buf, (table->columns[i].right ? 0 : pad) + GAP);
    }
    while (buf->len > 0 && buf->data[buf->len - 1] == ' ')
        buf->len--;
    npo_buf_str(buf, "\n");
}

npo_err npo_table_print(const npo_table *table, size_t width, npo_buf *ret_buf)
{
    size_t widths[NPO_TABLE_COLUMNS_MAX];
    const char *titles[NPO_TABLE_COLUMNS_MAX];
    for (size_t i = 0; i < table->count; i++)
        titles[i] = table->columns[i].title;
    measure(table, width, widths);
    print_row(table, widths, titles, ret_buf);
    for (size_t i = 0; i < table->rows; i++)
        print_row(table, widths, (const char *const *)table->cells + i * table->count, ret_buf);
    return table->failed ? NPO_E_NOMEM : npo_buf_err(ret_buf);
}
