/* The own engine: convolution and linear layers in f32 over padded images (product.h), one
 * thread a sample or a block of rows. */
#include "kernels/cpu/product/engine.h"
#include "kernels/cpu/product/geometry.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { F = sizeof(float) };

typedef struct {
    const npo_product_engine *engine;
    npo_product_geometry g;
    /* Scratch of a thread, in floats: frames of both kinds, sums of weights, of the bias. */
    size_t at_backward, at_sums, at_bias, per_thread;
} own_state;

static size_t round_floats(size_t n)
{
    return (n + 15) / 16 * 16;
}

static size_t frame_floats(const npo_frame *f)
{
    return f->direct ? 0 : round_floats(f->pixels * f->channels);
}

/* ---- preparing ---- */

static void own_finish(npo_op_work *work)
{
    free(work->state);
    work->state = NULL;
}

static npo_err own_prepare(const npo_cpu *cpu, npo_op_work *work, npo_error *error)
{
    own_state *s = work->state = calloc(1, sizeof *s);
    if (!s)
        return npo_error_set(error, NPO_E_NOMEM, "op '%s': out of memory",
                             npo_op_rule_of(work->desc.kind)->name);
    s->engine = &npo_product_own;
    npo_product_geometry *g = &s->g;
    *g = npo_product_geometry_of(&work->desc, (size_t)cpu->threads);
    size_t taps = g->kernel_height * g->kernel_width, out = round_floats(g->out);
    s->at_backward = frame_floats(&g->forward) + out;
    s->at_sums = s->at_backward + frame_floats(&g->backward);
    s->at_bias = s->at_sums + (work->desc.want & 2 ? taps * g->in * out : 0);
    s->per_thread = s->at_bias + 3 * out;
    work->packed_forward = cpu->k->packed_floats(taps * g->in, g->out) * F;
    if (work->desc.want & 1)
        work->packed_backward = cpu->k->packed_floats(taps * g->out, g->in) * F;
    work->scratch_forward = (size_t)cpu->threads * s->at_backward * F;
    work->scratch_backward = (size_t)cpu->threads * s->per_thread * F;
    return NPO_OK;
}

static npo_err own_pack(const npo_cpu *cpu, const npo_op_work *work, npo_pack_side side,
                        const float *weight, void *packed)
{
    const own_state *s = work->state;
    const npo_weight_map *map = side == NPO_PACK_FORWARD ? &s->g.map : &s->g.map_backward;
    size_t parts = (size_t)npo_cpu_team(cpu, (size_t)npo_shape_count(&work->desc.in[1]));
#pragma omp parallel for schedule(static) num_threads((int)parts)
    for (size_t part = 0; part < parts; part++)
        cpu->k->pack_weights(map, weight, packed, part, parts);
    return NPO_OK;
}

/* ---- frames ---- */

/* The image where it can be read under the kernel: itself, or a copy in the frame, whose margins
 * are zero. */
static const float *put_in_frame(const npo_frame *f, const float *image, float *memory)
{
    if (f->direct)
        return image;
    size_t pixel = f->channels, row = f->width * pixel;
    for (size_t y = 0; y < f->height; y++) {
        float *to = memory + ((f->top + y * f->spread) * f->line + f->gap) * pixel;
        const float *from = image + y * row;
        if (f->spread == 1) {
            memcpy(to, from, row * F);
            continue;
        }
        for (size_t x = 0; x < f->width; x++)
            memcpy(to + x * f->spread * pixel, from + x * pixel, pixel * F);
    }
    return memory + f->origin * pixel;
}

static void clear_frame(const npo_frame *f, float *memory)
{
    memset(memory, 0, frame_floats(f) * F);
}

/* ---- one unit of work ---- */

static size_t image_of_out(const npo_product_geometry *g, npo_product_unit u)
{
    return (u.sample * g->out_height + u.first) * g->out_width * g->out;
}

static void forward_unit(const npo_cpu *cpu, const own_state *s, const npo_op_args *args,
                         npo_product_unit u, float *scratch)
{
    const npo_product_geometry *g = &s->g;
    const npo_frame *f = &g->forward;
    const float *x = (const float *)args->in[0] + u.sample * g->height * g->width * g->in;
    const float *bias = args->in[2];
    float *sum = scratch + frame_floats(f);
    if (args->fused_channels) {
        const float *e = args->fused_channels + u.sample * g->out;
        if (bias)
            cpu->k->add(g->out, bias, e, sum);
        bias = bias ? sum : e;
    }
    const float *a = put_in_frame(f, x, scratch);
    size_t out = image_of_out(g, u), line = f->line * g->in;
    npo_product p = {
        .lines = u.lines,
        .pixels = u.pixels,
        .runs = g->kernel_height,
        .run = g->kernel_width * g->in,
        .n = g->out,
        .a = a + u.first * g->stride * line,
        .a_line = g->stride * line,
        .a_pixel = g->stride * g->in,
        .a_run = line,
        .packed = args->packed,
        .bias = bias,
        .add = npo_at(args->fused_add, out),
        .c = args->out + out,
        .c_line = g->out_width * g->out,
        .c_pixel = g->out,
    };
    cpu->k->product_forward(&p);
}

static npo_err own_forward(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                           npo_error *error)
{
    const own_state *s = work->state;
    const npo_product_geometry *g = &s->g;
    size_t macs = g->n * g->out_height * g->out_width * g->out * g->in;
#pragma omp parallel num_threads(npo_cpu_team(cpu, macs))
    {
        float *scratch = (float *)args->scratch + (size_t)omp_get_thread_num() * s->at_backward;
        clear_frame(&g->forward, scratch);
#pragma omp for schedule(static)
        for (size_t i = 0; i < g->n * g->parts; i++)
            forward_unit(cpu, s, args, npo_product_unit_at(g, i, g->out_height, g->out_width),
                         scratch);
    }
    return NPO_OK;
}

/* ---- gradients ---- */

static void data_unit(const npo_cpu *cpu, const own_state *s, const npo_op_args *args,
                      npo_product_unit u, float *scratch)
{
    const npo_product_geometry *g = &s->g;
    const npo_frame *f = &g->backward;
    size_t in = (u.sample * g->height + u.first) * g->width * g->in, line = f->line * g->out;
    const float *dy = args->grad_out + u.sample * g->out_height * g->out_width * g->out;
    const float *a = put_in_frame(f, dy, scratch + s->at_backward);
    npo_product p = {
        .lines = u.lines,
        .pixels = u.pixels,
        .runs = g->kernel_height,
        .run = g->kernel_width * g->out,
        .n = g->in,
        .a = a + u.first * line,
        .a_line = line,
        .a_pixel = g->out,
        .a_run = line,
        .packed = args->packed,
        .add = npo_at(args->grad_prev[0], in),
        .c = args->grad_in[0] + in,
        .c_line = g->width * g->in,
        .c_pixel = g->in,
    };
    cpu->k->product_forward(&p);
}

static void bias_unit(const npo_cpu *cpu, const own_state *s, const npo_op_args *args,
                      npo_product_unit u, float *scratch)
{
    float *part = scratch + s->at_bias;
    double *total = (double *)(void *)(part + round_floats(s->g.out));
    cpu->k->column_sums(u.lines * u.pixels, s->g.out, s->g.out,
                        args->grad_out + image_of_out(&s->g, u), NULL, part);
    for (size_t o = 0; o < s->g.out; o++)
        total[o] += (double)part[o];
}

static void weights_unit(const npo_cpu *cpu, const own_state *s, const npo_op_args *args,
                         npo_product_unit u, float *scratch)
{
    const npo_product_geometry *g = &s->g;
    const npo_frame *f = &g->forward;
    const float *x = (const float *)args->in[0] + u.sample * g->height * g->width * g->in;
    const float *a = put_in_frame(f, x, scratch);
    size_t line = f->line * g->in;
    npo_outer_product p = {
        .lines = u.lines,
        .pixels = u.pixels,
        .runs = g->kernel_height,
        .run = g->kernel_width * g->in,
        .n = g->out,
        .a = a + u.first * g->stride * line,
        .a_line = g->stride * line,
        .a_pixel = g->stride * g->in,
        .a_run = line,
        .b = args->grad_out + image_of_out(g, u),
        .b_line = g->out_width * g->out,
        .sums = scratch + s->at_sums,
    };
    cpu->k->product_outer(&p);
}

/* Adds the threads' sums up in order and hands them to the gradients. */
static void reduce_weights(const npo_cpu *cpu, const own_state *s, const npo_op_args *args,
                           size_t team)
{
    float *first = (float *)args->scratch + s->at_sums;
    npo_cpu_part p = npo_cpu_part_of(s->at_bias - s->at_sums, 1024);
    for (size_t t = 1; t < team; t++)
        cpu->k->add(p.last - p.first, first + p.first, first + t * s->per_thread + p.first,
                    first + p.first);
#pragma omp barrier
    cpu->k->unpack_weights(&s->g.map, first, args->grad_in[1], (size_t)omp_get_thread_num(), team);
}

static void reduce_bias(const own_state *s, const npo_op_args *args, size_t team)
{
    const float *first = (const float *)args->scratch + s->at_bias + round_floats(s->g.out);
    for (size_t o = 0; o < s->g.out; o++) {
        double sum = 0;
        for (size_t t = 0; t < team; t++)
            sum += ((const double *)(const void *)(first + t * s->per_thread))[o];
        args->grad_in[2][o] = (args->grad_prev[2] ? args->grad_prev[2][o] : 0) + (float)sum;
    }
}

static void backward_thread(const npo_cpu *cpu, const own_state *s, const npo_op_args *args)
{
    const npo_product_geometry *g = &s->g;
    size_t team = (size_t)omp_get_num_threads();
    float *scratch = (float *)args->scratch + (size_t)omp_get_thread_num() * s->per_thread;
    clear_frame(&g->forward, scratch);
    clear_frame(&g->backward, scratch + s->at_backward);
    memset(scratch + s->at_sums, 0, (s->per_thread - s->at_sums) * F);
#pragma omp for schedule(static)
    for (size_t i = 0; i < g->n * g->parts; i++) {
        npo_product_unit u = npo_product_unit_at(g, i, g->out_height, g->out_width);
        if (npo_wants(args, 2))
            bias_unit(cpu, s, args, u, scratch);
        if (npo_wants(args, 1))
            weights_unit(cpu, s, args, u, scratch);
        if (npo_wants(args, 0))
            data_unit(cpu, s, args, npo_product_unit_at(g, i, g->height, g->width), scratch);
    }
    if (npo_wants(args, 1))
        reduce_weights(cpu, s, args, team);
#pragma omp single
    if (npo_wants(args, 2))
        reduce_bias(s, args, team);
}

static npo_err own_backward(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                            npo_error *error)
{
    const own_state *s = work->state;
    const npo_product_geometry *g = &s->g;
    if (npo_wants(args, 1))
        npo_product_begin_sum((size_t)npo_shape_count(&work->desc.in[1]), args->grad_prev[1],
                              args->grad_in[1]);
    size_t macs = g->n * g->out_height * g->out_width * g->out * g->in;
#pragma omp parallel num_threads(npo_cpu_team(cpu, macs))
    backward_thread(cpu, s, args);
    return NPO_OK;
}

const npo_product_engine npo_product_own = {
    .prepare = own_prepare,
    .finish = own_finish,
    .pack = own_pack,
    .forward = own_forward,
    .backward = own_backward,
};
