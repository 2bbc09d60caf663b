#include "worker/data/order.h"
#include "worker/tasks/kinds.h"
#include "worker/tasks/training/fit.h"
#include "worker/train/random_weights.h"

#include <stdlib.h>

typedef struct {
    npo_context *ctx;
    npo_setup setup;
    npo_slots slots;
    npo_fit fit;
    npo_order *order;
    npo_params *random; /* init_random */
    float *sample;      /* one image or its latent */
} diffusion;

/* This rank's part of the images that the optimizer step draws from the endless shuffled order. */
static npo_err fill_batch(diffusion *d)
{
    const npo_dataset *data = d->setup.data;
    int64_t batch = d->ctx->task->spec->train.batch, first = d->ctx->task->rank * d->slots.local;
    for (int64_t i = 0; i < d->slots.local; i++) {
        int64_t index = npo_order_at(d->order, d->fit.draws.step * batch + first + i);
        NPO_TRY(npo_setup_sample(&d->setup, index, d->sample, d->ctx->error));
        npo_batch_diffusion(&d->fit.batch, &d->fit.draws, i, first + i, d->sample,
                            npo_dataset_prompt_of(data, index));
    }
    return NPO_OK;
}

static npo_err draw_random(diffusion *d)
{
    npo_err err = npo_params_new(d->setup.model->layout, &d->random);
    if (err != NPO_OK)
        return npo_context_fail(d->ctx, err, "random weights");
    return npo_random_weights(d->random, (uint64_t)d->ctx->task->spec->seed, d->ctx->error);
}

/* The weights that step 0 begins with, unless it is the model's. */
static npo_err choose_begin(diffusion *d)
{
    if (d->ctx->task->spec->init_random)
        return draw_random(d);
    if (!npo_model_has_weights(d->setup.model))
        return npo_error_set(d->ctx->error, NPO_E_NOT_FOUND,
                             "model '%s' has no weights, expected some, or \"init_random\": true",
                             d->setup.model->folder.root);
    return NPO_OK;
}

static npo_err begin(diffusion *d)
{
    npo_context *ctx = d->ctx;
    NPO_TRY(npo_setup_open(ctx, true, &d->setup));
    NPO_TRY(npo_slots_init(ctx, ctx->task->rank, ctx->task->world, &d->slots));
    NPO_TRY(choose_begin(d));
    d->sample = calloc(npo_latent_floats(d->setup.model->latent), sizeof *d->sample);
    if (!d->sample)
        return npo_context_fail(ctx, NPO_E_NOMEM, "sample");
    npo_err err =
        npo_order_new((uint64_t)ctx->task->spec->seed, npo_dataset_count(d->setup.data), &d->order);
    if (err != NPO_OK)
        return npo_context_fail(ctx, err, "order of the data");
    NPO_TRY(npo_fit_init(&d->fit, ctx, &d->setup, &d->slots, d->random));
    return NPO_OK;
}

static npo_err train(diffusion *d)
{
    for (int64_t i = 0; i < d->slots.steps; i++) {
        NPO_TRY(fill_batch(d));
        NPO_TRY(npo_fit_step(&d->fit));
    }
    return npo_fit_finish(&d->fit);
}

npo_err npo_kind_train_diffusion(npo_context *ctx)
{
    diffusion d = {.ctx = ctx};
    npo_err err = begin(&d);
    if (err == NPO_OK)
        err = train(&d);
    npo_fit_fini(&d.fit);
    npo_order_free(d.order);
    npo_params_free(d.random);
    free(d.sample);
    npo_slots_fini(&d.slots);
    npo_setup_fini(&d.setup);
    return err;
}
