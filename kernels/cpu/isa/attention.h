/* Part of isa.c: one head of attention, a block of queries at a time against all keys.
 *
 * Scratch: keys transposed, values transposed (backward), and two blocks of scores. */

static size_t round_lanes(size_t n)
{
    return (n + 15) / 16 * 16;
}

static void transpose(size_t rows, size_t columns, const float *x, size_t x_row, float *y,
                      size_t y_row)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < columns; c++)
            y[c * y_row + r] = x[r * x_row + c];
}

/* scores [rows, keys] = scale q k^T, -inf where causal forbids. */
static void block_scores(const npo_attention_sizes *s, size_t first, size_t rows, const float *q,
                         const float *keys_t, float *scores)
{
    size_t row = round_lanes(s->keys);
    product_run(&(product){.m = rows,
                           .n = s->keys,
                           .k = s->head_dim,
                           .a = q + first * s->stride,
                           .a_row = s->stride,
                           .a_col = 1,
                           .b = keys_t,
                           .b_row = row,
                           .c = scores,
                           .c_row = row});
    for (size_t r = 0; r < rows; r++) {
        float *x = scores + r * row;
        VF_EACH(i, m, s->keys)
        vf_store_n(x + i, m, vf_load_n(x + i, m) * vf_set(s->scale));
        for (size_t j = first + r + 1; s->causal && j < s->keys; j++)
            x[j] = -INFINITY;
    }
}

static void attention_forward(const npo_attention_sizes *s, const float *q, const float *k,
                              const float *v, float *out, float *lse, float *scratch)
{
    size_t row = round_lanes(s->keys);
    float *keys_t = scratch, *scores = keys_t + s->head_dim * row;
    transpose(s->keys, s->head_dim, k, s->stride, keys_t, row);
    for (size_t first = 0; first < s->queries; first += NPO_ATTENTION_ROWS) {
        size_t rows = s->queries - first < NPO_ATTENTION_ROWS ? s->queries - first
                                                              : (size_t)NPO_ATTENTION_ROWS;
        block_scores(s, first, rows, q, keys_t, scores);
        for (size_t r = 0; r < rows; r++) {
            float *x = scores + r * row;
            float most = largest(s->keys, x), sum = exp_sum(s->keys, most, x, x);
            if (lse)
                lse[first + r] = most + logf(sum);
            accumulate(s->keys, 1 / sum, x, NULL, x);
        }
        product_run(&(product){.m = rows,
                               .n = s->head_dim,
                               .k = s->keys,
                               .a = scores,
                               .a_row = row,
                               .a_col = 1,
                               .b = v,
                               .b_row = s->stride,
                               .c = out + first * s->stride,
                               .c_row = s->stride});
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
    size_t row = round_lanes(s->keys);
    for (size_t r = 0; r < rows; r++) {
        const float *p = scores + r * row;
        float *d = slopes + r * row;
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
    size_t row = round_lanes(s->keys), stride = s->stride;
    float *keys_t = scratch, *values_t = keys_t + s->head_dim * row;
    float *scores = values_t + s->head_dim * row, *slopes = scores + NPO_ATTENTION_ROWS * row;
    const size_t counts[] = {s->queries, s->keys, s->keys};
    transpose(s->keys, s->head_dim, k, stride, keys_t, row);
    transpose(s->keys, s->head_dim, v, stride, values_t, row);
    for (int i = 0; i < 3; i++)
        if (grad[i])
            begin_gradient(s, counts[i], prev[i], grad[i]);
    for (size_t first = 0; first < s->queries; first += NPO_ATTENTION_ROWS) {
        size_t rows = s->queries - first < NPO_ATTENTION_ROWS ? s->queries - first
                                                              : (size_t)NPO_ATTENTION_ROWS;
        const float *d = dout + first * stride;
        block_scores(s, first, rows, q, keys_t, scores);
        for (size_t r = 0; r < rows; r++)
            exp_sum(s->keys, lse[first + r], scores + r * row, scores + r * row);
        product_run(&(product){.m = rows,
                               .n = s->keys,
                               .k = s->head_dim,
                               .a = d,
                               .a_row = stride,
                               .a_col = 1,
                               .b = values_t,
                               .b_row = row,
                               .c = slopes,
                               .c_row = row});
        softmax_backward(s, rows, scores, slopes);
        if (grad[0])
            product_run(&(product){.m = rows,
                                   .n = s->head_dim,
                                   .k = s->keys,
                                   .a = slopes,
                                   .a_row = row,
                                   .a_col = 1,
                                   .b = k,
                                   .b_row = stride,
                                   .c = grad[0] + first * stride,
                                   .c_row = stride,
                                   .add = true});
        if (grad[1])
            product_run(&(product){.m = s->keys,
                                   .n = s->head_dim,
                                   .k = rows,
                                   .a = slopes,
                                   .a_row = 1,
                                   .a_col = row,
                                   .b = q + first * stride,
                                   .b_row = stride,
                                   .c = grad[1],
                                   .c_row = stride,
                                   .add = true});
        if (grad[2])
            product_run(&(product){.m = s->keys,
                                   .n = s->head_dim,
                                   .k = rows,
                                   .a = scores,
                                   .a_row = 1,
                                   .a_col = row,
                                   .b = d,
                                   .b_row = stride,
                                   .c = grad[2],
                                   .c_row = stride,
                                   .add = true});
    }
}
