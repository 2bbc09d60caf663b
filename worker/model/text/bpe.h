/* Byte-pair encoding of one word with CLIP's vocabulary: symbols are the bytes of the word in the
 * printable alphabet of byte-level BPE, the last one with "</w>"; the merge of lowest rank is
 * applied first, the leftmost of equals. Immutable after loading. */
#ifndef NPO_WORKER_MODEL_TEXT_BPE_H
#define NPO_WORKER_MODEL_TEXT_BPE_H

#include "common/err.h"
#include <stddef.h>
#include <stdint.h>

typedef struct npo_bpe npo_bpe;

/* unknown: token for a byte the vocabulary lacks, or NULL (then such a vocabulary is refused). */
npo_err npo_bpe_load(const char *vocab_path, const char *merges_path, const char *unknown,
                     npo_bpe **ret_bpe, npo_error *error) NPO_MUST_CHECK;
void npo_bpe_free(npo_bpe *bpe);
size_t npo_bpe_vocab_size(const npo_bpe *bpe); /* highest id + 1 */
/* -1 for a token the vocabulary lacks. */
int32_t npo_bpe_id(const npo_bpe *bpe, const char *token);
/* Ids of the word in ret_ids, which has room for len; returns their number, 0 for an empty word.
 * Errors: NPO_E_NOMEM. */
npo_err npo_bpe_encode(const npo_bpe *bpe, const char *word, size_t len, int32_t *ret_ids,
                       size_t *ret_count) NPO_MUST_CHECK;

#endif
