/* Embeddings of token ids, positions and timesteps. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

/* ---- timestep ---- */

/* In f32 step by step, as diffusers' get_timestep_embedding: at t = 1000 one rounding more or less
 * of the angle shows in the fifth digit. */
static npo_err timestep_forward(const npo_cpu *cpu, const npo_op_work *work,
                                const npo_op_args *args, npo_error *error)
{
    const npo_op_attrs *attrs = &work->desc.attrs;
    const float *t = args->in[0];
    size_t n = (size_t)work->desc.out.dims[0], channels = (size_t)attrs->channels;
    size_t half = channels / 2, sines = attrs->flip ? half : 0, cosines = half - sines;
    memset(args->out, 0, n * channels * sizeof *args->out);
    for (size_t i = 0; i < half; i++) {
        float exponent = (float)-log(10000.0) * (float)i / ((float)half - attrs->factor);
        float frequency = expf(exponent);
        for (size_t j = 0; j < n; j++) {
            args->out[j * channels + sines + i] = sinf(t[j] * frequency);
            args->out[j * channels + cosines + i] = cosf(t[j] * frequency);
        }
    }
    return NPO_OK;
}

const npo_cpu_op npo_cpu_timestep = {.forward = timestep_forward};

/* ---- embedding ---- */

static npo_err embedding_forward(const npo_cpu *cpu, const npo_op_work *work,
                                 const npo_op_args *args, npo_error *error)
{
    const int32_t *ids = args->in[0];
    const float *table = args->in[1];
    size_t count = (size_t)npo_shape_count(&work->desc.in[0]);
    size_t c = (size_t)npo_shape_last(&work->desc.out);
    int64_t entries = work->desc.in[1].dims[0];
    for (size_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= entries)
            return npo_error_set(error, NPO_E_RANGE,
                                 "op 'embedding': id %d at %zu, expected 0 to %lld", ids[i], i,
                                 (long long)entries - 1);
        memcpy(args->out + i * c, table + (size_t)ids[i] * c, c * sizeof *table);
    }
    return NPO_OK;
}

/* One thread: several ids may be the same row. */
static npo_err embedding_backward(const npo_cpu *cpu, const npo_op_work *work,
                                  const npo_op_args *args, npo_error *error)
{
    const int32_t *ids = args->in[0];
    const float *prev = args->grad_prev[1];
    float *grad = args->grad_in[1];
    size_t count = (size_t)npo_shape_count(&work->desc.in[0]);
    size_t c = (size_t)npo_shape_last(&work->desc.out);
    size_t size = (size_t)npo_shape_count(&work->desc.in[1]);
    if (!prev)
        memset(grad, 0, size * sizeof *grad);
    else if (prev != grad)
        memcpy(grad, prev, size * sizeof *grad);
    for (size_t i = 0; i < count; i++) {
        float *row = grad + (size_t)ids[i] * c;
        cpu->k->add(c, row, args->grad_out + i * c, row);
    }
    return NPO_OK;
}

const npo_cpu_op npo_cpu_embedding = {
    .forward = embedding_forward,
    .backward = embedding_backward,
};

/* ---- add_rows ---- */

static npo_err add_rows_forward(const npo_cpu *cpu, const npo_op_work *work,
                                const npo_op_args *args, npo_error *error)
{
    const float *x = args->in[0], *rows = args->in[1];
    size_t n = (size_t)work->desc.out.dims[0];
    size_t size = (size_t)npo_shape_count(&work->desc.out) / n;
    for (size_t i = 0; i < n; i++)
        cpu->k->add(size, x + i * size, rows, args->out + i * size);
    return NPO_OK;
}

static npo_err add_rows_backward(const npo_cpu *cpu, const npo_op_work *work,
                                 const npo_op_args *args, npo_error *error)
{
    size_t n = (size_t)work->desc.out.dims[0];
    size_t size = (size_t)npo_shape_count(&work->desc.out) / n;
    size_t table = (size_t)npo_shape_count(&work->desc.in[1]);
    const float *prev = args->grad_prev[1];
    float *grad = args->grad_in[1];
    if (npo_wants(args, 0))
        npo_cpu_accumulate(cpu, n * size, 1, args->grad_out, args->grad_prev[0], args->grad_in[0]);
    if (!npo_wants(args, 1))
        return NPO_OK;
    if (!prev)
        memset(grad, 0, table * sizeof *grad);
    else if (prev != grad)
        memcpy(grad, prev, table * sizeof *grad);
    for (size_t i = 0; i < n; i++)
        cpu->k->add(size, grad, args->grad_out + i * size, grad);
    return NPO_OK;
}

const npo_cpu_op npo_cpu_add_rows = {.forward = add_rows_forward, .backward = add_rows_backward};
