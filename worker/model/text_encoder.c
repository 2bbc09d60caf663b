#include "worker/model/text_encoder.h"

#include <stdlib.h>
#include <string.h>

enum { PARTS_MAX = 2 };

/* One tokenizer and one encoder. */
typedef struct {
    npo_clip_text_config config;
    npo_tokenizer *tokenizer;
    npo_layout *layout;
    npo_params *params;
    npo_graph *graph; /* of one prompt: ids -> "last", "penultimate" */
} encoder_part;

struct npo_text_encoder {
    encoder_part parts[PARTS_MAX];
    int count;
    int64_t length, channels, pooled;
    bool zero_empty_prompt;
};

/* ---- loading ---- */

static npo_err plan(encoder_part *part, npo_backend *backend, int64_t length, npo_error *error)
{
    npo_err err = npo_graph_new(backend, part->layout, &part->graph);
    if (err)
        return npo_error_set(error, err, "cannot record the text encoder: %s", npo_err_text(err));
    npo_value ids = npo_graph_input(part->graph, "ids", NPO_I32, 2, (int64_t[]){1, length});
    npo_clip_text_states states = npo_clip_text_record(part->graph, &part->config, ids, false);
    npo_graph_output(part->graph, "last", states.last);
    npo_graph_output(part->graph, "penultimate", states.penultimate);
    return npo_graph_plan(part->graph, &(npo_plan_options){.loss = NPO_VALUE_NONE}, NULL, error);
}

/* The tokenizer's length, where it says one, must fit the encoder's position table; its ids must
 * fit the token table. */
static npo_err match(const encoder_part *part, const char *tokenizer_dir, int64_t *ret_length,
                     npo_error *error)
{
    int64_t length = npo_tokenizer_max_length(part->tokenizer);
    size_t vocab = npo_tokenizer_vocab_size(part->tokenizer);
    if (length > part->config.positions)
        return npo_error_set(error, NPO_E_RANGE,
                             "'%s': model_max_length is %lld, expected at most the text encoder's "
                             "%lld positions",
                             tokenizer_dir, (long long)length, (long long)part->config.positions);
    if ((int64_t)vocab > part->config.vocab)
        return npo_error_set(error, NPO_E_RANGE,
                             "'%s': %zu tokens, expected at most the text encoder's %lld",
                             tokenizer_dir, vocab, (long long)part->config.vocab);
    *ret_length = length ? length : part->config.positions;
    return NPO_OK;
}

static npo_err load_part(npo_text_encoder *encoder, const npo_folder *folder, npo_backend *backend,
                         int index, npo_error *error)
{
    encoder_part *part = &encoder->parts[index];
    const char *tokenizer = index ? folder->tokenizer_2 : folder->tokenizer;
    int64_t length = 0;
    NPO_TRY(npo_tokenizer_load(tokenizer, &part->tokenizer, error));
    NPO_TRY((index ? npo_folder_load_text_2 : npo_folder_load_text)(
        folder, backend, &part->config, &part->layout, &part->params, error));
    NPO_TRY(match(part, tokenizer, &length, error));
    if (index && length != encoder->length)
        return npo_error_set(error, NPO_E_RANGE,
                             "'%s': prompts of %lld tokens, expected %lld as for the first text "
                             "encoder",
                             tokenizer, (long long)length, (long long)encoder->length);
    encoder->length = length;
    encoder->channels += part->config.hidden;
    if (part->config.with_projection)
        encoder->pooled = part->config.projection;
    return plan(part, backend, length, error);
}

npo_err npo_text_encoder_new(npo_backend *backend, const npo_folder *folder,
                             npo_text_encoder **ret_encoder, npo_error *error)
{
    npo_text_encoder *encoder = calloc(1, sizeof *encoder);
    npo_err err = NPO_OK;
    if (!encoder)
        return npo_error_set(error, NPO_E_NOMEM, "cannot create a text encoder: out of memory");
    encoder->count = folder->is_xl ? 2 : 1;
    encoder->zero_empty_prompt = folder->zero_empty_prompt;
    for (int i = 0; !err && i < encoder->count; i++)
        err = load_part(encoder, folder, backend, i, error);
    if (err) {
        npo_text_encoder_free(encoder);
        return err;
    }
    *ret_encoder = encoder;
    return NPO_OK;
}

void npo_text_encoder_free(npo_text_encoder *encoder)
{
    if (!encoder)
        return;
    for (int i = 0; i < encoder->count; i++) {
        encoder_part *part = &encoder->parts[i];
        npo_graph_free(part->graph);
        npo_params_free(part->params);
        npo_layout_unref(part->layout);
        npo_tokenizer_free(part->tokenizer);
    }
    free(encoder);
}

int64_t npo_text_encoder_length(const npo_text_encoder *encoder)
{
    return encoder->length;
}

int64_t npo_text_encoder_channels(const npo_text_encoder *encoder)
{
    return encoder->channels;
}

int64_t npo_text_encoder_pooled(const npo_text_encoder *encoder)
{
    return encoder->pooled;
}

/* ---- encoding ---- */

/* The part's state of one prompt into its channels of ret_embedding [L, C]. */
static npo_err encode_part(npo_text_encoder *encoder, const encoder_part *part, const char *prompt,
                           float *ret_embedding, float *ret_pooled, npo_error *error)
{
    npo_shape shape;
    size_t hidden = (size_t)part->config.hidden, length = (size_t)encoder->length;
    int32_t *ids = npo_graph_input_data(part->graph, "ids");
    NPO_TRY(
        npo_tokenizer_encode_padded(part->tokenizer, prompt, strlen(prompt), length, ids, error));
    NPO_TRY(npo_graph_forward(part->graph, part->params, error));
    const float *last = npo_graph_output_data(part->graph, "last", &shape);
    const float *penultimate = npo_graph_output_data(part->graph, "penultimate", &shape);
    const float *state = encoder->count > 1 ? penultimate : last;
    for (size_t i = 0; i < length; i++)
        memcpy(ret_embedding + i * (size_t)encoder->channels, state + i * hidden,
               hidden * sizeof *state);
    if (part->config.with_projection) {
        int64_t end = npo_clip_text_pooled_index(&part->config, ids, encoder->length);
        npo_clip_text_project(&part->config, part->params, last + (size_t)end * hidden, ret_pooled);
    }
    return NPO_OK;
}

npo_err npo_text_encoder_encode(npo_text_encoder *encoder, const char *const *prompts, size_t count,
                                float *ret_embeddings, float *ret_pooled, npo_error *error)
{
    size_t floats = (size_t)(encoder->length * encoder->channels);
    size_t pooled = (size_t)encoder->pooled;
    for (size_t i = 0; i < count; i++) {
        float *to = ret_embeddings + i * floats;
        for (int k = 0; k < encoder->count; k++) {
            NPO_TRY(encode_part(encoder, &encoder->parts[k], prompts[i], to,
                                pooled ? ret_pooled + i * pooled : NULL, error));
            to += encoder->parts[k].config.hidden;
        }
    }
    return NPO_OK;
}

npo_err npo_text_encoder_encode_empty(npo_text_encoder *encoder, float *ret_embedding,
                                      float *ret_pooled, npo_error *error)
{
    static const char *const empty[] = {""};
    if (!encoder->zero_empty_prompt)
        return npo_text_encoder_encode(encoder, empty, 1, ret_embedding, ret_pooled, error);
    memset(ret_embedding, 0, (size_t)(encoder->length * encoder->channels) * sizeof *ret_embedding);
    if (encoder->pooled)
        memset(ret_pooled, 0, (size_t)encoder->pooled * sizeof *ret_pooled);
    return NPO_OK;
}
