/* What a convolution or linear layer comes down to for the engine that works on padded images
 * (product.h): sizes, units of work, frames, and where weights stand. */
#ifndef NPO_KERNELS_CPU_PRODUCT_GEOMETRY_H
#define NPO_KERNELS_CPU_PRODUCT_GEOMETRY_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/product/product.h"

enum { NPO_ROW_BLOCK = 64 }; /* rows of a linear layer that are a unit of work */

/* A padded image: `line` pixels apart its lines, each with `gap` pixels of margin in front, `top`
 * lines of margin above. Pixels of the image lie `spread` apart: above 1 with zeros between. */
typedef struct {
    bool direct; /* no margin, nothing between: the image itself will do */
    size_t height, width, channels, spread;
    size_t top, gap, line; /* lines; pixels */
    size_t origin;         /* pixel under the kernel's first weight at output pixel (0, 0) */
    size_t pixels;         /* in all */
} npo_frame;

typedef struct {
    size_t n, parts; /* samples (blocks of rows), and parts of their lines: n * parts units */
    size_t rows;     /* of a linear layer; 0 for a convolution */
    size_t height, width, in, out_height, out_width, out;
    size_t kernel_height, kernel_width, stride;
    npo_frame forward;  /* of x */
    npo_frame backward; /* of the output's gradient */
    npo_weight_map map, map_backward;
} npo_product_geometry;

/* A linear layer over rows or positions. */
bool npo_product_is_pointwise(const npo_op_desc *desc);
/* Whether the geometry can be described: padding below the kernel's size. */
bool npo_product_has_geometry(const npo_op_desc *desc);
npo_product_geometry npo_product_geometry_of(const npo_op_desc *desc, size_t threads);

/* A sample or a part of its output lines; for a linear layer a block of rows. pixels: of a line. */
typedef struct {
    size_t sample, first, lines, pixels;
} npo_product_unit;

/* Unit i of n * parts; height and width are those of what the pass writes. */
npo_product_unit npo_product_unit_at(const npo_product_geometry *g, size_t i, size_t height,
                                     size_t width);

/* Copies prev (or zeros) to grad, so that sums can be made there. */
void npo_product_begin_sum(size_t count, const float *prev, float *grad);

/* The calling thread's share of the gradient of the bias, sums over rows of grad_out [rows, out].
 */
void npo_product_bias(const npo_cpu *cpu, size_t rows, size_t out, const npo_op_args *args);

#endif
