/* Flat vector kernels on f32 buffers for the optimizer, the EMA and the samplers. Threaded; the
 * same bits for every ISA (element-wise, IEEE add, mul, fma, sqrt, div only, in a fixed order) and
 * for any thread count (reductions are summed over fixed blocks in block order, in f64). n:
 * elements. */
#ifndef NPO_KERNELS_VEC_H
#define NPO_KERNELS_VEC_H

#include "kernels/backend.h"
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

#endif
