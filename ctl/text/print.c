#include "ctl/text/print.h"

#include "ctl/text/terminal.h"

#include <stdio.h>

void npo_print_id(int64_t id, char ret_text[24])
{
    ret_text[0] = '\0';
    if (id != 0)
        snprintf(ret_text, 24, "%lld", (long long)id);
}

npo_exit npo_print_table(npo_table *table_take, const char *empty)
{
    npo_buf text = NPO_BUF_INIT;
    bool printed = table_take != NULL;
    if (table_take && npo_table_rows(table_take) == 0)
        printed = printf("%s\n", empty) > 0;
    else if (table_take)
        printed = npo_table_print(table_take, npo_terminal_width(), &text) == NPO_OK &&
                  npo_terminal_print(&text);
    npo_buf_fini(&text);
    npo_table_free(table_take);
    return printed ? NPO_EXIT_OK : npo_exit_with(NPO_EXIT_FAILED, "cannot print the table");
}

npo_exit npo_print_json(const cJSON *json)
{
    char *text = cJSON_PrintUnformatted(json);
    bool printed = text && puts(text) >= 0;
    cJSON_free(text);
    return printed ? NPO_EXIT_OK : npo_exit_with(NPO_EXIT_FAILED, "cannot print the answer");
}
