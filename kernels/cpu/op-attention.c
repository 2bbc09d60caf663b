/* Attention: one thread works on one head of one sample at a time. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <omp.h>

static npo_attention_sizes sizes_of(const npo_op_desc *desc)
{
    size_t width = (size_t)desc->in[0].dims[2], head_dim = width / (size_t)desc->attrs.heads;
    return (npo_attention_sizes){
        .queries = (size_t)desc->in[0].dims[1],
        .keys = (size_t)desc->in[1].dims[1],
        .head_dim = head_dim,
        .stride = width,
        .causal = desc->attrs.causal,
        .scale = (float)(1 / sqrt((double)head_dim)),
    };
}

static npo_err attention_prepare(const npo_cpu *cpu, npo_op_work *work, npo_error *error)
{
    npo_attention_sizes s = sizes_of(&work->desc);
    size_t heads = (size_t)(work->desc.in[0].dims[0] * work->desc.attrs.heads);
    work->saved = work->desc.keep ? heads * s.queries * sizeof(float) : 0;
    work->scratch_forward = (size_t)cpu->threads * cpu->k->attention_scratch(&s) * sizeof(float);
    work->scratch_backward = work->scratch_forward;
    return NPO_OK;
}

static npo_err attention_forward(const npo_cpu *cpu, const npo_op_work *work,
                                 const npo_op_args *args, npo_error *error)
{
    npo_attention_sizes s = sizes_of(&work->desc);
    const float *q = args->in[0], *k = args->in[1], *v = args->in[2];
    float *lse = args->saved;
    size_t heads = (size_t)work->desc.attrs.heads, count = (size_t)work->desc.in[0].dims[0] * heads;
#pragma omp parallel for schedule(static) num_threads(npo_cpu_team(cpu, count *s.queries *s.keys))
    for (size_t i = 0; i < count; i++) {
        size_t sample = i / heads, column = i % heads * s.head_dim;
        size_t at_q = sample * s.queries * s.stride + column;
        size_t at_k = sample * s.keys * s.stride + column;
        float *scratch =
            (float *)args->scratch + (size_t)omp_get_thread_num() * cpu->k->attention_scratch(&s);
        cpu->k->attention_forward(&s, q + at_q, k + at_k, v + at_k, args->out + at_q,
                                  lse ? lse + i * s.queries : NULL, scratch);
    }
    return NPO_OK;
}

static npo_err attention_backward(const npo_cpu *cpu, const npo_op_work *work,
                                  const npo_op_args *args, npo_error *error)
{
    npo_attention_sizes s = sizes_of(&work->desc);
    const float *q = args->in[0], *k = args->in[1], *v = args->in[2], *lse = args->saved;
    size_t heads = (size_t)work->desc.attrs.heads, count = (size_t)work->desc.in[0].dims[0] * heads;
#pragma omp parallel for schedule(static) num_threads(npo_cpu_team(cpu, count *s.queries *s.keys))
    for (size_t i = 0; i < count; i++) {
        size_t sample = i / heads, column = i % heads * s.head_dim;
        size_t at_q = sample * s.queries * s.stride + column;
        size_t at_k = sample * s.keys * s.stride + column;
        const size_t at[] = {at_q, at_k, at_k};
        float *prev[3], *grad[3];
        for (int j = 0; j < 3; j++) {
            prev[j] = (float *)npo_at(args->grad_prev[j], at[j]);
            grad[j] = (float *)npo_at(args->grad_in[j], at[j]);
        }
        float *scratch =
            (float *)args->scratch + (size_t)omp_get_thread_num() * cpu->k->attention_scratch(&s);
        cpu->k->attention_backward(&s, q + at_q, k + at_k, v + at_k, lse + i * s.queries,
                                   args->grad_out + at_q, prev, grad, scratch);
    }
    return NPO_OK;
}

const npo_cpu_op npo_cpu_attention = {
    .prepare = attention_prepare,
    .forward = attention_forward,
    .backward = attention_backward,
};
