/* Sampling images with one or two networks, as the job's "sample" section says. */
#ifndef NPO_WORKER_TASKS_SAMPLING_DRAWER_H
#define NPO_WORKER_TASKS_SAMPLING_DRAWER_H

#include "worker/diffusion/sampler.h"
#include "worker/tasks/setup.h"
#include "worker/tasks/watch.h"

/* Images a forward pass where the job does not say: one of latents with more positions keeps a
 * processor busy by itself. */
enum { NPO_DRAWER_BATCH = 16, NPO_DRAWER_BATCH_POSITIONS = 32 * 32 };

/* Which starting noise an image has. */
typedef struct {
    uint64_t seed;
    uint32_t number;
} npo_drawer_noise;

typedef struct {
    npo_context *ctx;
    const npo_setup *setup;
    npo_sampler_settings settings;
    npo_network_denoiser *positive, *negative; /* negative NULL: one network */
    npo_watch positive_watch, negative_watch;
    int64_t batch;   /* images a forward pass */
    size_t floats;   /* of one image */
    float *latents;  /* [batch, ...]; NULL: samples are images */
    bool told_tiles; /* the log has it that the VAE works in tiles */
    /* [batch] */
    int32_t *prompts, *negative_prompts;
    npo_drawer_noise *noise;
} npo_drawer;

/* What to sample. */
typedef struct {
    double scale; /* guidance scale */
    bool two;     /* the second network predicts the negative branch, else the first does */
    uint64_t seed;
    int64_t first, n; /* images first .. first + n - 1, at most the drawer's batch. The number
                       * of an image decides its starting noise, and its prompt: they take turns.
                       * Where the job has seeds by prompt, images count by prompt. */
} npo_drawing;

/* positive, negative: weights; negative NULL: no second network. spacing: where the job says
 * DEFAULT and the sampler has it. *drawer must stay where it is. Errors: NPO_E_UNSUPPORTED for a
 * model whose samples are no pictures. */
npo_err npo_drawer_init(npo_drawer *drawer, npo_context *ctx, const npo_setup *setup,
                        npo_spacing spacing, const npo_params *positive,
                        const npo_params *negative) NPO_MUST_CHECK;
void npo_drawer_fini(npo_drawer *drawer);
/* Other weights for the second network. */
void npo_drawer_use_negative(npo_drawer *drawer, const npo_params *negative);
/* Seed and number of the starting noise of image `image`, as the job says; seed: the job's own. */
npo_drawer_noise npo_drawer_noise_of(const npo_job *job, size_t prompt_count, uint64_t seed,
                                     int64_t image);
/* ret_images: [n, height, width, channels] in pixels, clamped to [-1, 1]. */
npo_err npo_drawer_run(npo_drawer *drawer, const npo_drawing *drawing,
                       float *ret_images) NPO_MUST_CHECK;

#endif
