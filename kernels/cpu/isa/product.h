/* Part of isa.c: the products of cpu/product/product.h.
 *
 * Weights are packed in panels of at most PANEL_VECTORS vectors of output channels, k after k. A
 * tile of rows x vectors stays in registers while k runs; rows divide a line of pixels evenly. */

#if defined(__AVX512F__)
enum {
    PANEL_VECTORS = 3,
    ROWS_1 = 14,
    ROWS_2 = 12,
    ROWS_3 = 8,
    OUTER_1 = 16,
    OUTER_2 = 12,
    OUTER_3 = 8
};
#elif defined(__AVX2__)
enum {
    PANEL_VECTORS = 2,
    ROWS_1 = 8,
    ROWS_2 = 6,
    ROWS_3 = 1,
    OUTER_1 = 8,
    OUTER_2 = 6,
    OUTER_3 = 1
};
#else
enum {
    PANEL_VECTORS = 2,
    ROWS_1 = 8,
    ROWS_2 = 4,
    ROWS_3 = 1,
    OUTER_1 = 8,
    OUTER_2 = 4,
    OUTER_3 = 1
};
#endif

/* Vectors of the panel that begins at vector v of count: as even as possible. */
ALWAYS_INLINE size_t panel_vectors(size_t v, size_t count)
{
    size_t left = count - v, panels = (left + PANEL_VECTORS - 1) / PANEL_VECTORS;
    return (left + panels - 1) / panels;
}

ALWAYS_INLINE size_t vectors_of(size_t n)
{
    return (n + VW - 1) / VW;
}

static size_t packed_floats(size_t k, size_t n)
{
    return k * vectors_of(n) * VW;
}

/* Source order inside, so that each output channel's weights are read as a stream. */
static void pack_panel(const npo_weight_map *map, size_t first, size_t width, const float *weight,
                       float *packed)
{
    for (size_t h = 0; h < map->height; h++)
        for (size_t i = 0; i < map->in; i++)
            for (size_t w = 0; w < map->width; w++) {
                const float *from = weight + map->first + (ptrdiff_t)h * map->by_h +
                                    (ptrdiff_t)w * map->by_w + (ptrdiff_t)i * map->by_i +
                                    (ptrdiff_t)first * map->by_o;
                float *to = packed + ((h * map->width + w) * map->in + i) * width;
                size_t have = map->out - first < width ? map->out - first : width;
                for (size_t o = 0; o < have; o++)
                    to[o] = from[(ptrdiff_t)o * map->by_o];
                for (size_t o = have; o < width; o++)
                    to[o] = 0;
            }
}

static void pack_weights(const npo_weight_map *map, const float *weight, float *packed, size_t part,
                         size_t parts)
{
    size_t count = vectors_of(map->out), k = map->height * map->width * map->in;
    for (size_t v = 0, vectors, panel = 0; v < count; v += vectors, panel++) {
        vectors = panel_vectors(v, count);
        if (panel % parts == part)
            pack_panel(map, v * VW, vectors * VW, weight, packed + v * VW * k);
    }
}

/* grads += sums in the published order. sums: [k, n rounded up to 16]. */
static void unpack_weights(const npo_weight_map *map, const float *sums, float *grads, size_t part,
                           size_t parts)
{
    enum { BLOCK = 16 };
    size_t row = (map->out + BLOCK - 1) / BLOCK * BLOCK;
    for (size_t first = part * BLOCK; first < map->out; first += parts * BLOCK) {
        size_t width = map->out - first < BLOCK ? map->out - first : (size_t)BLOCK;
        for (size_t i = 0; i < map->in; i++)
            for (size_t h = 0; h < map->height; h++)
                for (size_t w = 0; w < map->width; w++) {
                    const float *from = sums + ((h * map->width + w) * map->in + i) * row + first;
                    float *to = grads + map->first + (ptrdiff_t)h * map->by_h +
                                (ptrdiff_t)w * map->by_w + (ptrdiff_t)i * map->by_i +
                                (ptrdiff_t)first * map->by_o;
                    for (size_t o = 0; o < width; o++)
                        to[(ptrdiff_t)o * map->by_o] += from[o];
                }
    }
}

/* ---- output pixels ---- */

/* rows pixels x vectors of channels from (a, c) on; m lanes in the last vector. Pixels are
 * addressed from a base for every third, which leaves the compiler enough registers. */
ALWAYS_INLINE void engine_tile(const npo_product *p, const int rows, const int vectors,
                               const float *a, const float *b, size_t channel, float *c, size_t m)
{
    enum { MOST = 14, THIRDS = 5 };
    vf sum[MOST][3];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sum[r][v] = vf_set(0);
    for (size_t run = 0; run < p->runs; run++) {
        const float *base[THIRDS];
        const size_t step = p->a_pixel;
        for (int t = 0; t < THIRDS; t++)
            base[t] = a + run * p->a_run + (size_t)t * 3 * step;
        for (size_t k = 0; k < p->run; k++, b += vectors * VW) {
            vf row[3];
            for (int v = 0; v < vectors; v++)
                row[v] = vf_load(b + v * VW);
            for (int r = 0; r < rows; r++) {
                vf x = vf_set(base[r / 3][(size_t)(r % 3) * step + k]);
                for (int v = 0; v < vectors; v++)
                    sum[r][v] = vf_fma(x, row[v], sum[r][v]);
            }
        }
    }
    for (int v = 0; v < vectors; v++) {
        size_t lanes = v == vectors - 1 ? m : (size_t)VW, at = channel + (size_t)v * VW;
        vf bias = p->bias ? vf_load_n(p->bias + at, lanes) : vf_set(0);
        for (int r = 0; r < rows; r++) {
            float *to = c + (size_t)r * p->c_pixel + at;
            vf y = sum[r][v] + bias;
            if (p->add)
                y += vf_load_n(p->add + (to - p->c), lanes);
            vf_store_n(to, lanes, y);
        }
    }
}

typedef struct {
    const npo_product *p;
    const float *a, *b;
    size_t channel, m;
    float *c;
} engine_at;

#define ENGINE_TILE(rows, vectors)                                                                 \
    case rows:                                                                                     \
        engine_tile(t->p, rows, vectors, t->a, t->b, t->channel, t->c, t->m);                      \
        break;

static void engine_tile_1(const engine_at *t, size_t rows)
{
    switch (rows) {
        ENGINE_TILE(1, 1)
        ENGINE_TILE(2, 1)
        ENGINE_TILE(3, 1)
        ENGINE_TILE(4, 1)
        ENGINE_TILE(5, 1)
        ENGINE_TILE(6, 1)
        ENGINE_TILE(7, 1)
        ENGINE_TILE(8, 1)
#if defined(__AVX512F__)
        ENGINE_TILE(9, 1)
        ENGINE_TILE(10, 1)
        ENGINE_TILE(11, 1)
        ENGINE_TILE(12, 1)
        ENGINE_TILE(13, 1)
        ENGINE_TILE(14, 1)
#endif
    }
}

static void engine_tile_2(const engine_at *t, size_t rows)
{
    switch (rows) {
        ENGINE_TILE(1, 2)
        ENGINE_TILE(2, 2)
        ENGINE_TILE(3, 2)
        ENGINE_TILE(4, 2)
#if defined(__AVX2__)
        ENGINE_TILE(5, 2)
        ENGINE_TILE(6, 2)
#endif
#if defined(__AVX512F__)
        ENGINE_TILE(7, 2)
        ENGINE_TILE(8, 2)
        ENGINE_TILE(9, 2)
        ENGINE_TILE(10, 2)
        ENGINE_TILE(11, 2)
        ENGINE_TILE(12, 2)
#endif
    }
}

static void engine_tile_3(const engine_at *t, size_t rows)
{
    switch (rows) {
        ENGINE_TILE(1, 3)
#if defined(__AVX512F__)
        ENGINE_TILE(2, 3)
        ENGINE_TILE(3, 3)
        ENGINE_TILE(4, 3)
        ENGINE_TILE(5, 3)
        ENGINE_TILE(6, 3)
        ENGINE_TILE(7, 3)
        ENGINE_TILE(8, 3)
#endif
    }
}

/* By vectors of a panel. */
static const struct {
    void (*tile)(const engine_at *t, size_t rows);
    size_t rows;
} engine_tiles[] = {
    {NULL, 0},
    {engine_tile_1, ROWS_1},
    {engine_tile_2, ROWS_2},
    {engine_tile_3, ROWS_3},
};

static void engine_panel(const npo_product *p, size_t v, size_t vectors, const float *b)
{
    size_t most = engine_tiles[vectors].rows, tiles = (p->pixels + most - 1) / most;
    size_t end = (v + vectors) * VW;
    engine_at t = {.p = p, .b = b, .channel = v * VW, .m = end <= p->n ? VW : VW - (end - p->n)};
    for (size_t line = 0; line < p->lines; line++)
        for (size_t i = 0, pixel = 0; i < tiles; i++) {
            size_t rows = p->pixels * (i + 1) / tiles - pixel;
            t.a = p->a + line * p->a_line + pixel * p->a_pixel;
            t.c = p->c + line * p->c_line + pixel * p->c_pixel;
            engine_tiles[vectors].tile(&t, rows);
            pixel += rows;
        }
}

static void product_forward(const npo_product *p)
{
    size_t count = vectors_of(p->n), k = p->runs * p->run;
    for (size_t v = 0, vectors; v < count; v += vectors) {
        vectors = panel_vectors(v, count);
        engine_panel(p, v, vectors, p->packed + v * VW * k);
    }
}

/* ---- gradients of weights ---- */

/* rows of a run x vectors of channels, summed over all pixels. */
ALWAYS_INLINE void outer_tile(const npo_outer_product *p, const int rows, const int vectors,
                              const float *a, size_t channel, float *sums, size_t m)
{
    enum { MOST = 16 };
    size_t row = (p->n + 15) / 16 * 16;
    vf sum[MOST][3];
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            sum[r][v] = vf_load(sums + (size_t)r * row + channel + (size_t)v * VW);
    for (size_t line = 0; line < p->lines; line++) {
        const float *x = a + line * p->a_line, *b = p->b + line * p->b_line + channel;
        for (size_t pixel = 0; pixel < p->pixels; pixel++, x += p->a_pixel, b += p->n) {
            vf d[3];
            for (int v = 0; v < vectors; v++)
                d[v] = v == vectors - 1 ? vf_load_n(b + v * VW, m) : vf_load(b + v * VW);
            for (int r = 0; r < rows; r++) {
                vf value = vf_set(x[r]);
                for (int v = 0; v < vectors; v++)
                    sum[r][v] = vf_fma(value, d[v], sum[r][v]);
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int v = 0; v < vectors; v++)
            vf_store(sums + (size_t)r * row + channel + (size_t)v * VW, sum[r][v]);
}

/* All rows of a run, MOST at a time, then one by one. */
#define OUTER_RUN(name, MOST, vectors)                                                             \
    static void name(const npo_outer_product *p, const float *a, size_t channel, float *sums,      \
                     size_t m)                                                                     \
    {                                                                                              \
        size_t row = (p->n + 15) / 16 * 16, j = 0;                                                 \
        for (; j + (MOST) <= p->run; j += (MOST))                                                  \
            outer_tile(p, (MOST), vectors, a + j, channel, sums + j * row, m);                     \
        for (; j + 4 <= p->run; j += 4)                                                            \
            outer_tile(p, 4, vectors, a + j, channel, sums + j * row, m);                          \
        for (; j < p->run; j++)                                                                    \
            outer_tile(p, 1, vectors, a + j, channel, sums + j * row, m);                          \
    }

OUTER_RUN(outer_run_1, OUTER_1, 1)
OUTER_RUN(outer_run_2, OUTER_2, 2)
OUTER_RUN(outer_run_3, OUTER_3, 3)

static void product_outer(const npo_outer_product *p)
{
    static void (*const runs[])(const npo_outer_product *, const float *, size_t, float *,
                                size_t) = {NULL, outer_run_1, outer_run_2, outer_run_3};
    size_t count = vectors_of(p->n), row = (p->n + 15) / 16 * 16;
    for (size_t v = 0, vectors; v < count; v += vectors) {
        vectors = panel_vectors(v, count);
        size_t end = (v + vectors) * VW, m = end <= p->n ? VW : VW - (end - p->n);
        for (size_t run = 0; run < p->runs; run++)
            runs[vectors](p, p->a + run * p->a_run, v * VW, p->sums + run * p->run * row, m);
    }
}
