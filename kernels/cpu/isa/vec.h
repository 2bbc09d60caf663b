/* Part of isa.c: flat kernels whose bits are the same for every instruction set: plain C in a fixed
 * order, never contracted, which the compiler may only vectorise element by element, or vectors of
 * independent elements. */

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
        float g = grad[i] * s.grad_scale;
        float p = param[i] * s.keep;
        float m = s.new1 < 0.5f ? exp_avg[i] + s.new1 * (g - exp_avg[i])
                                : g - (g - exp_avg[i]) * (1 - s.new1);
        float v = exp_avg_sq[i] * s.beta2 + s.new2 * g * g;
        exp_avg[i] = m;
        exp_avg_sq[i] = v;
        param[i] = p - s.step * (m / (sqrtf(v) / s.correction2 + s.eps));
    }
}

static void vec_read_codes(size_t n, const npo_dynamic_map *map, const uint8_t *codes, float absmax,
                           float *x)
{
    size_t whole = n / VW * VW;
    for (size_t i = 0; i < whole; i += VW)
        vf_store(x + i, vf_gather(map->code, vi_load_bytes(codes + i)) * vf_set(absmax));
    for (size_t i = whole; i < n; i++)
        x[i] = map->code[codes[i]] * absmax;
}

/* The nearest codes of parts of the largest magnitude, -1 to 1; of two equally near ones that
 * nearer to zero. */
ALWAYS_INLINE vi nearest_codes(const npo_dynamic_map *map, vf part)
{
    const vi none = {0};
    vf size = vf_abs(part);
    vi bucket = ((vi)size >> NPO_DYNAMIC_BUCKET_SHIFT) - NPO_DYNAMIC_BUCKET_FIRST;
    vi code = vi_gather(map->first, vi_max(bucket, none));
    code -= size > vf_gather(map->bound, code); /* true is -1 */
    vi mirrored = 2 * map->zero - vi_min(code, none + map->mirrored_last);
    vi is_negative = part < vf_set(0);
    return (is_negative & mirrored) | (~is_negative & code);
}

/* Returns the largest magnitude. */
static float vec_write_codes(size_t n, const npo_dynamic_map *map, const float *x, uint8_t *codes)
{
    vf most = vf_set(0);
    VF_EACH(i, m, n)
    most = vf_max(most, vf_abs(vf_load_n(x + i, m)));
    float absmax = vf_largest(most);
    size_t whole = n / VW * VW;
    if (absmax == 0) {
        memset(codes, map->zero, n);
        return 0;
    }
    for (size_t i = 0; i < whole; i += VW)
        vi_store_bytes(codes + i, nearest_codes(map, vf_load(x + i) / vf_set(absmax)));
    if (whole < n) {
        uint8_t last[VW];
        vi_store_bytes(last, nearest_codes(map, vf_load_n(x + whole, n - whole) / vf_set(absmax)));
        memcpy(codes + whole, last, n - whole);
    }
    return absmax;
}

static void vec_adamw8(size_t n, const npo_adamw_scalars *s, const float *restrict grad,
                       float *restrict param, npo_blockwise exp_avg, npo_blockwise exp_avg_sq)
{
    enum { BLOCK = NPO_DYNAMIC_BLOCK };
    float m[BLOCK], v[BLOCK];
    for (size_t at = 0, block = 0; at < n; at += BLOCK, block++) {
        size_t count = n - at < BLOCK ? n - at : (size_t)BLOCK;
        vec_read_codes(count, exp_avg.map, exp_avg.codes + at, exp_avg.absmax[block], m);
        vec_read_codes(count, exp_avg_sq.map, exp_avg_sq.codes + at, exp_avg_sq.absmax[block], v);
        vec_adamw(count, s, grad + at, param + at, m, v);
        exp_avg.absmax[block] = vec_write_codes(count, exp_avg.map, m, exp_avg.codes + at);
        exp_avg_sq.absmax[block] = vec_write_codes(count, exp_avg_sq.map, v, exp_avg_sq.codes + at);
    }
}
