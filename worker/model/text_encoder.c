#include "worker/model/text_encoder.h"

#include <stdlib.h>
#include <string.h>

struct npo_text_encoder {
    npo_clip_text_config config;
    npo_tokenizer *tokenizer;
    npo_layout *layout;
    npo_params *params;
    npo_graph *graph; /* of one prompt */
    int64_t length;
};

static npo_err plan(npo_text_encoder *encoder, npo_backend *backend, npo_error *error)
{
    npo_err err = npo_graph_new(backend, encoder->layout, &encoder->graph);
    if (err)
        return npo_error_set(error, err, "cannot record the text encoder: %s", npo_err_text(err));
    npo_value ids =
        npo_graph_input(encoder->graph, "ids", NPO_I32, 2, (int64_t[]){1, encoder->length});
    npo_graph_output(encoder->graph, "last",
                     npo_clip_text_record(encoder->graph, &encoder->config, ids, false));
    return npo_graph_plan(encoder->graph, &(npo_plan_options){.loss = NPO_VALUE_NONE}, NULL, error);
}

/* The tokenizer's length, where it says one, must fit the encoder's position table; its ids must
 * fit the token table. */
static npo_err match(npo_text_encoder *encoder, const char *tokenizer_dir, npo_error *error)
{
    int64_t length = npo_tokenizer_max_length(encoder->tokenizer);
    size_t vocab = npo_tokenizer_vocab_size(encoder->tokenizer);
    encoder->length = length ? length : encoder->config.positions;
    if (encoder->length > encoder->config.positions)
        return npo_error_set(error, NPO_E_RANGE,
                             "'%s': model_max_length is %lld, expected at most the text encoder's "
                             "%lld positions",
                             tokenizer_dir, (long long)length,
                             (long long)encoder->config.positions);
    if ((int64_t)vocab > encoder->config.vocab)
        return npo_error_set(error, NPO_E_RANGE,
                             "'%s': %zu tokens, expected at most the text encoder's %lld",
                             tokenizer_dir, vocab, (long long)encoder->config.vocab);
    return NPO_OK;
}

npo_err npo_text_encoder_new(npo_backend *backend, const npo_folder *folder,
                             npo_text_encoder **ret_encoder, npo_error *error)
{
    npo_text_encoder *encoder = calloc(1, sizeof *encoder);
    if (!encoder)
        return npo_error_set(error, NPO_E_NOMEM, "cannot create a text encoder: out of memory");
    npo_err err = npo_tokenizer_load(folder->tokenizer, &encoder->tokenizer, error);
    if (!err)
        err = npo_folder_load_text(folder, backend, &encoder->config, &encoder->layout,
                                   &encoder->params, error);
    if (!err)
        err = match(encoder, folder->tokenizer, error);
    if (!err)
        err = plan(encoder, backend, error);
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
    npo_graph_free(encoder->graph);
    npo_params_free(encoder->params);
    npo_layout_unref(encoder->layout);
    npo_tokenizer_free(encoder->tokenizer);
    free(encoder);
}

int64_t npo_text_encoder_length(const npo_text_encoder *encoder)
{
    return encoder->length;
}

int64_t npo_text_encoder_channels(const npo_text_encoder *encoder)
{
    return encoder->config.hidden;
}

npo_err npo_text_encoder_encode(npo_text_encoder *encoder, const char *const *prompts, size_t count,
                                float *ret_embeddings, npo_error *error)
{
    npo_shape shape;
    size_t floats = (size_t)(encoder->length * encoder->config.hidden);
    for (size_t i = 0; i < count; i++) {
        int32_t *ids = npo_graph_input_data(encoder->graph, "ids");
        NPO_TRY(npo_tokenizer_encode_padded(encoder->tokenizer, prompts[i], strlen(prompts[i]),
                                            (size_t)encoder->length, ids, error));
        NPO_TRY(npo_graph_forward(encoder->graph, encoder->params, error));
        memcpy(ret_embeddings + i * floats, npo_graph_output_data(encoder->graph, "last", &shape),
               floats * sizeof *ret_embeddings);
    }
    return NPO_OK;
}
