/* Flat vector kernels on f32 buffers for the optimizer, the EMA and the samplers. Threaded; the
 * same bits for every ISA (element-wise, IEEE add, mul, fma, sqrt, div only, in a fixed order) and
 * for any thread count (reductions are summed over fixed blocks in block order, in f64). n:
 * elements. */
#ifndef NPO_KERNELS_VEC_H
#define NPO_KERNELS_VEC_H

#include "kernels/backend.h"
#include "kernels/dynamic_map.h"
#include <stddef.h>
#include <stdint.h>

/* sqrt of the sum of squares, in f64 over blocks of 4096. */
double npo_vec_norm(npo_backend *be, size_t n, const float *x);
void npo_vec_scale(npo_backend *be, size_t n, float a, float *x);                /* x *= a */
void npo_vec_axpy(npo_backend *be, size_t n, float a, const float *x, float *y); /* y += a x */
void npo_vec_lerp(npo_backend *be, size_t n, float w, const float *x,
                  float *y); /* y = (1-w) y + w x */
/* One AdamW step as torch.optim.AdamW computes it (decoupled decay first). step counts from 1. */
typedef struct {
    double lr, beta1, beta2, eps, weight_decay; /* f64: 1 - 0.999f has five digits */
    int64_t step;
} npo_adamw;
void npo_vec_adamw(npo_backend *be, size_t n, npo_adamw hyper, const float *grad, float *param,
                   float *exp_avg, float *exp_avg_sq);

/* A whole update in one pass over memory: AdamW with the gradients times grad_scale, then the
 * weights' average: ema = (1 - ema_weight) ema + ema_weight param. */
typedef struct {
    npo_adamw adamw;
    float grad_scale, ema_weight;
    const float *grad;
    float *param, *ema;
} npo_update;
void npo_vec_update(npo_backend *be, size_t n, const npo_update *update, float *exp_avg,
                    float *exp_avg_sq);

/* Values in 8 bits: value i is map->code[codes[i]] * absmax[i / NPO_DYNAMIC_BLOCK]. */
typedef struct {
    const npo_dynamic_map *map;
    uint8_t *codes;
    float *absmax;
} npo_blockwise;
/* The same with the moments in 8 bits, as bitsandbytes' AdamW8bit has them: exp_avg by the signed
 * map, exp_avg_sq by the unsigned one. */
void npo_vec_update8(npo_backend *be, size_t n, const npo_update *update, npo_blockwise exp_avg,
                     npo_blockwise exp_avg_sq);
/* Moments of zero. */
void npo_blockwise_clear(size_t n, npo_blockwise values);
static inline size_t npo_blockwise_blocks(size_t n)
{
    return n / NPO_DYNAMIC_BLOCK + (n % NPO_DYNAMIC_BLOCK != 0);
}

#endif
