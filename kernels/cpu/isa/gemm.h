/* Part of isa.c: products of large matrices (npo_gemm of cpu/product/product.h).
 *
 * A tile of GEMM_ROWS x GEMM_VECTORS vectors of c stays in registers while k runs over a block of
 * at most GEMM_K. The block of b is packed in panels, k after k, and stays in the second-level
 * cache beside a block of a; a panel stays in the first-level cache while tiles go down its
 * columns. An element's sum runs over the same blocks wherever its tile begins: neither threads nor
 * other rows show in its bits. */

#if defined(__AVX512F__)
enum { GEMM_ROWS = 8, GEMM_VECTORS = 3 };
#elif defined(__AVX2__)
enum { GEMM_ROWS = 6, GEMM_VECTORS = 2 };
#else
enum { GEMM_ROWS = 4, GEMM_VECTORS = 2 };
#endif

enum {
    GEMM_WIDTH = GEMM_VECTORS * VW,
    GEMM_K = 320,
    GEMM_M = 16 * GEMM_ROWS,
    GEMM_N = 16 * GEMM_WIDTH,
};

typedef struct {
    size_t k, n;               /* n: lanes of the panel that c has, 1 to GEMM_WIDTH */
    const float *a[GEMM_ROWS]; /* rows; transposed: a[0] alone */
    size_t a_step;             /* transposed: floats from k to k + 1 */
    const float *b;
    const float *bias; /* or NULL */
    bool adds;         /* whether there is add */
    const float *add[GEMM_ROWS];
    float *c[GEMM_ROWS];
} gemm_at;

ALWAYS_INLINE size_t gemm_lanes(size_t n, int v)
{
    size_t before = (size_t)v * VW;
    return n <= before ? 0 : n - before < VW ? n - before : (size_t)VW;
}

ALWAYS_INLINE void gemm_store(const gemm_at *t, const int rows, const int v, size_t m,
                              vf sum[GEMM_ROWS][GEMM_VECTORS])
{
    const size_t at = (size_t)v * VW;
    const vf bias = t->bias ? vf_load_n(t->bias + at, m) : vf_set(0);
    for (int r = 0; r < rows; r++) {
        vf y = sum[r][v] + bias;
        if (t->adds)
            y += vf_load_n(t->add[r] + at, m);
        vf_store_n(t->c[r] + at, m, y);
    }
}

ALWAYS_INLINE void gemm_finish(const gemm_at *t, const int rows, vf sum[GEMM_ROWS][GEMM_VECTORS])
{
    if (t->n == GEMM_WIDTH) {
        for (int v = 0; v < GEMM_VECTORS; v++)
            gemm_store(t, rows, v, VW, sum);
        return;
    }
    for (int v = 0; v < GEMM_VECTORS; v++)
        if (gemm_lanes(t->n, v) > 0)
            gemm_store(t, rows, v, gemm_lanes(t->n, v), sum);
}

ALWAYS_INLINE void gemm_tile(const gemm_at *t, const int rows, const bool transposed)
{
    vf sum[GEMM_ROWS][GEMM_VECTORS];
    const float *a[GEMM_ROWS], *b = t->b;
    const size_t step = t->a_step;
    for (int r = 0; r < rows; r++) {
        a[r] = transposed ? t->a[0] + r : t->a[r];
        for (int v = 0; v < GEMM_VECTORS; v++)
            sum[r][v] = vf_set(0);
    }
    for (size_t k = 0; k < t->k; k++, b += GEMM_WIDTH) {
        vf row[GEMM_VECTORS];
        for (int v = 0; v < GEMM_VECTORS; v++)
            row[v] = vf_load(b + v * VW);
        for (int r = 0; r < rows; r++) {
            vf x = vf_set(transposed ? a[0][k * step + (size_t)r] : a[r][k]);
            for (int v = 0; v < GEMM_VECTORS; v++)
                sum[r][v] = vf_fma(x, row[v], sum[r][v]);
        }
    }
    gemm_finish(t, rows, sum);
}

#define GEMM_TILE(rows)                                                                            \
    static void gemm_tile_##rows(const gemm_at *t)                                                 \
    {                                                                                              \
        gemm_tile(t, rows, false);                                                                 \
    }                                                                                              \
    static void gemm_transposed_##rows(const gemm_at *t)                                           \
    {                                                                                              \
        gemm_tile(t, rows, true);                                                                  \
    }

GEMM_TILE(1)
GEMM_TILE(2)
GEMM_TILE(3)
GEMM_TILE(4)
#if defined(__AVX2__)
GEMM_TILE(5)
GEMM_TILE(6)
#endif
#if defined(__AVX512F__)
GEMM_TILE(7)
GEMM_TILE(8)
#endif

static void (*const gemm_tiles[2][GEMM_ROWS + 1])(const gemm_at *) = {
#if defined(__AVX512F__)
    {NULL, gemm_tile_1, gemm_tile_2, gemm_tile_3, gemm_tile_4, gemm_tile_5, gemm_tile_6,
     gemm_tile_7, gemm_tile_8},
    {NULL, gemm_transposed_1, gemm_transposed_2, gemm_transposed_3, gemm_transposed_4,
     gemm_transposed_5, gemm_transposed_6, gemm_transposed_7, gemm_transposed_8},
#elif defined(__AVX2__)
    {NULL, gemm_tile_1, gemm_tile_2, gemm_tile_3, gemm_tile_4, gemm_tile_5, gemm_tile_6},
    {NULL, gemm_transposed_1, gemm_transposed_2, gemm_transposed_3, gemm_transposed_4,
     gemm_transposed_5, gemm_transposed_6},
#else
    {NULL, gemm_tile_1, gemm_tile_2, gemm_tile_3, gemm_tile_4},
    {NULL, gemm_transposed_1, gemm_transposed_2, gemm_transposed_3, gemm_transposed_4},
#endif
};

ALWAYS_INLINE size_t gemm_row(const npo_rows *rows, size_t r)
{
    return r / rows->width * rows->line + r % rows->width * rows->row;
}

ALWAYS_INLINE size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Size of the pieces of n, none above most, as even as can be, in multiples of grain. */
ALWAYS_INLINE size_t even_piece(size_t n, size_t most, size_t grain)
{
    size_t pieces = (n + most - 1) / most;
    size_t piece = pieces ? (n + pieces - 1) / pieces : 1;
    return (piece + grain - 1) / grain * grain;
}

/* ---- packing ---- */

/* b's rows k.. and columns n.. into one panel; lanes that b has not are zero. */
static void gemm_pack_panel(const npo_gemm *g, size_t k, size_t count, size_t n, float *to)
{
    size_t lanes = least(g->n - n, GEMM_WIDTH);
    for (size_t i = 0; i < count; i++, to += GEMM_WIDTH) {
        const float *from = g->b + gemm_row(&g->b_rows, k + i) + n * g->b_column;
        if (g->b_column == 1 && lanes == GEMM_WIDTH) {
            for (int v = 0; v < GEMM_VECTORS; v++)
                vf_store(to + v * VW, vf_load(from + v * VW));
            continue;
        }
        for (size_t lane = 0; lane < lanes; lane++)
            to[lane] = from[lane * g->b_column];
        for (size_t lane = lanes; lane < GEMM_WIDTH; lane++)
            to[lane] = 0;
    }
}

/* The same where b's rows lie together: VW columns by VW rows at a time. */
static void gemm_pack_transposed(const npo_gemm *g, size_t k, size_t count, size_t n, float *to)
{
    const size_t whole = count / VW * VW;
    for (int v = 0; v < GEMM_VECTORS; v++) {
        const float *from = g->b + k + (n + (size_t)v * VW) * g->b_column;
        for (size_t i = 0; i < whole; i += VW) {
            vf rows[VW];
            for (int r = 0; r < VW; r++)
                rows[r] = vf_load(from + (size_t)r * g->b_column + i);
            vf_transpose(rows);
            for (int r = 0; r < VW; r++)
                vf_store(to + (i + (size_t)r) * GEMM_WIDTH + (size_t)v * VW, rows[r]);
        }
    }
    if (whole < count)
        gemm_pack_panel(g, k + whole, count - whole, n, to + whole * GEMM_WIDTH);
}

static void gemm_pack_b(const npo_gemm *g, size_t k, size_t count, size_t n, size_t columns,
                        float *to)
{
    const bool together = g->b_rows.row == 1 && g->b_rows.width >= g->k && g->b_column > 1;
    for (size_t i = 0; i < columns; i += GEMM_WIDTH, to += count * GEMM_WIDTH) {
        if (together && g->n - n - i >= GEMM_WIDTH)
            gemm_pack_transposed(g, k, count, n + i, to);
        else
            gemm_pack_panel(g, k, count, n + i, to);
    }
}

/* Rows k.. and columns m.. of a transposed a, in tiles of GEMM_ROWS columns, k after k. */
static void gemm_pack_a(const npo_gemm *g, size_t k, size_t count, size_t m, size_t rows, float *to)
{
    for (size_t i = 0; i < count; i++) {
        const float *from = g->a + gemm_row(&g->a_rows, k + i) + m;
        float *at = to + i * GEMM_ROWS;
        size_t r = 0;
        for (; r + GEMM_ROWS <= rows; r += GEMM_ROWS, at += count * GEMM_ROWS)
            memcpy(at, from + r, GEMM_ROWS * sizeof *at);
        for (size_t j = 0; r + j < rows; j++)
            at[j] = from[r + j];
    }
}

/* ---- the loops ---- */

typedef struct {
    size_t k, count; /* rows of b */
    size_t m, rows;
    size_t n;       /* first column of the panel */
    const float *b; /* panel */
    const float *a; /* transposed: row m of the block at a + m * a_row, its k a_step apart */
    size_t a_row, a_step;
} gemm_block;

static void gemm_column(const npo_gemm *g, const gemm_block *block)
{
    const bool first = block->k == 0;
    gemm_at t = {
        .k = block->count,
        .n = least(g->n - block->n, GEMM_WIDTH),
        .b = block->b,
        .bias = first && g->bias ? g->bias + block->n : NULL,
        .adds = !first || g->add,
        .a_step = block->a_step,
    };
    for (size_t i = 0, rows; i < block->rows; i += rows) {
        rows = least(block->rows - i, GEMM_ROWS);
        for (size_t r = 0; r < rows; r++) {
            size_t at = gemm_row(&g->c_rows, block->m + i + r) + block->n;
            t.c[r] = g->c + at;
            t.add[r] = first && g->add ? g->add + at : t.c[r];
            if (!block->a)
                t.a[r] = g->a + gemm_row(&g->a_rows, block->m + i + r) + block->k;
        }
        if (block->a)
            t.a[0] = block->a + i * block->a_row;
        gemm_tiles[block->a != NULL][rows](&t);
    }
}

static void gemm(const npo_gemm *g, float *scratch)
{
    float *packed_b = scratch, *packed_a = scratch + GEMM_K * GEMM_N;
    const size_t k_piece = even_piece(g->k, GEMM_K, 1);
    const size_t n_piece = even_piece(g->n, GEMM_N, GEMM_WIDTH);
    const size_t m_piece = even_piece(g->m, GEMM_M, GEMM_ROWS);
    gemm_block at = {.a = g->a_transposed ? packed_a : NULL, .a_step = GEMM_ROWS};
    for (size_t n = 0; n < g->n; n += n_piece)
        for (at.k = 0; at.k < g->k; at.k += k_piece) {
            size_t columns = least(g->n - n, n_piece);
            at.count = least(g->k - at.k, k_piece);
            at.a_row = at.count;
            gemm_pack_b(g, at.k, at.count, n, columns, packed_b);
            for (at.m = 0; at.m < g->m; at.m += m_piece) {
                at.rows = least(g->m - at.m, m_piece);
                if (g->a_transposed)
                    gemm_pack_a(g, at.k, at.count, at.m, at.rows, packed_a);
                for (size_t i = 0; i < columns; i += GEMM_WIDTH) {
                    at.n = n + i;
                    at.b = packed_b + i * at.count;
                    gemm_column(g, &at);
                }
            }
        }
}

/* Unlike gemm it takes b's panels as they are, each over all of k, and a transposed a in place. */
static void gemm_panels(const npo_gemm *g)
{
    const size_t k_piece = even_piece(g->k, GEMM_K, 1);
    const size_t m_piece = even_piece(g->m, GEMM_M, GEMM_ROWS);
    gemm_block at = {.a_row = 1, .a_step = g->a_rows.row};
    for (at.k = 0; at.k < g->k; at.k += k_piece) {
        at.count = least(g->k - at.k, k_piece);
        for (at.m = 0; at.m < g->m; at.m += m_piece) {
            at.rows = least(g->m - at.m, m_piece);
            at.a = g->a_transposed ? g->a + at.k * at.a_step + at.m : NULL;
            for (at.n = 0; at.n < g->n; at.n += GEMM_WIDTH) {
                at.b = g->b + (at.n / GEMM_WIDTH * g->k + at.k) * GEMM_WIDTH;
                gemm_column(g, &at);
            }
        }
    }
}

static size_t gemm_scratch(void)
{
    return GEMM_K * GEMM_N + GEMM_K * GEMM_M;
}
