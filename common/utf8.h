/* UTF-8 decoding and encoding of single code points. */
#ifndef NPO_COMMON_UTF8_H
#define NPO_COMMON_UTF8_H

#include <stddef.h>
#include <stdint.h>

#define NPO_UTF8_INVALID ((uint32_t)0xFFFFFFFF)

/* Decodes the code point at *at (< end) and moves *at behind it. Overlong forms, surrogates and
 * values over U+10FFFF are NPO_UTF8_INVALID; *at then moves over the longest prefix of a valid form
 * (at least one byte), the part that one U+FFFD replaces by Unicode's recommendation. */
uint32_t npo_utf8_decode(const char **at, const char *end);
/* Writes 1 to 4 bytes, returns their number. cp must be a scalar value. */
size_t npo_utf8_encode(uint32_t cp, char ret_bytes[4]);

#endif
