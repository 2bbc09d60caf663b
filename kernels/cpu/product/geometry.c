#include "kernels/cpu/product/geometry.h"

#include <string.h>

typedef struct {
    size_t top, left, bottom, right;
} margins;

bool npo_product_is_pointwise(const npo_op_desc *desc)
{
    const npo_shape *w = &desc->in[1];
    const npo_conv_options *o = &desc->attrs.conv;
    return desc->kind == NPO_OP_LINEAR ||
           (w->dims[2] == 1 && w->dims[3] == 1 && o->stride == 1 && o->pad_top == 0 &&
            o->pad_left == 0 && o->pad_bottom == 0 && o->pad_right == 0);
}

bool npo_product_has_geometry(const npo_op_desc *desc)
{
    const npo_shape *w = &desc->in[1];
    const npo_conv_options *o = &desc->attrs.conv;
    return npo_product_is_pointwise(desc) ||
           (o->pad_top < w->dims[2] && o->pad_bottom < w->dims[2] && o->pad_left < w->dims[3] &&
            o->pad_right < w->dims[3]);
}

static npo_frame make_frame(size_t height, size_t width, size_t channels, size_t spread, margins m)
{
    size_t gap = m.left > m.right ? m.left : m.right;
    size_t line = (width - 1) * spread + 1 + gap, lines = (height - 1) * spread + 1;
    return (npo_frame){
        .direct = spread == 1 && gap == 0 && m.top == 0 && m.bottom == 0,
        .height = height,
        .width = width,
        .channels = channels,
        .spread = spread,
        .top = m.top,
        .gap = gap,
        .line = line,
        .origin = gap - m.left,
        .pixels = (m.top + lines + m.bottom) * line + gap,
    };
}

/* The gradient of x is a convolution, with stride 1 and the kernel turned around, of the output's
 * gradient with stride - 1 zeros between its pixels. */
static void make_frames(npo_product_geometry *g, const npo_conv_options *o)
{
    margins m = {(size_t)o->pad_top, (size_t)o->pad_left, (size_t)o->pad_bottom,
                 (size_t)o->pad_right};
    g->forward = make_frame(g->height, g->width, g->in, 1, m);
    margins back = {.top = g->kernel_height - 1 - m.top, .left = g->kernel_width - 1 - m.left};
    back.bottom = g->height + g->kernel_height - 1 - back.top - (g->out_height - 1) * g->stride - 1;
    back.right = g->width + g->kernel_width - 1 - back.left - (g->out_width - 1) * g->stride - 1;
    g->backward = make_frame(g->out_height, g->out_width, g->out, g->stride, back);
}

static void make_maps(npo_product_geometry *g)
{
    ptrdiff_t kh = (ptrdiff_t)g->kernel_height, kw = (ptrdiff_t)g->kernel_width;
    ptrdiff_t in = (ptrdiff_t)g->in;
    g->map = (npo_weight_map){g->kernel_height, g->kernel_width, g->in, g->out, 0, kw, 1,
                              kh * kw,          in * kh * kw};
    g->map_backward =
        (npo_weight_map){g->kernel_height, g->kernel_width, g->out, g->in, kh * kw - 1, -kw, -1,
                         in * kh * kw,     kh * kw};
}

npo_product_geometry npo_product_geometry_of(const npo_op_desc *d, size_t threads)
{
    const npo_shape *x = &d->in[0], *w = &d->in[1];
    npo_product_geometry g = {.in = (size_t)w->dims[1], .out = (size_t)w->dims[0]};
    g.kernel_height = g.kernel_width = g.stride = g.parts = 1;
    npo_conv_options options = {0};
    if (npo_product_is_pointwise(d)) {
        g.rows = (size_t)npo_shape_rows(x);
        g.n = (g.rows + NPO_ROW_BLOCK - 1) / NPO_ROW_BLOCK;
        g.height = g.out_height = 1;
        g.width = g.out_width = NPO_ROW_BLOCK;
    } else {
        options = d->attrs.conv;
        g.n = (size_t)x->dims[0];
        g.height = (size_t)x->dims[1];
        g.width = (size_t)x->dims[2];
        g.out_height = (size_t)d->out.dims[1];
        g.out_width = (size_t)d->out.dims[2];
        g.kernel_height = (size_t)w->dims[2];
        g.kernel_width = (size_t)w->dims[3];
        g.stride = (size_t)options.stride;
        if (g.n % threads && g.n < 4 * threads)
            g.parts = threads;
    }
    make_frames(&g, &options);
    make_maps(&g);
    return g;
}

npo_product_unit npo_product_unit_at(const npo_product_geometry *g, size_t i, size_t height,
                                     size_t width)
{
    if (g->rows) {
        size_t left = g->rows - i * NPO_ROW_BLOCK;
        return (npo_product_unit){i, 0, 1, left < NPO_ROW_BLOCK ? left : (size_t)NPO_ROW_BLOCK};
    }
    size_t part = i % g->parts, first = height * part / g->parts;
    return (npo_product_unit){i / g->parts, first, height * (part + 1) / g->parts - first, width};
}

void npo_product_begin_sum(size_t count, const float *prev, float *grad)
{
    if (!prev)
        memset(grad, 0, count * sizeof *grad);
    else if (prev != grad)
        memcpy(grad, prev, count * sizeof *grad);
}

void npo_product_bias(const npo_cpu *cpu, size_t rows, size_t out, const npo_op_args *args)
{
    npo_cpu_part part = npo_cpu_part_of(out, 16);
    if (part.last > part.first)
        cpu->k->column_sums(rows, part.last - part.first, out, args->grad_out + part.first,
                            npo_at(args->grad_prev[2], part.first), args->grad_in[2] + part.first);
}
