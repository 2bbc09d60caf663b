#include "worker/eval/page/page.h"
#include "worker/eval/page/chart.h"
#include "worker/eval/page/page_style.h"
#include "worker/eval/summary.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SERIES_MAX = NPO_CHART_COLOURS };

typedef struct {
    const npo_results *results;
    npo_summary *groups;
    size_t group_count;
    npo_buf *buf;
} page;

typedef npo_range (*range_of)(const npo_summary *group);

static npo_range frechet_of(const npo_summary *group)
{
    return group->frechet;
}

static npo_range accuracy_of(const npo_summary *group)
{
    return group->accuracy;
}

static npo_range win_rate_of(const npo_summary *group)
{
    return group->win_rate;
}

/* ---- charts ---- */

/* Points of one method and beta by ascending scale. Guidance scale 1 is no guidance for every
 * method, so that all lines of the distance and the accuracy start there. */
static size_t take_points(const page *p, npo_method method, double beta, range_of range,
                          bool with_none, npo_chart_point *ret_points)
{
    size_t count = 0;
    for (size_t i = 0; i < p->group_count; i++) {
        const npo_summary *group = &p->groups[i];
        bool own = group->method == method && group->beta == beta;
        if (!own && !(with_none && group->method == NPO_METHOD_NONE))
            continue;
        npo_range r = range(group);
        npo_chart_point point = {group->scale, r.mean, r.low, r.high};
        size_t at = count++;
        for (; at > 0 && ret_points[at - 1].x > point.x; at--)
            ret_points[at] = ret_points[at - 1];
        ret_points[at] = point;
    }
    return count;
}

/* The betas that occur, in order of appearance. */
static size_t take_betas(const page *p, double *ret_betas, size_t max)
{
    size_t count = 0;
    for (size_t i = 0; i < p->group_count; i++) {
        bool is_new = p->groups[i].method == NPO_METHOD_SELF_NPO;
        for (size_t b = 0; b < count; b++)
            is_new &= ret_betas[b] != p->groups[i].beta;
        if (is_new && count < max)
            ret_betas[count++] = p->groups[i].beta;
    }
    return count;
}

static void draw_chart(const page *p, const char *title, range_of range, bool percent,
                       bool compared, npo_chart_point *points)
{
    double betas[SERIES_MAX - 1];
    char names[SERIES_MAX][64];
    npo_chart_series series[SERIES_MAX];
    size_t beta_count = take_betas(p, betas, SERIES_MAX - 1), count = 0;
    if (!compared) {
        size_t n = take_points(p, NPO_METHOD_PLAIN, 0, range, true, points);
        series[count++] = (npo_chart_series){"plain guidance", 0, true, points, n};
        points += n;
    }
    for (size_t b = 0; b < beta_count; b++) {
        size_t n = take_points(p, NPO_METHOD_SELF_NPO, betas[b], range, !compared, points);
        snprintf(names[b], sizeof names[b], "Self-NPO, beta %g", betas[b]);
        series[count++] = (npo_chart_series){names[b], (int)b + 1, false, points, n};
        points += n;
    }
    npo_chart chart = {title, "guidance scale", percent, compared ? 0.5 : NAN, series, count};
    npo_chart_draw(&chart, p->buf);
}

static void write_charts(const page *p)
{
    /* Every group stands in one line, NONE in each of them. */
    npo_chart_point *points = calloc(p->group_count * SERIES_MAX + 1, sizeof *points);
    if (!points) {
        p->buf->err = NPO_E_NOMEM;
        return;
    }
    npo_buf_str(p->buf, "<h2>Over the guidance scale</h2>\n<div class=\"charts\">\n");
    draw_chart(p,
               "Fr\xc3\xa9"
               "chet distance to real images (lower is better)",
               frechet_of, false, false, points);
    draw_chart(p, "Prompt accuracy of the classifier", accuracy_of, true, false, points);
    draw_chart(p, "Samples on which Self-NPO is more confident than plain guidance", win_rate_of,
               true, true, points);
    npo_buf_str(p->buf,
                "</div>\n<p class=\"note\">Lines are means over seeds, bands reach from the "
                "lowest to the highest seed. Wins count ties as one half.</p>\n");
    free(points);
}

/* ---- sentences ---- */

static void write_card(const page *p, const char *label, const char *detail, double value)
{
    npo_buf_printf(p->buf, "<div class=\"card\"><b>%.2f</b>", value);
    npo_chart_escape(label, p->buf);
    npo_buf_str(p->buf, "<br><span>");
    npo_chart_escape(detail, p->buf);
    npo_buf_str(p->buf, "</span></div>\n");
}

static void write_cards(const page *p)
{
    const npo_summary *none = npo_summary_find(p->groups, p->group_count, NPO_METHOD_NONE, 1, 0);
    const npo_summary *plain = npo_summary_best(p->groups, p->group_count, NPO_METHOD_PLAIN, NAN);
    const npo_summary *own = npo_summary_best(p->groups, p->group_count, NPO_METHOD_SELF_NPO, NAN);
    char detail[96];
    npo_buf_str(p->buf, "<div class=\"cards\">\n");
    if (none)
        write_card(p, "no guidance", "distance, mean over seeds", none->frechet.mean);
    if (plain) {
        snprintf(detail, sizeof detail, "best distance, at scale %g", plain->scale);
        write_card(p, "plain guidance", detail, plain->frechet.mean);
    }
    if (own) {
        snprintf(detail, sizeof detail, "best distance, at scale %g, beta %g", own->scale,
                 own->beta);
        write_card(p, "Self-NPO guidance", detail, own->frechet.mean);
    }
    if (plain && own) {
        double change = own->frechet.mean / plain->frechet.mean - 1;
        npo_buf_printf(p->buf,
                       "<div class=\"card\"><b class=\"%s\">%+.1f %%</b>best against best<br><span>"
                       "%s</span></div>\n",
                       change < 0 ? "good" : "bad", change * 100,
                       change < 0 ? "Self-NPO is nearer to the real images"
                                  : "plain guidance is nearer to the real images");
    }
    npo_buf_str(p->buf, "</div>\n");
}

static void write_seed(const page *p, int64_t seed)
{
    const npo_results *r = p->results;
    int64_t plain = npo_cells_best(r->cells, r->cell_count, NPO_METHOD_PLAIN, seed);
    int64_t own = npo_cells_best(r->cells, r->cell_count, NPO_METHOD_SELF_NPO, seed);
    if (plain < 0 || own < 0)
        return;
    const npo_cell *a = &r->cells[plain], *b = &r->cells[own];
    double change = b->frechet / a->frechet - 1;
    npo_buf_printf(
        p->buf,
        "<li>Seed %lld: best distance %.2f with Self-NPO (scale %g, beta %g) against %.2f "
        "with plain guidance (scale %g), %.1f %% %s.</li>\n",
        (long long)seed, b->frechet, b->key.scale, b->key.beta, a->frechet, a->key.scale,
        fabs(change) * 100, change < 0 ? "less" : "more");
}

static void write_scale(const page *p, const npo_summary *plain)
{
    const npo_summary *own =
        npo_summary_best(p->groups, p->group_count, NPO_METHOD_SELF_NPO, plain->scale);
    if (!own)
        return;
    bool better = own->frechet.mean < plain->frechet.mean;
    npo_buf_printf(p->buf,
                   "<li>Scale %g: <span class=\"%s\">%s</span> has the smaller mean distance, %.2f "
                   "against %.2f; accuracy %.1f %% with Self-NPO (beta %g), %.1f %% with plain "
                   "guidance.</li>\n",
                   plain->scale, better ? "good" : "bad", better ? "Self-NPO" : "plain guidance",
                   better ? own->frechet.mean : plain->frechet.mean,
                   better ? plain->frechet.mean : own->frechet.mean, own->accuracy.mean * 100,
                   own->beta, plain->accuracy.mean * 100);
}

static size_t count_settings(const page *p, npo_method method)
{
    size_t count = 0;
    for (size_t i = 0; i < p->group_count; i++)
        count += p->groups[i].method == method;
    return count;
}

static void write_findings(const page *p)
{
    int64_t seeds[NPO_RESULTS_SEEDS_MAX];
    size_t count =
        npo_cells_seeds(p->results->cells, p->results->cell_count, seeds, NPO_RESULTS_SEEDS_MAX);
    npo_buf_str(p->buf, "<h2>What the figures say</h2>\n<ul>\n");
    for (size_t i = 0; i < p->group_count; i++)
        if (p->groups[i].method == NPO_METHOD_PLAIN)
            write_scale(p, &p->groups[i]);
    for (size_t i = 0; i < count; i++)
        write_seed(p, seeds[i]);
    npo_buf_printf(
        p->buf,
        "</ul>\n<p class=\"note\">For each scale Self-NPO stands with its best beta there; "
        "the table has all of them. The best of a seed is chosen after the fact, among %zu "
        "settings of Self-NPO and %zu of plain guidance (no guidance included).</p>\n",
        count_settings(p, NPO_METHOD_SELF_NPO),
        count_settings(p, NPO_METHOD_PLAIN) + count_settings(p, NPO_METHOD_NONE));
}

/* ---- table ---- */

static void write_row(const page *p, const npo_cell *cell)
{
    int64_t seed = cell->key.seed;
    const npo_results *r = p->results;
    int64_t plain = npo_cells_best(r->cells, r->cell_count, NPO_METHOD_PLAIN, seed);
    int64_t own = npo_cells_best(r->cells, r->cell_count, NPO_METHOD_SELF_NPO, seed);
    bool best = (plain >= 0 && cell == &r->cells[plain]) || (own >= 0 && cell == &r->cells[own]);
    static const char *const names[] = {"no guidance", "plain guidance", "Self-NPO"};
    npo_buf_printf(p->buf, "<tr><td>%s</td><td>%g</td>", names[cell->key.method], cell->key.scale);
    if (cell->key.method == NPO_METHOD_SELF_NPO)
        npo_buf_printf(p->buf, "<td>%g</td>", cell->key.beta);
    else
        npo_buf_str(p->buf, "<td></td>");
    npo_buf_printf(p->buf, "<td>%lld</td><td>%lld</td><td%s>%.2f</td><td>%.1f %%</td><td>%.3f</td>",
                   (long long)seed, (long long)cell->samples, best ? " class=\"best\"" : "",
                   cell->frechet, cell->scores.accuracy * 100, cell->scores.confidence);
    double rate = npo_wins_rate(cell->wins);
    if (isfinite(rate))
        npo_buf_printf(p->buf, "<td>%.1f %%</td><td>%lld</td></tr>\n", rate * 100,
                       (long long)cell->wins.ties);
    else
        npo_buf_str(p->buf, "<td></td><td></td></tr>\n");
}

static void write_table(const page *p)
{
    npo_buf_printf(
        p->buf,
        "<h2>All cells</h2>\n<p class=\"note\">Distance against %lld real images. Wins: "
        "samples on which the classifier is more confident of the prompted class than with "
        "plain guidance of the same scale (for plain guidance: than without guidance), ties "
        "as one half; same prompt and starting noise. Bold: the best of a seed.</p>\n",
        (long long)p->results->real_samples);
    npo_buf_str(p->buf,
                "<div class=\"scroll\"><table>\n<tr><th>guidance</th><th>scale</th><th>beta</th>"
                "<th>seed</th><th>samples</th><th>distance</th><th>accuracy</th><th>confidence</th>"
                "<th>wins</th><th>ties</th></tr>\n");
    for (size_t i = 0; i < p->results->cell_count; i++)
        write_row(p, &p->results->cells[i]);
    npo_buf_str(p->buf, "</table></div>\n");
}

/* ---- pictures, offset, settings ---- */

static void write_base64(npo_buf *buf, const uint8_t *data, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < len; i += 3) {
        size_t have = len - i < 3 ? len - i : 3;
        uint32_t word = (uint32_t)data[i] << 16;
        word |= have > 1 ? (uint32_t)data[i + 1] << 8 : 0;
        word |= have > 2 ? data[i + 2] : 0;
        char text[4] = {digits[word >> 18], digits[word >> 12 & 63],
                        have > 1 ? digits[word >> 6 & 63] : '=',
                        have > 2 ? digits[word & 63] : '='};
        npo_buf_add(buf, text, sizeof text);
    }
}

static void write_pictures(const page *p, const npo_page_picture *pictures, size_t count)
{
    if (count == 0)
        return;
    npo_buf_str(p->buf,
                "<h2>Samples</h2>\n<p class=\"note\">Every row is one prompt and one starting "
                "noise, sampled in each way; nothing is chosen by hand.</p>\n"
                "<div class=\"pictures\">\n");
    for (size_t i = 0; i < count; i++) {
        npo_buf_str(p->buf, "<figure><figcaption>");
        npo_chart_escape(pictures[i].title, p->buf);
        npo_buf_str(p->buf, "</figcaption><img alt=\"");
        npo_chart_escape(pictures[i].title, p->buf);
        npo_buf_str(p->buf, "\" src=\"data:image/png;base64,");
        write_base64(p->buf, pictures[i].png, pictures[i].png_bytes);
        npo_buf_str(p->buf, "\"></figure>\n");
    }
    npo_buf_str(p->buf, "</div>\n");
}

static void write_offset(const page *p)
{
    const npo_results *r = p->results;
    if (r->block_count == 0 || !isfinite(r->offset_total))
        return;
    double largest = 0;
    for (size_t i = 0; i < r->block_count; i++)
        largest = fmax(largest, r->blocks[i].relative);
    npo_buf_printf(p->buf,
                   "<h2>Size of the offset</h2>\n<p>The negative network differs from the base by "
                   "%.3f %% of the base's norm. By block:</p>\n<div class=\"bars\">\n",
                   r->offset_total * 100);
    for (size_t i = 0; i < r->block_count; i++) {
        if (!isfinite(r->blocks[i].relative))
            continue;
        npo_buf_str(p->buf, "<span>");
        npo_chart_escape(r->blocks[i].name, p->buf);
        npo_buf_printf(
            p->buf,
            "</span><span class=\"bar\" style=\"width:%.1f%%\"></span><span>%.3f %%</span>\n",
            largest > 0 ? r->blocks[i].relative / largest * 100 : 0.0, r->blocks[i].relative * 100);
    }
    npo_buf_str(p->buf, "</div>\n");
}

static void write_settings(const page *p)
{
    if (!p->results->settings)
        return;
    npo_buf_str(p->buf, "<h2>Settings</h2>\n<pre>");
    npo_chart_escape(p->results->settings, p->buf);
    npo_buf_str(p->buf, "</pre>\n");
}

void npo_page_write(const npo_results *results, const npo_page_picture *pictures,
                    size_t picture_count, npo_buf *ret_buf)
{
    page p = {.results = results, .buf = ret_buf};
    if (npo_summary_make(results->cells, results->cell_count, &p.groups, &p.group_count) !=
        NPO_OK) {
        ret_buf->err = NPO_E_NOMEM;
        return;
    }
    npo_buf_str(ret_buf, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
                         "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
                         "<title>");
    npo_chart_escape(results->title, ret_buf);
    npo_buf_printf(ret_buf, "</title>\n<style>%s</style></head>\n<body><main>\n<h1>",
                   npo_page_style);
    npo_chart_escape(results->title, ret_buf);
    npo_buf_str(
        ret_buf,
        "</h1>\n<p class=\"lead\">Guidance with a negative network trained by Self-NPO, "
        "compared with plain classifier-free guidance and with none, on the same prompts and "
        "starting noise.</p>\n");
    write_cards(&p);
    write_findings(&p);
    write_charts(&p);
    write_pictures(&p, pictures, picture_count);
    write_table(&p);
    write_offset(&p);
    write_settings(&p);
    npo_buf_str(ret_buf, "</main></body></html>\n");
    free(p.groups);
}
