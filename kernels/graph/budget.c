/* Planning: which blocks are computed twice, so that the arena fits a limit. */
#include "kernels/graph/plan.h"

#include <stdlib.h>

static int block_of_root(const npo_plan *p, const npo_root_plan *root)
{
    return p->graph->nodes[root->writer].block;
}

/* With every block computed twice: what each saves, values that are in memory from the forward of
 * the block to its backward otherwise, and what it costs. */
static void measure(npo_plan *p)
{
    const npo_graph *g = p->graph;
    for (size_t v = 0; v < g->value_count; v++) {
        const npo_root_plan *root = &p->roots[v];
        if (root->twice && root->first.last < p->n)
            p->blocks[block_of_root(p, root)].saved +=
                npo_plan_bytes(&npo_graph_at(g, (npo_value)v)->shape) / (root->bf16 ? 2 : 1);
    }
    for (int i = 0; i < p->n; i++)
        if (p->nodes[i].again)
            p->blocks[g->nodes[i].block].flops +=
                npo_op_rule_of(g->nodes[i].desc.kind)->flops(&g->nodes[i].desc);
}

typedef struct {
    double cost; /* flops a byte */
    int block;
} candidate;

static int compare_costs(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    return x->cost != y->cost ? (x->cost < y->cost ? -1 : 1) : x->block - y->block;
}

/* Blocks that save something, cheapest first. */
static int find_candidates(npo_plan *p, candidate *ret_candidates)
{
    int count = 0;
    measure(p);
    for (int b = 0; b < p->block_count; b++)
        if (p->blocks[b].saved)
            ret_candidates[count++] =
                (candidate){p->blocks[b].flops / (double)p->blocks[b].saved, b};
    qsort(ret_candidates, (size_t)count, sizeof *ret_candidates, compare_costs);
    return count;
}

static npo_err place_with(npo_plan *p, const candidate *candidates, int count, size_t *ret_bytes,
                          npo_error *error)
{
    for (int b = 0; b < p->block_count; b++)
        p->blocks[b].recompute = false;
    for (int i = 0; i < count; i++)
        p->blocks[candidates[i].block].recompute = true;
    npo_plan_place(p);
    npo_err err = npo_arena_pack(p->spans, (size_t)p->span_count, ret_bytes);
    return err ? npo_error_set(error, err, "cannot plan a graph of %d ops: %s", p->n,
                               npo_err_text(err))
               : NPO_OK;
}

/* The fewest of the candidates, in their order, with which the arena fits. */
static npo_err search(npo_plan *p, const candidate *candidates, int count, size_t *ret_bytes,
                      npo_error *error)
{
    size_t limit = p->options->memory_bytes, fixed = npo_plan_fixed_bytes(p), bytes = 0;
    int too_few = 0, enough = count;
    NPO_TRY(place_with(p, candidates, count, &bytes, error));
    if (bytes + fixed > limit)
        return npo_error_set(error, NPO_E_NOMEM,
                             "cannot plan a graph of %d ops: %zu MiB for activations, expected at "
                             "least %zu MiB, which is with each of %d blocks computed twice",
                             p->n, limit >> 20, ((bytes + fixed) >> 20) + 1, count);
    while (too_few + 1 < enough) {
        int middle = too_few + (enough - too_few) / 2;
        NPO_TRY(place_with(p, candidates, middle, &bytes, error));
        *(bytes + fixed > limit ? &too_few : &enough) = middle;
    }
    NPO_TRY(place_with(p, candidates, enough, &bytes, error));
    for (int i = 0; i < enough; i++)
        p->info.recompute_flops += p->blocks[candidates[i].block].flops;
    p->info.recomputed_blocks = enough;
    *ret_bytes = bytes;
    return NPO_OK;
}

npo_err npo_plan_fit(npo_plan *p, size_t *ret_bytes, npo_error *error)
{
    NPO_TRY(place_with(p, NULL, 0, ret_bytes, error));
    if (!p->options->memory_bytes ||
        *ret_bytes + npo_plan_fixed_bytes(p) <= p->options->memory_bytes)
        return NPO_OK;
    candidate *candidates = calloc((size_t)p->block_count, sizeof *candidates);
    if (!candidates)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory while planning a graph");
    for (int b = 0; b < p->block_count; b++)
        p->blocks[b].recompute = true;
    npo_plan_place(p);
    npo_err err = search(p, candidates, find_candidates(p, candidates), ret_bytes, error);
    free(candidates);
    return err;
}
