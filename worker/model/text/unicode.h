/* Character properties and canonical composition for the tokenizer; see unicode_data.py for the
 * Unicode versions they follow. */
#ifndef NPO_WORKER_MODEL_TEXT_UNICODE_H
#define NPO_WORKER_MODEL_TEXT_UNICODE_H

#include "common/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool npo_unicode_is_letter(uint32_t cp); /* \p{L} */
bool npo_unicode_is_number(uint32_t cp); /* \p{N} */
bool npo_unicode_is_space(uint32_t cp);  /* \s */
/* Lower case of one code point without context: 1 or 2 code points, returns their number. */
size_t npo_unicode_lower(uint32_t cp, uint32_t ret_lower[2]);

/* Growable list of code points. */
typedef struct {
    uint32_t *at; /* owned */
    size_t count, cap;
} npo_codepoints;

npo_err npo_codepoints_add(npo_codepoints *list, uint32_t cp) NPO_MUST_CHECK;
void npo_codepoints_fini(npo_codepoints *list);
/* Replaces the text by its NFC form. */
npo_err npo_unicode_nfc(npo_codepoints *text) NPO_MUST_CHECK;

#endif
