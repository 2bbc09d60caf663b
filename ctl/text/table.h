/* A table of texts for people: aligned columns, two spaces between, no lines. The last column is
 * cut to the width of the terminal where there is one. */
#ifndef NPO_CTL_TEXT_TABLE_H
#define NPO_CTL_TEXT_TABLE_H

#include "common/buf.h"
#include <stdbool.h>

enum { NPO_TABLE_COLUMNS_MAX = 12 };

typedef struct {
    const char *title;
    bool right; /* aligned */
} npo_table_column;

typedef struct npo_table npo_table;

/* columns [count] is borrowed for the life of the table. NULL when out of memory. */
npo_table *npo_table_new(const npo_table_column *columns, size_t count);
void npo_table_free(npo_table *table); /* NULL allowed */
/* cells [count] are copied; NULL is an empty cell. Failures show in npo_table_print. */
void npo_table_add(npo_table *table, const char *const *cells);
size_t npo_table_rows(const npo_table *table);
/* Title line and rows, appended to ret_buf. width: columns of the terminal, 0: unlimited. A column
 * whose cells are all empty is left out. Errors: NPO_E_NOMEM. */
npo_err npo_table_print(const npo_table *table, size_t width, npo_buf *ret_buf) NPO_MUST_CHECK;

#endif
