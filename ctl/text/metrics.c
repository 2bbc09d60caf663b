#include "ctl/text/metrics.h"

#include "ctl/command.h"
#include "ctl/text/table.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { NUMBER_SIZE = 24 };

static const npo_table_column columns[] = {
    {"METHOD", false},  {"SCALE", true},    {"BETA", true},       {"SEED", true}, {"SAMPLES", true},
    {"DISTANCE", true}, {"ACCURACY", true}, {"CONFIDENCE", true}, {"WINS", true},
};

/* "" for null and what is missing. */
static void put(const cJSON *cell, const char *key, const char *format, char *ret_text)
{
    double value = npo_json_number(cell, key, NAN);
    ret_text[0] = '\0';
    if (isfinite(value))
        snprintf(ret_text, NUMBER_SIZE, format, value);
}

static void add_cell(npo_table *table, const cJSON *cell)
{
    static const struct {
        const char *key, *format;
    } numbers[] = {{"scale", "%.3g"},      {"beta", "%.3g"},    {"seed", "%.0f"},
                   {"samples", "%.0f"},    {"frechet", "%.2f"}, {"accuracy", "%.3f"},
                   {"confidence", "%.3f"}, {"win_rate", "%.3f"}};
    char texts[NPO_ARRAY_COUNT(numbers)][NUMBER_SIZE];
    const char *cells[NPO_ARRAY_COUNT(numbers) + 1] = {npo_json_string(cell, "method", "?")};
    for (size_t i = 0; i < NPO_ARRAY_COUNT(numbers); i++) {
        put(cell, numbers[i].key, numbers[i].format, texts[i]);
        cells[i + 1] = texts[i];
    }
    npo_table_add(table, cells);
}

static void print_best(const cJSON *best, npo_buf *buf)
{
    const cJSON *plain = cJSON_GetObjectItemCaseSensitive(best, "plain");
    const cJSON *ours = cJSON_GetObjectItemCaseSensitive(best, "self_npo");
    if (!cJSON_IsObject(plain) || !cJSON_IsObject(ours))
        return;
    npo_buf_printf(buf,
                   "seed %lld: best distance %.2f at scale %.3g with plain guidance, %.2f at scale "
                   "%.3g with Self-NPO (beta %.3g): %+.1f %%\n",
                   (long long)npo_json_int(best, "seed", 0), npo_json_number(plain, "frechet", NAN),
                   npo_json_number(plain, "scale", NAN), npo_json_number(ours, "frechet", NAN),
                   npo_json_number(ours, "scale", NAN), npo_json_number(ours, "beta", NAN),
                   100 * npo_json_number(best, "change", NAN));
}

npo_err npo_metrics_print(const cJSON *metrics, size_t width, npo_buf *ret_buf, npo_error *error)
{
    const char *format = npo_json_string(metrics, "format", "");
    const cJSON *cells = cJSON_GetObjectItemCaseSensitive(metrics, "cells");
    const cJSON *best = cJSON_GetObjectItemCaseSensitive(metrics, "best");
    if (strcmp(format, "npo-metrics-1") != 0)
        return npo_error_set(error, NPO_E_VERSION,
                             "metrics.json: found format '%.40s', expected 'npo-metrics-1'",
                             format);
    if (!cJSON_IsArray(cells))
        return npo_error_set(error, NPO_E_FORMAT, "metrics.json: missing key 'cells'");
    npo_table *table = npo_table_new(columns, NPO_ARRAY_COUNT(columns));
    for (const cJSON *cell = cells->child; table && cell; cell = cell->next)
        add_cell(table, cell);
    npo_err err = table ? npo_table_print(table, width, ret_buf) : NPO_E_NOMEM;
    npo_table_free(table);
    npo_buf_str(ret_buf, best && best->child ? "\n" : "");
    for (const cJSON *item = best ? best->child : NULL; item; item = item->next)
        print_best(item, ret_buf);
    if (!err)
        err = npo_buf_err(ret_buf);
    return err ? npo_error_set(error, err, "cannot print the metrics: out of memory") : NPO_OK;
}
