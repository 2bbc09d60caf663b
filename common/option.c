#include "common/option.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- names ---- */

void npo_option_key(const npo_option *option, char ret_key[NPO_OPTION_NAME_SIZE])
{
    snprintf(ret_key, NPO_OPTION_NAME_SIZE, "%s", option->name);
    for (char *at = ret_key; *at; at++)
        if (*at == '-')
            *at = '_';
}

void npo_option_variable(const npo_option *option, char ret_name[NPO_OPTION_NAME_SIZE])
{
    char key[NPO_OPTION_NAME_SIZE];
    npo_option_key(option, key);
    for (char *at = key; *at; at++)
        *at = (char)toupper((unsigned char)*at);
    snprintf(ret_name, NPO_OPTION_NAME_SIZE, "NPO_%.*s", NPO_OPTION_NAME_SIZE - 5, key);
}

/* ---- memory ---- */

void npo_option_store_fini(npo_option_store *store)
{
    for (size_t i = 0; i < store->string_count; i++)
        free(store->strings[i]);
    for (size_t i = 0; i < store->list_count; i++)
        free(store->lists[i]);
    free(store->strings);
    free(store->lists);
    *store = (npo_option_store){0};
}

static const char *keep_string(npo_option_store *store, const char *text)
{
    char **grown = realloc(store->strings, (store->string_count + 1) * sizeof *grown);
    if (!grown)
        return NULL;
    store->strings = grown;
    char *copy = strdup(text);
    if (copy)
        store->strings[store->string_count++] = copy;
    return copy;
}

static npo_err add_to_list(npo_option_store *store, npo_option_list *list, const char *text)
{
    const char *copy = keep_string(store, text);
    const char **items = malloc((list->count + 1) * sizeof *items);
    void **lists = realloc(store->lists, (store->list_count + 1) * sizeof *lists);
    if (lists)
        store->lists = lists;
    if (!copy || !items || !lists) {
        free(items);
        return NPO_E_NOMEM;
    }
    if (list->count > 0)
        memcpy(items, list->items, list->count * sizeof *items);
    items[list->count] = copy;
    store->lists[store->list_count++] = items;
    *list = (npo_option_list){items, list->count + 1};
    return NPO_OK;
}

/* ---- text to value ---- */

static npo_err parse_bool(const char *text, bool *ret_value)
{
    static const struct {
        const char *text;
        bool value;
    } words[] = {{"true", true}, {"false", false}, {"1", true},  {"0", false},
                 {"yes", true},  {"no", false},    {"on", true}, {"off", false}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(words[i].text, text) == 0) {
            *ret_value = words[i].value;
            return NPO_OK;
        }
    }
    return NPO_E_TYPE;
}

static npo_err parse_whole(const char *text, bool with_suffix, int64_t *ret_value)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || errno == ERANGE)
        return NPO_E_TYPE;
    static const char suffixes[] = "KMGT";
    const char *suffix = *end ? strchr(suffixes, toupper((unsigned char)*end)) : NULL;
    if (with_suffix && suffix) {
        int shift = 10 * (int)(suffix - suffixes + 1);
        if (value > (INT64_MAX >> shift) || value < 0)
            return NPO_E_RANGE;
        value <<= shift;
        end++;
    }
    if (*end)
        return NPO_E_TYPE;
    *ret_value = value;
    return NPO_OK;
}

static bool is_within(const npo_option *option, double value)
{
    return (option->min == 0 && option->max == 0) || (value >= option->min && value <= option->max);
}

npo_err npo_option_read(const npo_option *option, const char *text, npo_option_store *store,
                        void *member)
{
    int64_t whole;
    double number;
    char *end;
    switch (option->type) {
    case NPO_OPTION_BOOL:
        return parse_bool(text, member);
    case NPO_OPTION_INT:
    case NPO_OPTION_BYTES:
        NPO_TRY(parse_whole(text, option->type == NPO_OPTION_BYTES, &whole));
        if (!is_within(option, (double)whole))
            return NPO_E_RANGE;
        *(int64_t *)member = whole;
        return NPO_OK;
    case NPO_OPTION_NUMBER:
        number = strtod(text, &end);
        if (end == text || *end || !isfinite(number))
            return NPO_E_TYPE;
        if (!is_within(option, number))
            return NPO_E_RANGE;
        *(double *)member = number;
        return NPO_OK;
    case NPO_OPTION_STRING:
        *(const char **)member = keep_string(store, text);
        return *(const char **)member ? NPO_OK : NPO_E_NOMEM;
    case NPO_OPTION_LIST:
        return add_to_list(store, member, text);
    }
    return NPO_E_TYPE;
}

static const char *const expectations[] = {
    [NPO_OPTION_BOOL] = "true or false", [NPO_OPTION_INT] = "a whole number",
    [NPO_OPTION_NUMBER] = "a number",    [NPO_OPTION_BYTES] = "bytes such as 4096, 64M or 2G",
    [NPO_OPTION_STRING] = "text",        [NPO_OPTION_LIST] = "text",
};

const char *npo_option_expectation(const npo_option *option)
{
    return expectations[option->type];
}

/* ---- value to text ---- */

cJSON *npo_option_json(const npo_option *option, const void *member)
{
    const npo_option_list *list = member;
    cJSON *array;
    switch (option->type) {
    case NPO_OPTION_BOOL:
        return cJSON_CreateBool(*(const bool *)member);
    case NPO_OPTION_INT:
    case NPO_OPTION_BYTES:
        return cJSON_CreateNumber((double)*(const int64_t *)member);
    case NPO_OPTION_NUMBER:
        return cJSON_CreateNumber(*(const double *)member);
    case NPO_OPTION_STRING:
        if (!*(const char *const *)member)
            return NULL;
        return cJSON_CreateString(*(const char *const *)member);
    case NPO_OPTION_LIST:
        array = cJSON_CreateArray();
        for (size_t i = 0; i < list->count; i++)
            cJSON_AddItemToArray(array, cJSON_CreateString(list->items[i]));
        return array;
    }
    return NULL;
}

void npo_option_print(const npo_option *option, FILE *to)
{
    char left[NPO_OPTION_NAME_SIZE + 32], letter[5] = "    ", variable[NPO_OPTION_NAME_SIZE];
    if (option->flags & NPO_OPTION_HIDDEN)
        return;
    if (option->letter)
        snprintf(letter, sizeof letter, "-%c, ", option->letter);
    snprintf(left, sizeof left, "%s--%s%s%s", letter, option->name, option->argument ? " " : "",
             option->argument ? option->argument : "");
    fprintf(to, "  %-28s %s", left, option->help);
    if (!(option->flags & NPO_OPTION_FLAG_ONLY)) {
        npo_option_variable(option, variable);
        fprintf(to, " [%s]", variable);
    }
    fputc('\n', to);
}
