#include "common/base64.h"

#include <stdint.h>
#include <string.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void npo_base64_encode(const void *bytes, size_t len, npo_buf *ret_text)
{
    const uint8_t *at = bytes;
    for (size_t i = 0; i < len; i += 3) {
        size_t n = len - i < 3 ? len - i : 3;
        uint32_t group = (uint32_t)at[i] << 16;
        group |= n > 1 ? (uint32_t)at[i + 1] << 8 : 0;
        group |= n > 2 ? (uint32_t)at[i + 2] : 0;
        char out[4] = {digits[group >> 18], digits[group >> 12 & 63], '=', '='};
        if (n > 1)
            out[2] = digits[group >> 6 & 63];
        if (n > 2)
            out[3] = digits[group & 63];
        npo_buf_add(ret_text, out, sizeof out);
    }
}

/* Four digits as up to three bytes; 0: malformed. */
static size_t decode_group(const char *text, uint8_t out[3])
{
    uint32_t group = 0;
    size_t pads = 0;
    for (int i = 0; i < 4; i++) {
        const char *digit = text[i] ? strchr(digits, text[i]) : NULL;
        if (text[i] == '=' && i >= 2)
            pads++;
        else if (!digit || pads > 0)
            return 0;
        group = group << 6 | (digit && text[i] != '=' ? (uint32_t)(digit - digits) : 0);
    }
    /* Bits behind the last byte are 0, so that bytes have one text. */
    if ((pads == 1 && (group & 0xff)) || (pads == 2 && (group & 0xffff)))
        return 0;
    out[0] = (uint8_t)(group >> 16);
    out[1] = (uint8_t)(group >> 8);
    out[2] = (uint8_t)group;
    return 3 - pads;
}

npo_err npo_base64_decode(const char *text, void *ret_bytes, size_t size, size_t *ret_len)
{
    size_t text_len = strlen(text), len = 0;
    uint8_t *to = ret_bytes;
    if (text_len % 4 != 0)
        return NPO_E_FORMAT;
    for (size_t i = 0; i < text_len; i += 4) {
        uint8_t group[3];
        size_t n = decode_group(text + i, group);
        if (n == 0 || (n < 3 && i + 4 < text_len))
            return NPO_E_FORMAT;
        if (n > size - len)
            return NPO_E_LIMIT;
        memcpy(to + len, group, n);
        len += n;
    }
    *ret_len = len;
    return NPO_OK;
}
