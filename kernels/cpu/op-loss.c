/* Losses. Sums run over fixed blocks in f64 and over the blocks in order. */
#include "kernels/cpu/cpu.h"

#include <math.h>

enum { BLOCK = 4096 };

static size_t blocks_of(size_t n)
{
    return (n + BLOCK - 1) / BLOCK;
}

static npo_err loss_prepare(const npo_cpu *cpu, npo_op_work *work, npo_error *error)
{
    work->scratch_forward = blocks_of((size_t)npo_shape_count(&work->desc.in[0])) * sizeof(double);
    return NPO_OK;
}

typedef double (*loss_sum)(size_t n, float h, const float *pred, const float *target);

static void mean_of(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                    loss_sum sum)
{
    const float *pred = args->in[0], *target = args->in[1];
    double *sums = args->scratch, total = 0;
    size_t n = (size_t)npo_shape_count(&work->desc.in[0]);
#pragma omp parallel for schedule(static) num_threads(npo_cpu_team(cpu, n))
    for (size_t b = 0; b < blocks_of(n); b++) {
        size_t at = b * BLOCK, count = n - at < BLOCK ? n - at : (size_t)BLOCK;
        sums[b] = sum(count, work->desc.attrs.factor, pred + at, target + at);
    }
    for (size_t b = 0; b < blocks_of(n); b++)
        total += sums[b];
    *args->out = (float)(total / (double)n);
}

/* ---- mean squared error ---- */

static double square_sum(size_t n, float h, const float *pred, const float *target)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)pred[i] - (double)target[i];
        sum += d * d;
    }
    return sum;
}

static npo_err mse_loss_forward(const npo_cpu *cpu, const npo_op_work *work,
                                const npo_op_args *args, npo_error *error)
{
    mean_of(cpu, work, args, square_sum);
    return NPO_OK;
}

static npo_err mse_loss_backward(const npo_cpu *cpu, const npo_op_work *work,
                                 const npo_op_args *args, npo_error *error)
{
    const float *pred = args->in[0], *target = args->in[1], *prev = args->grad_prev[0];
    size_t n = (size_t)npo_shape_count(&work->desc.in[0]);
    float factor = 2 * *args->grad_out / (float)n;
#pragma omp parallel for simd schedule(static) num_threads(npo_cpu_team(cpu, n))
    for (size_t i = 0; i < n; i++)
        args->grad_in[0][i] = (prev ? prev[i] : 0) + factor * (pred[i] - target[i]);
    return NPO_OK;
}

const npo_cpu_op npo_cpu_mse_loss = {
    .prepare = loss_prepare,
    .forward = mse_loss_forward,
    .backward = mse_loss_backward,
};

/* ---- pseudo-Huber ---- */

static double pseudo_huber_sum(size_t n, float h, const float *pred, const float *target)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        float d = pred[i] - target[i];
        sum += (double)(d * d / (sqrtf(d * d + h * h) + h));
    }
    return sum;
}

static npo_err pseudo_huber_loss_forward(const npo_cpu *cpu, const npo_op_work *work,
                                         const npo_op_args *args, npo_error *error)
{
    mean_of(cpu, work, args, pseudo_huber_sum);
    return NPO_OK;
}

static npo_err pseudo_huber_loss_backward(const npo_cpu *cpu, const npo_op_work *work,
                                          const npo_op_args *args, npo_error *error)
{
    const float *pred = args->in[0], *target = args->in[1], *prev = args->grad_prev[0];
    size_t n = (size_t)npo_shape_count(&work->desc.in[0]);
    float factor = *args->grad_out / (float)n, h = work->desc.attrs.factor;
#pragma omp parallel for simd schedule(static) num_threads(npo_cpu_team(cpu, n))
    for (size_t i = 0; i < n; i++) {
        float d = pred[i] - target[i];
        args->grad_in[0][i] = (prev ? prev[i] : 0) + factor * d / sqrtf(d * d + h * h);
    }
    return NPO_OK;
}

const npo_cpu_op npo_cpu_pseudo_huber_loss = {
    .prepare = loss_prepare,
    .forward = pseudo_huber_loss_forward,
    .backward = pseudo_huber_loss_backward,
};

/* ---- cross entropy ---- */

static double log_sum_exp(size_t k, const float *x)
{
    double most = -INFINITY, sum = 0;
    for (size_t j = 0; j < k; j++)
        most = fmax(most, (double)x[j]);
    for (size_t j = 0; j < k; j++)
        sum += exp((double)x[j] - most);
    return most + log(sum);
}

static npo_err cross_entropy_loss_forward(const npo_cpu *cpu, const npo_op_work *work,
                                          const npo_op_args *args, npo_error *error)
{
    const float *logits = args->in[0];
    const int32_t *labels = args->in[1];
    size_t n = (size_t)work->desc.in[0].dims[0], k = (size_t)work->desc.in[0].dims[1];
    double total = 0;
    for (size_t i = 0; i < n; i++) {
        if (labels[i] < 0 || (size_t)labels[i] >= k)
            return npo_error_set(error, NPO_E_RANGE,
                                 "op 'cross_entropy_loss': label %d at %zu, expected 0 to %zu",
                                 labels[i], i, k - 1);
        total += log_sum_exp(k, logits + i * k) - (double)logits[i * k + (size_t)labels[i]];
    }
    *args->out = (float)(total / (double)n);
    return NPO_OK;
}

static npo_err cross_entropy_loss_backward(const npo_cpu *cpu, const npo_op_work *work,
                                           const npo_op_args *args, npo_error *error)
{
    const float *logits = args->in[0], *prev = args->grad_prev[0];
    const int32_t *labels = args->in[1];
    size_t n = (size_t)work->desc.in[0].dims[0], k = (size_t)work->desc.in[0].dims[1];
    double factor = (double)*args->grad_out / (double)n;
    for (size_t i = 0; i < n; i++) {
        double lse = log_sum_exp(k, logits + i * k);
        for (size_t j = 0; j < k; j++) {
            double p = exp((double)logits[i * k + j] - lse) - (j == (size_t)labels[i]);
            args->grad_in[0][i * k + j] = (prev ? prev[i * k + j] : 0) + (float)(factor * p);
        }
    }
    return NPO_OK;
}

const npo_cpu_op npo_cpu_cross_entropy_loss = {
    .forward = cross_entropy_loss_forward,
    .backward = cross_entropy_loss_backward,
};
