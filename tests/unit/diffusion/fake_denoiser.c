#include "tests/unit/diffusion/fake_denoiser.h"

#include <math.h>

double fake_denoiser_value(double x, double t, int32_t prompt)
{
    double c = prompt == NPO_PROMPT_EMPTY ? -0.1 : 0.2 + 0.01 * prompt;
    return 0.3 * x + 0.4 * sin(2 * x) + 0.1 * (t / 1000) + c;
}

static npo_err predict(void *self, int64_t n, const float *x, const float *t,
                       const int32_t *prompt, float *ret_out, npo_error *error)
{
    fake_denoiser *fake = self;
    if (++fake->calls == fake->fail_at)
        return npo_error_set(error, NPO_E_LIBRARY, "fake denoiser: told to fail");
    size_t floats = fake->base.sample_floats;
    for (int64_t i = 0; i < n; i++) {
        *(prompt[i] == NPO_PROMPT_EMPTY ? &fake->unconditional : &fake->conditional) += 1;
        for (size_t k = 0; k < floats; k++) {
            size_t at = (size_t)i * floats + k;
            ret_out[at] = fake->scale * (float)fake_denoiser_value(x[at], t[i], prompt[i]);
        }
    }
    return NPO_OK;
}

void fake_denoiser_init(fake_denoiser *fake, size_t sample_floats)
{
    *fake = (fake_denoiser){.scale = 1};
    fake->base = (npo_denoiser){.self = fake, .sample_floats = sample_floats, .predict = predict};
}
