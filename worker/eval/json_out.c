#include "worker/eval/json_out.h"
#include <math.h>

#define WHOLE_MAX 9007199254740992.0 /* 2^53 */

void npo_json_out_text(npo_buf *buf, const char *text)
{
    npo_buf_str(buf, "\"");
    for (; *text; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte == '"' || byte == '\\')
            npo_buf_printf(buf, "\\%c", byte);
        else if (byte < 0x20)
            npo_buf_printf(buf, "\\u%04x", byte);
        else
            npo_buf_add(buf, text, 1);
    }
    npo_buf_str(buf, "\"");
}

void npo_json_out_number(npo_buf *buf, double value)
{
    if (!isfinite(value))
        npo_buf_str(buf, "null");
    else if (value == floor(value) && fabs(value) <= WHOLE_MAX)
        npo_buf_printf(buf, "%.0f", value);
    else
        npo_buf_printf(buf, "%.12g", value);
}

void npo_json_out_member(npo_buf *buf, const char *before, const char *key, double value)
{
    npo_buf_str(buf, before);
    npo_json_out_text(buf, key);
    npo_buf_str(buf, ": ");
    npo_json_out_number(buf, value);
}
