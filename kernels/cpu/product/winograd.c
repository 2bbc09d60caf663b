/* The engine for large 3x3 convolutions with stride 1 (product/winograd.h). Weights are transformed
 * a block of output channels at a time, used, and thrown away: four times as large as they are in
 * the published order, they would cost more to fetch than to make. Groups of tiles keep everything
 * else in the last-level cache. A tile's arithmetic does not depend on its group, on its neighbours
 * or on the threads. */
#include "kernels/cpu/product/engine.h"
#include "kernels/cpu/product/geometry.h"

#include <omp.h>
#include <stdlib.h>

enum {
    F = sizeof(float),
    POINTS = NPO_WINOGRAD_POINTS,
    GROUP_TILES = 256,       /* most tiles of a group */
    INPUT_FLOATS = 9 << 20,  /* most transformed inputs of a group */
    WEIGHT_FLOATS = 1 << 20, /* most transformed weights of a block */
    BLOCK_CHANNELS = 128,    /* most output channels of a block */
    GRADIENT_ROWS = 96,      /* output channels whose weights' gradients are made together */
    CHANNEL_GRAIN = 64,      /* where threads share the channels of a tile */
};

/* One direction: outputs = sum over inputs, of images of one size. */
typedef struct {
    size_t inputs, outputs;
    size_t in_height, in_width, out_height, out_width, top, left;
    size_t by_n, by_k; /* strides of the weights */
    bool turned;
    size_t down, across, tiles; /* tiles: of all images */
    size_t group, block;        /* tiles, output channels */
} direction;

typedef struct {
    const npo_product_engine *engine;
    size_t images;
    direction forward, backward;
    size_t group, rows; /* of the weights' gradients: tiles, output channels */
} winograd_state;

static size_t round_floats(size_t n)
{
    return (n + 15) / 16 * 16;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Pieces of n of at most `most`, as even as can be. */
static size_t piece_of(size_t n, size_t most, size_t grain)
{
    size_t pieces = (n + most - 1) / most;
    return (n + pieces * grain - 1) / (pieces * grain) * grain;
}

/* Points lie apart by a little more than their floats: 36 streams of one alignment would meet in a
 * few sets of the caches. */
static size_t point_floats(size_t floats)
{
    return round_floats(floats) + 16;
}

/* ---- preparing ---- */

static void winograd_finish(npo_op_work *work)
{
    free(work->state);
    work->state = NULL;
}

static size_t group_of(size_t tiles, size_t channels)
{
    size_t most = larger(1, smaller(GROUP_TILES, INPUT_FLOATS / (POINTS * channels)));
    return piece_of(tiles, most, 1);
}

static void finish_direction(const npo_cpu *cpu, size_t images, direction *d)
{
    size_t width = cpu->k->gemm_width;
    d->down = (d->out_height + NPO_WINOGRAD_TILE - 1) / NPO_WINOGRAD_TILE;
    d->across = (d->out_width + NPO_WINOGRAD_TILE - 1) / NPO_WINOGRAD_TILE;
    d->tiles = images * d->down * d->across;
    d->group = group_of(d->tiles, d->inputs);
    size_t most = smaller(BLOCK_CHANNELS, WEIGHT_FLOATS / (POINTS * d->inputs)) / width * width;
    d->block = piece_of(d->outputs, larger(most, width), width);
}

static void describe(const npo_cpu *cpu, const npo_op_desc *op, winograd_state *s)
{
    const npo_shape *x = &op->in[0], *w = &op->in[1];
    const npo_conv_options *o = &op->attrs.conv;
    size_t in = (size_t)w->dims[1], out = (size_t)w->dims[0];
    s->images = (size_t)x->dims[0];
    s->forward = (direction){
        .inputs = in,
        .outputs = out,
        .in_height = (size_t)x->dims[1],
        .in_width = (size_t)x->dims[2],
        .out_height = (size_t)op->out.dims[1],
        .out_width = (size_t)op->out.dims[2],
        .top = (size_t)o->pad_top,
        .left = (size_t)o->pad_left,
        .by_n = in * 9,
        .by_k = 9,
    };
    s->backward = (direction){
        .inputs = out,
        .outputs = in,
        .in_height = s->forward.out_height,
        .in_width = s->forward.out_width,
        .out_height = s->forward.in_height,
        .out_width = s->forward.in_width,
        .top = 2 - s->forward.top,
        .left = 2 - s->forward.left,
        .by_n = 9,
        .by_k = in * 9,
        .turned = true,
    };
    finish_direction(cpu, s->images, &s->forward);
    finish_direction(cpu, s->images, &s->backward);
    s->group = group_of(s->forward.tiles, in);
    s->rows = piece_of(out, GRADIENT_ROWS, 1);
}

/* Floats of a pass's scratch: transformed inputs, weights, products. */
typedef struct {
    size_t inputs_point, weights_point, products_point;
    size_t at_weights, at_products, floats;
} pass_scratch;

static pass_scratch scratch_of(const direction *d)
{
    pass_scratch p = {
        .inputs_point = point_floats(d->group * d->inputs),
        .weights_point = point_floats(d->inputs * d->block),
        .products_point = point_floats(d->group * d->block),
    };
    p.at_weights = POINTS * p.inputs_point;
    p.at_products = p.at_weights + POINTS * p.weights_point;
    p.floats = p.at_products + POINTS * p.products_point;
    return p;
}

/* And of the weights' gradients: inputs in panels, a block's output gradients, sums of a thread. */
typedef struct {
    size_t inputs_point, gradients_point, at_gradients, at_sums, per_thread, floats;
} gradient_scratch;

static gradient_scratch gradient_scratch_of(const npo_cpu *cpu, const winograd_state *s)
{
    size_t width = cpu->k->gemm_width;
    size_t panels = (s->forward.inputs + width - 1) / width;
    gradient_scratch g = {
        .inputs_point = point_floats(s->group * panels * width),
        .gradients_point = point_floats(s->group * s->rows),
        .per_thread = round_floats(POINTS * s->rows * width),
    };
    g.at_gradients = POINTS * g.inputs_point;
    g.at_sums = g.at_gradients + POINTS * g.gradients_point;
    g.floats = g.at_sums + (size_t)cpu->threads * g.per_thread;
    return g;
}

static npo_err winograd_prepare(const npo_cpu *cpu, npo_op_work *work, npo_error *error)
{
    winograd_state *s = work->state = calloc(1, sizeof *s);
    if (!s)
        return npo_error_set(error, NPO_E_NOMEM, "op '%s': out of memory",
                             npo_op_rule_of(work->desc.kind)->name);
    s->engine = &npo_product_winograd;
    describe(cpu, &work->desc, s);
    size_t data = work->desc.want & 1 ? scratch_of(&s->backward).floats : 0;
    size_t weights = work->desc.want & 2 ? gradient_scratch_of(cpu, s).floats : 0;
    work->scratch_forward = scratch_of(&s->forward).floats * F;
    work->scratch_backward = larger(data, weights) * F;
    return NPO_OK;
}

/* ---- shares of the threads ---- */

typedef struct {
    size_t first, last, channel, last_channel;
} share;

/* Of tiles [first, last) and channels: of tiles where there are many, else of channels. */
static share share_of(size_t first, size_t last, size_t channels)
{
    enum { MANY = 8 };
    size_t team = (size_t)omp_get_num_threads();
    if (last - first >= MANY * team) {
        npo_cpu_part p = npo_cpu_part_of(last - first, 1);
        return (share){first + p.first, first + p.last, 0, channels};
    }
    npo_cpu_part p = npo_cpu_part_of(channels, CHANNEL_GRAIN);
    return (share){first, last, p.first, p.last};
}

static npo_winograd_tiles tiles_of(const direction *d, share part, bool inputs)
{
    return (npo_winograd_tiles){
        .first = part.first,
        .last = part.last,
        .channel = part.channel,
        .last_channel = part.last_channel,
        .down = d->down,
        .across = d->across,
        .height = inputs ? d->in_height : d->out_height,
        .width = inputs ? d->in_width : d->out_width,
        .channels = inputs ? d->inputs : d->outputs,
        .top = inputs ? d->top : 0,
        .left = inputs ? d->left : 0,
    };
}

/* ---- forward, and the gradient of x ---- */

typedef struct {
    const npo_cpu *cpu;
    const direction *d;
    pass_scratch at;
    const float *x, *weight, *bias, *e, *add;
    float *y, *scratch;
} pass;

static void transform_weights(const pass *p, size_t n, size_t count)
{
    size_t width = p->cpu->k->gemm_width;
    const direction *d = p->d;
    npo_winograd_weights w = {p->weight, d->inputs,           n,        count, d->by_n,
                              d->by_k,   p->at.weights_point, d->turned};
    npo_cpu_part part = npo_cpu_part_of((count + width - 1) / width * d->inputs, 16);
    p->cpu->k->winograd_weights(&w, part.first, part.last, p->scratch + p->at.at_weights);
}

/* Unit u is panel u % panels of point u / panels; neighbours of a point go together. */
static void multiply_points(const pass *p, size_t tiles, size_t count)
{
    size_t width = p->cpu->k->gemm_width, panels = (count + width - 1) / width;
    const direction *d = p->d;
    npo_cpu_part part = npo_cpu_part_of(POINTS * panels, 1);
    for (size_t unit = part.first, last; unit < part.last; unit = last) {
        size_t point = unit / panels, panel = unit % panels;
        last = smaller((point + 1) * panels, part.last);
        size_t end = smaller((panel + last - unit) * width, count);
        p->cpu->k->gemm_panels(&(npo_gemm){
            .m = tiles,
            .n = end - panel * width,
            .k = d->inputs,
            .a = p->scratch + point * p->at.inputs_point,
            .a_rows = {SIZE_MAX, 0, d->inputs},
            .b = p->scratch + p->at.at_weights + point * p->at.weights_point +
                 panel * width * d->inputs,
            .c = p->scratch + p->at.at_products + point * p->at.products_point + panel * width,
            .c_rows = {SIZE_MAX, 0, d->block},
        });
    }
}

static void transform_outputs(const pass *p, size_t first, size_t last, size_t n, size_t count)
{
    size_t width = p->cpu->k->gemm_width;
    share part = share_of(first, last, count);
    npo_winograd_store from = {p->scratch + p->at.at_products + part.channel, first,
                               p->at.products_point, p->d->block, width};
    part.channel += n;
    part.last_channel += n;
    npo_winograd_tiles t = tiles_of(p->d, part, false);
    p->cpu->k->winograd_output(&t, from, p->bias, p->e, p->add, p->y);
}

/* All threads of a team. */
static void run_pass(const pass *p)
{
    const direction *d = p->d;
    for (size_t first = 0; first < d->tiles; first += d->group) {
        size_t last = smaller(first + d->group, d->tiles);
        npo_winograd_tiles t = tiles_of(d, share_of(first, last, d->inputs), true);
        npo_winograd_store to = {p->scratch, first, p->at.inputs_point, d->inputs,
                                 p->cpu->k->gemm_width};
        p->cpu->k->winograd_input(&t, p->x, to);
        for (size_t n = 0; n < d->outputs; n += d->block) {
            size_t count = smaller(d->block, d->outputs - n);
            transform_weights(p, n, count);
#pragma omp barrier
            multiply_points(p, last - first, count);
#pragma omp barrier
            transform_outputs(p, first, last, n, count);
        }
    }
#pragma omp barrier
}

static size_t macs_of(const winograd_state *s)
{
    return s->forward.tiles * s->forward.inputs * s->forward.outputs;
}

static npo_err winograd_forward(const npo_cpu *cpu, const npo_op_work *work,
                                const npo_op_args *args, npo_error *error)
{
    const winograd_state *s = work->state;
    pass p = {
        .cpu = cpu,
        .d = &s->forward,
        .at = scratch_of(&s->forward),
        .x = args->in[0],
        .weight = args->in[1],
        .bias = args->in[2],
        .e = args->fused_channels,
        .add = args->fused_add,
        .y = args->out,
        .scratch = args->scratch,
    };
#pragma omp parallel num_threads(npo_cpu_team(cpu, macs_of(s)))
    run_pass(&p);
    return NPO_OK;
}

/* ---- the gradient of the weights ---- */

typedef struct {
    const npo_cpu *cpu;
    const winograd_state *s;
    gradient_scratch at;
    const float *x, *dy;
    float *grad, *scratch;
} weights_pass;

/* Panels of input channels of this thread, for output channels [o, o + rows). */
static void multiply_gradients(const weights_pass *p, size_t tiles, size_t o, size_t rows)
{
    size_t width = p->cpu->k->gemm_width, inputs = p->s->forward.inputs;
    float *sums = p->scratch + p->at.at_sums + (size_t)omp_get_thread_num() * p->at.per_thread;
    npo_cpu_part part = npo_cpu_part_of((inputs + width - 1) / width, 1);
    for (size_t panel = part.first; panel < part.last; panel++) {
        for (size_t point = 0; point < POINTS; point++)
            p->cpu->k->gemm_panels(&(npo_gemm){
                .m = rows,
                .n = width,
                .k = tiles,
                .a = p->scratch + p->at.at_gradients + point * p->at.gradients_point,
                .a_rows = {SIZE_MAX, 0, p->s->rows},
                .a_transposed = true,
                .b = p->scratch + point * p->at.inputs_point + panel * p->s->group * width,
                .c = sums + point * rows * width,
                .c_rows = {SIZE_MAX, 0, width},
            });
        p->cpu->k->winograd_unweights(sums, rows, smaller(width, inputs - panel * width),
                                      p->grad + (o * inputs + panel * width) * 9, inputs * 9);
    }
}

/* All threads of a team; p->grad holds what the gradients are added to. */
static void run_weights(const weights_pass *p)
{
    const direction *d = &p->s->forward;
    size_t width = p->cpu->k->gemm_width;
    for (size_t first = 0; first < d->tiles; first += p->s->group) {
        size_t last = smaller(first + p->s->group, d->tiles);
        npo_winograd_tiles t = tiles_of(d, share_of(first, last, d->inputs), true);
        npo_winograd_store to = {p->scratch, first, p->at.inputs_point, width, p->s->group * width};
        p->cpu->k->winograd_input(&t, p->x, to);
        for (size_t o = 0; o < d->outputs; o += p->s->rows) {
            size_t rows = smaller(p->s->rows, d->outputs - o);
            share part = share_of(first, last, rows);
            npo_winograd_tiles g = tiles_of(d, part, false);
            npo_winograd_store rows_to = {p->scratch + p->at.at_gradients + part.channel, first,
                                          p->at.gradients_point, p->s->rows, width};
            g.channel += o;
            g.last_channel += o;
            p->cpu->k->winograd_gradient(&g, p->dy, rows_to);
#pragma omp barrier
            multiply_gradients(p, last - first, o, rows);
#pragma omp barrier
        }
    }
}

static void backward_thread(const npo_cpu *cpu, const winograd_state *s, const npo_op_args *args)
{
    const direction *d = &s->forward;
    if (npo_wants(args, 2))
        npo_product_bias(cpu, s->images * d->out_height * d->out_width, d->outputs, args);
    if (npo_wants(args, 1))
        run_weights(&(weights_pass){.cpu = cpu,
                                    .s = s,
                                    .at = gradient_scratch_of(cpu, s),
                                    .x = args->in[0],
                                    .dy = args->grad_out,
                                    .grad = args->grad_in[1],
                                    .scratch = args->scratch});
    if (npo_wants(args, 0))
        run_pass(&(pass){.cpu = cpu,
                         .d = &s->backward,
                         .at = scratch_of(&s->backward),
                         .x = args->grad_out,
                         .weight = args->in[1],
                         .add = args->grad_prev[0],
                         .y = args->grad_in[0],
                         .scratch = args->scratch});
}

static npo_err winograd_backward(const npo_cpu *cpu, const npo_op_work *work,
                                 const npo_op_args *args, npo_error *error)
{
    const winograd_state *s = work->state;
    if (npo_wants(args, 1))
        npo_product_begin_sum((size_t)npo_shape_count(&work->desc.in[1]), args->grad_prev[1],
                              args->grad_in[1]);
#pragma omp parallel num_threads(npo_cpu_team(cpu, macs_of(s)))
    backward_thread(cpu, s, args);
    return NPO_OK;
}

const npo_product_engine npo_product_winograd = {
    .prepare = winograd_prepare,
    .finish = winograd_finish,
    .forward = winograd_forward,
    .backward = winograd_backward,
};
