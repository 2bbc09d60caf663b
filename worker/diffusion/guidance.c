#include "worker/diffusion/guidance.h"

#include <math.h>

void npo_guidance_mix(float w, size_t n, const float *pos, const float *neg, float *ret)
{
    for (size_t i = 0; i < n; i++)
        ret[i] = pos[i] + w * (pos[i] - neg[i]);
}

static double deviation(size_t n, const float *x)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++)
        squares += (x[i] - mean) * (x[i] - mean);
    return sqrt(squares / (double)n);
}

/* share * out * std(pos) / std(out) + (1 - share) * out */
static void rescale(float share, double pos_deviation, size_t n, float *out)
{
    double out_deviation = deviation(n, out);
    if (out_deviation == 0)
        return;
    float factor = (float)(share * pos_deviation / out_deviation + (1 - share));
    for (size_t i = 0; i < n; i++)
        out[i] *= factor;
}

npo_err npo_guidance_predict(const npo_guidance *guidance, const npo_guidance_input *input,
                             float *ret_out, npo_error *error)
{
    const npo_denoiser *pos = guidance->positive, *neg = guidance->negative;
    float w = guidance->w;
    if (guidance->rescale != 0 && w == -1)
        return npo_error_set(
            error, NPO_E_RANGE,
            "guidance rescale %g needs the conditional prediction, which a guidance "
            "scale of 0 leaves out",
            (double)guidance->rescale);
    if (w == 0)
        return pos->predict(pos->self, input->n, input->x, input->t, input->prompt, ret_out, error);
    if (w == -1)
        return neg->predict(neg->self, input->n, input->x, input->t, input->negative_prompt,
                            ret_out, error);
    NPO_TRY(pos->predict(pos->self, input->n, input->x, input->t, input->prompt, ret_out, error));
    NPO_TRY(neg->predict(neg->self, input->n, input->x, input->t, input->negative_prompt,
                         input->scratch, error));
    size_t floats = pos->sample_floats;
    for (int64_t i = 0; i < input->n; i++) {
        float *out = ret_out + (size_t)i * floats;
        double pos_deviation = guidance->rescale != 0 ? deviation(floats, out) : 0;
        npo_guidance_mix(w, floats, out, input->scratch + (size_t)i * floats, out);
        if (guidance->rescale != 0)
            rescale(guidance->rescale, pos_deviation, floats, out);
    }
    return NPO_OK;
}
