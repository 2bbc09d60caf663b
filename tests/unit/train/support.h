/* A trainer on the small network, and batches with random contents. */
#ifndef NPO_TESTS_UNIT_TRAIN_SUPPORT_H
#define NPO_TESTS_UNIT_TRAIN_SUPPORT_H

#include "common/rng.h"
#include "tests/unit/cmocka.h"
#include "tests/unit/diffusion/small_unet.h"
#include "worker/train/step.h"

#include <string.h>

enum { SMALL_FLOATS = SMALL_SIDE * SMALL_SIDE * SMALL_CHANNELS };

static const npo_train_hyper small_hyper = {.lr = 1e-3,
                                            .weight_decay = 1e-2,
                                            .beta1 = 0.9,
                                            .beta2 = 0.999,
                                            .eps = 1e-8,
                                            .clip = 1,
                                            .ema_decay = 0.9,
                                            .steps = 100};

static inline npo_trainer_options small_options(small_unet *unet, npo_comm *comm,
                                                int64_t micro_batch, npo_optimizer_kind optimizer)
{
    return (npo_trainer_options){.backend = unet->backend,
                                 .layout = unet->layout,
                                 .config = &unet->config,
                                 .shape = unet->shape,
                                 .prompts = &unet->prompts,
                                 .comm = comm,
                                 .micro_batch = micro_batch,
                                 .loss = NPO_LOSS_PSEUDO_HUBER,
                                 .huber_c = 1e-3,
                                 .optimizer = optimizer,
                                 .hyper = small_hyper};
}

static inline npo_trainer *small_trainer_of(small_unet *unet, npo_comm *comm, int64_t micro_batch,
                                            npo_optimizer_kind optimizer)
{
    npo_trainer *trainer = NULL;
    npo_error error = {0};
    const npo_trainer_options options = small_options(unet, comm, micro_batch, optimizer);
    npo_err err = npo_trainer_new(&options, &trainer, &error);
    if (err)
        return NULL;
    npo_trainer_begin(trainer, unet->params);
    return trainer;
}

static inline npo_trainer *small_trainer(small_unet *unet, npo_comm *comm, int64_t micro_batch)
{
    return small_trainer_of(unet, comm, micro_batch, NPO_OPTIMIZER_ADAMW);
}

/* Row i of the batch is sample first + i, the same in every batch that holds it. */
static inline void small_batch(npo_batch *batch, int64_t first, int64_t n)
{
    npo_err err = npo_batch_init(batch, n, SMALL_FLOATS);
    for (int64_t i = 0; !err && i < n; i++) {
        npo_rng x = npo_rng_stream(1, NPO_RNG_NOISE, (uint32_t)(first + i), 0);
        npo_rng target = npo_rng_stream(2, NPO_RNG_NOISE, (uint32_t)(first + i), 0);
        npo_rng_gaussians(&x, SMALL_FLOATS, batch->x + i * SMALL_FLOATS);
        npo_rng_gaussians(&target, SMALL_FLOATS, batch->target + i * SMALL_FLOATS);
        batch->t[i] = (float)((first + i) * 97 % 1000);
        batch->ca[i] = 0.5f + (float)i / 10;
        batch->cb[i] = -0.25f - (float)i / 20;
        batch->prompt[i] = (int32_t)((first + i) % (SMALL_PROMPTS + 1)) - 1;
    }
}

static inline void assert_same_set(const npo_params *a, const npo_params *b)
{
    size_t floats = npo_layout_floats(npo_params_layout(a));
    assert_memory_equal(npo_params_data(a), npo_params_data(b), floats * sizeof(float));
}

static inline void assert_same_moments(const npo_moments *a, const npo_moments *b)
{
    const npo_layout *layout = npo_moments_layout(a);
    assert_int_equal(npo_moments_optimizer(a), npo_moments_optimizer(b));
    for (int which = 0; which < NPO_MOMENTS_COUNT; which++)
        for (size_t i = 0; i < npo_layout_count(layout); i++) {
            size_t n = npo_layout_at(layout, i)->count;
            npo_moment x = npo_moments_at(a, (npo_moment_kind)which, i);
            npo_moment y = npo_moments_at(b, (npo_moment_kind)which, i);
            if (x.values)
                assert_memory_equal(x.values, y.values, n * sizeof(float));
            else
                assert_memory_equal(x.blocks.codes, y.blocks.codes, n);
            if (!x.values)
                assert_memory_equal(x.blocks.absmax, y.blocks.absmax,
                                    npo_blockwise_blocks(n) * sizeof(float));
        }
}

static inline void assert_same_state(npo_trainer *a, npo_trainer *b)
{
    assert_int_equal(npo_trainer_step_count(a), npo_trainer_step_count(b));
    assert_same_set(npo_trainer_student(a), npo_trainer_student(b));
    assert_same_set(npo_trainer_ema(a), npo_trainer_ema(b));
    assert_same_moments(npo_trainer_moments(a), npo_trainer_moments(b));
}

#endif
