#include "worker/eval/summary.h"
#include <math.h>
#include <stdlib.h>

static void add(npo_range *range, double value)
{
    range->mean += value; /* a sum until finish */
    range->low = fmin(range->low, value);
    range->high = fmax(range->high, value);
}

static npo_range empty(void)
{
    return (npo_range){0, INFINITY, -INFINITY};
}

static npo_summary *find_or_add(npo_summary *groups, size_t *count, const npo_cell_key *key)
{
    for (size_t i = 0; i < *count; i++)
        if (groups[i].method == key->method && groups[i].scale == key->scale &&
            groups[i].beta == key->beta)
            return &groups[i];
    npo_summary *group = &groups[(*count)++];
    *group = (npo_summary){.method = key->method,
                           .scale = key->scale,
                           .beta = key->beta,
                           .frechet = empty(),
                           .accuracy = empty(),
                           .confidence = empty(),
                           .win_rate = empty()};
    return group;
}

npo_err npo_summary_make(const npo_cell *cells, size_t cell_count, npo_summary **ret_groups,
                         size_t *ret_count)
{
    npo_summary *groups = calloc(cell_count ? cell_count : 1, sizeof *groups);
    if (!groups)
        return NPO_E_NOMEM;
    size_t count = 0;
    for (size_t i = 0; i < cell_count; i++) {
        npo_summary *group = find_or_add(groups, &count, &cells[i].key);
        group->seeds++;
        group->samples += cells[i].samples;
        add(&group->frechet, cells[i].frechet);
        add(&group->accuracy, cells[i].scores.accuracy);
        add(&group->confidence, cells[i].scores.confidence);
        add(&group->win_rate, npo_wins_rate(cells[i].wins));
    }
    for (size_t i = 0; i < count; i++) {
        double seeds = (double)groups[i].seeds;
        groups[i].frechet.mean /= seeds;
        groups[i].accuracy.mean /= seeds;
        groups[i].confidence.mean /= seeds;
        groups[i].win_rate.mean /= seeds;
    }
    *ret_groups = groups;
    *ret_count = count;
    return NPO_OK;
}

const npo_summary *npo_summary_find(const npo_summary *groups, size_t count, npo_method method,
                                    double scale, double beta)
{
    for (size_t i = 0; i < count; i++)
        if (groups[i].method == method && groups[i].scale == scale && groups[i].beta == beta)
            return &groups[i];
    return NULL;
}

static bool belongs(const npo_summary *group, npo_method method, double scale)
{
    if (isnan(scale))
        return group->method == method ||
               (method == NPO_METHOD_PLAIN && group->method == NPO_METHOD_NONE);
    return group->method == method && group->scale == scale;
}

const npo_summary *npo_summary_best(const npo_summary *groups, size_t count, npo_method method,
                                    double scale)
{
    const npo_summary *best = NULL;
    for (size_t i = 0; i < count; i++)
        if (belongs(&groups[i], method, scale) &&
            (!best || groups[i].frechet.mean < best->frechet.mean))
            best = &groups[i];
    return best;
}
