/* Prompts to text embeddings: tokenizer, CLIP text encoder and its weights of one model folder.
 * Each prompt is encoded by itself, so its embedding has the same bits whatever else is asked.
 * Belongs to one thread. */
#ifndef NPO_MODEL_TEXT_ENCODER_H
#define NPO_MODEL_TEXT_ENCODER_H

#include "kernels/backend.h"
#include "worker/model/folder.h"
#include "worker/model/networks/clip_text.h"
#include "worker/model/text/tokenizer.h"

typedef struct npo_text_encoder npo_text_encoder;

/* backend is borrowed for the encoder's life, folder for the call. */
npo_err npo_text_encoder_new(npo_backend *backend, const npo_folder *folder,
                             npo_text_encoder **ret_encoder, npo_error *error) NPO_MUST_CHECK;
void npo_text_encoder_free(npo_text_encoder *encoder);
int64_t npo_text_encoder_length(const npo_text_encoder *encoder);   /* L, tokens a prompt */
int64_t npo_text_encoder_channels(const npo_text_encoder *encoder); /* C */

/* count UTF-8 prompts -> ret_embeddings [count, L, C]: the last hidden state after the final norm,
 * as Stable Diffusion 1 uses it. */
npo_err npo_text_encoder_encode(npo_text_encoder *encoder, const char *const *prompts, size_t count,
                                float *ret_embeddings, npo_error *error) NPO_MUST_CHECK;

#endif
