#include "worker/diffusion/denoiser.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct npo_network_denoiser {
    npo_denoiser base;
    npo_network *network;
    const npo_params *params;
    npo_prompts prompts;
    size_t context_floats, added_floats; /* the two parts of a prompt's row */
    int64_t micro_batch;
    float *x, *t, *context, *added; /* inputs of one micro-batch */
    float *out;
};

const float *npo_prompts_row(const npo_prompts *prompts, int32_t id)
{
    if (id == NPO_PROMPT_EMPTY)
        return prompts->empty;
    assert(id >= 0 && id < prompts->count);
    return prompts->rows + (size_t)id * prompts->floats;
}

static void feed_prompt(npo_network_denoiser *d, size_t index, const float *row)
{
    memcpy(d->context + index * d->context_floats, row, d->context_floats * sizeof *row);
    memcpy(d->added + index * d->added_floats, row + d->context_floats,
           d->added_floats * sizeof *row);
}

/* One micro-batch of `used` samples; the rest of its rows repeat the last. */
static npo_err predict_part(npo_network_denoiser *d, int64_t used, const float *x, const float *t,
                            const int32_t *prompt, float *ret_out, npo_error *error)
{
    size_t floats = d->base.sample_floats;
    for (int64_t i = 0; i < d->micro_batch; i++) {
        int64_t from = i < used ? i : used - 1;
        memcpy(d->x + (size_t)i * floats, x + (size_t)from * floats, floats * sizeof *x);
        d->t[i] = t[from];
        if (d->context_floats + d->added_floats)
            feed_prompt(d, (size_t)i, npo_prompts_row(&d->prompts, prompt[from]));
    }
    NPO_TRY(npo_network_eval(d->network, d->params, d->micro_batch, d->x, d->t, d->context,
                             d->added, d->out, error));
    memcpy(ret_out, d->out, (size_t)used * floats * sizeof *ret_out);
    return NPO_OK;
}

static npo_err predict(void *self, int64_t n, const float *x, const float *t, const int32_t *prompt,
                       float *ret_out, npo_error *error)
{
    npo_network_denoiser *d = self;
    size_t floats = d->base.sample_floats;
    for (int64_t i = 0; i < n; i += d->micro_batch) {
        int64_t used = n - i < d->micro_batch ? n - i : d->micro_batch;
        NPO_TRY(predict_part(d, used, x + (size_t)i * floats, t + i, prompt + i,
                             ret_out + (size_t)i * floats, error));
    }
    return NPO_OK;
}

npo_err npo_network_denoiser_new(npo_network *network, const npo_params *params,
                                 const npo_prompts *prompts, int64_t micro_batch,
                                 npo_network_denoiser **ret_denoiser, npo_error *error)
{
    const npo_unet_config *config = npo_network_config(network);
    size_t floats = npo_network_sample_floats(network);
    size_t context_floats = npo_network_context_floats(network);
    size_t added_floats = npo_network_added_floats(network);
    if (config->in_channels != config->out_channels)
        return npo_error_set(error, NPO_E_SHAPE,
                             "network: %lld output channels, expected %lld as it has inputs",
                             (long long)config->out_channels, (long long)config->in_channels);
    if (context_floats + added_floats && prompts->floats != context_floats + added_floats)
        return npo_error_set(error, NPO_E_SHAPE,
                             "text embeddings have %zu values a prompt, the network expects %zu",
                             prompts->floats, context_floats + added_floats);
    if (micro_batch < 1)
        return npo_error_set(error, NPO_E_RANGE, "micro-batch of %lld samples, expected 1 or more",
                             (long long)micro_batch);
    npo_network_denoiser *d = calloc(1, sizeof *d);
    if (!d)
        return npo_error_set(error, NPO_E_NOMEM, "denoiser: out of memory");
    d->base = (npo_denoiser){.self = d, .sample_floats = floats, .predict = predict};
    d->network = network;
    d->params = params;
    d->prompts = *prompts;
    d->context_floats = context_floats;
    d->added_floats = added_floats;
    d->micro_batch = micro_batch;
    size_t n = (size_t)micro_batch;
    d->x = calloc(n * floats, sizeof *d->x);
    d->out = calloc(n * floats, sizeof *d->out);
    d->t = calloc(n, sizeof *d->t);
    d->context = calloc(n * context_floats + 1, sizeof *d->context);
    d->added = calloc(n * added_floats + 1, sizeof *d->added);
    if (!d->x || !d->out || !d->t || !d->context || !d->added) {
        npo_network_denoiser_free(d);
        return npo_error_set(error, NPO_E_NOMEM, "denoiser: out of memory");
    }
    *ret_denoiser = d;
    return NPO_OK;
}

void npo_network_denoiser_free(npo_network_denoiser *denoiser)
{
    if (!denoiser)
        return;
    free(denoiser->x);
    free(denoiser->out);
    free(denoiser->t);
    free(denoiser->context);
    free(denoiser->added);
    free(denoiser);
}

const npo_denoiser *npo_network_denoiser_get(npo_network_denoiser *denoiser)
{
    return &denoiser->base;
}

void npo_network_denoiser_use(npo_network_denoiser *denoiser, const npo_params *params)
{
    denoiser->params = params;
}
