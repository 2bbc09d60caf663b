/* Group norm (with silu) and layer norm. Threads take whole samples or fixed blocks of rows; the
 * gradients of gamma and beta are summed over these in order, whatever the number of threads. */
#include "kernels/cpu/cpu.h"

#include <omp.h>

enum { ROW_BLOCK = 64, F = sizeof(float) };

static size_t round_floats(size_t n)
{
    return (n + 15) / 16 * 16;
}

/* ---- group norm ---- */

static npo_group_norm_sizes group_sizes(const npo_op_desc *desc)
{
    size_t n = (size_t)desc->out.dims[0], channels = (size_t)npo_shape_last(&desc->out);
    return (npo_group_norm_sizes){
        .positions = (size_t)npo_shape_rows(&desc->out) / n,
        .channels = channels,
        .groups = (size_t)desc->attrs.groups,
        .eps = desc->attrs.eps,
        .silu = desc->attrs.act == NPO_ACT_SILU,
    };
}

static npo_err group_norm_prepare(const npo_cpu *cpu, npo_op_work *work, npo_error *error)
{
    npo_group_norm_sizes s = group_sizes(&work->desc);
    size_t n = (size_t)work->desc.out.dims[0], threads = (size_t)cpu->threads;
    work->saved = n * s.groups * 2 * F;
    work->scratch_forward = threads * round_floats(4 * s.channels) * F;
    work->scratch_backward =
        (threads * round_floats(s.channels * (s.positions + 8)) + n * 2 * s.channels) * F;
    return NPO_OK;
}

static npo_err group_norm_forward(const npo_cpu *cpu, const npo_op_work *work,
                                  const npo_op_args *args, npo_error *error)
{
    npo_group_norm_sizes s = group_sizes(&work->desc);
    const float *x = args->in[0];
    float *stats = args->saved, *scratch = args->scratch;
    size_t n = (size_t)work->desc.out.dims[0], size = s.positions * s.channels;
#pragma omp parallel for schedule(static) num_threads(npo_cpu_team(cpu, n *size))
    for (size_t i = 0; i < n; i++)
        cpu->k->group_norm_forward(&s, x + i * size, args->in[1], args->in[2], args->out + i * size,
                                   stats + i * s.groups * 2,
                                   scratch +
                                       (size_t)omp_get_thread_num() * round_floats(4 * s.channels));
    return NPO_OK;
}

static npo_err group_norm_backward(const npo_cpu *cpu, const npo_op_work *work,
                                   const npo_op_args *args, npo_error *error)
{
    npo_group_norm_sizes s = group_sizes(&work->desc);
    const float *x = args->in[0], *stats = args->saved;
    size_t n = (size_t)work->desc.out.dims[0], size = s.positions * s.channels;
    size_t per_thread = round_floats(s.channels * (s.positions + 8));
    float *sums = (float *)args->scratch + (size_t)cpu->threads * per_thread;
#pragma omp parallel for schedule(static) num_threads(npo_cpu_team(cpu, n *size))
    for (size_t i = 0; i < n; i++) {
        float *work_floats = (float *)args->scratch + (size_t)omp_get_thread_num() * per_thread;
        cpu->k->group_norm_backward(
            &s, x + i * size, args->in[1], args->in[2], stats + i * s.groups * 2,
            args->grad_out + i * size, npo_at(args->grad_prev[0], i * size),
            npo_wants(args, 0) ? args->grad_in[0] + i * size : NULL, sums + i * 2 * s.channels,
            work_floats + 8 * s.channels, work_floats);
    }
    for (int k = 0; k < 2; k++)
        if (npo_wants(args, 1 + k))
            npo_cpu_sum_parts(n, s.channels, 2 * s.channels, sums + (size_t)k * s.channels,
                              args->grad_prev[1 + k], args->grad_in[1 + k]);
    return NPO_OK;
}

const npo_cpu_op npo_cpu_group_norm = {
    .prepare = group_norm_prepare,
    .forward = group_norm_forward,
    .backward = group_norm_backward,
};

/* ---- layer norm ---- */

static size_t blocks_of(size_t rows)
{
    return (rows + ROW_BLOCK - 1) / ROW_BLOCK;
}

static npo_err layer_norm_prepare(const npo_cpu *cpu, npo_op_work *work, npo_error *error)
{
    size_t rows = (size_t)npo_shape_rows(&work->desc.out);
    size_t c = (size_t)npo_shape_last(&work->desc.out);
    work->saved = work->desc.keep ? rows * 2 * F : 0;
    work->scratch_backward = blocks_of(rows) * 2 * c * F;
    return NPO_OK;
}

static npo_err layer_norm_forward(const npo_cpu *cpu, const npo_op_work *work,
                                  const npo_op_args *args, npo_error *error)
{
    const float *x = args->in[0];
    float *stats = args->saved;
    size_t rows = (size_t)npo_shape_rows(&work->desc.out);
    size_t c = (size_t)npo_shape_last(&work->desc.out);
#pragma omp parallel num_threads(npo_cpu_team(cpu, rows *c))
    {
        npo_cpu_part p = npo_cpu_part_of(rows, 1);
        cpu->k->layer_norm_forward(p.last - p.first, c, work->desc.attrs.eps, x + p.first * c,
                                   args->in[1], args->in[2], args->out + p.first * c,
                                   stats ? stats + 2 * p.first : NULL);
    }
    return NPO_OK;
}

static npo_err layer_norm_backward(const npo_cpu *cpu, const npo_op_work *work,
                                   const npo_op_args *args, npo_error *error)
{
    const float *x = args->in[0], *stats = args->saved;
    float *sums = args->scratch;
    size_t rows = (size_t)npo_shape_rows(&work->desc.out);
    size_t c = (size_t)npo_shape_last(&work->desc.out), blocks = blocks_of(rows);
#pragma omp parallel for schedule(static) num_threads(npo_cpu_team(cpu, rows *c))
    for (size_t b = 0; b < blocks; b++) {
        size_t first = b * ROW_BLOCK, at = first * c;
        size_t count = rows - first < ROW_BLOCK ? rows - first : (size_t)ROW_BLOCK;
        cpu->k->layer_norm_backward(count, c, x + at, args->in[1], stats + 2 * first,
                                    args->grad_out + at, npo_at(args->grad_prev[0], at),
                                    npo_wants(args, 0) ? args->grad_in[0] + at : NULL,
                                    sums + b * 2 * c);
    }
    for (int k = 0; k < 2; k++)
        if (npo_wants(args, 1 + k))
            npo_cpu_sum_parts(blocks, c, 2 * c, sums + (size_t)k * c, args->grad_prev[1 + k],
                              args->grad_in[1 + k]);
    return NPO_OK;
}

const npo_cpu_op npo_cpu_layer_norm = {
    .prepare = layer_norm_prepare,
    .forward = layer_norm_forward,
    .backward = layer_norm_backward,
};
