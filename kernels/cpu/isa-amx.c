#include "kernels/cpu/amx.h"

#include <assert.h>
#include <cpuid.h>
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* ---- the unit ---- */

bool npo_amx_enable(void)
{
    enum { REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18, BF16_BIT = 1 << 22, TILE_BIT = 1 << 24 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & BF16_BIT) || !(d & TILE_BIT))
        return false;
    return syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XTILEDATA) == 0;
}

void npo_amx_begin(void)
{
    /* Constant in memory: the compiler does not know that the instruction reads all of it. */
    static const struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {
        .palette = 1,
        .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
        .rows = {16, 16, 16, 16, 16, 16, 16, 16},
    };
    static_assert(sizeof config == 64, "as the processor reads it");
    _tile_loadconfig(&config);
}

void npo_amx_end(void)
{
    _tile_release();
}

/* ---- conversion ---- */

/* Both parts of 16 floats as f32 bits whose upper halves are bf16, rounded half away from zero. */
typedef struct {
    __m512i high, low;
} split_value;

ALWAYS_INLINE split_value split_floats(__m512 x, bool split)
{
    const __m512i half = _mm512_set1_epi32(0x8000), mask = _mm512_set1_epi32((int)0xffff0000);
    split_value p = {.high = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), half), mask)};
    p.low = _mm512_setzero_si512();
    if (split) {
        __m512 low = _mm512_sub_ps(x, _mm512_castsi512_ps(p.high));
        p.low = _mm512_add_epi32(_mm512_castps_si512(low), half);
    }
    return p;
}

/* Upper halves of a, then of b: 32 values. */
ALWAYS_INLINE __m512i join(__m512i a, __m512i b)
{
    static const uint16_t odd[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21,
                                     23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                     45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    return _mm512_permutex2var_epi16(a, _mm512_loadu_si512(odd), b);
}

/* Upper halves of a and b in turn. */
ALWAYS_INLINE __m512i interleave(__m512i a, __m512i b)
{
    return _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(a, 16), b);
}

void npo_amx_row(const float *x, size_t n, bool split, uint16_t *high, uint16_t *low)
{
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        split_value a = split_floats(_mm512_loadu_ps(x + i), split);
        split_value b = split_floats(_mm512_loadu_ps(x + i + 16), split);
        _mm512_storeu_si512(high + i, join(a.high, b.high));
        if (split)
            _mm512_storeu_si512(low + i, join(a.low, b.low));
    }
    if (i < n) {
        split_value a = split_floats(_mm512_loadu_ps(x + i), split);
        _mm256_storeu_si256((__m256i *)(high + i),
                            _mm512_cvtepi32_epi16(_mm512_srli_epi32(a.high, 16)));
        if (split)
            _mm256_storeu_si256((__m256i *)(low + i),
                                _mm512_cvtepi32_epi16(_mm512_srli_epi32(a.low, 16)));
    }
}

/* The pixels of 32 positions. A position without one reads zeros, whatever the channel. */
typedef struct {
    const float *pixel[32];
    size_t mask[32];
} block;

ALWAYS_INLINE void find_pixels(const npo_amx_image *image, size_t first, size_t count, block *b)
{
    static const float zeros[16];
    for (size_t i = 0; i < count; i++) {
        size_t at = first + i;
        bool there = at < image->positions && (!image->at || image->at[at] >= 0);
        size_t offset = image->at && there ? (size_t)image->at[at] : at * image->channels;
        b->pixel[i] = there ? image->image + offset : zeros;
        b->mask[i] = there ? SIZE_MAX : 0;
    }
}

/* 16 channels of positions 2 k and 2 k + 1 of a block as pairs. */
ALWAYS_INLINE split_value pair_at(const block *b, size_t k, size_t channel, bool split)
{
    size_t even = 2 * k, odd = 2 * k + 1;
    __m512 x = _mm512_loadu_ps(b->pixel[even] + (channel & b->mask[even]));
    __m512 y = _mm512_loadu_ps(b->pixel[odd] + (channel & b->mask[odd]));
    split_value p = split_floats(x, split), q = split_floats(y, split);
    return (split_value){interleave(p.high, q.high), interleave(p.low, q.low)};
}

ALWAYS_INLINE void pairs(const npo_amx_image *image, bool split, uint16_t *high, uint16_t *low)
{
    block b;
    size_t channels = image->channels, end = (image->positions + 1) / 2 * 2;
    for (size_t first = 0; first < end; first += 32) {
        size_t count = end - first < 32 ? end - first : 32;
        find_pixels(image, first, count, &b);
        for (size_t k = 0; k < count / 2; k++)
            for (size_t c = 0; c < channels; c += 16) {
                split_value p = pair_at(&b, k, c, split);
                size_t at = (first + 2 * k) * channels + 2 * c;
                _mm512_storeu_si512(high + at, p.high);
                if (split)
                    _mm512_storeu_si512(low + at, p.low);
            }
    }
}

void npo_amx_pairs(const npo_amx_image *image, uint16_t *high, uint16_t *low)
{
    if (image->split)
        pairs(image, true, high, low);
    else
        pairs(image, false, high, low);
}

/* 16 x 16 words, rows against columns. */
ALWAYS_INLINE void transpose_words(__m512i r[16])
{
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int k = 0; k < 2; k++) {
            r[i + 2 * k] = _mm512_unpacklo_epi64(t[i + k], t[i + k + 2]);
            r[i + 2 * k + 1] = _mm512_unpackhi_epi64(t[i + k], t[i + k + 2]);
        }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

ALWAYS_INLINE void columns(const npo_amx_image *image, bool split, uint16_t *high, uint16_t *low,
                           size_t row)
{
    block b;
    for (size_t first = 0; first < image->positions; first += 32) {
        find_pixels(image, first, 32, &b);
        for (size_t c = 0; c < image->channels; c += 16) {
            __m512i h[16], l[16];
            for (size_t k = 0; k < 16; k++) {
                split_value p = pair_at(&b, k, c, split);
                h[k] = p.high;
                l[k] = p.low;
            }
            transpose_words(h);
            for (size_t k = 0; k < 16; k++)
                _mm512_storeu_si512(high + (c + k) * row + first, h[k]);
            if (!split)
                continue;
            transpose_words(l);
            for (size_t k = 0; k < 16; k++)
                _mm512_storeu_si512(low + (c + k) * row + first, l[k]);
        }
    }
}

void npo_amx_columns(const npo_amx_image *image, uint16_t *high, uint16_t *low, size_t row)
{
    if (image->split)
        columns(image, true, high, low, row);
    else
        columns(image, false, high, low, row);
}

/* ---- weights ---- */

static size_t steps_of(size_t run)
{
    return (run + NPO_AMX_STEP - 1) / NPO_AMX_STEP;
}

size_t npo_amx_packed_values(const npo_weight_map *map, bool split)
{
    return map->out * map->height * steps_of(map->width * map->in) * NPO_AMX_STEP * (split ? 2 : 1);
}

static void pack_value(float value, bool split, uint16_t *high)
{
    uint32_t bits, low;
    memcpy(&bits, &value, sizeof bits);
    bits = (bits + 0x8000) & 0xffff0000u;
    *high = (uint16_t)(bits >> 16);
    if (!split)
        return;
    float rounded;
    memcpy(&rounded, &bits, sizeof rounded);
    rounded = value - rounded;
    memcpy(&low, &rounded, sizeof low);
    high[NPO_AMX_TILE_VALUES] = (uint16_t)((low + 0x8000) >> 16);
}

void npo_amx_pack(const npo_weight_map *map, const float *weight, bool split, uint16_t *packed,
                  size_t part, size_t parts)
{
    size_t steps = steps_of(map->width * map->in), tile = NPO_AMX_TILE_VALUES * (split ? 2 : 1);
    for (size_t t = part; t < map->out / NPO_AMX_TILE; t += parts) {
        uint16_t *to = packed + t * map->height * steps * tile;
        memset(to, 0, map->height * steps * tile * sizeof *to);
        for (size_t h = 0; h < map->height; h++)
            for (size_t i = 0; i < map->in; i++)
                for (size_t w = 0; w < map->width; w++) {
                    const float *from = weight + map->first + (ptrdiff_t)h * map->by_h +
                                        (ptrdiff_t)w * map->by_w + (ptrdiff_t)i * map->by_i +
                                        (ptrdiff_t)(t * NPO_AMX_TILE) * map->by_o;
                    size_t k = w * map->in + i;
                    uint16_t *row = to + (h * steps + k / NPO_AMX_STEP) * tile +
                                    k % NPO_AMX_STEP / 2 * 32 + k % 2;
                    for (size_t o = 0; o < NPO_AMX_TILE; o++)
                        pack_value(from[(ptrdiff_t)o * map->by_o], split, row + 2 * o);
                }
    }
}

/* ---- tiles ---- */

/* What a block of tiles reads: the left factor of up to three rows of tiles, the right one of one or
 * two columns. Strides in bytes. */
typedef struct {
    const char *a[3], *b[2];
    size_t a_row, a_low, a_step, a_run;
    size_t b_row, b_low, b_step;
    size_t runs, steps;
} walk;

/* 2 x 2 tiles: sums in 0 to 3, a in 4 and 5, b in 6 and 7. */
ALWAYS_INLINE void walk_2x2(const walk *w, bool split)
{
    const char *b0 = w->b[0], *b1 = w->b[1];
    for (size_t run = 0; run < w->runs; run++) {
        const char *a0 = w->a[0] + run * w->a_run, *a1 = w->a[1] + run * w->a_run;
        for (size_t step = 0; step < w->steps; step++) {
            _tile_loadd(6, b0, w->b_row);
            _tile_loadd(4, a0, w->a_row);
            _tile_loadd(7, b1, w->b_row);
            _tile_loadd(5, a1, w->a_row);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
            if (split) {
                _tile_loadd(4, a0 + w->a_low, w->a_row);
                _tile_loadd(5, a1 + w->a_low, w->a_row);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
                _tile_loadd(6, b0 + w->b_low, w->b_row);
                _tile_loadd(4, a0, w->a_row);
                _tile_loadd(7, b1 + w->b_low, w->b_row);
                _tile_loadd(5, a1, w->a_row);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            a0 += w->a_step;
            a1 += w->a_step;
            b0 += w->b_step;
            b1 += w->b_step;
        }
    }
}

/* rows x 1 tiles: sums in 0 to 2, a in 3 to 5, b in 6, its low part in 7. */
ALWAYS_INLINE void walk_rows(const walk *w, const int rows, bool split)
{
    const char *b = w->b[0];
    for (size_t run = 0; run < w->runs; run++) {
        size_t at = run * w->a_run;
        for (size_t step = 0; step < w->steps; step++, at += w->a_step, b += w->b_step) {
            _tile_loadd(6, b, w->b_row);
            if (split)
                _tile_loadd(7, b + w->b_low, w->b_row);
            _tile_loadd(3, w->a[0] + at, w->a_row);
            _tile_dpbf16ps(0, 3, 6);
            if (rows > 1) {
                _tile_loadd(4, w->a[1] + at, w->a_row);
                _tile_dpbf16ps(1, 4, 6);
            }
            if (rows > 2) {
                _tile_loadd(5, w->a[2] + at, w->a_row);
                _tile_dpbf16ps(2, 5, 6);
            }
            if (!split)
                continue;
            _tile_dpbf16ps(0, 3, 7);
            _tile_loadd(3, w->a[0] + at + w->a_low, w->a_row);
            if (rows > 1) {
                _tile_dpbf16ps(1, 4, 7);
                _tile_loadd(4, w->a[1] + at + w->a_low, w->a_row);
            }
            if (rows > 2) {
                _tile_dpbf16ps(2, 5, 7);
                _tile_loadd(5, w->a[2] + at + w->a_low, w->a_row);
            }
            _tile_dpbf16ps(0, 3, 6);
            if (rows > 1)
                _tile_dpbf16ps(1, 4, 6);
            if (rows > 2)
                _tile_dpbf16ps(2, 5, 6);
        }
    }
}

static void walk_all(const walk *w, size_t rows, size_t columns, bool split)
{
    if (columns == 2 && split)
        walk_2x2(w, true);
    else if (columns == 2)
        walk_2x2(w, false);
    else if (rows == 3 && split)
        walk_rows(w, 3, true);
    else if (rows == 3)
        walk_rows(w, 3, false);
    else if (rows == 2 && split)
        walk_rows(w, 2, true);
    else if (rows == 2)
        walk_rows(w, 2, false);
    else if (split)
        walk_rows(w, 1, true);
    else
        walk_rows(w, 1, false);
}

/* Sums of a block are tiles 0, 1 (first row of two columns), 2, 3, or 0 to 2 of one column. */
ALWAYS_INLINE void zero_sums(void)
{
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

/* ---- output ---- */

/* Where the rows of a block go. */
typedef struct {
    const npo_amx_product *p;
    size_t channel;      /* the first */
    size_t first, count; /* positions of the segment */
    float *c;            /* of the segment */
} target;

/* count pixels that follow each other. */
ALWAYS_INLINE void write_span(const npo_amx_product *p, const float *sums, size_t channel,
                              size_t count, float *to, const int columns)
{
    const float *add = p->add ? p->add + (to - p->c) : NULL;
    __m512 bias[2];
    for (int k = 0; k < columns; k++)
        bias[k] = p->bias ? _mm512_loadu_ps(p->bias + channel + 16 * k) : _mm512_setzero_ps();
    for (size_t i = 0; i < count; i++, sums += 16 * columns, to += p->n)
        for (int k = 0; k < columns; k++) {
            __m512 y = _mm512_add_ps(_mm512_load_ps(sums + 16 * k), bias[k]);
            if (add)
                y = _mm512_add_ps(y, _mm512_loadu_ps(add + i * p->n + 16 * (size_t)k));
            _mm512_storeu_ps(to + 16 * k, y);
        }
}

/* Writes `count` positions from sums of `columns` tiles side by side, without the margins. */
ALWAYS_INLINE void write_rows(const target *t, const float *sums, const int columns)
{
    const npo_amx_product *p = t->p;
    size_t line = t->first / p->line, column = t->first % p->line;
    for (size_t i = 0, step; i < t->count; i += step, line++, column = 0) {
        size_t left = p->line - column;
        step = t->count - i < left ? t->count - i : left;
        if (column >= p->width)
            continue;
        size_t count = step < p->width - column ? step : p->width - column;
        write_span(p, sums + i * 16 * (size_t)columns, t->channel, count,
                   t->c + (line * p->width + column) * p->n + t->channel, columns);
    }
}

/* One block: rows tiles of positions (two where there are two columns) from position `first` on. */
static void forward_block(const npo_amx_product *p, walk *w, const target *segment,
                          const uint16_t *a, size_t first, size_t rows, size_t columns)
{
    _Alignas(64) float sums[32 * 32]; /* of 2 x 2 tiles; 3 x 1 are less */
    target t = *segment;
    size_t left = p->positions - first;
    t.first = first;
    t.count = left < rows * 16 ? left : rows * 16;
    for (size_t r = 0; r < 3; r++)
        w->a[r] = (const char *)(a + (first + (r < rows ? r : 0) * 16) * p->a_pixel);
    zero_sums();
    walk_all(w, rows, columns, p->split);
    if (columns == 2) {
        _tile_stored(0, sums, 128);
        _tile_stored(1, sums + 16, 128);
        _tile_stored(2, sums + 16 * 32, 128);
        _tile_stored(3, sums + 16 * 32 + 16, 128);
        write_rows(&t, sums, 2);
        return;
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    _tile_stored(2, sums + 512, 64);
    write_rows(&t, sums, 1);
}

void npo_amx_forward(const npo_amx_product *p)
{
    size_t steps = steps_of(p->run), tile = NPO_AMX_TILE_VALUES * (p->split ? 2 : 1);
    size_t tiles = p->n / NPO_AMX_TILE, rows = (p->positions + 15) / 16;
    walk w = {
        .a_row = p->a_pixel * 2, .a_low = p->a_low * 2, .a_step = 64, .a_run = p->a_run * 2,
        .b_row = 64, .b_low = NPO_AMX_TILE_VALUES * 2, .b_step = tile * 2,
        .runs = p->runs, .steps = steps,
    };
    for (size_t t = 0, columns; t < tiles; t += columns) {
        columns = tiles - t >= 2 ? 2 : 1;
        for (size_t k = 0; k < columns; k++)
            w.b[k] = (const char *)(p->packed + (t + k) * p->runs * steps * tile);
        for (size_t s = 0; s < p->segments; s++) {
            target to = {.p = p, .channel = t * 16, .c = p->c + s * p->c_segment};
            size_t blocks = columns == 2 ? (rows + 1) / 2 : (rows + 2) / 3;
            for (size_t i = 0; i < blocks; i++) {
                size_t first = columns == 2 ? 2 * i : rows * i / blocks;
                size_t count = columns == 2 ? 2 : rows * (i + 1) / blocks - first;
                forward_block(p, &w, &to, p->a + s * p->a_segment, first * 16, count, columns);
            }
        }
    }
}

/* ---- gradients of weights ---- */

/* Row m of tiles: 16 input channels of one tap. */
typedef struct {
    const char *a;
    float *sums;
} outer_row;

static outer_row row_at(const npo_amx_outer *p, size_t m)
{
    size_t blocks = p->in / 16, tap = m / blocks, channel = m % blocks * 16;
    size_t position = tap / p->taps * p->run + tap % p->taps;
    return (outer_row){(const char *)(p->a + channel * p->a_row + position),
                       p->sums + (tap * p->in + channel) * p->out};
}

static void outer_block(const npo_amx_outer *p, walk *w, size_t m, size_t rows, size_t channel,
                        size_t columns)
{
    outer_row r[3];
    size_t stride = p->out * sizeof(float);
    for (size_t i = 0; i < 3; i++) {
        r[i] = row_at(p, m + (i < rows ? i : 0));
        r[i].sums += channel;
        w->a[i] = r[i].a;
    }
    for (size_t k = 0; k < 2; k++)
        w->b[k] = (const char *)(p->b + (channel + (k < columns ? k : 0) * 16) * 2);
    _tile_loadd(0, r[0].sums, stride);
    if (columns == 2) {
        _tile_loadd(1, r[0].sums + 16, stride);
        _tile_loadd(2, r[1].sums, stride);
        _tile_loadd(3, r[1].sums + 16, stride);
    } else {
        _tile_loadd(1, r[1].sums, stride);
        _tile_loadd(2, r[2].sums, stride);
    }
    walk_all(w, rows, columns, p->split);
    _tile_stored(0, r[0].sums, stride);
    if (columns == 2) {
        _tile_stored(1, r[0].sums + 16, stride);
        _tile_stored(2, r[1].sums, stride);
        _tile_stored(3, r[1].sums + 16, stride);
        return;
    }
    if (rows > 1)
        _tile_stored(1, r[1].sums, stride);
    if (rows > 2)
        _tile_stored(2, r[2].sums, stride);
}

void npo_amx_weights(const npo_amx_outer *p)
{
    size_t rows = p->runs * p->taps * (p->in / 16), tiles = p->out / 16;
    walk w = {
        .a_row = p->a_row * 2, .a_low = p->a_low * 2, .a_step = 64,
        .b_row = p->out * 4, .b_low = p->b_low * 2, .b_step = p->out * 64,
        .runs = 1, .steps = p->positions / NPO_AMX_STEP,
    };
    for (size_t t = 0; t < tiles;) {
        size_t pairs = tiles - t >= 2 ? rows / 2 * 2 : 0;
        for (size_t m = 0; m < pairs; m += 2)
            outer_block(p, &w, m, 2, t * 16, 2);
        size_t columns = tiles - t >= 2 ? 2 : 1, left = rows - pairs, blocks = (left + 2) / 3;
        for (size_t k = 0; k < columns; k++)
            for (size_t i = 0; i < blocks; i++) {
                size_t first = left * i / blocks;
                outer_block(p, &w, pairs + first, left * (i + 1) / blocks - first, (t + k) * 16, 1);
            }
        t += columns;
    }
}
