/* The guidance equation: out = pos(x, t, c) + w (pos(x, t, c) - neg(x, t, c')), w = guidance scale
 * - 1. The mixture of predictions for sampling (w > 0, one or two networks) and, with negative w,
 * the weakened generation of the training method. A branch whose coefficient is 0 is not computed:
 * at w = -1 no conditional, at w = 0 no negative prediction. Source: Diffusion-NPO, arXiv
 * 2505.11245. */
#ifndef NPO_DIFFUSION_GUIDANCE_H
#define NPO_DIFFUSION_GUIDANCE_H

#include "worker/diffusion/denoiser.h"

typedef struct {
    const npo_denoiser *positive; /* borrowed; may be the same as negative */
    const npo_denoiser *negative;
    float w;
    /* Share of the rescaled mixture: out * std(pos) / std(out) per sample (Lin et al., arXiv
     * 2305.08891). 0: off. Needs the conditional prediction, so not at w = -1. */
    float rescale;
} npo_guidance;

/* x [n, sample_floats], t [n], prompt [n], negative_prompt [n] -> ret_out [n, sample_floats].
 * scratch [n, sample_floats] is used where both branches are computed. Errors: NPO_E_RANGE (rescale
 * at w = -1), those of the denoisers. */
typedef struct {
    int64_t n;
    const float *x;
    const float *t;
    const int32_t *prompt, *negative_prompt;
    float *scratch;
} npo_guidance_input;

npo_err npo_guidance_predict(const npo_guidance *guidance, const npo_guidance_input *input,
                             float *ret_out, npo_error *error) NPO_MUST_CHECK;
/* ret[i] = pos[i] + w (pos[i] - neg[i]); ret may be pos or neg. */
void npo_guidance_mix(float w, size_t n, const float *pos, const float *neg, float *ret);

#endif
