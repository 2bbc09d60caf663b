/* Part of isa.c: flat kernels whose bits are the same for every instruction set: plain C in a fixed
 * order, never contracted, which the compiler may only vectorise element by element. */

static void vec_scale(size_t n, float a, float *x)
{
    for (size_t i = 0; i < n; i++)
        x[i] *= a;
}

static void vec_axpy(size_t n, float a, const float *x, float *restrict y)
{
    for (size_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

/* As torch.lerp: exact at both ends. */
static void vec_lerp(size_t n, float w, const float *x, float *restrict y)
{
    if (w < 0.5f)
        for (size_t i = 0; i < n; i++)
            y[i] = y[i] + w * (x[i] - y[i]);
    else
        for (size_t i = 0; i < n; i++)
            y[i] = x[i] - (x[i] - y[i]) * (1 - w);
}

static double vec_square_sum(size_t n, const float *x)
{
    enum { LANES = 16 };
    double lanes[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++)
            lanes[k] += (double)x[i + (size_t)k] * (double)x[i + (size_t)k];
    for (int k = 0; i < n; i++, k++)
        lanes[k] += (double)x[i] * (double)x[i];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int k = 0; k < half; k++)
            lanes[k] += lanes[k + half];
    return lanes[0];
}

/* The order of operations is that of torch.optim.AdamW. */
static void vec_adamw(size_t n, const npo_adamw_scalars *scalars, const float *restrict grad,
                      float *restrict param, float *restrict exp_avg, float *restrict exp_avg_sq)
{
    const npo_adamw_scalars s = *scalars;
    for (size_t i = 0; i < n; i++) {
        float g = grad[i];
        float p = param[i] * s.keep;
        float m = s.new1 < 0.5f ? exp_avg[i] + s.new1 * (g - exp_avg[i])
                                : g - (g - exp_avg[i]) * (1 - s.new1);
        float v = exp_avg_sq[i] * s.beta2 + s.new2 * g * g;
        exp_avg[i] = m;
        exp_avg_sq[i] = v;
        param[i] = p - s.step * (m / (sqrtf(v) / s.correction2 + s.eps));
    }
}
