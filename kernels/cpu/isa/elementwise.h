/* Part of isa.c: element-wise kernels. */

typedef vf (*vf_map)(vf x);

ALWAYS_INLINE vf silu(vf x)
{
    return x * vf_sigmoid(x);
}

ALWAYS_INLINE vf silu_slope(vf x)
{
    vf s = vf_sigmoid(x);
    return s * vf_fma(x, vf_set(1) - s, vf_set(1));
}

ALWAYS_INLINE vf gelu(vf x)
{
    return x * vf_phi(x);
}

ALWAYS_INLINE vf gelu_slope(vf x)
{
    vf density = vf_set(0.398942280f) * vf_exp(vf_set(-0.5f) * x * x);
    return vf_fma(x, density, vf_phi(x));
}

ALWAYS_INLINE vf quick_gelu(vf x)
{
    return x * vf_sigmoid(vf_set(1.702f) * x);
}

ALWAYS_INLINE vf quick_gelu_slope(vf x)
{
    vf s = vf_sigmoid(vf_set(1.702f) * x);
    return s * vf_fma(vf_set(1.702f) * x, vf_set(1) - s, vf_set(1));
}

ALWAYS_INLINE vf relu(vf x)
{
    return vf_max(vf_set(0), x);
}

ALWAYS_INLINE vf relu_slope(vf x)
{
    return vf_select(x > vf_set(0), vf_set(1), vf_set(0));
}

ALWAYS_INLINE void map_forward(vf_map map, size_t n, const float *x, float *y)
{
    VF_EACH(i, m, n)
    vf_store_n(y + i, m, map(vf_load_n(x + i, m)));
}

ALWAYS_INLINE vf load_prev(const float *prev, size_t i, size_t m)
{
    return prev ? vf_load_n(prev + i, m) : vf_set(0);
}

ALWAYS_INLINE void map_backward(vf_map slope, size_t n, const float *x, const float *dy,
                                const float *prev, float *dx)
{
    VF_EACH(i, m, n)
    {
        vf d = slope(vf_load_n(x + i, m)) * vf_load_n(dy + i, m);
        vf_store_n(dx + i, m, d + load_prev(prev, i, m));
    }
}

static void act_forward(npo_act act, size_t n, const float *x, float *y)
{
    switch (act) {
    case NPO_ACT_NONE:
        break;
    case NPO_ACT_SILU:
        map_forward(silu, n, x, y);
        break;
    case NPO_ACT_GELU:
        map_forward(gelu, n, x, y);
        break;
    case NPO_ACT_QUICK_GELU:
        map_forward(quick_gelu, n, x, y);
        break;
    case NPO_ACT_RELU:
        map_forward(relu, n, x, y);
        break;
    }
}

static void act_backward(npo_act act, size_t n, const float *x, const float *dy, const float *prev,
                         float *dx)
{
    switch (act) {
    case NPO_ACT_NONE:
        break;
    case NPO_ACT_SILU:
        map_backward(silu_slope, n, x, dy, prev, dx);
        break;
    case NPO_ACT_GELU:
        map_backward(gelu_slope, n, x, dy, prev, dx);
        break;
    case NPO_ACT_QUICK_GELU:
        map_backward(quick_gelu_slope, n, x, dy, prev, dx);
        break;
    case NPO_ACT_RELU:
        map_backward(relu_slope, n, x, dy, prev, dx);
        break;
    }
}

static void geglu_forward(size_t rows, size_t c, const float *x, float *y)
{
    for (size_t r = 0; r < rows; r++, x += 2 * c, y += c)
        VF_EACH(i, m, c)
    vf_store_n(y + i, m, vf_load_n(x + i, m) * gelu(vf_load_n(x + c + i, m)));
}

static void geglu_backward(size_t rows, size_t c, const float *x, const float *dy,
                           const float *prev, float *dx)
{
    for (size_t r = 0; r < rows; r++, x += 2 * c, dy += c, dx += 2 * c) {
        VF_EACH(i, m, c)
        {
            vf a = vf_load_n(x + i, m), gate = vf_load_n(x + c + i, m), d = vf_load_n(dy + i, m);
            vf phi = vf_phi(gate);
            vf density = vf_set(0.398942280f) * vf_exp(vf_set(-0.5f) * gate * gate);
            vf slope = vf_fma(gate, density, phi);
            vf_store_n(dx + i, m, vf_fma(d, gate * phi, load_prev(prev, i, m)));
            vf_store_n(dx + c + i, m, vf_fma(d * a, slope, load_prev(prev, c + i, m)));
        }
        if (prev)
            prev += 2 * c;
    }
}

static void add(size_t n, const float *a, const float *b, float *y)
{
    VF_EACH(i, m, n)
    vf_store_n(y + i, m, vf_load_n(a + i, m) + vf_load_n(b + i, m));
}

static void accumulate(size_t n, float a, const float *x, const float *prev, float *y)
{
    VF_EACH(i, m, n)
    vf_store_n(y + i, m, vf_fma(vf_set(a), vf_load_n(x + i, m), load_prev(prev, i, m)));
}

static void mix(size_t n, float ca, const float *a, float cb, const float *b, float *y)
{
    VF_EACH(i, m, n)
    vf_store_n(y + i, m, vf_fma(vf_set(ca), vf_load_n(a + i, m), vf_set(cb) * vf_load_n(b + i, m)));
}

static void add_channels(size_t rows, size_t c, const float *x, const float *e, float *y)
{
    for (size_t r = 0; r < rows; r++, x += c, y += c)
        add(c, x, e, y);
}

static void column_sums(size_t rows, size_t c, size_t row, const float *x, const float *prev,
                        float *y)
{
    enum { BLOCK = 64 };
    VF_EACH(i, m, c)
    {
        double total[VW] = {0};
        for (size_t first = 0; first < rows; first += BLOCK) {
            size_t last = first + BLOCK < rows ? first + BLOCK : rows, r = first;
            vf a = vf_set(0), b = a, d = a, e = a;
            for (; r + 4 <= last; r += 4) {
                a += vf_load_n(x + r * row + i, m);
                b += vf_load_n(x + (r + 1) * row + i, m);
                d += vf_load_n(x + (r + 2) * row + i, m);
                e += vf_load_n(x + (r + 3) * row + i, m);
            }
            for (; r < last; r++)
                a += vf_load_n(x + r * row + i, m);
            a = (a + b) + (d + e);
            for (size_t k = 0; k < VW; k++)
                total[k] += (double)a[k];
        }
        for (size_t k = 0; k < m; k++)
            y[i + k] = (prev ? prev[i + k] : 0) + (float)total[k];
    }
}

static float largest(size_t n, const float *x)
{
    float most = x[0];
    size_t i = 0;
    if (n >= VW) {
        vf v = vf_load(x);
        for (i = VW; i + VW <= n; i += VW)
            v = vf_max(vf_load(x + i), v);
        most = vf_largest(v);
    }
    for (; i < n; i++)
        most = x[i] > most ? x[i] : most;
    return most;
}

/* e^x, and 0 where that would be below 1e-37: so that -inf is nothing at all. */
ALWAYS_INLINE vf exp_or_zero(vf x)
{
    return vf_select(x > vf_set(-85), vf_exp(x), vf_set(0));
}

static float exp_sum(size_t n, float shift, const float *x, float *y)
{
    vf sum = vf_set(0);
    size_t i = 0;
    for (; i + VW <= n; i += VW) {
        vf e = exp_or_zero(vf_load(x + i) - vf_set(shift));
        vf_store(y + i, e);
        sum += e;
    }
    float total = vf_sum(sum);
    if (i < n) {
        vf e = exp_or_zero(vf_load_n(x + i, n - i) - vf_set(shift));
        vf_store_n(y + i, n - i, e);
        for (size_t k = 0; k < n - i; k++)
            total += e[k];
    }
    return total;
}
