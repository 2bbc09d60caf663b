/* The outcome of an evaluation: one cell a way of sampling, compared on the same prompts and
 * starting noise, and what follows from the cells. */
#ifndef NPO_WORKER_EVAL_RESULTS_H
#define NPO_WORKER_EVAL_RESULTS_H

#include "common/buf.h"
#include "worker/eval/scores.h"
#include <stdbool.h>

typedef enum {
    NPO_METHOD_NONE,     /* conditional prediction alone, guidance scale 1 */
    NPO_METHOD_PLAIN,    /* classifier-free guidance with one network */
    NPO_METHOD_SELF_NPO, /* guidance with the trained negative network */
} npo_method;

/* "none", "plain", "self-npo": in metrics.json. */
const char *npo_method_name(npo_method method);

typedef struct {
    npo_method method;
    double scale; /* guidance scale; 1 for NONE */
    double beta;  /* part of the offset; 0 unless SELF_NPO */
    int64_t seed;
} npo_cell_key;

typedef struct {
    npo_cell_key key;
    int64_t samples;
    double frechet;
    npo_scores scores;
    /* Sample by sample against the reference cell of the same seed: PLAIN at the same scale for
     * SELF_NPO, NONE for PLAIN. All zero where there is no such cell. */
    npo_wins wins;
} npo_cell;

bool npo_cell_key_equal(const npo_cell_key *a, const npo_cell_key *b);
/* "plain 2", "self-npo 2 beta 0.5", "no guidance". */
void npo_cell_key_format(const npo_cell_key *key, char *ret_text, size_t size);
/* Index of the cell that `key` is compared with, or -1. */
int64_t npo_cells_reference(const npo_cell *cells, size_t count, const npo_cell_key *key);
/* Index of the cell of one seed with the least distance among those of a method (PLAIN: NONE too,
 * which is plain guidance at scale 1), or -1. */
int64_t npo_cells_best(const npo_cell *cells, size_t count, npo_method method, int64_t seed);
/* The seeds that occur, in order of first appearance; at most `max`. Returns how many. */
size_t npo_cells_seeds(const npo_cell *cells, size_t count, int64_t *ret_seeds, size_t max);

typedef struct {
    const char *name;
    double relative; /* |negative - base| / |base| */
} npo_offset_block;

typedef struct {
    const char *title;    /* of the job */
    const char *settings; /* JSON text: what the cells were made with; NULL: none */
    int64_t real_samples;
    const npo_cell *cells;
    size_t cell_count;
    double offset_total; /* NaN: not known */
    const npo_offset_block *blocks;
    size_t block_count;
} npo_results;

#define NPO_RESULTS_SEEDS_MAX 64

/* Appends metrics.json, version "npo-metrics-1": {"format", "title", "real_samples", "settings",
 * "offset": {"total", "blocks": {..}}, "cells": [{"method", "scale", "beta", "seed", "samples",
 * "frechet", "accuracy", "confidence", "wins", "ties", "losses", "win_rate"}], "best": [{"seed",
 * "plain": {"scale", "frechet"}, "self_npo": {"scale", "beta", "frechet"}, "change"}]}. change: the
 * relative change of the least distance, negative where Self-NPO is better. beta and win_rate are
 * null where they mean nothing. Failure is that of ret_buf. */
void npo_results_json(const npo_results *results, npo_buf *ret_buf);

#endif
