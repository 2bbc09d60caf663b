#include "worker/eval/results.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const method_names[] = {"none", "plain", "self-npo"};

enum { METHOD_COUNT = sizeof method_names / sizeof *method_names };

const char *npo_method_name(npo_method method)
{
    return method_names[method];
}

npo_err npo_method_parse(const char *name, npo_method *ret_method)
{
    for (int i = 0; i < METHOD_COUNT; i++)
        if (strcmp(name, method_names[i]) == 0) {
            *ret_method = (npo_method)i;
            return NPO_OK;
        }
    return NPO_E_RANGE;
}

bool npo_cell_key_equal(const npo_cell_key *a, const npo_cell_key *b)
{
    return a->method == b->method && a->scale == b->scale && a->beta == b->beta &&
           a->seed == b->seed;
}

void npo_cell_key_format(const npo_cell_key *key, char *ret_text, size_t size)
{
    if (key->method == NPO_METHOD_NONE)
        snprintf(ret_text, size, "no guidance");
    else if (key->method == NPO_METHOD_PLAIN)
        snprintf(ret_text, size, "plain %g", key->scale);
    else
        snprintf(ret_text, size, "self-npo %g beta %g", key->scale, key->beta);
}

static int64_t find(const npo_cell *cells, size_t count, const npo_cell_key *key)
{
    for (size_t i = 0; i < count; i++)
        if (npo_cell_key_equal(&cells[i].key, key))
            return (int64_t)i;
    return -1;
}

int64_t npo_cells_reference(const npo_cell *cells, size_t count, const npo_cell_key *key)
{
    npo_cell_key wanted = {.seed = key->seed, .scale = 1};
    if (key->method == NPO_METHOD_NONE)
        return -1;
    if (key->method == NPO_METHOD_SELF_NPO) {
        wanted.method = NPO_METHOD_PLAIN;
        wanted.scale = key->scale;
    }
    return find(cells, count, &wanted);
}

static bool belongs(const npo_cell *cell, npo_method method, int64_t seed)
{
    bool same = cell->key.method == method ||
                (method == NPO_METHOD_PLAIN && cell->key.method == NPO_METHOD_NONE);
    return same && cell->key.seed == seed;
}

int64_t npo_cells_best(const npo_cell *cells, size_t count, npo_method method, int64_t seed)
{
    int64_t best = -1;
    for (size_t i = 0; i < count; i++)
        if (belongs(&cells[i], method, seed) &&
            (best < 0 || cells[i].frechet < cells[best].frechet))
            best = (int64_t)i;
    return best;
}

size_t npo_cells_seeds(const npo_cell *cells, size_t count, int64_t *ret_seeds, size_t max)
{
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        bool known = false;
        for (size_t s = 0; s < found; s++)
            known |= ret_seeds[s] == cells[i].key.seed;
        if (!known && found < max)
            ret_seeds[found++] = cells[i].key.seed;
    }
    return found;
}

/* ---- metrics.json; every helper adds to an object that the caller checks once ---- */

static void add_number(cJSON *object, const char *key, double value)
{
    if (isfinite(value))
        cJSON_AddNumberToObject(object, key, value);
    else
        cJSON_AddNullToObject(object, key);
}

static void add_cell(cJSON *list, const npo_cell *cell)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToArray(list, object);
    cJSON_AddStringToObject(object, "method", npo_method_name(cell->key.method));
    add_number(object, "scale", cell->key.scale);
    add_number(object, "beta", cell->key.method == NPO_METHOD_SELF_NPO ? cell->key.beta : NAN);
    add_number(object, "seed", (double)cell->key.seed);
    add_number(object, "samples", (double)cell->samples);
    add_number(object, "frechet", cell->frechet);
    add_number(object, "accuracy", cell->scores.accuracy);
    add_number(object, "confidence", cell->scores.confidence);
    add_number(object, "wins", (double)cell->wins.wins);
    add_number(object, "ties", (double)cell->wins.ties);
    add_number(object, "losses", (double)cell->wins.losses);
    add_number(object, "win_rate", npo_wins_rate(cell->wins));
}

static void add_best_of(cJSON *object, const char *key, const npo_cell *cell)
{
    if (!cell) {
        cJSON_AddNullToObject(object, key);
        return;
    }
    cJSON *best = cJSON_AddObjectToObject(object, key);
    add_number(best, "scale", cell->key.scale);
    if (cell->key.method == NPO_METHOD_SELF_NPO)
        add_number(best, "beta", cell->key.beta);
    add_number(best, "frechet", cell->frechet);
}

static void add_best(cJSON *list, const npo_results *results, int64_t seed)
{
    int64_t p = npo_cells_best(results->cells, results->cell_count, NPO_METHOD_PLAIN, seed);
    int64_t s = npo_cells_best(results->cells, results->cell_count, NPO_METHOD_SELF_NPO, seed);
    const npo_cell *plain = p < 0 ? NULL : &results->cells[p];
    const npo_cell *self_npo = s < 0 ? NULL : &results->cells[s];
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToArray(list, object);
    add_number(object, "seed", (double)seed);
    add_best_of(object, "plain", plain);
    add_best_of(object, "self_npo", self_npo);
    add_number(object, "change", plain && self_npo ? self_npo->frechet / plain->frechet - 1 : NAN);
}

static void add_offset(cJSON *json, const npo_results *results)
{
    cJSON *offset = cJSON_AddObjectToObject(json, "offset");
    add_number(offset, "total", results->offset_total);
    cJSON *blocks = cJSON_AddObjectToObject(offset, "blocks");
    for (size_t i = 0; i < results->block_count; i++)
        add_number(blocks, results->blocks[i].name, results->blocks[i].relative);
}

npo_err npo_results_json(const npo_results *results, cJSON **ret_json)
{
    cJSON *json = cJSON_CreateObject();
    if (!json)
        return NPO_E_NOMEM;
    cJSON_AddStringToObject(json, "format", "npo-metrics-1");
    cJSON_AddStringToObject(json, "title", results->title);
    add_number(json, "real_samples", (double)results->real_samples);
    cJSON_AddItemToObject(json, "settings",
                          results->settings ? cJSON_Duplicate(results->settings, true)
                                            : cJSON_CreateNull());
    add_offset(json, results);
    cJSON *cells = cJSON_AddArrayToObject(json, "cells");
    for (size_t i = 0; i < results->cell_count; i++)
        add_cell(cells, &results->cells[i]);
    int64_t seeds[NPO_RESULTS_SEEDS_MAX];
    size_t seed_count =
        npo_cells_seeds(results->cells, results->cell_count, seeds, NPO_RESULTS_SEEDS_MAX);
    cJSON *best = cJSON_AddArrayToObject(json, "best");
    for (size_t i = 0; i < seed_count; i++)
        add_best(best, results, seeds[i]);
    /* cJSON leaves an item out when memory fails: the last one tells. */
    if (!best || cJSON_GetArraySize(cells) != (int)results->cell_count ||
        cJSON_GetArraySize(best) != (int)seed_count) {
        cJSON_Delete(json);
        return NPO_E_NOMEM;
    }
    *ret_json = json;
    return NPO_OK;
}
