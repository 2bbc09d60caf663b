#include "worker/eval/page/chart.h"
#include <math.h>

/* Of the drawing, in its own units; the page scales it. */
enum { WIDTH = 560, HEIGHT = 320, LEFT = 56, RIGHT = 16, TOP = 16, BOTTOM = 44, TICKS = 5 };

typedef struct {
    double low, high, step;
} span;

typedef struct {
    span x, y;
    bool empty;
} frame;

void npo_chart_escape(const char *text, npo_buf *ret_buf)
{
    static const struct {
        char byte;
        const char *entity;
    } entities[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'"', "&quot;"}};
    for (; *text; text++) {
        const char *entity = NULL;
        for (size_t i = 0; i < sizeof entities / sizeof *entities; i++)
            if (entities[i].byte == *text)
                entity = entities[i].entity;
        if (entity)
            npo_buf_str(ret_buf, entity);
        else
            npo_buf_add(ret_buf, text, 1);
    }
}

static void widen(span *s, double value)
{
    if (!isfinite(value))
        return;
    s->low = fmin(s->low, value);
    s->high = fmax(s->high, value);
}

/* Rounds outwards to a step of 1, 2 or 5 times a power of ten. */
static void round_span(span *s)
{
    if (s->high - s->low < 1e-12) {
        s->low -= 0.5;
        s->high += 0.5;
    }
    double raw = (s->high - s->low) / TICKS, power = pow(10, floor(log10(raw)));
    double times = raw / power;
    s->step = (times <= 1 ? 1 : times <= 2 ? 2 : times <= 5 ? 5 : 10) * power;
    s->low = floor(s->low / s->step + 1e-9) * s->step;
    s->high = ceil(s->high / s->step - 1e-9) * s->step;
}

static bool is_drawn(const npo_chart_point *point)
{
    return isfinite(point->x) && isfinite(point->y);
}

static frame measure(const npo_chart *chart)
{
    frame f = {{INFINITY, -INFINITY, 1}, {INFINITY, -INFINITY, 1}, true};
    for (size_t s = 0; s < chart->series_count; s++)
        for (size_t i = 0; i < chart->series[s].count; i++) {
            const npo_chart_point *point = &chart->series[s].points[i];
            if (!is_drawn(point))
                continue;
            f.empty = false;
            widen(&f.x, point->x);
            widen(&f.y, point->y);
            widen(&f.y, point->low);
            widen(&f.y, point->high);
        }
    if (f.empty)
        return f;
    widen(&f.y, chart->reference);
    round_span(&f.x);
    round_span(&f.y);
    return f;
}

static double place_x(const frame *f, double x)
{
    return LEFT + (x - f->x.low) / (f->x.high - f->x.low) * (WIDTH - LEFT - RIGHT);
}

static double place_y(const frame *f, double y)
{
    return HEIGHT - BOTTOM - (y - f->y.low) / (f->y.high - f->y.low) * (HEIGHT - TOP - BOTTOM);
}

static void draw_axes(const npo_chart *chart, const frame *f, npo_buf *buf)
{
    for (double y = f->y.low; y <= f->y.high + f->y.step / 2; y += f->y.step) {
        double at = place_y(f, y);
        npo_buf_printf(buf, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>",
                       LEFT, WIDTH - RIGHT, at, at);
        npo_buf_printf(buf, "<text class=\"axis\" x=\"%d\" y=\"%.1f\" text-anchor=\"end\">",
                       LEFT - 8, at + 4);
        if (chart->percent)
            npo_buf_printf(buf, "%.4g %%</text>", y * 100);
        else
            npo_buf_printf(buf, "%.4g</text>", fabs(y) < f->y.step / 1e6 ? 0.0 : y);
    }
    for (double x = f->x.low; x <= f->x.high + f->x.step / 2; x += f->x.step)
        npo_buf_printf(
            buf, "<text class=\"axis\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.4g</text>",
            place_x(f, x), HEIGHT - BOTTOM + 18, x);
    npo_buf_printf(buf, "<text class=\"axis\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">",
                   (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6);
    npo_chart_escape(chart->x_label, buf);
    npo_buf_str(buf, "</text>\n");
    if (isfinite(chart->reference))
        npo_buf_printf(buf, "<line class=\"mark\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>\n",
                       LEFT, WIDTH - RIGHT, place_y(f, chart->reference),
                       place_y(f, chart->reference));
}

static void draw_band(const npo_chart_series *series, const frame *f, npo_buf *buf)
{
    bool any = false;
    for (size_t i = 0; i < series->count; i++)
        any |= is_drawn(&series->points[i]) && series->points[i].high > series->points[i].low;
    if (!any)
        return;
    npo_buf_printf(buf, "<polygon class=\"band series-%d\" points=\"", series->colour);
    for (size_t i = 0; i < series->count; i++)
        if (is_drawn(&series->points[i]))
            npo_buf_printf(buf, "%.1f,%.1f ", place_x(f, series->points[i].x),
                           place_y(f, series->points[i].high));
    for (size_t i = series->count; i-- > 0;)
        if (is_drawn(&series->points[i]))
            npo_buf_printf(buf, "%.1f,%.1f ", place_x(f, series->points[i].x),
                           place_y(f, series->points[i].low));
    npo_buf_str(buf, "\"/>\n");
}

static void draw_line(const npo_chart_series *series, const frame *f, bool percent, npo_buf *buf)
{
    npo_buf_printf(buf, "<polyline class=\"line series-%d%s\" points=\"", series->colour,
                   series->dashed ? " dashed" : "");
    for (size_t i = 0; i < series->count; i++)
        if (is_drawn(&series->points[i]))
            npo_buf_printf(buf, "%.1f,%.1f ", place_x(f, series->points[i].x),
                           place_y(f, series->points[i].y));
    npo_buf_str(buf, "\"/>");
    for (size_t i = 0; i < series->count; i++) {
        const npo_chart_point *point = &series->points[i];
        if (!is_drawn(point))
            continue;
        npo_buf_printf(buf,
                       "<circle class=\"dot series-%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"><title>",
                       series->colour, place_x(f, point->x), place_y(f, point->y));
        npo_chart_escape(series->name, buf);
        npo_buf_printf(buf, ", %.4g: %.4g%s", point->x, percent ? point->y * 100 : point->y,
                       percent ? " %" : "");
        npo_buf_str(buf, "</title></circle>");
    }
    npo_buf_str(buf, "\n");
}

static void draw_legend(const npo_chart *chart, npo_buf *buf)
{
    npo_buf_str(buf, "<p class=\"legend\">");
    for (size_t s = 0; s < chart->series_count; s++) {
        npo_buf_printf(buf, "<span class=\"key\"><i class=\"series-%d%s\"></i>",
                       chart->series[s].colour, chart->series[s].dashed ? " dashed" : "");
        npo_chart_escape(chart->series[s].name, buf);
        npo_buf_str(buf, "</span>");
    }
    npo_buf_str(buf, "</p>");
}

void npo_chart_draw(const npo_chart *chart, npo_buf *ret_buf)
{
    frame f = measure(chart);
    npo_buf_str(ret_buf, "<figure class=\"chart\"><figcaption>");
    npo_chart_escape(chart->title, ret_buf);
    npo_buf_str(ret_buf, "</figcaption>\n");
    if (f.empty) {
        npo_buf_str(ret_buf, "<p class=\"note\">no values</p></figure>\n");
        return;
    }
    npo_buf_printf(ret_buf, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", WIDTH, HEIGHT);
    npo_chart_escape(chart->title, ret_buf);
    npo_buf_str(ret_buf, "\">\n");
    draw_axes(chart, &f, ret_buf);
    for (size_t s = 0; s < chart->series_count; s++)
        draw_band(&chart->series[s], &f, ret_buf);
    for (size_t s = 0; s < chart->series_count; s++)
        draw_line(&chart->series[s], &f, chart->percent, ret_buf);
    npo_buf_str(ret_buf, "</svg>");
    draw_legend(chart, ret_buf);
    npo_buf_str(ret_buf, "</figure>\n");
}
