/* A line chart as inline SVG. Colours and fonts come from the page's style: classes `series-0` ..
 * `series-7`, `axis`, `grid`, `band`, `mark`. */
#ifndef NPO_WORKER_EVAL_PAGE_CHART_H
#define NPO_WORKER_EVAL_PAGE_CHART_H

#include "common/buf.h"
#include <stdbool.h>

enum { NPO_CHART_COLOURS = 8 };

typedef struct {
    double x, y;
    double low, high; /* of the runs behind y; equal to y where there is one */
} npo_chart_point;

typedef struct {
    const char *name; /* in the legend; plain text */
    int colour;       /* 0 .. NPO_CHART_COLOURS - 1 */
    bool dashed;
    const npo_chart_point *points; /* x ascending */
    size_t count;
} npo_chart_series;

typedef struct {
    const char *title, *x_label;
    bool percent;     /* y is a share: written as percent */
    double reference; /* a dotted level line; NaN: none */
    const npo_chart_series *series;
    size_t series_count;
} npo_chart;

/* Appends <figure>..</figure>. Points that are not finite are left out; without any the chart says
 * so. */
void npo_chart_draw(const npo_chart *chart, npo_buf *ret_buf);
/* Text with &, <, >, " written as entities. */
void npo_chart_escape(const char *text, npo_buf *ret_buf);

#endif
