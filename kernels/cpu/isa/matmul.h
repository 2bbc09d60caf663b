/* Part of isa.c: small matrix products, c = a b or c += a b. Element (i, p) of a lies at
 * a[i * a_row + p * a_col], so that a may be transposed; rows of b and c are contiguous. */

typedef struct {
    size_t m, n, k;
    const float *a;
    size_t a_row, a_col;
    const float *b;
    size_t b_row;
    float *c;
    size_t c_row;
    bool add;
} product;

#if defined(__AVX512F__)
enum { TILE_ROWS = 8, TILE_VECTORS = 3 };
#elif defined(__AVX2__)
enum { TILE_ROWS = 6, TILE_VECTORS = 2 };
#else
enum { TILE_ROWS = 4, TILE_VECTORS = 2 };
#endif

/* rows x vectors of c at (i, j), both known when compiled; m lanes in the last vector. */
ALWAYS_INLINE void product_tile(const product *p, const int rows, const int vectors, size_t i,
                                size_t j, size_t m)
{
    const float *a = p->a + i * p->a_row, *b = p->b + j;
    float *c = p->c + i * p->c_row + j;
    vf sum[TILE_ROWS][TILE_VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sum[r][v] = p->add ? vf_load_n(c + (size_t)r * p->c_row + (size_t)v * VW,
                                           v == vectors - 1 ? m : (size_t)VW)
                               : vf_set(0);
    for (size_t k = 0; k < p->k; k++) {
        vf row[TILE_VECTORS];
        for (int v = 0; v < vectors; v++)
            row[v] =
                vf_load_n(b + k * p->b_row + (size_t)v * VW, v == vectors - 1 ? m : (size_t)VW);
        for (int r = 0; r < rows; r++) {
            vf x = vf_set(a[(size_t)r * p->a_row + k * p->a_col]);
            for (int v = 0; v < vectors; v++)
                sum[r][v] = vf_fma(x, row[v], sum[r][v]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            vf_store_n(c + (size_t)r * p->c_row + (size_t)v * VW, v == vectors - 1 ? m : (size_t)VW,
                       sum[r][v]);
}

ALWAYS_INLINE void product_rows(const product *p, const int vectors, size_t j, size_t m)
{
    size_t i = 0;
    for (; i + TILE_ROWS <= p->m; i += TILE_ROWS)
        product_tile(p, TILE_ROWS, vectors, i, j, m);
    for (; i + 2 <= p->m; i += 2)
        product_tile(p, 2, vectors, i, j, m);
    if (i < p->m)
        product_tile(p, 1, vectors, i, j, m);
}

static void product_run(const product *p)
{
    for (size_t j = 0; j < p->n; j += TILE_VECTORS * VW) {
        size_t left = p->n - j;
        size_t vectors = left >= TILE_VECTORS * VW ? TILE_VECTORS : (left + VW - 1) / VW;
        size_t m = left >= vectors * VW ? VW : left - (vectors - 1) * VW;
        if (vectors == 1)
            product_rows(p, 1, j, m);
        else if (vectors == 2)
            product_rows(p, 2, j, m);
        else
            product_rows(p, TILE_VECTORS, j, m);
    }
}

/* Ten sums at once hide the latency of a multiply-add. */
static double multiply_adds(size_t rounds)
{
    const vf x = vf_set(0.5f), y = vf_set(0.25f);
    vf a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x;
    for (size_t round = 0; round < rounds; round++) {
        a = vf_fma(a, x, y);
        b = vf_fma(b, x, y);
        c = vf_fma(c, x, y);
        d = vf_fma(d, x, y);
        e = vf_fma(e, x, y);
        f = vf_fma(f, x, y);
        g = vf_fma(g, x, y);
        h = vf_fma(h, x, y);
        i = vf_fma(i, x, y);
        j = vf_fma(j, x, y);
    }
    float done = vf_sum(a + b + c + d + e + f + g + h + i + j);
    return done < 0 ? 0 : (double)rounds * 10 * VW * 2;
}
