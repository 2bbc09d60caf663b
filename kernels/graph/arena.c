/* Packing of lifetimes into one piece of memory. */
#include "kernels/graph/state.h"

#include <stdlib.h>

enum { ALIGN = 64 };

static int compare_sizes(const void *a, const void *b)
{
    const npo_span *x = *(npo_span *const *)a, *y = *(npo_span *const *)b;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? 1 : -1;
    if (x->first != y->first)
        return x->first < y->first ? -1 : 1;
    return x < y ? -1 : x > y;
}

/* Lowest offset of the smallest gap between the placed spans (sorted by offset) that live together
 * with this one; behind them all when no gap is large enough. */
static size_t find_gap(npo_span *const *placed, size_t count, const npo_span *span)
{
    size_t end = 0, best = 0, best_gap = SIZE_MAX;
    for (size_t i = 0; i < count; i++) {
        const npo_span *other = placed[i];
        if (other->last < span->first || other->first > span->last)
            continue;
        if (other->offset > end && other->offset - end >= span->bytes &&
            other->offset - end < best_gap) {
            best = end;
            best_gap = other->offset - end;
        }
        if (other->offset + other->bytes > end)
            end = other->offset + other->bytes;
    }
    return best_gap < SIZE_MAX ? best : end;
}

static void insert_sorted(npo_span **placed, size_t count, npo_span *span)
{
    size_t at = count;
    for (; at > 0 && placed[at - 1]->offset > span->offset; at--)
        placed[at] = placed[at - 1];
    placed[at] = span;
}

npo_err npo_arena_pack(npo_span *spans, size_t count, size_t *ret_bytes)
{
    size_t total = 0;
    npo_err err = NPO_OK;
    npo_span **order = malloc((count + 1) * sizeof *order);
    npo_span **placed = malloc((count + 1) * sizeof *placed);
    if (!order || !placed) {
        err = NPO_E_NOMEM;
        goto out;
    }
    for (size_t i = 0; i < count; i++) {
        if (spans[i].bytes > SIZE_MAX / 4 / (count + 1)) {
            err = NPO_E_LIMIT;
            goto out;
        }
        spans[i].bytes = (spans[i].bytes + ALIGN - 1) / ALIGN * ALIGN;
        order[i] = &spans[i];
    }
    qsort(order, count, sizeof *order, compare_sizes);
    for (size_t i = 0; i < count; i++) {
        order[i]->offset = find_gap(placed, i, order[i]);
        insert_sorted(placed, i, order[i]);
        if (order[i]->offset + order[i]->bytes > total)
            total = order[i]->offset + order[i]->bytes;
    }
    *ret_bytes = total;
out:
    free(order);
    free(placed);
    return err;
}
