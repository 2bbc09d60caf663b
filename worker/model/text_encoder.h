/* Prompts to text embeddings: tokenizer, CLIP text encoder and its weights of one model folder, two
 * of each for an XL model. Each prompt is encoded by itself, so its embedding has the same bits
 * whatever else is asked. Belongs to one thread. */
#ifndef NPO_MODEL_TEXT_ENCODER_H
#define NPO_MODEL_TEXT_ENCODER_H

#include "kernels/backend.h"
#include "worker/model/folder.h"
#include "worker/model/networks/clip_text.h"
#include "worker/model/text/tokenizer.h"

typedef struct npo_text_encoder npo_text_encoder;

/* backend is borrowed for the encoder's life, folder for the call. Errors: NPO_E_RANGE where a
 * tokenizer and its encoder, or the two of an XL model, do not fit each other. */
npo_err npo_text_encoder_new(npo_backend *backend, const npo_folder *folder,
                             npo_text_encoder **ret_encoder, npo_error *error) NPO_MUST_CHECK;
void npo_text_encoder_free(npo_text_encoder *encoder);
int64_t npo_text_encoder_length(const npo_text_encoder *encoder);   /* L, tokens a prompt */
int64_t npo_text_encoder_channels(const npo_text_encoder *encoder); /* C; XL: of both, C1 + C2 */
int64_t npo_text_encoder_pooled(const npo_text_encoder *encoder);   /* P; 0 but for XL */

/* count UTF-8 prompts -> ret_embeddings [count, L, C] and ret_pooled [count, P], which may be NULL
 * where P is 0. Stable Diffusion 1: the last hidden state after the final norm. XL: the
 * next-to-last hidden states of both encoders without it, side by side, and the second encoder's
 * projected pooled state. */
npo_err npo_text_encoder_encode(npo_text_encoder *encoder, const char *const *prompts, size_t count,
                                float *ret_embeddings, float *ret_pooled,
                                npo_error *error) NPO_MUST_CHECK;
/* What stands for no prompt, [L, C] and [P]: the embedding of the empty text, or zeros where the
 * model wants them (npo_folder.zero_empty_prompt). */
npo_err npo_text_encoder_encode_empty(npo_text_encoder *encoder, float *ret_embedding,
                                      float *ret_pooled, npo_error *error) NPO_MUST_CHECK;

#endif
