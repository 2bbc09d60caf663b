/* Part of isa.c: a product of matrices (kernels/matrix.h) that is added to what is there, and how
 * fast this core multiplies and adds. Tiles of c are as large as those of gemm.h. */

/* rows x vectors of c at (i, j), both known when compiled; m lanes in the last vector. */
ALWAYS_INLINE void matrix_tile(const npo_matrix_product *p, const int rows, const int vectors,
                               size_t i, size_t j, size_t m)
{
    const float *a = p->a + i * p->a_row, *b = p->b + j;
    float *c = p->c + i * p->c_row + j;
    vf sum[GEMM_ROWS][GEMM_VECTORS];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sum[r][v] = vf_load_n(c + (size_t)r * p->c_row + (size_t)v * VW,
                                  v == vectors - 1 ? m : (size_t)VW);
    for (size_t k = 0; k < p->k; k++) {
        vf row[GEMM_VECTORS];
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

ALWAYS_INLINE void matrix_rows(const npo_matrix_product *p, const int vectors, size_t j, size_t m)
{
    size_t i = 0;
    for (; i + GEMM_ROWS <= p->m; i += GEMM_ROWS)
        matrix_tile(p, GEMM_ROWS, vectors, i, j, m);
    for (; i + 2 <= p->m; i += 2)
        matrix_tile(p, 2, vectors, i, j, m);
    if (i < p->m)
        matrix_tile(p, 1, vectors, i, j, m);
}

static void matrix_add(const npo_matrix_product *p)
{
    for (size_t j = 0; j < p->n; j += GEMM_VECTORS * VW) {
        size_t left = p->n - j;
        size_t vectors = left >= GEMM_VECTORS * VW ? GEMM_VECTORS : (left + VW - 1) / VW;
        size_t m = left >= vectors * VW ? VW : left - (vectors - 1) * VW;
        if (vectors == 1)
            matrix_rows(p, 1, j, m);
        else if (vectors == 2)
            matrix_rows(p, 2, j, m);
        else
            matrix_rows(p, GEMM_VECTORS, j, m);
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
