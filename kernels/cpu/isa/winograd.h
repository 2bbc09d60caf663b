/* Part of isa.c: the transforms of cpu/product/winograd.h, VW channels at a time. */

enum { SIDE = NPO_WINOGRAD_SIDE, TILE = NPO_WINOGRAD_TILE };

/* The points +-A1, +-A2 and what their powers make of them. */
#define A1 0.707106781f
#define A2 1.414213562f

/* One side of B^T d. */
ALWAYS_INLINE void winograd_b(const vf d[SIDE], vf v[SIDE])
{
    vf even1 = vf_fma(vf_set(-2), d[2], d[4]), odd1 = vf_fma(vf_set(-2), d[1], d[3]);
    vf even2 = vf_fma(vf_set(-0.5f), d[2], d[4]), odd2 = vf_fma(vf_set(-0.5f), d[1], d[3]);
    v[0] = vf_fma(vf_set(-2.5f), d[2], d[0] + d[4]);
    v[1] = vf_fma(vf_set(A1), odd1, even1);
    v[2] = vf_fma(vf_set(-A1), odd1, even1);
    v[3] = vf_fma(vf_set(A2), odd2, even2);
    v[4] = vf_fma(vf_set(-A2), odd2, even2);
    v[5] = vf_fma(vf_set(-2.5f), d[3], d[1] + d[5]);
}

/* One side of A^T m. */
ALWAYS_INLINE void winograd_at(const vf m[SIDE], vf y[TILE])
{
    vf even1 = m[1] + m[2], odd1 = m[1] - m[2], even2 = m[3] + m[4], odd2 = m[3] - m[4];
    y[0] = m[0] + even1 + even2;
    y[1] = vf_fma(vf_set(A1), odd1, vf_set(A2) * odd2);
    y[2] = vf_fma(vf_set(0.5f), even1, even2 + even2);
    y[3] = vf_fma(vf_set(0.5f * A1), odd1, vf_fma(vf_set(2 * A2), odd2, m[5]));
}

/* One side of A y. */
ALWAYS_INLINE void winograd_a(const vf y[TILE], vf m[SIDE])
{
    vf even1 = vf_fma(vf_set(0.5f), y[2], y[0]), even2 = vf_fma(vf_set(2), y[2], y[0]);
    vf odd1 = vf_set(A1) * vf_fma(vf_set(0.5f), y[3], y[1]);
    vf odd2 = vf_set(A2) * vf_fma(vf_set(2), y[3], y[1]);
    m[0] = y[0];
    m[1] = even1 + odd1;
    m[2] = even1 - odd1;
    m[3] = even2 + odd2;
    m[4] = even2 - odd2;
    m[5] = y[3];
}

/* One side of G g. */
ALWAYS_INLINE void winograd_g(const vf g[3], vf u[SIDE])
{
    const vf third = vf_set(-2.0f / 3), sixth = vf_set(1.0f / 6);
    vf even1 = vf_fma(vf_set(0.5f), g[2], g[0]) * third, odd1 = g[1] * vf_set(-2 * A1 / 3);
    vf even2 = vf_fma(vf_set(2), g[2], g[0]) * sixth, odd2 = g[1] * vf_set(A2 / 6);
    u[0] = g[0];
    u[1] = even1 + odd1;
    u[2] = even1 - odd1;
    u[3] = even2 + odd2;
    u[4] = even2 - odd2;
    u[5] = g[2];
}

/* One side of G^T u. */
ALWAYS_INLINE void winograd_gt(const vf u[SIDE], vf g[3])
{
    vf even1 = (u[1] + u[2]) * vf_set(-2.0f / 3), even2 = (u[3] + u[4]) * vf_set(1.0f / 6);
    vf odd1 = u[1] - u[2], odd2 = u[3] - u[4];
    g[0] = u[0] + even1 + even2;
    g[1] = vf_fma(vf_set(-2 * A1 / 3), odd1, vf_set(A2 / 6) * odd2);
    g[2] = vf_fma(vf_set(0.5f), even1, vf_fma(vf_set(2), even2, u[5]));
}

#undef A1
#undef A2

/* ---- tiles ---- */

/* Where a tile lies: floats from the images' begin to its first pixel, which may lie outside, and
 * which of its lines and pixels are on the image. */
typedef struct {
    ptrdiff_t at;
    size_t line, last_line, pixel, last_pixel;
} tile_place;

static tile_place place_tile(const npo_winograd_tiles *t, size_t tile, size_t side)
{
    size_t image = tile / (t->down * t->across), number = tile % (t->down * t->across);
    ptrdiff_t y = (ptrdiff_t)(number / t->across * TILE) - (ptrdiff_t)t->top;
    ptrdiff_t x = (ptrdiff_t)(number % t->across * TILE) - (ptrdiff_t)t->left;
    ptrdiff_t height = (ptrdiff_t)t->height, width = (ptrdiff_t)t->width;
    ptrdiff_t lines = height - y < (ptrdiff_t)side ? height - y : (ptrdiff_t)side;
    ptrdiff_t pixels = width - x < (ptrdiff_t)side ? width - x : (ptrdiff_t)side;
    return (tile_place){
        .at = (((ptrdiff_t)image * height + y) * width + x) * (ptrdiff_t)t->channels,
        .line = y < 0 ? (size_t)-y : 0,
        .last_line = lines < 0 ? 0 : (size_t)lines,
        .pixel = x < 0 ? (size_t)-x : 0,
        .last_pixel = pixels < 0 ? 0 : (size_t)pixels,
    };
}

ALWAYS_INLINE size_t stored_at(npo_winograd_store s, size_t tile, size_t c)
{
    return (tile - s.base) * s.tile + c / GEMM_WIDTH * s.panel + c % GEMM_WIDTH;
}

/* side x side pixels of m channels, zeros outside the image. */
ALWAYS_INLINE void load_tile(const npo_winograd_tiles *t, const tile_place *p, const float *x,
                             const int side, size_t m, vf d[SIDE][SIDE])
{
    const size_t pixel = t->channels, line = t->width * pixel;
    if (p->line == 0 && p->pixel == 0 && p->last_line == (size_t)side &&
        p->last_pixel == (size_t)side && m == VW) {
        for (int i = 0; i < side; i++)
            for (int j = 0; j < side; j++)
                d[i][j] = vf_load(x + p->at + (ptrdiff_t)((size_t)i * line + (size_t)j * pixel));
        return;
    }
    for (int i = 0; i < side; i++)
        for (int j = 0; j < side; j++) {
            bool on = (size_t)i >= p->line && (size_t)i < p->last_line && (size_t)j >= p->pixel &&
                      (size_t)j < p->last_pixel;
            ptrdiff_t at = p->at + (ptrdiff_t)((size_t)i * line + (size_t)j * pixel);
            d[i][j] = on ? vf_load_n(x + at, m) : vf_set(0);
        }
}

static void winograd_input(const npo_winograd_tiles *t, const float *x, npo_winograd_store to)
{
    for (size_t tile = t->first; tile < t->last; tile++) {
        tile_place place = place_tile(t, tile, SIDE);
        for (size_t c = t->channel; c < t->last_channel; c += VW) {
            size_t m = least(t->last_channel - c, VW);
            vf d[SIDE][SIDE], half[SIDE][SIDE];
            load_tile(t, &place, x + c, SIDE, m, d);
            for (int i = 0; i < SIDE; i++)
                winograd_b(d[i], half[i]);
            float *at = to.at + stored_at(to, tile, c);
            for (int j = 0; j < SIDE; j++) {
                vf column[SIDE], v[SIDE];
                for (int i = 0; i < SIDE; i++)
                    column[i] = half[i][j];
                winograd_b(column, v);
                for (int i = 0; i < SIDE; i++)
                    vf_store_n(at + (size_t)(i * SIDE + j) * to.point, m, v[i]);
            }
        }
    }
}

static void winograd_gradient(const npo_winograd_tiles *t, const float *dy, npo_winograd_store to)
{
    for (size_t tile = t->first; tile < t->last; tile++) {
        tile_place place = place_tile(t, tile, TILE);
        for (size_t c = t->channel; c < t->last_channel; c += VW) {
            size_t m = least(t->last_channel - c, VW);
            vf d[SIDE][SIDE], half[TILE][SIDE];
            load_tile(t, &place, dy + c, TILE, m, d);
            for (int i = 0; i < TILE; i++)
                winograd_a(d[i], half[i]);
            float *at = to.at + stored_at(to, tile, c - t->channel);
            for (int j = 0; j < SIDE; j++) {
                vf column[TILE], v[SIDE];
                for (int i = 0; i < TILE; i++)
                    column[i] = half[i][j];
                winograd_a(column, v);
                for (int i = 0; i < SIDE; i++)
                    vf_store_n(at + (size_t)(i * SIDE + j) * to.point, m, v[i]);
            }
        }
    }
}

/* Writes those of the 4x4 outputs that are on the image. */
ALWAYS_INLINE void store_tile(const npo_winograd_tiles *t, const tile_place *p, size_t c, size_t m,
                              vf y[TILE][TILE], const float *add, float *out)
{
    for (size_t i = 0; i < p->last_line; i++)
        for (size_t j = 0; j < p->last_pixel; j++) {
            size_t at = (size_t)p->at + (i * t->width + j) * t->channels + c;
            vf value = y[i][j];
            if (add)
                value += vf_load_n(add + at, m);
            vf_store_n(out + at, m, value);
        }
}

/* bias: [channels] or NULL; e: [images, channels] or NULL. */
static void winograd_output(const npo_winograd_tiles *t, npo_winograd_store from, const float *bias,
                            const float *e, const float *add, float *out)
{
    for (size_t tile = t->first; tile < t->last; tile++) {
        tile_place place = place_tile(t, tile, TILE);
        size_t image = tile / (t->down * t->across);
        for (size_t c = t->channel; c < t->last_channel; c += VW) {
            size_t m = least(t->last_channel - c, VW);
            const float *at = from.at + stored_at(from, tile, c - t->channel);
            vf half[SIDE][TILE], y[TILE][TILE];
            for (int i = 0; i < SIDE; i++) {
                vf row[SIDE];
                for (int j = 0; j < SIDE; j++)
                    row[j] = vf_load_n(at + (size_t)(i * SIDE + j) * from.point, m);
                winograd_at(row, half[i]);
            }
            vf shift = bias ? vf_load_n(bias + c, m) : vf_set(0);
            if (e)
                shift += vf_load_n(e + image * t->channels + c, m);
            for (int j = 0; j < TILE; j++) {
                vf column[SIDE], v[TILE];
                for (int i = 0; i < SIDE; i++)
                    column[i] = half[i][j];
                winograd_at(column, v);
                for (int i = 0; i < TILE; i++)
                    y[i][j] = v[i] + shift;
            }
            store_tile(t, &place, c, m, y, add, out);
        }
    }
}

/* ---- weights ---- */

/* Tap i of input k + j, all lanes of a panel: taps[9 j + i]. Inputs of a weight that lie together
 * are read VW weights by VW lanes at a time. */
static void gather_taps(const npo_winograd_weights *w, size_t panel, size_t k, size_t count,
                        float taps[9 * VW][GEMM_WIDTH])
{
    const size_t lanes = least(w->count - panel * GEMM_WIDTH, GEMM_WIDTH);
    const float *from = w->weight + (w->n + panel * GEMM_WIDTH) * w->by_n + k * w->by_k;
    if (w->by_k == 9 && lanes == GEMM_WIDTH && count == VW) {
        for (size_t v = 0; v < GEMM_WIDTH; v += VW)
            for (size_t i = 0; i < 9 * VW; i += VW) {
                vf rows[VW];
                for (size_t r = 0; r < VW; r++)
                    rows[r] = vf_load(from + (v + r) * w->by_n + i);
                vf_transpose(rows);
                for (size_t r = 0; r < VW; r++)
                    vf_store(&taps[i + r][v], rows[r]);
            }
        return;
    }
    for (size_t j = 0; j < count; j++)
        for (size_t i = 0; i < 9; i++) {
            for (size_t lane = 0; lane < lanes; lane++)
                taps[9 * j + i][lane] = from[lane * w->by_n + j * w->by_k + i];
            for (size_t lane = lanes; lane < GEMM_WIDTH; lane++)
                taps[9 * j + i][lane] = 0;
        }
}

/* The taps of one input to all points. */
ALWAYS_INLINE void transform_taps(float taps[9][GEMM_WIDTH], bool turned, size_t point, float *to)
{
    for (size_t v = 0; v < GEMM_WIDTH; v += VW) {
        vf half[3][SIDE];
        for (int i = 0; i < 3; i++) {
            vf g[3];
            for (int j = 0; j < 3; j++)
                g[j] = vf_load(&taps[turned ? 8 - (i * 3 + j) : i * 3 + j][v]);
            winograd_g(g, half[i]);
        }
        for (int j = 0; j < SIDE; j++) {
            vf column[3] = {half[0][j], half[1][j], half[2][j]}, u[SIDE];
            winograd_g(column, u);
            for (int i = 0; i < SIDE; i++)
                vf_store(to + (size_t)(i * SIDE + j) * point + v, u[i]);
        }
    }
}

/* Unit u is input u % inputs of panel u / inputs. */
static void winograd_weights(const npo_winograd_weights *w, size_t first, size_t last, float *to)
{
    float taps[9 * VW][GEMM_WIDTH];
    for (size_t unit = first, count; unit < last; unit += count) {
        size_t k = unit % w->inputs;
        count = least(least(VW, last - unit), w->inputs - k);
        gather_taps(w, unit / w->inputs, k, count, taps);
        for (size_t j = 0; j < count; j++)
            transform_taps(taps + 9 * j, w->turned, w->point, to + (unit + j) * GEMM_WIDTH);
    }
}

static void winograd_unweights(const float *products, size_t rows, size_t lanes, float *to,
                               size_t row)
{
    float taps[9][GEMM_WIDTH];
    const size_t point = rows * GEMM_WIDTH;
    for (size_t r = 0; r < rows; r++, to += row) {
        const float *from = products + r * GEMM_WIDTH;
        for (size_t v = 0; v < GEMM_WIDTH; v += VW) {
            vf half[SIDE][3];
            for (int i = 0; i < SIDE; i++) {
                vf u[SIDE];
                for (int j = 0; j < SIDE; j++)
                    u[j] = vf_load(from + (size_t)(i * SIDE + j) * point + v);
                winograd_gt(u, half[i]);
            }
            for (int j = 0; j < 3; j++) {
                vf column[SIDE], g[3];
                for (int i = 0; i < SIDE; i++)
                    column[i] = half[i][j];
                winograd_gt(column, g);
                for (int i = 0; i < 3; i++)
                    vf_store(&taps[i * 3 + j][v], g[i]);
            }
        }
        for (size_t lane = 0; lane < lanes; lane++)
            for (size_t i = 0; i < 9; i++)
                to[lane * 9 + i] += taps[i][lane];
    }
}
