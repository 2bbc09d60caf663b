/* CLIP's tokenizer: byte-level BPE over NFC-normalised, white-space-collapsed, lower-cased text, as
 * transformers 5 has it (vocab.json, merges.txt, tokenizer_config.json). Immutable after loading,
 * so it can be shared between threads. */
#ifndef NPO_WORKER_MODEL_TEXT_TOKENIZER_H
#define NPO_WORKER_MODEL_TEXT_TOKENIZER_H

#include "common/err.h"
#include <stddef.h>
#include <stdint.h>

typedef struct npo_tokenizer npo_tokenizer;

/* dir: the folder of the three files. */
npo_err npo_tokenizer_load(const char *dir, npo_tokenizer **ret_tokenizer,
                           npo_error *error) NPO_MUST_CHECK;
void npo_tokenizer_free(npo_tokenizer *tokenizer);
/* "model_max_length", with both ends; 0 where the config has none or an absurd one. */
int64_t npo_tokenizer_max_length(const npo_tokenizer *tokenizer);
size_t npo_tokenizer_vocab_size(const npo_tokenizer *tokenizer); /* highest id + 1 */

/* Start token, text, end token; at most `limit` ids (>= 2): longer text is cut and the end token
 * kept. Invalid UTF-8 bytes become U+FFFD. ret_ids has room for `limit`; *ret_count are used.
 * text may hold NUL bytes. Errors: NPO_E_NOMEM, NPO_E_LIMIT for a text over 1 MiB. */
npo_err npo_tokenizer_encode(const npo_tokenizer *tokenizer, const char *text, size_t len,
                             size_t limit, int32_t *ret_ids, size_t *ret_count,
                             npo_error *error) NPO_MUST_CHECK;
/* The same, filled up with the pad token to exactly `length` ids. */
npo_err npo_tokenizer_encode_padded(const npo_tokenizer *tokenizer, const char *text, size_t len,
                                    size_t length, int32_t *ret_ids,
                                    npo_error *error) NPO_MUST_CHECK;

#endif
