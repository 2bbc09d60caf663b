/* Numbers, times and texts for people. Pure functions: every one writes a NUL-terminated text that
 * fits NPO_FORMAT_SIZE, "-" where the value is unknown (NaN, negative). */
#ifndef NPO_CTL_TEXT_FORMAT_H
#define NPO_CTL_TEXT_FORMAT_H

#include "common/buf.h"
#include <stdint.h>

enum { NPO_FORMAT_SIZE = 32 };

/* "0.4 s", "12 s", "3m05s", "2h04m", "3d04h" */
void npo_format_duration(double seconds, char ret_text[NPO_FORMAT_SIZE]);
/* "512 B", "1.2 KiB", "34 MiB": powers of 1024 */
void npo_format_bytes(double bytes, char ret_text[NPO_FORMAT_SIZE]);
/* "412/s", "4.1/s", "0.032/s" */
void npo_format_rate(double per_s, char ret_text[NPO_FORMAT_SIZE]);
/* Four significant digits: "0.01234", "1.234e-05" */
void npo_format_loss(double loss, char ret_text[NPO_FORMAT_SIZE]);
/* Wall time in this machine's zone: "2026-01-31 12:00:05" */
void npo_format_time(int64_t wall_ms, char ret_text[NPO_FORMAT_SIZE]);

/* Columns a text takes on a terminal: its code points (East Asian width is not looked at). */
size_t npo_text_width(const char *text);
/* Appends text without control characters, cut to width columns with "..." at the end (0: whole).
 */
void npo_text_clean(npo_buf *ret_buf, const char *text, size_t width);
/* Appends "[####------]" of width columns, at least 3, done / total of it filled. */
void npo_text_bar(npo_buf *ret_buf, double done, double total, size_t width);

#endif
