/* Part of isa.c: one head of attention, a block of queries at a time against all keys.
 *
 * Scratch: keys and values in panels (gemm.h) as the products read them, a block of queries or of
 * output gradients in panels, and two blocks of scores. Rows of scores lie apart by a little more
 * than their floats: at a power of two they would meet in one set of the caches. */

/* Floats of a matrix [k, n] in panels. */
ALWAYS_INLINE size_t panel_floats(size_t k, size_t n)
{
    return (n + GEMM_WIDTH - 1) / GEMM_WIDTH * GEMM_WIDTH * k;
}

ALWAYS_INLINE size_t score_row(const npo_attention_sizes *s)
{
    return (s->keys + 15) / 16 * 16 + 16;
}

static size_t attention_scratch(const npo_attention_sizes *s)
{
    size_t floats = 2 * panel_floats(s->head_dim, s->keys) + 2 * panel_floats(s->keys, s->head_dim);
    floats += panel_floats(NPO_ATTENTION_ROWS, s->head_dim);
    return (floats + 15) / 16 * 16 + 2 * NPO_ATTENTION_ROWS * score_row(s);
}

ALWAYS_INLINE npo_rows rows_apart(size_t row)
{
    return (npo_rows){.width = SIZE_MAX, .row = row};
}

/* x [rows, head_dim], `stride` apart, as the right side of a product; transposed: [head_dim, rows].
 */
static void pack_head(const npo_attention_sizes *s, size_t rows, const float *x, bool transposed,
                      float *to)
{
    npo_gemm g = {
        .n = transposed ? rows : s->head_dim,
        .k = transposed ? s->head_dim : rows,
        .b = x,
        .b_rows = rows_apart(transposed ? 1 : s->stride),
        .b_column = transposed ? s->stride : 1,
    };
    gemm_pack_b(&g, 0, g.k, 0, g.n, to);
}

/* scores [rows, keys] = x [rows, head_dim] times packed [head_dim, keys] */
static void block_scores(const npo_attention_sizes *s, size_t rows, const float *x,
                         const float *packed, float *scores)
{
    gemm_panels(&(npo_gemm){.m = rows,
                            .n = s->keys,
                            .k = s->head_dim,
                            .a = x,
                            .a_rows = rows_apart(s->stride),
                            .b = packed,
                            .c = scores,
                            .c_rows = rows_apart(score_row(s))});
}

/* y [rows, head_dim] = add + scores [rows, keys] times packed [keys, head_dim] */
static void block_mix(const npo_attention_sizes *s, size_t rows, const float *scores,
                      const float *packed, const float *add, float *y)
{
    gemm_panels(&(npo_gemm){.m = rows,
                            .n = s->head_dim,
                            .k = s->keys,
                            .a = scores,
                            .a_rows = rows_apart(score_row(s)),
                            .b = packed,
                            .add = add,
                            .c = y,
                            .c_rows = rows_apart(s->stride)});
}

/* y [keys, head_dim] += scores^T [keys, rows] times packed [rows, head_dim] */
static void block_transposed_add(const npo_attention_sizes *s, size_t rows, const float *scores,
                                 const float *packed, float *y)
{
    gemm_panels(&(npo_gemm){.m = s->keys,
                            .n = s->head_dim,
                            .k = rows,
                            .a = scores,
                            .a_rows = rows_apart(score_row(s)),
                            .a_transposed = true,
                            .b = packed,
                            .add = y,
                            .c = y,
                            .c_rows = rows_apart(s->stride)});
}

/* x = e^(scale x - shift) for one query's scores, 0 where causal forbids; returns the sum. */
static float score_exponentials(const npo_attention_sizes *s, size_t query, float shift, float *x)
{
    size_t seen = s->causal ? least(query + 1, s->keys) : s->keys, i = 0;
    vf sum = vf_set(0);
    for (; i + VW <= seen; i += VW) {
        vf e = exp_or_zero(vf_fma(vf_load(x + i), vf_set(s->scale), vf_set(-shift)));
        vf_store(x + i, e);
        sum += e;
    }
    float total = vf_sum(sum);
    if (i < seen) {
        vf e = exp_or_zero(vf_fma(vf_load_n(x + i, seen - i), vf_set(s->scale), vf_set(-shift)));
        vf_store_n(x + i, seen - i, e);
        for (size_t k = 0; k < seen - i; k++)
            total += e[k];
    }
    memset(x + seen, 0, (s->keys - seen) * sizeof *x);
    return total;
}

static void attention_forward(const npo_attention_sizes *s, const float *q, const float *k,
                              const float *v, float *out, float *lse, float *scratch)
{
    float *keys_t = scratch, *values = keys_t + panel_floats(s->head_dim, s->keys);
    float *scores = scratch + attention_scratch(s) - 2 * NPO_ATTENTION_ROWS * score_row(s);
    pack_head(s, s->keys, k, true, keys_t);
    pack_head(s, s->keys, v, false, values);
    for (size_t first = 0; first < s->queries; first += NPO_ATTENTION_ROWS) {
        size_t rows = least(s->queries - first, NPO_ATTENTION_ROWS);
        float sums[NPO_ATTENTION_ROWS], *y = out + first * s->stride;
        block_scores(s, rows, q + first * s->stride, keys_t, scores);
        for (size_t r = 0; r < rows; r++) {
            float *x = scores + r * score_row(s);
            size_t seen = s->causal ? least(first + r + 1, s->keys) : s->keys;
            float most = s->scale * largest(seen, x);
            sums[r] = score_exponentials(s, first + r, most, x);
            if (lse)
                lse[first + r] = most + logf(sums[r]);
        }
        block_mix(s, rows, scores, values, NULL, y);
        for (size_t r = 0; r < rows; r++)
            accumulate(s->head_dim, 1 / sums[r], y + r * s->stride, NULL, y + r * s->stride);
    }
}

/* Rows of prev (or zeros) to grad, so that products can be added to it. */
static void begin_gradient(const npo_attention_sizes *s, size_t rows, const float *prev,
                           float *grad)
{
    for (size_t r = 0; r < rows && prev != grad; r++) {
        if (prev)
            memcpy(grad + r * s->stride, prev + r * s->stride, s->head_dim * sizeof *grad);
        else
            memset(grad + r * s->stride, 0, s->head_dim * sizeof *grad);
    }
}

/* scores: probabilities p on entry; slopes: dp on entry, ds = scale p (dp - sum(p dp)) on return.
 */
static void softmax_backward(const npo_attention_sizes *s, size_t rows, const float *scores,
                             float *slopes)
{
    for (size_t r = 0; r < rows; r++) {
        const float *p = scores + r * score_row(s);
        float *d = slopes + r * score_row(s);
        vf sum = vf_set(0);
        VF_EACH(i, m, s->keys)
        sum = vf_fma(vf_load_n(p + i, m), vf_load_n(d + i, m), sum);
        vf delta = vf_set(vf_sum(sum));
        VF_EACH(i, m, s->keys)
        vf_store_n(d + i, m,
                   vf_set(s->scale) * vf_load_n(p + i, m) * (vf_load_n(d + i, m) - delta));
    }
}

static void attention_backward(const npo_attention_sizes *s, const float *q, const float *k,
                               const float *v, const float *lse, const float *dout,
                               float *const prev[3], float *const grad[3], float *scratch)
{
    float *keys_t = scratch, *values_t = keys_t + panel_floats(s->head_dim, s->keys);
    float *keys = values_t + panel_floats(s->head_dim, s->keys);
    float *block = keys + 2 * panel_floats(s->keys, s->head_dim);
    float *scores = scratch + attention_scratch(s) - 2 * NPO_ATTENTION_ROWS * score_row(s);
    float *slopes = scores + NPO_ATTENTION_ROWS * score_row(s);
    const size_t counts[] = {s->queries, s->keys, s->keys};
    pack_head(s, s->keys, k, true, keys_t);
    pack_head(s, s->keys, v, true, values_t);
    pack_head(s, s->keys, k, false, keys);
    for (int i = 0; i < 3; i++)
        if (grad[i])
            begin_gradient(s, counts[i], prev[i], grad[i]);
    for (size_t first = 0; first < s->queries; first += NPO_ATTENTION_ROWS) {
        size_t rows = least(s->queries - first, NPO_ATTENTION_ROWS), at = first * s->stride;
        block_scores(s, rows, q + at, keys_t, scores);
        for (size_t r = 0; r < rows; r++)
            score_exponentials(s, first + r, lse[first + r], scores + r * score_row(s));
        block_scores(s, rows, dout + at, values_t, slopes);
        softmax_backward(s, rows, scores, slopes);
        if (grad[0])
            block_mix(s, rows, slopes, keys, grad[0] + at, grad[0] + at);
        if (grad[1]) {
            pack_head(s, rows, q + at, false, block);
            block_transposed_add(s, rows, slopes, block, grad[1]);
        }
        if (grad[2]) {
            pack_head(s, rows, dout + at, false, block);
            block_transposed_add(s, rows, scores, block, grad[2]);
        }
    }
}
