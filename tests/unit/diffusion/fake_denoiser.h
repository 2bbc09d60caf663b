/* A denoiser with a formula instead of a network: 0.3 x + 0.4 sin(2 x) + 0.1 t / 1000 + c, element
 * by element, c = 0.2 + 0.01 id for prompt id and -0.1 for the empty one. Counts what it is asked.
 */
#ifndef NPO_TESTS_UNIT_DIFFUSION_FAKE_DENOISER_H
#define NPO_TESTS_UNIT_DIFFUSION_FAKE_DENOISER_H

#include "worker/diffusion/denoiser.h"

typedef struct {
    npo_denoiser base;
    int64_t calls;
    int64_t conditional, unconditional; /* samples predicted with and without a prompt */
    float scale;                        /* of the output; 1 */
    int64_t fail_at;                    /* call (from 1) that returns NPO_E_LIBRARY; 0: none */
} fake_denoiser;

/* base.self points to the struct, which must not move. */
void fake_denoiser_init(fake_denoiser *fake, size_t sample_floats);
double fake_denoiser_value(double x, double t, int32_t prompt);

#endif
