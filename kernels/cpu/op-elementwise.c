/* Activations, sums, mixtures, concatenation. */
#include "kernels/cpu/cpu.h"

#include <string.h>

static size_t count_of(const npo_shape *shape)
{
    return (size_t)npo_shape_count(shape);
}

/* ---- activation ---- */

static npo_err activation_forward(const npo_cpu *cpu, const npo_op_work *work,
                                  const npo_op_args *args, npo_error *error)
{
    const float *x = args->in[0];
    size_t n = count_of(&work->desc.out);
#pragma omp parallel num_threads(npo_cpu_team(cpu, n))
    {
        npo_cpu_part p = npo_cpu_part_of(n, 1024);
        cpu->k->act_forward(work->desc.attrs.act, p.last - p.first, x + p.first,
                            args->out + p.first);
    }
    return NPO_OK;
}

static npo_err activation_backward(const npo_cpu *cpu, const npo_op_work *work,
                                   const npo_op_args *args, npo_error *error)
{
    const float *x = args->in[0];
    size_t n = count_of(&work->desc.out);
#pragma omp parallel num_threads(npo_cpu_team(cpu, n))
    {
        npo_cpu_part p = npo_cpu_part_of(n, 1024);
        cpu->k->act_backward(work->desc.attrs.act, p.last - p.first, x + p.first,
                             args->grad_out + p.first, npo_at(args->grad_prev[0], p.first),
                             args->grad_in[0] + p.first);
    }
    return NPO_OK;
}

const npo_cpu_op npo_cpu_activation = {
    .forward = activation_forward,
    .backward = activation_backward,
};

/* ---- geglu ---- */

static npo_err geglu_forward(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                             npo_error *error)
{
    const float *x = args->in[0];
    size_t rows = (size_t)npo_shape_rows(&work->desc.out);
    size_t c = (size_t)npo_shape_last(&work->desc.out);
#pragma omp parallel num_threads(npo_cpu_team(cpu, rows *c))
    {
        npo_cpu_part p = npo_cpu_part_of(rows, 1);
        cpu->k->geglu_forward(p.last - p.first, c, x + p.first * 2 * c, args->out + p.first * c);
    }
    return NPO_OK;
}

static npo_err geglu_backward(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                              npo_error *error)
{
    const float *x = args->in[0];
    size_t rows = (size_t)npo_shape_rows(&work->desc.out);
    size_t c = (size_t)npo_shape_last(&work->desc.out);
#pragma omp parallel num_threads(npo_cpu_team(cpu, rows *c))
    {
        npo_cpu_part p = npo_cpu_part_of(rows, 1);
        size_t at = p.first * 2 * c;
        cpu->k->geglu_backward(p.last - p.first, c, x + at, args->grad_out + p.first * c,
                               npo_at(args->grad_prev[0], at), args->grad_in[0] + at);
    }
    return NPO_OK;
}

const npo_cpu_op npo_cpu_geglu = {.forward = geglu_forward, .backward = geglu_backward};

/* ---- sums ---- */

static npo_err add_forward(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                           npo_error *error)
{
    const float *a = args->in[0], *b = args->in[1];
    size_t n = count_of(&work->desc.out);
#pragma omp parallel num_threads(npo_cpu_team(cpu, n))
    {
        npo_cpu_part p = npo_cpu_part_of(n, 1024);
        cpu->k->add(p.last - p.first, a + p.first, b + p.first, args->out + p.first);
    }
    return NPO_OK;
}

static npo_err add_backward(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                            npo_error *error)
{
    for (int i = 0; i < 2; i++)
        if (npo_wants(args, i))
            npo_cpu_accumulate(cpu, count_of(&work->desc.out), 1, args->grad_out,
                               args->grad_prev[i], args->grad_in[i]);
    return NPO_OK;
}

const npo_cpu_op npo_cpu_add = {.forward = add_forward, .backward = add_backward};

static npo_err add_channels_forward(const npo_cpu *cpu, const npo_op_work *work,
                                    const npo_op_args *args, npo_error *error)
{
    const npo_shape *out = &work->desc.out;
    const float *x = args->in[0], *e = args->in[1];
    size_t n = (size_t)out->dims[0], c = (size_t)npo_shape_last(out), size = count_of(out) / n;
#pragma omp parallel for schedule(static) num_threads(npo_cpu_team(cpu, n *size))
    for (size_t i = 0; i < n; i++)
        cpu->k->add_channels(size / c, c, x + i * size, e + i * c, args->out + i * size);
    return NPO_OK;
}

static npo_err add_channels_backward(const npo_cpu *cpu, const npo_op_work *work,
                                     const npo_op_args *args, npo_error *error)
{
    const npo_shape *out = &work->desc.out;
    size_t n = (size_t)out->dims[0], c = (size_t)npo_shape_last(out), size = count_of(out) / n;
    if (npo_wants(args, 0))
        npo_cpu_accumulate(cpu, n * size, 1, args->grad_out, args->grad_prev[0], args->grad_in[0]);
    if (!npo_wants(args, 1))
        return NPO_OK;
#pragma omp parallel for schedule(static) num_threads(npo_cpu_team(cpu, n *size))
    for (size_t i = 0; i < n; i++)
        cpu->k->column_sums(size / c, c, c, args->grad_out + i * size,
                            npo_at(args->grad_prev[1], i * c), args->grad_in[1] + i * c);
    return NPO_OK;
}

const npo_cpu_op npo_cpu_add_channels = {
    .forward = add_channels_forward,
    .backward = add_channels_backward,
};

static npo_err scale_forward(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                             npo_error *error)
{
    npo_cpu_accumulate(cpu, count_of(&work->desc.out), work->desc.attrs.factor, args->in[0], NULL,
                       args->out);
    return NPO_OK;
}

static npo_err scale_backward(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                              npo_error *error)
{
    npo_cpu_accumulate(cpu, count_of(&work->desc.out), work->desc.attrs.factor, args->grad_out,
                       args->grad_prev[0], args->grad_in[0]);
    return NPO_OK;
}

const npo_cpu_op npo_cpu_scale = {.forward = scale_forward, .backward = scale_backward};

/* ---- mix ---- */

static npo_err mix_forward(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                           npo_error *error)
{
    const float *a = args->in[0], *b = args->in[1], *ca = args->in[2], *cb = args->in[3];
    size_t n = (size_t)work->desc.out.dims[0], size = count_of(&work->desc.out) / n;
#pragma omp parallel for schedule(static) num_threads(npo_cpu_team(cpu, n *size))
    for (size_t i = 0; i < n; i++)
        cpu->k->mix(size, ca[i], a + i * size, cb[i], b + i * size, args->out + i * size);
    return NPO_OK;
}

static npo_err mix_backward(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                            npo_error *error)
{
    size_t n = (size_t)work->desc.out.dims[0], size = count_of(&work->desc.out) / n;
    for (int k = 0; k < 2; k++) {
        const float *factors = args->in[2 + k];
        if (!npo_wants(args, k))
            continue;
#pragma omp parallel for schedule(static) num_threads(npo_cpu_team(cpu, n *size))
        for (size_t i = 0; i < n; i++)
            cpu->k->accumulate(size, factors[i], args->grad_out + i * size,
                               npo_at(args->grad_prev[k], i * size), args->grad_in[k] + i * size);
    }
    return NPO_OK;
}

const npo_cpu_op npo_cpu_mix = {.forward = mix_forward, .backward = mix_backward};

/* ---- concat ---- */

static npo_err concat_forward(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                              npo_error *error)
{
    const float *a = args->in[0], *b = args->in[1];
    size_t ca = (size_t)npo_shape_last(&work->desc.in[0]);
    size_t cb = (size_t)npo_shape_last(&work->desc.in[1]);
    size_t rows = (size_t)npo_shape_rows(&work->desc.out);
#pragma omp parallel num_threads(npo_cpu_team(cpu, rows *(ca + cb)))
    {
        npo_cpu_part p = npo_cpu_part_of(rows, 1);
        for (size_t r = p.first; r < p.last; r++) {
            float *y = args->out + r * (ca + cb);
            memcpy(y, a + r * ca, ca * sizeof *y);
            memcpy(y + ca, b + r * cb, cb * sizeof *y);
        }
    }
    return NPO_OK;
}

static npo_err concat_backward(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                               npo_error *error)
{
    size_t rows = (size_t)npo_shape_rows(&work->desc.out);
    size_t width = (size_t)npo_shape_last(&work->desc.out), begin = 0;
    for (int k = 0; k < 2; k++) {
        size_t c = (size_t)npo_shape_last(&work->desc.in[k]);
        const float *dy = args->grad_out + begin;
        begin += c;
        if (!npo_wants(args, k))
            continue;
#pragma omp parallel num_threads(npo_cpu_team(cpu, rows *c))
        {
            npo_cpu_part p = npo_cpu_part_of(rows, 1);
            for (size_t r = p.first; r < p.last; r++)
                cpu->k->accumulate(c, 1, dy + r * width, npo_at(args->grad_prev[k], r * c),
                                   args->grad_in[k] + r * c);
        }
    }
    return NPO_OK;
}

const npo_cpu_op npo_cpu_concat = {.forward = concat_forward, .backward = concat_backward};
