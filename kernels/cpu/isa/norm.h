/* Part of isa.c: group norm and layer norm.
 *
 * Sums over positions run in f32 over blocks and in f64 over blocks: exact to a few ulp at any
 * image size. */

enum { NORM_BLOCK = 64 };

/* Adds the lanes of v to m doubles. */
ALWAYS_INLINE void add_lanes(double *total, size_t m, vf v)
{
    for (size_t k = 0; k < m; k++)
        total[k] += (double)v[k];
}

ALWAYS_INLINE vf power_of(vf d, const int power, vf sum)
{
    return power == 1 ? sum + d : vf_fma(d, d, sum);
}

/* Sums over positions of (x - mean[c])^power, power 1 or 2, into m doubles. */
ALWAYS_INLINE void moment(size_t positions, size_t c, const float *x, vf mean, const int power,
                          size_t m, double *total)
{
    for (size_t first = 0; first < positions; first += NORM_BLOCK) {
        size_t last = first + NORM_BLOCK < positions ? first + NORM_BLOCK : positions, r = first;
        vf s0 = vf_set(0), s1 = s0, s2 = s0, s3 = s0;
        for (; r + 4 <= last; r += 4) {
            s0 = power_of(vf_load_n(x + r * c, m) - mean, power, s0);
            s1 = power_of(vf_load_n(x + (r + 1) * c, m) - mean, power, s1);
            s2 = power_of(vf_load_n(x + (r + 2) * c, m) - mean, power, s2);
            s3 = power_of(vf_load_n(x + (r + 3) * c, m) - mean, power, s3);
        }
        for (; r < last; r++)
            s0 = power_of(vf_load_n(x + r * c, m) - mean, power, s0);
        add_lanes(total, m, (s0 + s1) + (s2 + s3));
    }
}

static double group_sum(const double *channels, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += channels[i];
    return sum;
}

static void group_stats(const npo_group_norm_sizes *s, const float *x, float *stats, double *sums,
                        float *means)
{
    size_t size = s->channels / s->groups;
    double count = (double)size * (double)s->positions;
    for (int power = 1; power <= 2; power++) {
        memset(sums, 0, s->channels * sizeof *sums);
        VF_EACH(i, m, s->channels)
        {
            if (power == 1)
                moment(s->positions, s->channels, x + i, vf_set(0), 1, m, sums + i);
            else
                moment(s->positions, s->channels, x + i, vf_load_n(means + i, m), 2, m, sums + i);
        }
        for (size_t g = 0; g < s->groups; g++) {
            double mean = group_sum(sums + g * size, size) / count;
            stats[2 * g + power - 1] = (float)(power == 1 ? mean : 1 / sqrt(mean + (double)s->eps));
            for (size_t k = 0; k < size && power == 1; k++)
                means[g * size + k] = (float)mean;
        }
    }
}

/* y = act(x a + b) with a, b by channel. */
static void group_affine(const npo_group_norm_sizes *s, const float *gamma, const float *beta,
                         const float *stats, float *a, float *b)
{
    size_t size = s->channels / s->groups;
    for (size_t c = 0; c < s->channels; c++) {
        const float *group = stats + 2 * (c / size);
        a[c] = gamma[c] * group[1];
        b[c] = beta[c] - group[0] * a[c];
    }
}

ALWAYS_INLINE void scale_shift(size_t positions, size_t channels, bool act, const float *x,
                               const float *a, const float *b, float *y)
{
    VF_EACH(i, m, channels)
    {
        vf va = vf_load_n(a + i, m), vb = vf_load_n(b + i, m);
        for (size_t r = 0; r < positions; r++) {
            vf z = vf_fma(vf_load_n(x + r * channels + i, m), va, vb);
            vf_store_n(y + r * channels + i, m, act ? silu(z) : z);
        }
    }
}

static void group_norm_forward(const npo_group_norm_sizes *s, const float *x, const float *gamma,
                               const float *beta, float *y, float *stats, float *work)
{
    float *a = work, *b = work + s->channels;
    group_stats(s, x, stats, (double *)(void *)(work + 2 * s->channels), a);
    group_affine(s, gamma, beta, stats, a, b);
    if (s->silu)
        scale_shift(s->positions, s->channels, true, x, a, b, y);
    else
        scale_shift(s->positions, s->channels, false, x, a, b, y);
}

/* First half of the backward pass: slab = dy * act'(z), and its sums by channel: of itself, and
 * times (x - mean) / deviation. */
ALWAYS_INLINE void group_backward_sums(const npo_group_norm_sizes *s, bool act, const float *x,
                                       const float *dy, const float *a, const float *b,
                                       const float *means, const float *rstds, float *slab,
                                       double *sum, double *sum_hat)
{
    size_t channels = s->channels;
    VF_EACH(i, m, channels)
    {
        vf va = vf_load_n(a + i, m), vb = vf_load_n(b + i, m);
        vf mean = vf_load_n(means + i, m), rstd = vf_load_n(rstds + i, m);
        for (size_t first = 0; first < s->positions; first += NORM_BLOCK) {
            size_t last = first + NORM_BLOCK < s->positions ? first + NORM_BLOCK : s->positions;
            vf plain = vf_set(0), hat = vf_set(0);
            for (size_t r = first; r < last; r++) {
                size_t at = r * channels + i;
                vf v = vf_load_n(x + at, m), d = vf_load_n(dy + at, m);
                if (act)
                    d *= silu_slope(vf_fma(v, va, vb));
                vf_store_n(slab + at, m, d);
                plain += d;
                hat = vf_fma(d, (v - mean) * rstd, hat);
            }
            add_lanes(sum + i, m, plain);
            add_lanes(sum_hat + i, m, hat);
        }
    }
}

/* dx = prev + d a + x p + q by channel, with p and q from the group's sums. */
ALWAYS_INLINE void group_backward_apply(const npo_group_norm_sizes *s, const float *x,
                                        const float *slab, const float *a, const float *p,
                                        const float *q, const float *prev, float *dx)
{
    size_t channels = s->channels;
    VF_EACH(i, m, channels)
    {
        vf va = vf_load_n(a + i, m), vp = vf_load_n(p + i, m), vq = vf_load_n(q + i, m);
        for (size_t r = 0; r < s->positions; r++) {
            size_t at = r * channels + i;
            vf d = vf_fma(vf_load_n(x + at, m), vp, vq);
            d = vf_fma(vf_load_n(slab + at, m), va, d);
            vf_store_n(dx + at, m, d + load_prev(prev, at, m));
        }
    }
}

/* work holds a, then b or p, then means or q, then 1 / deviations; the sums in f64 behind. */
static void group_norm_backward(const npo_group_norm_sizes *s, const float *x, const float *gamma,
                                const float *beta, const float *stats, const float *dy,
                                const float *prev, float *dx, float *sums, float *slab, float *work)
{
    size_t channels = s->channels, size = channels / s->groups;
    float *a = work, *b = a + channels, *means = b + channels, *rstds = means + channels;
    double *sum = (double *)(void *)(work + 4 * channels), *sum_hat = sum + channels;
    group_affine(s, gamma, beta, stats, a, b);
    memset(sum, 0, 2 * channels * sizeof *sum);
    for (size_t c = 0; c < channels; c++) {
        means[c] = stats[2 * (c / size)];
        rstds[c] = stats[2 * (c / size) + 1];
    }
    if (s->silu)
        group_backward_sums(s, true, x, dy, a, b, means, rstds, slab, sum, sum_hat);
    else
        group_backward_sums(s, false, x, dy, a, b, means, rstds, slab, sum, sum_hat);
    for (size_t c = 0; c < channels; c++) {
        sums[c] = (float)sum_hat[c];
        sums[channels + c] = (float)sum[c];
    }
    if (!dx)
        return;
    double count = (double)size * (double)s->positions;
    for (size_t g = 0; g < s->groups; g++) {
        double total = 0, total_hat = 0, mean = (double)stats[2 * g],
               rstd = (double)stats[2 * g + 1];
        for (size_t c = g * size; c < (g + 1) * size; c++) {
            total += (double)gamma[c] * sum[c];
            total_hat += (double)gamma[c] * sum_hat[c];
        }
        for (size_t c = g * size; c < (g + 1) * size; c++) {
            b[c] = (float)(-rstd * rstd * total_hat / count);
            means[c] = (float)(-rstd * total / count + mean * rstd * rstd * total_hat / count);
        }
    }
    group_backward_apply(s, x, slab, a, b, means, prev, dx);
}

/* ---- layer norm ---- */

ALWAYS_INLINE float row_sum(size_t c, const float *x)
{
    vf sum = vf_set(0);
    VF_EACH(i, m, c)
    sum += vf_load_n(x + i, m);
    return vf_sum(sum);
}

/* Sum of (x - mean)^2; lanes past the end stay out. */
ALWAYS_INLINE float row_square_sum(size_t c, const float *x, float mean)
{
    vf sum = vf_set(0);
    size_t i = 0;
    for (; i + VW <= c; i += VW) {
        vf d = vf_load(x + i) - vf_set(mean);
        sum = vf_fma(d, d, sum);
    }
    float total = vf_sum(sum);
    for (; i < c; i++)
        total += (x[i] - mean) * (x[i] - mean);
    return total;
}

static void layer_norm_forward(size_t rows, size_t c, float eps, const float *x, const float *gamma,
                               const float *beta, float *y, float *stats)
{
    for (size_t r = 0; r < rows; r++, x += c, y += c) {
        float mean = row_sum(c, x) / (float)c;
        float rstd = 1 / sqrtf(row_square_sum(c, x, mean) / (float)c + eps);
        if (stats) {
            stats[2 * r] = mean;
            stats[2 * r + 1] = rstd;
        }
        VF_EACH(i, m, c)
        {
            vf hat = (vf_load_n(x + i, m) - vf_set(mean)) * vf_set(rstd);
            vf_store_n(y + i, m, vf_fma(hat, vf_load_n(gamma + i, m), vf_load_n(beta + i, m)));
        }
    }
}

static void layer_norm_row_backward(size_t c, const float *x, const float *gamma, float mean,
                                    float rstd, const float *dy, const float *prev, float *dx)
{
    vf plain = vf_set(0), hats = vf_set(0);
    VF_EACH(i, m, c)
    {
        vf hat = (vf_load_n(x + i, m) - vf_set(mean)) * vf_set(rstd);
        vf d = vf_load_n(dy + i, m) * vf_load_n(gamma + i, m);
        plain += d;
        hats = vf_fma(d, hat, hats);
    }
    float mean_d = vf_sum(plain) / (float)c, mean_hat = vf_sum(hats) / (float)c;
    VF_EACH(i, m, c)
    {
        vf hat = (vf_load_n(x + i, m) - vf_set(mean)) * vf_set(rstd);
        vf d = vf_load_n(dy + i, m) * vf_load_n(gamma + i, m);
        d = vf_set(rstd) * (d - vf_set(mean_d) - hat * vf_set(mean_hat));
        vf_store_n(dx + i, m, d + load_prev(prev, i, m));
    }
}

static void layer_norm_backward(size_t rows, size_t c, const float *x, const float *gamma,
                                const float *stats, const float *dy, const float *prev, float *dx,
                                float *sums)
{
    memset(sums, 0, 2 * c * sizeof *sums);
    for (size_t r = 0; r < rows; r++) {
        const float *xr = x + r * c, *dyr = dy + r * c;
        float mean = stats[2 * r], rstd = stats[2 * r + 1];
        VF_EACH(i, m, c)
        {
            vf hat = (vf_load_n(xr + i, m) - vf_set(mean)) * vf_set(rstd);
            vf d = vf_load_n(dyr + i, m);
            vf_store_n(sums + i, m, vf_fma(d, hat, vf_load_n(sums + i, m)));
            vf_store_n(sums + c + i, m, d + vf_load_n(sums + c + i, m));
        }
        if (dx)
            layer_norm_row_backward(c, xr, gamma, mean, rstd, dyr, prev ? prev + r * c : NULL,
                                    dx + r * c);
    }
}
