/* Flat vector kernels over threads. Reductions run over fixed blocks, so that the number of threads
 * does not show in the bits. */
#include "kernels/cpu/cpu.h"

#include <assert.h>
#include <math.h>

enum { BLOCK = 4096, BATCH = 512 };

double npo_cpu_norm(npo_backend *be, size_t n, const float *x)
{
    const npo_cpu *cpu = be->device;
    size_t blocks = (n + BLOCK - 1) / BLOCK;
    double sums[BATCH], total = 0;
    for (size_t first = 0; first < blocks; first += BATCH) {
        size_t count = blocks - first < BATCH ? blocks - first : (size_t)BATCH;
#pragma omp parallel for schedule(static) num_threads(npo_cpu_team(cpu, count *BLOCK))
        for (size_t b = 0; b < count; b++) {
            size_t at = (first + b) * BLOCK;
            sums[b] = cpu->k->vec_square_sum(n - at < BLOCK ? n - at : (size_t)BLOCK, x + at);
        }
        for (size_t b = 0; b < count; b++)
            total += sums[b];
    }
    return sqrt(total);
}

void npo_cpu_scale_vector(npo_backend *be, size_t n, float a, float *x)
{
    const npo_cpu *cpu = be->device;
#pragma omp parallel num_threads(npo_cpu_team(cpu, n))
    {
        npo_cpu_part p = npo_cpu_part_of(n, 1024);
        cpu->k->vec_scale(p.last - p.first, a, x + p.first);
    }
}

void npo_cpu_axpy(npo_backend *be, size_t n, float a, const float *x, float *y)
{
    const npo_cpu *cpu = be->device;
#pragma omp parallel num_threads(npo_cpu_team(cpu, n))
    {
        npo_cpu_part p = npo_cpu_part_of(n, 1024);
        cpu->k->vec_axpy(p.last - p.first, a, x + p.first, y + p.first);
    }
}

void npo_cpu_lerp(npo_backend *be, size_t n, float w, const float *x, float *y)
{
    const npo_cpu *cpu = be->device;
#pragma omp parallel num_threads(npo_cpu_team(cpu, n))
    {
        npo_cpu_part p = npo_cpu_part_of(n, 1024);
        cpu->k->vec_lerp(p.last - p.first, w, x + p.first, y + p.first);
    }
}

/* torch computes the scalars in f64 and rounds them where they meet a tensor. */
static npo_adamw_scalars scalars_of(const npo_update *update)
{
    const npo_adamw *h = &update->adamw;
    return (npo_adamw_scalars){
        .keep = (float)(1 - h->lr * h->weight_decay),
        .new1 = (float)(1 - h->beta1),
        .beta2 = (float)h->beta2,
        .new2 = (float)(1 - h->beta2),
        .correction2 = (float)sqrt(1 - pow(h->beta2, (double)h->step)),
        .eps = (float)h->eps,
        .step = (float)(h->lr / (1 - pow(h->beta1, (double)h->step))),
        .grad_scale = update->grad_scale,
    };
}

/* What a thread does at a time, so that the average meets the weights in its cache. */
enum { UPDATE_PIECE = 4096 };

static void average(const npo_cpu *cpu, const npo_update *u, size_t at, size_t n)
{
    if (u->ema)
        cpu->k->vec_lerp(n, u->ema_weight, u->param + at, u->ema + at);
}

void npo_cpu_update(npo_backend *be, size_t n, const npo_update *u, float *exp_avg,
                    float *exp_avg_sq)
{
    const npo_cpu *cpu = be->device;
    const npo_adamw_scalars s = scalars_of(u);
#pragma omp parallel num_threads(npo_cpu_team(cpu, n))
    {
        npo_cpu_part p = npo_cpu_part_of(n, 1024);
        for (size_t at = p.first; at < p.last; at += UPDATE_PIECE) {
            size_t count = p.last - at < UPDATE_PIECE ? p.last - at : (size_t)UPDATE_PIECE;
            cpu->k->vec_adamw(count, &s, u->grad + at, u->param + at, exp_avg + at,
                              exp_avg_sq + at);
            average(cpu, u, at, count);
        }
    }
}

static npo_blockwise blocks_from(npo_blockwise values, size_t at)
{
    return (npo_blockwise){values.map, values.codes + at, values.absmax + at / NPO_DYNAMIC_BLOCK};
}

void npo_cpu_update8(npo_backend *be, size_t n, const npo_update *u, npo_blockwise exp_avg,
                     npo_blockwise exp_avg_sq)
{
    static_assert(UPDATE_PIECE % NPO_DYNAMIC_BLOCK == 0, "pieces are whole blocks");
    const npo_cpu *cpu = be->device;
    const npo_adamw_scalars s = scalars_of(u);
#pragma omp parallel num_threads(npo_cpu_team(cpu, n))
    {
        npo_cpu_part p = npo_cpu_part_of(n, NPO_DYNAMIC_BLOCK);
        for (size_t at = p.first; at < p.last; at += UPDATE_PIECE) {
            size_t count = p.last - at < UPDATE_PIECE ? p.last - at : (size_t)UPDATE_PIECE;
            cpu->k->vec_adamw8(count, &s, u->grad + at, u->param + at, blocks_from(exp_avg, at),
                               blocks_from(exp_avg_sq, at));
            average(cpu, u, at, count);
        }
    }
}

/* ---- bf16 ---- */

void npo_cpu_widen_bf16(npo_backend *be, size_t n, const uint16_t *x, float *y)
{
    const npo_cpu *cpu = be->device;
#pragma omp parallel num_threads(npo_cpu_team(cpu, n))
    {
        npo_cpu_part p = npo_cpu_part_of(n, 1024);
        cpu->k->widen_bf16(p.last - p.first, x + p.first, y + p.first);
    }
}

void npo_cpu_narrow_bf16(npo_backend *be, size_t n, const float *x, uint16_t *y)
{
    const npo_cpu *cpu = be->device;
#pragma omp parallel num_threads(npo_cpu_team(cpu, n))
    {
        npo_cpu_part p = npo_cpu_part_of(n, 1024);
        cpu->k->narrow_bf16(p.last - p.first, x + p.first, y + p.first);
    }
}

void npo_cpu_round_bf16(npo_backend *be, size_t n, const float *x, float *y)
{
    const npo_cpu *cpu = be->device;
#pragma omp parallel num_threads(npo_cpu_team(cpu, n))
    {
        npo_cpu_part p = npo_cpu_part_of(n, 1024);
        cpu->k->round_bf16(p.last - p.first, x + p.first, y + p.first);
    }
}
