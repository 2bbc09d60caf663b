/* Pieces of JSON text for a buffer, whose sticky failure is the only one. */
#ifndef NPO_WORKER_EVAL_JSON_OUT_H
#define NPO_WORKER_EVAL_JSON_OUT_H

#include "common/buf.h"

/* "text" in quotes, escaped; bytes over 0x7f as they are. */
void npo_json_out_text(npo_buf *buf, const char *text);
/* Whole numbers up to 2^53 exactly, others with 12 digits; null where not finite. */
void npo_json_out_number(npo_buf *buf, double value);
/* before, then "key": number. */
void npo_json_out_member(npo_buf *buf, const char *before, const char *key, double value);

#endif
