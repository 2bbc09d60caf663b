/* Nearest-neighbour upsampling and max pooling. */
#include "kernels/cpu/cpu.h"

#include <string.h>

/* ---- upsample ---- */

/* The source of a target index, in f32 as torch's interpolate computes it for a given size. */
static size_t source_of(size_t target, int64_t from, int64_t to)
{
    float scale = (float)from / (float)to;
    size_t source = (size_t)((float)target * scale);
    return source < (size_t)from ? source : (size_t)from - 1;
}

static npo_err upsample_forward(const npo_cpu *cpu, const npo_op_work *work,
                                const npo_op_args *args, npo_error *error)
{
    const npo_shape *in = &work->desc.in[0], *out = &work->desc.out;
    size_t c = (size_t)in->dims[3], width = (size_t)out->dims[2];
    size_t rows = (size_t)(out->dims[0] * out->dims[1]);
    const float *x = args->in[0];
#pragma omp parallel for schedule(static) num_threads(npo_cpu_team(cpu, rows *width *c))
    for (size_t r = 0; r < rows; r++) {
        size_t sample = r / (size_t)out->dims[1];
        size_t from = source_of(r % (size_t)out->dims[1], in->dims[1], out->dims[1]);
        const float *row = x + (sample * (size_t)in->dims[1] + from) * (size_t)in->dims[2] * c;
        for (size_t j = 0; j < width; j++)
            memcpy(args->out + (r * width + j) * c,
                   row + source_of(j, in->dims[2], out->dims[2]) * c, c * sizeof *x);
    }
    return NPO_OK;
}

static npo_err upsample_backward(const npo_cpu *cpu, const npo_op_work *work,
                                 const npo_op_args *args, npo_error *error)
{
    const npo_shape *in = &work->desc.in[0], *out = &work->desc.out;
    size_t c = (size_t)in->dims[3], n = (size_t)in->dims[0];
    size_t height = (size_t)out->dims[1], width = (size_t)out->dims[2];
    size_t size = (size_t)npo_shape_count(in) / n;
#pragma omp parallel for schedule(static) num_threads(npo_cpu_team(cpu, n *height *width *c))
    for (size_t i = 0; i < n; i++) {
        float *dx = args->grad_in[0] + i * size;
        const float *prev = npo_at(args->grad_prev[0], i * size);
        if (!prev)
            memset(dx, 0, size * sizeof *dx);
        else if (prev != dx)
            memcpy(dx, prev, size * sizeof *dx);
        for (size_t y = 0; y < height; y++) {
            const float *dy = args->grad_out + (i * height + y) * width * c;
            float *row = dx + source_of(y, in->dims[1], out->dims[1]) * (size_t)in->dims[2] * c;
            for (size_t x = 0; x < width; x++) {
                float *to = row + source_of(x, in->dims[2], out->dims[2]) * c;
                cpu->k->add(c, to, dy + x * c, to);
            }
        }
    }
    return NPO_OK;
}

const npo_cpu_op npo_cpu_upsample = {.forward = upsample_forward, .backward = upsample_backward};

/* ---- max pooling ---- */

/* Offset of the largest of a window's four values of one channel; the first of equals, as torch. */
static size_t find_largest(const float *x, size_t row, size_t c)
{
    const size_t offsets[] = {0, c, row, row + c};
    size_t best = 0;
    for (size_t k = 1; k < 4; k++)
        if (x[offsets[k]] > x[best])
            best = offsets[k];
    return best;
}

static npo_err max_pool_forward(const npo_cpu *cpu, const npo_op_work *work,
                                const npo_op_args *args, npo_error *error)
{
    const npo_shape *in = &work->desc.in[0], *out = &work->desc.out;
    size_t c = (size_t)in->dims[3], row = (size_t)in->dims[2] * c, width = (size_t)out->dims[2];
    size_t rows = (size_t)(out->dims[0] * out->dims[1]), height = (size_t)out->dims[1];
#pragma omp parallel for schedule(static) num_threads(npo_cpu_team(cpu, rows *width *c * 4))
    for (size_t r = 0; r < rows; r++) {
        const float *x =
            (const float *)args->in[0] + (r / height * (size_t)in->dims[1] + r % height * 2) * row;
        float *y = args->out + r * width * c;
        for (size_t j = 0; j < width; j++)
            for (size_t k = 0; k < c; k++) {
                const float *window = x + 2 * j * c + k;
                y[j * c + k] = window[find_largest(window, row, c)];
            }
    }
    return NPO_OK;
}

static npo_err max_pool_backward(const npo_cpu *cpu, const npo_op_work *work,
                                 const npo_op_args *args, npo_error *error)
{
    const npo_shape *in = &work->desc.in[0], *out = &work->desc.out;
    size_t c = (size_t)in->dims[3], row = (size_t)in->dims[2] * c, n = (size_t)in->dims[0];
    size_t height = (size_t)out->dims[1], width = (size_t)out->dims[2];
    size_t size = (size_t)npo_shape_count(in) / n;
#pragma omp parallel for schedule(static) num_threads(npo_cpu_team(cpu, n *size))
    for (size_t i = 0; i < n; i++) {
        const float *x = (const float *)args->in[0] + i * size;
        float *dx = args->grad_in[0] + i * size;
        const float *prev = npo_at(args->grad_prev[0], i * size);
        if (!prev)
            memset(dx, 0, size * sizeof *dx);
        else if (prev != dx)
            memcpy(dx, prev, size * sizeof *dx);
        for (size_t p = 0; p < height * width * c; p++) {
            size_t at = p / (width * c) * 2 * row + p / c % width * 2 * c + p % c;
            dx[at + find_largest(x + at, row, c)] += args->grad_out[i * height * width * c + p];
        }
    }
    return NPO_OK;
}

const npo_cpu_op npo_cpu_max_pool = {.forward = max_pool_forward, .backward = max_pool_backward};
