#include "worker/eval/results.h"
#include "worker/eval/json_out.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const method_names[] = {"none", "plain", "self-npo"};

const char *npo_method_name(npo_method method)
{
    return method_names[method];
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

/* ---- metrics.json ---- */

static void write_cell(npo_buf *buf, const npo_cell *cell)
{
    bool own = cell->key.method == NPO_METHOD_SELF_NPO;
    npo_buf_str(buf, "{\"method\": ");
    npo_json_out_text(buf, npo_method_name(cell->key.method));
    npo_json_out_member(buf, ", ", "scale", cell->key.scale);
    npo_json_out_member(buf, ", ", "beta", own ? cell->key.beta : NAN);
    npo_json_out_member(buf, ", ", "seed", (double)cell->key.seed);
    npo_json_out_member(buf, ", ", "samples", (double)cell->samples);
    npo_json_out_member(buf, ", ", "frechet", cell->frechet);
    npo_json_out_member(buf, ", ", "accuracy", cell->scores.accuracy);
    npo_json_out_member(buf, ", ", "confidence", cell->scores.confidence);
    npo_json_out_member(buf, ", ", "wins", (double)cell->wins.wins);
    npo_json_out_member(buf, ", ", "ties", (double)cell->wins.ties);
    npo_json_out_member(buf, ", ", "losses", (double)cell->wins.losses);
    npo_json_out_member(buf, ", ", "win_rate", npo_wins_rate(cell->wins));
    npo_buf_str(buf, "}");
}

static void write_best_of(npo_buf *buf, const char *key, const npo_cell *cell)
{
    npo_buf_printf(buf, ", \"%s\": ", key);
    if (!cell) {
        npo_buf_str(buf, "null");
        return;
    }
    npo_json_out_member(buf, "{", "scale", cell->key.scale);
    if (cell->key.method == NPO_METHOD_SELF_NPO)
        npo_json_out_member(buf, ", ", "beta", cell->key.beta);
    npo_json_out_member(buf, ", ", "frechet", cell->frechet);
    npo_buf_str(buf, "}");
}

static void write_best(npo_buf *buf, const npo_results *results, int64_t seed)
{
    int64_t p = npo_cells_best(results->cells, results->cell_count, NPO_METHOD_PLAIN, seed);
    int64_t s = npo_cells_best(results->cells, results->cell_count, NPO_METHOD_SELF_NPO, seed);
    const npo_cell *plain = p < 0 ? NULL : &results->cells[p];
    const npo_cell *own = s < 0 ? NULL : &results->cells[s];
    npo_json_out_member(buf, "{", "seed", (double)seed);
    write_best_of(buf, "plain", plain);
    write_best_of(buf, "self_npo", own);
    npo_json_out_member(buf, ", ", "change",
                        plain && own ? own->frechet / plain->frechet - 1 : NAN);
    npo_buf_str(buf, "}");
}

static void write_offset(npo_buf *buf, const npo_results *results)
{
    npo_json_out_member(buf, " \"offset\": {", "total", results->offset_total);
    npo_buf_str(buf, ", \"blocks\": {");
    for (size_t i = 0; i < results->block_count; i++)
        npo_json_out_member(buf, i ? ", " : "", results->blocks[i].name,
                            results->blocks[i].relative);
    npo_buf_str(buf, "}},\n");
}

void npo_results_json(const npo_results *results, npo_buf *ret_buf)
{
    int64_t seeds[NPO_RESULTS_SEEDS_MAX];
    size_t seed_count =
        npo_cells_seeds(results->cells, results->cell_count, seeds, NPO_RESULTS_SEEDS_MAX);
    npo_buf_str(ret_buf, "{\"format\": \"npo-metrics-1\",\n \"title\": ");
    npo_json_out_text(ret_buf, results->title);
    npo_json_out_member(ret_buf, ",\n ", "real_samples", (double)results->real_samples);
    npo_buf_printf(ret_buf, ",\n \"settings\": %s,\n",
                   results->settings ? results->settings : "null");
    write_offset(ret_buf, results);
    npo_buf_str(ret_buf, " \"cells\": [");
    for (size_t i = 0; i < results->cell_count; i++) {
        npo_buf_str(ret_buf, i ? ",\n  " : "\n  ");
        write_cell(ret_buf, &results->cells[i]);
    }
    npo_buf_str(ret_buf, "],\n \"best\": [");
    for (size_t i = 0; i < seed_count; i++) {
        npo_buf_str(ret_buf, i ? ",\n  " : "\n  ");
        write_best(ret_buf, results, seeds[i]);
    }
    npo_buf_str(ret_buf, "]}\n");
}
