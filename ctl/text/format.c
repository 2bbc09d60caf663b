#include "ctl/text/format.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static void put_unknown(char *ret_text)
{
    snprintf(ret_text, NPO_FORMAT_SIZE, "-");
}

/* ---- times ---- */

void npo_format_duration(double seconds, char ret_text[NPO_FORMAT_SIZE])
{
    static const struct {
        double below_s;
        int64_t major_s, minor_s;
        const char *format;
    } rows[] = {
        {3600, 60, 1, "%lldm%02llds"},
        {86400, 3600, 60, "%lldh%02lldm"},
        {INFINITY, 86400, 3600, "%lldd%02lldh"},
    };
    if (!(seconds >= 0) || seconds > 1e12) {
        put_unknown(ret_text);
        return;
    }
    if (seconds < 59.5) {
        snprintf(ret_text, NPO_FORMAT_SIZE, seconds < 9.95 ? "%.1f s" : "%.0f s", seconds);
        return;
    }
    int64_t whole = (int64_t)(seconds + 0.5);
    size_t i = 0;
    while ((double)whole >= rows[i].below_s)
        i++;
    snprintf(ret_text, NPO_FORMAT_SIZE, rows[i].format, (long long)(whole / rows[i].major_s),
             (long long)(whole % rows[i].major_s / rows[i].minor_s));
}

void npo_format_time(int64_t wall_ms, char ret_text[NPO_FORMAT_SIZE])
{
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm parts;
    if (wall_ms <= 0 || !localtime_r(&seconds, &parts) ||
        strftime(ret_text, NPO_FORMAT_SIZE, "%Y-%m-%d %H:%M:%S", &parts) == 0)
        put_unknown(ret_text);
}

/* ---- numbers ---- */

void npo_format_bytes(double bytes, char ret_text[NPO_FORMAT_SIZE])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    size_t i = 0;
    if (!(bytes >= 0) || isinf(bytes)) {
        put_unknown(ret_text);
        return;
    }
    while (bytes >= 1023.5 && i + 1 < sizeof units / sizeof *units) {
        bytes /= 1024;
        i++;
    }
    snprintf(ret_text, NPO_FORMAT_SIZE, i > 0 && bytes < 9.95 ? "%.1f %s" : "%.0f %s", bytes,
             units[i]);
}

void npo_format_rate(double per_s, char ret_text[NPO_FORMAT_SIZE])
{
    if (!(per_s > 0) || isinf(per_s))
        put_unknown(ret_text);
    else
        snprintf(ret_text, NPO_FORMAT_SIZE, per_s < 99.5 ? "%.2g/s" : "%.0f/s", per_s);
}

void npo_format_loss(double loss, char ret_text[NPO_FORMAT_SIZE])
{
    if (!isfinite(loss))
        put_unknown(ret_text);
    else
        snprintf(ret_text, NPO_FORMAT_SIZE, "%.4g", loss);
}

/* ---- texts ---- */

static bool is_continuation(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

size_t npo_text_width(const char *text)
{
    size_t width = 0;
    for (; *text; text++)
        width += !is_continuation(*text);
    return width;
}

void npo_text_clean(npo_buf *ret_buf, const char *text, size_t width)
{
    enum { DOTS = 3 };
    size_t total = npo_text_width(text), keep = total, column = 0;
    if (width > 0 && total > width)
        keep = width > DOTS ? width - DOTS : width;
    for (const char *at = text; *at; at++) {
        column += !is_continuation(*at);
        if (column > keep)
            break;
        bool control = (unsigned char)*at < 0x20 || *at == 0x7f;
        npo_buf_add(ret_buf, control ? " " : at, 1);
    }
    if (keep < total && width > DOTS)
        npo_buf_str(ret_buf, "...");
}

void npo_text_bar(npo_buf *ret_buf, double done, double total, size_t width)
{
    size_t inner = width > 3 ? width - 2 : 1;
    double share = total > 0 && done > 0 ? done / total : 0;
    size_t filled = share >= 1 ? inner : (size_t)(share * (double)inner);
    npo_buf_str(ret_buf, "[");
    for (size_t i = 0; i < inner; i++)
        npo_buf_str(ret_buf, i < filled ? "#" : "-");
    npo_buf_str(ret_buf, "]");
}
