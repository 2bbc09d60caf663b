/* Winograd's F(4x4, 3x3): a 3x3 convolution with stride 1 as 36 products over tiles, the contract
 * of winograd.c with the instruction sets.
 *
 * A tile of 4x4 outputs sees 6x6 inputs d. With g the kernel, y = A^T [(G g G^T) * (B^T d B)] A,
 * * element by element and summed over input channels: 36 multiply-adds for 16 outputs instead of
 * 144. The interpolation points 0, +-sqrt(1/2), +-sqrt(2), infinity keep the factors of both
 * transforms near 1: in f32 the largest error of 1280 channels of normal values is 2e-6 of the
 * largest output, with the usual points 0, +-1, +-2 it is 1e-5, for the plain sum 3e-7. */
#ifndef NPO_KERNELS_CPU_PRODUCT_WINOGRAD_H
#define NPO_KERNELS_CPU_PRODUCT_WINOGRAD_H

#include <stdbool.h>
#include <stddef.h>

enum {
    NPO_WINOGRAD_TILE = 4,
    NPO_WINOGRAD_SIDE = 6,
    NPO_WINOGRAD_POINTS = 36,
};

/* Tiles [first, last) of images that follow each other, channels [channel, last_channel). Tile t is
 * number t % (down * across) of image t / (down * across); its first line is at 4 * (number /
 * across) - top of the image. */
typedef struct {
    size_t first, last, channel, last_channel;
    size_t down, across;
    size_t height, width, channels;
    size_t top, left;
} npo_winograd_tiles;

/* Where transformed tiles lie: point p, tile t, channel c at p * point + (t - base) * tile + c /
 * gemm_width * panel + c % gemm_width, floats. */
typedef struct {
    float *at;
    size_t base, point, tile, panel;
} npo_winograd_store;

/* Weights of outputs [n, n + count) to panels: point p, output o and input k at p * point + ((o -
 * n) / gemm_width * inputs + k) * gemm_width + (o - n) % gemm_width. The weight of output o, input
 * k, tap i stands at o * by_n + k * by_k + i, or + 8 - i where it is turned around. */
typedef struct {
    const float *weight;
    size_t inputs, n, count, by_n, by_k, point;
    bool turned;
} npo_winograd_weights;

#endif
