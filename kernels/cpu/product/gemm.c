/* The engine for large weights: products over blocks of all three sizes (npo_gemm). A convolution
 * is a sum over the kernel's taps of products over the positions that a tap sees; nothing is copied
 * but what a block packs, and weights are read in the published order. Threads divide samples and
 * columns, so neither their number nor a sample's neighbours show in its bits. */
#include "kernels/cpu/product/engine.h"
#include "kernels/cpu/product/geometry.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { F = sizeof(float), WEIGHT_ROWS = 192 };

typedef struct {
    const npo_product_engine *engine;
    npo_conv_options options;
    size_t n, height, width, in, out_height, out_width, out;
    size_t kernel_height, kernel_width;
    size_t per_thread; /* scratch floats */
} gemm_state;

/* ---- preparing ---- */

static void gemm_finish(npo_op_work *work)
{
    free(work->state);
    work->state = NULL;
}

static void describe(const npo_op_desc *d, gemm_state *s)
{
    const npo_shape *x = &d->in[0], *w = &d->in[1];
    s->in = (size_t)w->dims[1];
    s->out = (size_t)w->dims[0];
    s->kernel_height = s->kernel_width = s->n = s->height = s->out_height = 1;
    s->options.stride = 1;
    if (npo_product_is_pointwise(d)) {
        s->width = s->out_width = (size_t)npo_shape_rows(x);
        return;
    }
    s->options = d->attrs.conv;
    s->n = (size_t)x->dims[0];
    s->height = (size_t)x->dims[1];
    s->width = (size_t)x->dims[2];
    s->out_height = (size_t)d->out.dims[1];
    s->out_width = (size_t)d->out.dims[2];
    s->kernel_height = (size_t)w->dims[2];
    s->kernel_width = (size_t)w->dims[3];
}

static bool is_plain(const gemm_state *s)
{
    return s->n == 1 && s->height == 1 && s->kernel_height == 1 && s->kernel_width == 1 &&
           s->width == s->out_width && s->out_height == 1;
}

static npo_err gemm_prepare(const npo_cpu *cpu, npo_op_work *work, npo_error *error)
{
    gemm_state *s = work->state = calloc(1, sizeof *s);
    if (!s)
        return npo_error_set(error, NPO_E_NOMEM, "op '%s': out of memory",
                             npo_op_rule_of(work->desc.kind)->name);
    s->engine = &npo_product_gemm;
    describe(&work->desc, s);
    size_t threads = (size_t)cpu->threads, forward = cpu->k->gemm_scratch();
    s->per_thread = forward;
    if (!is_plain(s) && work->desc.want & 2)
        s->per_thread += (WEIGHT_ROWS * s->in + 15) / 16 * 16;
    work->scratch_forward = threads * forward * F;
    work->scratch_backward = threads * s->per_thread * F;
    return NPO_OK;
}

/* ---- shares of the threads ---- */

typedef struct {
    size_t row, last_row, column, last_column;
} share;

/* Of rows (samples, or rows of a linear layer) and columns; more cuts along the longer side. */
static share share_of(const npo_cpu *cpu, size_t rows, size_t row_grain, size_t columns)
{
    size_t team = (size_t)omp_get_num_threads(), me = (size_t)omp_get_thread_num();
    size_t width = cpu->k->gemm_width;
    size_t row_grains = (rows + row_grain - 1) / row_grain, panels = (columns + width - 1) / width;
    size_t by_rows = 1, by_columns = 1;
    if (row_grain > 1 && rows >= columns) {
        by_rows = row_grains < team ? row_grains : team;
        by_columns = team / by_rows < panels ? team / by_rows : panels;
    } else {
        by_columns = panels < team ? panels : team;
        by_rows = team / by_columns < row_grains ? team / by_columns : row_grains;
    }
    if (me >= by_rows * by_columns)
        return (share){0};
    size_t r = me / by_columns, c = me % by_columns;
    share mine = {row_grains * r / by_rows * row_grain, row_grains * (r + 1) / by_rows * row_grain,
                  panels * c / by_columns * width, panels * (c + 1) / by_columns * width};
    mine.last_row = mine.last_row < rows ? mine.last_row : rows;
    mine.last_column = mine.last_column < columns ? mine.last_column : columns;
    return mine;
}

enum { ROW_GRAIN = 48 };

static npo_rows plain_rows(size_t row)
{
    return (npo_rows){.width = SIZE_MAX, .row = row};
}

/* ---- linear layers ---- */

/* y = x w^T + bias + add, or dx = dy w + add: n columns out of k. */
static void linear_rows(const npo_cpu *cpu, const npo_gemm *whole, float *scratch)
{
    share part = share_of(cpu, whole->m, ROW_GRAIN, whole->n);
    npo_gemm p = *whole;
    size_t c = part.row * p.c_rows.row + part.column;
    p.m = part.last_row - part.row;
    p.n = part.last_column - part.column;
    p.a += part.row * p.a_rows.row;
    p.b += part.column * p.b_column;
    p.bias = npo_at(p.bias, part.column);
    p.add = npo_at(p.add, c);
    p.c += c;
    if (p.m && p.n)
        cpu->k->gemm(&p, scratch);
}

static void linear_forward(const npo_cpu *cpu, const gemm_state *s, const npo_op_args *args,
                           float *scratch)
{
    linear_rows(cpu,
                &(npo_gemm){.m = s->width,
                            .n = s->out,
                            .k = s->in,
                            .a = args->in[0],
                            .a_rows = plain_rows(s->in),
                            .b = args->in[1],
                            .b_rows = plain_rows(1),
                            .b_column = s->in,
                            .bias = args->in[2],
                            .add = args->fused_add,
                            .c = args->out,
                            .c_rows = plain_rows(s->out)},
                scratch);
}

static void linear_data(const npo_cpu *cpu, const gemm_state *s, const npo_op_args *args,
                        float *scratch)
{
    linear_rows(cpu,
                &(npo_gemm){.m = s->width,
                            .n = s->in,
                            .k = s->out,
                            .a = args->grad_out,
                            .a_rows = plain_rows(s->out),
                            .b = args->in[1],
                            .b_rows = plain_rows(s->in),
                            .b_column = 1,
                            .add = args->grad_prev[0],
                            .c = args->grad_in[0],
                            .c_rows = plain_rows(s->in)},
                scratch);
}

static void linear_weights(const npo_cpu *cpu, const gemm_state *s, const npo_op_args *args,
                           float *scratch)
{
    share part = share_of(cpu, s->out, ROW_GRAIN, s->in);
    size_t c = part.row * s->in + part.column;
    if (part.last_row > part.row && part.last_column > part.column)
        cpu->k->gemm(&(npo_gemm){.m = part.last_row - part.row,
                                 .n = part.last_column - part.column,
                                 .k = s->width,
                                 .a = args->grad_out + part.row,
                                 .a_rows = plain_rows(s->out),
                                 .a_transposed = true,
                                 .b = (const float *)args->in[0] + part.column,
                                 .b_rows = plain_rows(s->in),
                                 .b_column = 1,
                                 .add = npo_at(args->grad_prev[1], c),
                                 .c = args->grad_in[1] + c,
                                 .c_rows = plain_rows(s->in)},
                     scratch);
}

/* ---- convolutions ---- */

/* The output positions of one axis at which a tap lies on the image: [first, last). */
typedef struct {
    size_t first, last, image; /* image: where the tap lies at `first` */
} reach;

static reach reach_of(size_t tap, size_t pad, size_t stride, size_t size, size_t out_size)
{
    reach r = {.first = tap < pad ? (pad - tap + stride - 1) / stride : 0};
    /* position * stride + tap - pad < size */
    r.last = size + pad > tap ? (size + pad - tap + stride - 1) / stride : 0;
    r.last = r.last < out_size ? r.last : out_size;
    r.first = r.first < r.last ? r.first : r.last;
    r.image = r.first * stride + tap - pad;
    return r;
}

/* One tap over one sample: the rows of both sides, and the weights from w on. */
typedef struct {
    size_t rows, tap;
    size_t out_at, in_at; /* floats into the sample's images */
    npo_rows out_rows, in_rows;
} tap_view;

static tap_view view_tap(const gemm_state *s, size_t tap)
{
    size_t stride = (size_t)s->options.stride;
    reach y = reach_of(tap / s->kernel_width, (size_t)s->options.pad_top, stride, s->height,
                       s->out_height);
    reach x = reach_of(tap % s->kernel_width, (size_t)s->options.pad_left, stride, s->width,
                       s->out_width);
    size_t width = x.last - x.first;
    return (tap_view){
        .rows = (y.last - y.first) * width,
        .tap = tap,
        .out_at = (y.first * s->out_width + x.first) * s->out,
        .in_at = width ? (y.image * s->width + x.image) * s->in : 0,
        .out_rows = {width ? width : 1, s->out_width * s->out, s->out},
        .in_rows = {width ? width : 1, stride * s->width * s->in, stride * s->in},
    };
}

static size_t taps_of(const gemm_state *s)
{
    return s->kernel_height * s->kernel_width;
}

/* Rows of c, columns [first, last): bias, e and add of their place. */
static void begin_rows(const npo_cpu *cpu, size_t rows, size_t row, share part, const float *bias,
                       const float *e, const float *add, float *c)
{
    size_t n = part.last_column - part.column;
    for (size_t r = 0; r < rows; r++) {
        size_t at = r * row + part.column;
        if (add && add != c)
            memcpy(c + at, add + at, n * F);
        else if (!add)
            memset(c + at, 0, n * F);
        if (bias)
            cpu->k->add(n, c + at, bias + part.column, c + at);
        if (e)
            cpu->k->add(n, c + at, e + part.column, c + at);
    }
}

static void conv_forward(const npo_cpu *cpu, const gemm_state *s, const npo_op_args *args,
                         float *scratch)
{
    share part = share_of(cpu, s->n, 1, s->out);
    size_t taps = taps_of(s), size = s->out_height * s->out_width * s->out;
    for (size_t i = part.row; i < part.last_row; i++) {
        float *y = args->out + i * size;
        begin_rows(cpu, s->out_height * s->out_width, s->out, part, args->in[2],
                   npo_at(args->fused_channels, i * s->out), npo_at(args->fused_add, i * size), y);
        for (size_t tap = 0; tap < taps && part.last_column > part.column; tap++) {
            tap_view v = view_tap(s, tap);
            float *c = y + v.out_at + part.column;
            cpu->k->gemm(
                &(npo_gemm){.m = v.rows,
                            .n = part.last_column - part.column,
                            .k = s->in,
                            .a = (const float *)args->in[0] + i * s->height * s->width * s->in +
                                 v.in_at,
                            .a_rows = v.in_rows,
                            .b = (const float *)args->in[1] + part.column * s->in * taps + tap,
                            .b_rows = plain_rows(taps),
                            .b_column = s->in * taps,
                            .add = c,
                            .c = c,
                            .c_rows = v.out_rows},
                scratch);
        }
    }
}

static void conv_data(const npo_cpu *cpu, const gemm_state *s, const npo_op_args *args,
                      float *scratch)
{
    share part = share_of(cpu, s->n, 1, s->in);
    size_t taps = taps_of(s), size = s->height * s->width * s->in;
    for (size_t i = part.row; i < part.last_row; i++) {
        float *dx = args->grad_in[0] + i * size;
        begin_rows(cpu, s->height * s->width, s->in, part, NULL, NULL,
                   npo_at(args->grad_prev[0], i * size), dx);
        for (size_t tap = 0; tap < taps && part.last_column > part.column; tap++) {
            tap_view v = view_tap(s, tap);
            float *c = dx + v.in_at + part.column;
            cpu->k->gemm(&(npo_gemm){.m = v.rows,
                                     .n = part.last_column - part.column,
                                     .k = s->out,
                                     .a = args->grad_out +
                                          i * s->out_height * s->out_width * s->out + v.out_at,
                                     .a_rows = v.out_rows,
                                     .b = (const float *)args->in[1] + part.column * taps + tap,
                                     .b_rows = plain_rows(s->in * taps),
                                     .b_column = taps,
                                     .add = c,
                                     .c = c,
                                     .c_rows = v.in_rows},
                         scratch);
        }
    }
}

/* Gradients of a block of output channels for one tap, columns of part, summed over samples. */
static void tap_weights(const npo_cpu *cpu, const gemm_state *s, const npo_op_args *args,
                        const tap_view *v, share part, float *sums, float *scratch)
{
    for (size_t i = 0; i < s->n; i++)
        cpu->k->gemm(&(npo_gemm){.m = part.last_row - part.row,
                                 .n = part.last_column - part.column,
                                 .k = v->rows,
                                 .a = args->grad_out + i * s->out_height * s->out_width * s->out +
                                      v->out_at + part.row,
                                 .a_rows = v->out_rows,
                                 .a_transposed = true,
                                 .b = (const float *)args->in[0] +
                                      i * s->height * s->width * s->in + v->in_at + part.column,
                                 .b_rows = v->in_rows,
                                 .b_column = 1,
                                 .add = i ? sums : NULL,
                                 .c = sums,
                                 .c_rows = plain_rows(s->in)},
                     scratch);
}

static void conv_weights(const npo_cpu *cpu, const gemm_state *s, const npo_op_args *args,
                         float *scratch)
{
    share columns = share_of(cpu, 1, 1, s->in);
    float *sums = scratch + cpu->k->gemm_scratch();
    size_t taps = taps_of(s);
    for (size_t tap = 0; tap < taps && columns.last_column > columns.column; tap++) {
        tap_view v = view_tap(s, tap);
        for (size_t o = 0; o < s->out && v.rows; o += WEIGHT_ROWS) {
            share part = columns;
            part.row = o;
            part.last_row = o + WEIGHT_ROWS < s->out ? o + WEIGHT_ROWS : s->out;
            tap_weights(cpu, s, args, &v, part, sums, scratch);
            for (size_t r = part.row; r < part.last_row; r++) {
                const float *from = sums + (r - part.row) * s->in;
                float *to = args->grad_in[1] + (r * s->in + part.column) * taps + tap;
                for (size_t c = 0; c < part.last_column - part.column; c++)
                    to[c * taps] += from[c];
            }
        }
    }
}

/* ---- the passes ---- */

static size_t macs_of(const gemm_state *s)
{
    return s->n * s->out_height * s->out_width * s->out * s->in;
}

static npo_err gemm_forward(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                            npo_error *error)
{
    const gemm_state *s = work->state;
#pragma omp parallel num_threads(npo_cpu_team(cpu, macs_of(s)))
    {
        float *scratch =
            (float *)args->scratch + (size_t)omp_get_thread_num() * cpu->k->gemm_scratch();
        if (is_plain(s))
            linear_forward(cpu, s, args, scratch);
        else
            conv_forward(cpu, s, args, scratch);
    }
    return NPO_OK;
}

static npo_err gemm_backward(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                             npo_error *error)
{
    const gemm_state *s = work->state;
    bool plain = is_plain(s);
    if (npo_wants(args, 1) && !plain)
        npo_product_begin_sum((size_t)npo_shape_count(&work->desc.in[1]), args->grad_prev[1],
                              args->grad_in[1]);
#pragma omp parallel num_threads(npo_cpu_team(cpu, macs_of(s)))
    {
        float *scratch = (float *)args->scratch + (size_t)omp_get_thread_num() * s->per_thread;
        if (npo_wants(args, 2))
            npo_product_bias(cpu, s->n * s->out_height * s->out_width, s->out, args);
        if (npo_wants(args, 1))
            (plain ? linear_weights : conv_weights)(cpu, s, args, scratch);
        if (npo_wants(args, 0))
            (plain ? linear_data : conv_data)(cpu, s, args, scratch);
    }
    return NPO_OK;
}

const npo_product_engine npo_product_gemm = {
    .prepare = gemm_prepare,
    .finish = gemm_finish,
    .forward = gemm_forward,
    .backward = gemm_backward,
};
