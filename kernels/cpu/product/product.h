/* Convolution and linear layers as products over padded images, the own engine's contract with the
 * instruction sets.
 *
 * An image is copied into a buffer with zeros around it, [lines][pixels][channels] with one gap of
 * zeros between lines (the right margin of one line is the left margin of the next). Then the
 * values under a row of the kernel lie together: kernel_width * channels floats, a "run", and an
 * output pixel is the product of its kernel_height runs with the packed weights. A linear layer is
 * one run of its whole row, read in place. */
#ifndef NPO_KERNELS_CPU_PRODUCT_PRODUCT_H
#define NPO_KERNELS_CPU_PRODUCT_PRODUCT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Strides in floats unless said otherwise. */
typedef struct {
    size_t lines, pixels; /* of the output */
    size_t runs, run;     /* number and floats of the runs of a pixel: k = runs * run */
    size_t n;             /* output channels */
    const float *a;       /* the first run of the first pixel */
    size_t a_line, a_pixel, a_run;
    const float *packed; /* weights, by npo_cpu_kernels.pack_weights */
    const float *bias;   /* [n] or NULL */
    const float *add;    /* added to the output, its layout; NULL, or c itself */
    float *c;
    size_t c_line, c_pixel;
} npo_product;

/* sum over pixels of a^T b: sums [runs * run, n rounded up to 16], added to what is there. */
typedef struct {
    size_t lines, pixels;
    size_t runs, run;
    size_t n;
    const float *a;
    size_t a_line, a_pixel, a_run;
    const float *b; /* gradient of the output: pixel after pixel, n apart */
    size_t b_line;
    float *sums;
} npo_outer_product;

/* Where a weight stands in the published order: element (h, w, i) of a pixel's runs and output
 * channel o at first + h * by_h + w * by_w + i * by_i + o * by_o. */
typedef struct {
    size_t height, width, in, out;
    ptrdiff_t first, by_h, by_w, by_i, by_o;
} npo_weight_map;

/* ---- products of large matrices ---- */

/* Where the rows of a matrix lie: row r is number r % width of line r / width. */
typedef struct {
    size_t width, line, row; /* rows; floats between lines, between rows */
} npo_rows;

/* One thread's c = a b + bias + add, or a part of it. c [m, n], a [m, k], b [k, n]; columns of a, c
 * and add lie together. */
typedef struct {
    size_t m, n, k;
    const float *a;
    npo_rows a_rows;
    bool a_transposed; /* a_rows are those of [k, m] */
    const float *b;
    npo_rows b_rows;
    size_t b_column;   /* floats between columns */
    const float *bias; /* [n] or NULL */
    const float *add;  /* laid out as c; NULL, or c itself */
    float *c;
    npo_rows c_rows;
} npo_gemm;

#endif
