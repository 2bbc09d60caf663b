/* Base64 (RFC 4648, with padding): bytes inside JSON. */
#ifndef NPO_COMMON_BASE64_H
#define NPO_COMMON_BASE64_H

#include "common/buf.h"

void npo_base64_encode(const void *bytes, size_t len, npo_buf *ret_text);
/* Errors: NPO_E_FORMAT for anything but whole, padded, canonical base64; NPO_E_LIMIT when size is
 * too small for the bytes. */
npo_err npo_base64_decode(const char *text, void *ret_bytes, size_t size,
                          size_t *ret_len) NPO_MUST_CHECK;

#endif
