/* Products in bf16 on the matrix unit of recent Intel processors (AMX), for the engine of
 * product-amx.c. Compiled for x86-64 only; call nothing here unless npo_amx_enable said yes.
 *
 * A factor is rounded to bf16 ("high"), or split in two: x = high + low, both bf16, which keeps 16
 * bits of it. Split products are high high + high low + low high, summed in f32: what is left out is
 * below 2^-16 of each product. All channel numbers are multiples of 16.
 *
 * Layouts (low planes behind the high ones):
 *   rows     [position][channel]            the left factor of an output
 *   columns  [channel][position]            the left factor of a gradient of weights
 *   pairs    [position / 2][channel][2]     the right factor of a gradient of weights
 *   packed   [channel / 16][step][high, low][16][16][2]   weights; a step is 32 of k, runs begin a
 *            new step and are filled up with zeros */
#ifndef NPO_KERNELS_CPU_AMX_H
#define NPO_KERNELS_CPU_AMX_H

#include "kernels/cpu/product.h"

enum { NPO_AMX_STEP = 32, NPO_AMX_TILE = 16, NPO_AMX_TILE_VALUES = 512 };

/* Asks the kernel for the tiles, once a process. False: the machine or its kernel lacks them. */
bool npo_amx_enable(void);
/* Around the products of one thread. */
void npo_amx_begin(void);
void npo_amx_end(void);

/* n values in rows, a multiple of 16. */
void npo_amx_row(const float *x, size_t n, bool split, uint16_t *high, uint16_t *low);

/* Positions of an image, as they come into a layout: position i holds the pixel at float at[i], or
 * zeros where at[i] is negative; at NULL: pixel after pixel. */
typedef struct {
    const float *image;
    const int32_t *at;
    size_t positions, channels;
    bool split;
} npo_amx_image;

/* high, low: row c at c * row; writes positions rounded up to 32, zeros behind. */
void npo_amx_columns(const npo_amx_image *image, uint16_t *high, uint16_t *low, size_t row);
/* high, low: an odd position count is filled up with a zero. */
void npo_amx_pairs(const npo_amx_image *image, uint16_t *high, uint16_t *low);

size_t npo_amx_packed_values(const npo_weight_map *map, bool split); /* uint16_t */
/* The channels' tiles with tile % parts == part. */
void npo_amx_pack(const npo_weight_map *map, const float *weight, bool split, uint16_t *packed,
                  size_t part, size_t parts);

/* Output pixels; strides of a in uint16_t, of c in floats. A segment is a row of positions that lie
 * a_pixel apart; of each `line` positions the first `width` are pixels of the output, which follow
 * each other in c. a may be read up to 48 positions and a step past the end. */
typedef struct {
    bool split;
    size_t segments, positions, line, width;
    size_t runs, run; /* values of a run */
    size_t n;
    const uint16_t *a;
    size_t a_low, a_segment, a_pixel, a_run;
    const uint16_t *packed;
    const float *bias, *add; /* add: layout of c, or NULL */
    float *c;
    size_t c_segment;
} npo_amx_product;
void npo_amx_forward(const npo_amx_product *p);

/* sums [runs][taps][in][out] += a^T b, where tap t of run r reads a from position r * run + t on. */
typedef struct {
    bool split;
    size_t positions; /* a multiple of 32 */
    size_t runs, taps, run;
    size_t in, out;
    const uint16_t *a; /* columns, a_row apart */
    size_t a_low, a_row;
    const uint16_t *b; /* pairs */
    size_t b_low;
    float *sums;
} npo_amx_outer;
void npo_amx_weights(const npo_amx_outer *p);

#endif
