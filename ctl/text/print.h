/* What several commands print. */
#ifndef NPO_CTL_TEXT_PRINT_H
#define NPO_CTL_TEXT_PRINT_H

#include "common/json.h"
#include "ctl/exit.h"
#include "ctl/text/table.h"

/* "12", or "" for 0: nothing there. */
void npo_print_id(int64_t id, char ret_text[24]);
/* Prints and frees a table (NULL: out of memory); without rows the sentence instead. */
npo_exit npo_print_table(npo_table *table_take, const char *empty);
/* One line of JSON. */
npo_exit npo_print_json(const cJSON *json);

#endif
