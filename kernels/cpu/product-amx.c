/* The engine on the matrix unit: convolution and linear layers in bf16, whole or in two parts
 * (cpu/amx.h), over padded images. Channels in multiples of 16; others go to the own engine. */
#include "kernels/cpu/amx.h"
#include "kernels/cpu/product-engine.h"
#include "kernels/cpu/product-geometry.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLACK = 64,                /* positions that tiles may read past the end */
    GROUP_BYTES = 512 << 10,   /* of both factors of a gradient of weights */
    GROUP_POSITIONS_MAX = 1024,
};

typedef struct {
    const npo_product_engine *engine;
    npo_product_geometry g;
    bool split;
    /* npo_amx_image.at of x in its frame, and of the output's gradient spread over the same. */
    int32_t *table_columns, *table_pairs;
    size_t sample_positions; /* of x's frame, with the margin below shared by the next sample */
    size_t group, groups;    /* samples (rows of a linear layer) that weights' gradients take at once */
    size_t columns_row;      /* positions of a channel in the columns */
    size_t packed_backward;  /* offset in values */
    /* Scratch of a thread, in bytes. */
    size_t forward_low, backward_low, columns_low, pairs_low; /* in values */
    size_t at_sum, forward_bytes;
    size_t at_columns, at_pair_values, at_sums, at_bias, backward_bytes;
} amx_state;

static size_t round_bytes(size_t n)
{
    return (n + 63) / 64 * 64;
}

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* ---- preparing ---- */

static int32_t *new_table(size_t positions)
{
    int32_t *at = malloc(positions * sizeof *at);
    for (size_t i = 0; at && i < positions; i++)
        at[i] = -1;
    return at;
}

static npo_err make_tables(amx_state *s)
{
    const npo_product_geometry *g = &s->g;
    const npo_frame *f = &g->forward;
    size_t below = f->top > f->bottom ? f->top : f->bottom;
    if (g->rows)
        return NPO_OK;
    s->sample_positions = round_up((g->height + below) * f->line, 2);
    s->table_columns = new_table(s->sample_positions);
    s->table_pairs = new_table(s->sample_positions);
    if (!s->table_columns || !s->table_pairs)
        return NPO_E_NOMEM;
    for (size_t y = 0; y < g->height; y++)
        for (size_t x = 0; x < g->width; x++)
            s->table_columns[(f->top + y) * f->line + f->gap + x] =
                (int32_t)((y * g->width + x) * g->in);
    for (size_t y = 0; y < g->out_height; y++)
        for (size_t x = 0; x < g->out_width; x++)
            s->table_pairs[(y * f->line + x) * g->stride] =
                (int32_t)((y * g->out_width + x) * g->out);
    return NPO_OK;
}

/* As many samples or rows as fit into the second-level cache with both factors, but so that each
 * thread has some. */
static void choose_group(amx_state *s, size_t threads)
{
    const npo_product_geometry *g = &s->g;
    size_t count = g->rows ? g->rows : g->n;
    size_t most = GROUP_BYTES / ((g->in + g->out) * (s->split ? 4 : 2));
    if (most > GROUP_POSITIONS_MAX)
        most = GROUP_POSITIONS_MAX;
    size_t share = (count + threads - 1) / threads;
    size_t group = g->rows ? round_up(most, NPO_AMX_STEP) : most / s->sample_positions;
    size_t least = g->rows ? NPO_AMX_STEP : 1;
    if (group > share)
        group = g->rows ? round_up(share, NPO_AMX_STEP) : share;
    s->group = group < least ? least : group;
    s->groups = (count + s->group - 1) / s->group;
}

static size_t planes(const amx_state *s)
{
    return s->split ? 2 : 1;
}

static void place_forward(amx_state *s)
{
    const npo_product_geometry *g = &s->g;
    s->forward_low = (g->forward.pixels + SLACK) * g->in;
    s->at_sum = round_bytes(planes(s) * s->forward_low * 2);
    s->forward_bytes = s->at_sum + round_bytes(g->out * sizeof(float));
}

/* The frame of the output's gradient lies over the factors of the weights' gradient, which is done
 * by then. */
static void place_backward(amx_state *s, unsigned want)
{
    const npo_product_geometry *g = &s->g;
    size_t sample = g->rows ? 1 : s->sample_positions;
    size_t positions = round_up(s->group * sample, NPO_AMX_STEP);
    size_t taps = g->kernel_height * g->kernel_width;
    s->columns_row = round_up(positions + g->kernel_height * g->forward.line + SLACK, 32);
    s->columns_low = s->columns_row * g->in;
    s->pairs_low = positions * g->out;
    s->backward_low = (g->backward.pixels + SLACK) * g->out;
    s->at_columns = 0;
    s->at_pair_values = round_bytes(planes(s) * s->columns_low * 2);
    size_t factors = s->at_pair_values + round_bytes(planes(s) * s->pairs_low * 2);
    size_t frame = round_bytes(planes(s) * s->backward_low * 2);
    s->at_sums = (want & 2) && factors > frame ? factors : frame;
    s->at_bias = s->at_sums + (want & 2 ? taps * g->in * g->out * sizeof(float) : 0);
    s->backward_bytes = s->at_bias + round_bytes(g->out * (sizeof(float) + sizeof(double)));
}

static void amx_finish(npo_op_work *work)
{
    amx_state *s = work->state;
    if (!s)
        return;
    free(s->table_columns);
    free(s->table_pairs);
    free(s);
    work->state = NULL;
}

static npo_err amx_prepare(const npo_cpu *cpu, npo_op_work *work, npo_error *error)
{
    amx_state *s = work->state = calloc(1, sizeof *s);
    npo_err err = s ? NPO_OK : NPO_E_NOMEM;
    if (!err) {
        s->engine = &npo_product_amx;
        s->g = npo_product_geometry_of(&work->desc, (size_t)cpu->threads);
        s->split = work->compute == NPO_COMPUTE_BF16X3;
        err = make_tables(s);
    }
    if (err) {
        amx_finish(work);
        return npo_error_set(error, err, "op '%s': out of memory",
                             npo_op_rule_of(work->desc.kind)->name);
    }
    choose_group(s, (size_t)cpu->threads);
    place_forward(s);
    place_backward(s, work->desc.want);
    s->packed_backward = npo_amx_packed_values(&s->g.map, s->split);
    size_t packed = s->packed_backward;
    if (work->desc.want & 1)
        packed += npo_amx_packed_values(&s->g.map_backward, s->split);
    work->packed = packed * 2;
    work->scratch_forward = (size_t)cpu->threads * s->forward_bytes;
    work->scratch_backward = (size_t)cpu->threads * s->backward_bytes;
    return NPO_OK;
}

static npo_err amx_pack(const npo_cpu *cpu, const npo_op_work *work, const float *weight,
                        void *packed)
{
    const amx_state *s = work->state;
    size_t parts = (size_t)npo_cpu_team(cpu, (size_t)npo_shape_count(&work->desc.in[1]));
#pragma omp parallel for schedule(static) num_threads((int)parts)
    for (size_t part = 0; part < parts; part++) {
        npo_amx_pack(&s->g.map, weight, s->split, packed, part, parts);
        if (work->desc.want & 1)
            npo_amx_pack(&s->g.map_backward, weight, s->split,
                         (uint16_t *)packed + s->packed_backward, part, parts);
    }
    return NPO_OK;
}

/* ---- outputs ---- */

/* What a unit reads and writes, in either direction. */
typedef struct {
    const npo_frame *frame;
    size_t low, kernel_height, run, stride, out_width, n;
    const float *image; /* of the sample */
    const uint16_t *packed;
    const float *bias, *add; /* add: of the unit, as c */
    float *c;
} pass;

/* The image in its frame, whose margins are zero already; of a linear layer's block just the rows. */
static void put_in_frame(const amx_state *s, const pass *q, size_t pixels, uint16_t *rows)
{
    const npo_frame *f = q->frame;
    size_t c = f->channels;
    if (s->g.rows) {
        npo_amx_row(q->image, pixels * c, s->split, rows, rows + q->low);
        return;
    }
    for (size_t y = 0; y < f->height; y++) {
        uint16_t *to = rows + ((f->top + y * f->spread) * f->line + f->gap) * c;
        const float *from = q->image + y * f->width * c;
        if (f->spread == 1) {
            npo_amx_row(from, f->width * c, s->split, to, to + q->low);
            continue;
        }
        for (size_t x = 0; x < f->width; x++, from += c, to += f->spread * c)
            npo_amx_row(from, c, s->split, to, to + q->low);
    }
}

static void run_pass(const amx_state *s, const pass *q, npo_product_unit u, uint16_t *rows)
{
    const npo_frame *f = q->frame;
    bool whole = q->stride == 1; /* lines follow each other with their margins */
    size_t channels = f->channels, line = whole && !s->g.rows ? f->line : u.pixels;
    put_in_frame(s, q, u.pixels, rows);
    npo_amx_product p = {
        .split = s->split,
        .segments = whole ? 1 : u.lines,
        .positions = whole ? (u.lines - 1) * line + u.pixels : u.pixels,
        .line = line,
        .width = u.pixels,
        .runs = q->kernel_height,
        .run = q->run,
        .n = q->n,
        .a = rows + (f->origin + u.first * q->stride * f->line) * channels,
        .a_low = q->low,
        .a_segment = q->stride * f->line * channels,
        .a_pixel = q->stride * channels,
        .a_run = f->line * channels,
        .packed = q->packed,
        .bias = q->bias,
        .add = q->add,
        .c = q->c,
        .c_segment = q->out_width * q->n,
    };
    npo_amx_forward(&p);
}

/* Margins, and what tiles read past the last position: there must be no NaN. */
static void clear_frame(const amx_state *s, size_t low, uint16_t *rows)
{
    memset(rows, 0, planes(s) * low * sizeof *rows);
}

static void forward_unit(const npo_cpu *cpu, const amx_state *s, const npo_op_args *args,
                         npo_product_unit u, char *scratch)
{
    const npo_product_geometry *g = &s->g;
    const float *bias = args->in[2];
    float *sum = (float *)(void *)(scratch + s->at_sum);
    size_t out = (u.sample * g->out_height + u.first) * g->out_width * g->out;
    if (args->fused_channels) {
        const float *e = args->fused_channels + u.sample * g->out;
        if (bias)
            cpu->k->add(g->out, bias, e, sum);
        bias = bias ? sum : e;
    }
    pass q = {
        .frame = &g->forward,
        .low = s->forward_low,
        .kernel_height = g->kernel_height,
        .run = g->kernel_width * g->in,
        .stride = g->stride,
        .out_width = g->out_width,
        .n = g->out,
        .image = (const float *)args->in[0] + u.sample * g->height * g->width * g->in,
        .packed = args->packed,
        .bias = bias,
        .add = npo_at(args->fused_add, out),
        .c = args->out + out,
    };
    run_pass(s, &q, u, (uint16_t *)(void *)scratch);
}

static npo_err amx_forward(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                           npo_error *error)
{
    const amx_state *s = work->state;
    const npo_product_geometry *g = &s->g;
    size_t macs = g->n * g->out_height * g->out_width * g->out * g->in;
#pragma omp parallel num_threads(npo_cpu_team(cpu, macs))
    {
        char *scratch = (char *)args->scratch + (size_t)omp_get_thread_num() * s->forward_bytes;
        clear_frame(s, s->forward_low, (uint16_t *)(void *)scratch);
        npo_amx_begin();
#pragma omp for schedule(static)
        for (size_t i = 0; i < g->n * g->parts; i++)
            forward_unit(cpu, s, args, npo_product_unit_at(g, i, g->out_height, g->out_width),
                         scratch);
        npo_amx_end();
    }
    return NPO_OK;
}

static void data_unit(const amx_state *s, const npo_op_args *args, npo_product_unit u,
                      char *scratch)
{
    const npo_product_geometry *g = &s->g;
    size_t in = (u.sample * g->height + u.first) * g->width * g->in;
    pass q = {
        .frame = &g->backward,
        .low = s->backward_low,
        .kernel_height = g->kernel_height,
        .run = g->kernel_width * g->out,
        .stride = 1,
        .out_width = g->width,
        .n = g->in,
        .image = args->grad_out + u.sample * g->out_height * g->out_width * g->out,
        .packed = (const uint16_t *)args->packed + s->packed_backward,
        .add = npo_at(args->grad_prev[0], in),
        .c = args->grad_in[0] + in,
    };
    run_pass(s, &q, u, (uint16_t *)(void *)scratch);
}

/* ---- gradients of weights ---- */

static void add_bias(const npo_cpu *cpu, const amx_state *s, const float *dy, size_t pixels,
                     char *scratch)
{
    double *total = (double *)(void *)(scratch + s->at_bias);
    float *part = (float *)(total + s->g.out);
    cpu->k->column_sums(pixels, s->g.out, dy, NULL, part);
    for (size_t o = 0; o < s->g.out; o++)
        total[o] += (double)part[o];
}

/* Both factors of a group of samples, one after the other; returns how many positions they have. */
static size_t put_samples(const amx_state *s, const float *x, const float *dy, size_t count,
                          uint16_t *columns, uint16_t *pairs)
{
    const npo_product_geometry *g = &s->g;
    size_t positions = s->sample_positions;
    npo_amx_image image = {.positions = positions, .split = s->split};
    for (size_t i = 0; i < count; i++) {
        size_t at = i * positions;
        image.image = x + i * g->height * g->width * g->in;
        image.at = s->table_columns;
        image.channels = g->in;
        npo_amx_columns(&image, columns + at, columns + s->columns_low + at, s->columns_row);
        image.image = dy + i * g->out_height * g->out_width * g->out;
        image.at = s->table_pairs;
        image.channels = g->out;
        npo_amx_pairs(&image, pairs + at * g->out, pairs + s->pairs_low + at * g->out);
    }
    return count * positions;
}

static size_t put_rows(const amx_state *s, const float *x, const float *dy, size_t count,
                       uint16_t *columns, uint16_t *pairs)
{
    npo_amx_image image = {
        .image = x, .positions = count, .channels = s->g.in, .split = s->split};
    npo_amx_columns(&image, columns, columns + s->columns_low, s->columns_row);
    image.image = dy;
    image.channels = s->g.out;
    npo_amx_pairs(&image, pairs, pairs + s->pairs_low);
    return round_up(count, 2);
}

/* Positions past the group: zeros in the pairs up to a whole step, and in the columns as far as the
 * kernel reaches. */
static size_t close_group(const amx_state *s, size_t positions, uint16_t *columns, uint16_t *pairs)
{
    const npo_product_geometry *g = &s->g;
    size_t whole = round_up(positions, NPO_AMX_STEP);
    for (size_t k = 0; k < planes(s); k++) {
        memset(pairs + k * s->pairs_low + positions * g->out, 0,
               (whole - positions) * g->out * sizeof *pairs);
        for (size_t c = 0; c < g->in; c++)
            memset(columns + k * s->columns_low + c * s->columns_row + positions, 0,
                   (s->columns_row - positions) * sizeof *columns);
    }
    return whole;
}

static void weights_group(const npo_cpu *cpu, const amx_state *s, const npo_op_args *args, size_t i,
                          char *scratch)
{
    const npo_product_geometry *g = &s->g;
    size_t first = i * s->group, left = (g->rows ? g->rows : g->n) - first;
    size_t count = left < s->group ? left : s->group, pixels = g->out_height * g->out_width;
    size_t in = g->rows ? g->in : g->height * g->width * g->in;
    size_t out = g->rows ? g->out : pixels * g->out;
    const float *x = (const float *)args->in[0] + first * in, *dy = args->grad_out + first * out;
    uint16_t *columns = (uint16_t *)(void *)(scratch + s->at_columns);
    uint16_t *pairs = (uint16_t *)(void *)(scratch + s->at_pair_values);
    if (npo_wants(args, 2))
        add_bias(cpu, s, dy, g->rows ? count : count * pixels, scratch);
    if (!npo_wants(args, 1))
        return;
    size_t positions = g->rows ? put_rows(s, x, dy, count, columns, pairs)
                               : put_samples(s, x, dy, count, columns, pairs);
    npo_amx_outer p = {
        .split = s->split,
        .positions = close_group(s, positions, columns, pairs),
        .runs = g->kernel_height,
        .taps = g->kernel_width,
        .run = g->forward.line,
        .in = g->in,
        .out = g->out,
        .a = columns + g->forward.origin,
        .a_low = s->columns_low,
        .a_row = s->columns_row,
        .b = pairs,
        .b_low = s->pairs_low,
        .sums = (float *)(void *)(scratch + s->at_sums),
    };
    npo_amx_weights(&p);
}

/* Adds the threads' sums up in order and hands them to the gradients. */
static void reduce_weights(const npo_cpu *cpu, const amx_state *s, const npo_op_args *args,
                           size_t team)
{
    float *first = (float *)(void *)((char *)args->scratch + s->at_sums);
    size_t stride = s->backward_bytes / sizeof(float);
    npo_cpu_part p = npo_cpu_part_of((s->at_bias - s->at_sums) / sizeof(float), 1024);
    for (size_t t = 1; t < team; t++)
        cpu->k->add(p.last - p.first, first + p.first, first + t * stride + p.first,
                    first + p.first);
#pragma omp barrier
    cpu->k->unpack_weights(&s->g.map, first, args->grad_in[1], (size_t)omp_get_thread_num(), team);
}

static void reduce_bias(const amx_state *s, const npo_op_args *args, size_t team)
{
    for (size_t o = 0; o < s->g.out; o++) {
        double sum = 0;
        for (size_t t = 0; t < team; t++)
            sum += ((const double *)(const void *)((const char *)args->scratch +
                                                   t * s->backward_bytes + s->at_bias))[o];
        args->grad_in[2][o] = (args->grad_prev[2] ? args->grad_prev[2][o] : 0) + (float)sum;
    }
}

static void backward_thread(const npo_cpu *cpu, const amx_state *s, const npo_op_args *args)
{
    const npo_product_geometry *g = &s->g;
    size_t team = (size_t)omp_get_num_threads();
    char *scratch = (char *)args->scratch + (size_t)omp_get_thread_num() * s->backward_bytes;
    memset(scratch + s->at_sums, 0, s->backward_bytes - s->at_sums);
    npo_amx_begin();
    if (npo_wants(args, 1) || npo_wants(args, 2)) {
#pragma omp for schedule(static)
        for (size_t i = 0; i < s->groups; i++)
            weights_group(cpu, s, args, i, scratch);
    }
    if (npo_wants(args, 0)) {
        clear_frame(s, s->backward_low, (uint16_t *)(void *)scratch);
#pragma omp for schedule(static)
        for (size_t i = 0; i < g->n * g->parts; i++)
            data_unit(s, args, npo_product_unit_at(g, i, g->height, g->width), scratch);
    }
    npo_amx_end();
    if (npo_wants(args, 1))
        reduce_weights(cpu, s, args, team);
#pragma omp single
    if (npo_wants(args, 2))
        reduce_bias(s, args, team);
}

static npo_err amx_backward(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                            npo_error *error)
{
    const amx_state *s = work->state;
    const npo_product_geometry *g = &s->g;
    if (npo_wants(args, 1))
        npo_product_begin_sum((size_t)npo_shape_count(&work->desc.in[1]), args->grad_prev[1],
                              args->grad_in[1]);
    size_t macs = g->n * g->out_height * g->out_width * g->out * g->in;
#pragma omp parallel num_threads(npo_cpu_team(cpu, macs))
    backward_thread(cpu, s, args);
    return NPO_OK;
}

const npo_product_engine npo_product_amx = {
    .prepare = amx_prepare,
    .finish = amx_finish,
    .pack = amx_pack,
    .forward = amx_forward,
    .backward = amx_backward,
};
