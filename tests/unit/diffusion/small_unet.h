/* A network small enough for unit tests (8x8x2 latents, two levels, attention on one), with random
 * weights. */
#ifndef NPO_TESTS_UNIT_DIFFUSION_SMALL_UNET_H
#define NPO_TESTS_UNIT_DIFFUSION_SMALL_UNET_H

#include "worker/diffusion/denoiser.h"
#include "worker/diffusion/trajectory/segment.h"

enum {
    SMALL_SIDE = 8,
    SMALL_CHANNELS = 2,
    SMALL_TOKENS = 3,
    SMALL_CONTEXT = 8,
    SMALL_PROMPTS = 4,
    SMALL_POOLED = 5,
    SMALL_ADDED = SMALL_POOLED + NPO_UNET_TIME_IDS,
};

typedef struct {
    npo_backend *backend;
    npo_unet_config config;
    npo_network_shape shape;
    npo_latent_shape latent;
    npo_layout *layout;
    npo_params *params;
    npo_prompts prompts;
    float embeddings[(SMALL_PROMPTS + 1) * (SMALL_TOKENS * SMALL_CONTEXT + SMALL_ADDED)];
} small_unet;

/* Asserts that everything works. */
void small_unet_init(small_unet *unet, uint64_t seed);
/* The same with added conditioning on a pooled text and time ids. */
void small_unet_init_added(small_unet *unet, uint64_t seed);
void small_unet_fini(small_unet *unet);

#endif
