/* The kernels that exist once for each instruction set: a table of functions for one thread, which
 * the ops (cpu/op-*.c) call from their threads on parts of the work. All tensors f32, contiguous,
 * channels last. Where a kernel takes prev and writes dx: dx = prev + gradient, prev NULL for
 * nothing or equal to dx. */
#ifndef NPO_KERNELS_CPU_ISA_ISA_H
#define NPO_KERNELS_CPU_ISA_ISA_H

#include "kernels/cpu/product/product.h"
#include "kernels/cpu/product/winograd.h"
#include "kernels/matrix.h"
#include "kernels/op.h"
#include "kernels/vec.h"

#include <stddef.h>

/* Sizes of a group norm; one sample is [positions, channels]. */
typedef struct {
    size_t positions, channels, groups;
    float eps;
    bool silu;
} npo_group_norm_sizes;

/* One head of attention. Rows of q, k, v and of their gradients and outputs lie `stride` floats
 * apart. Scratch: attention_scratch() floats. */
typedef struct {
    size_t queries, keys, head_dim, stride;
    bool causal;
    float scale;
} npo_attention_sizes;

/* Scalars of an AdamW step (kernels/cpu/vec.c derives them from npo_adamw). */
typedef struct {
    float keep; /* 1 - lr * weight_decay */
    float new1; /* 1 - beta1 */
    float beta2, new2;
    float correction2; /* sqrt(1 - beta2^step) */
    float eps;
    float step; /* lr / (1 - beta1^step) */
    float grad_scale;
} npo_adamw_scalars;

typedef struct {
    const char *name;

    void (*act_forward)(npo_act act, size_t n, const float *x, float *y);
    void (*act_backward)(npo_act act, size_t n, const float *x, const float *dy, const float *prev,
                         float *dx);
    /* x [rows, 2c] -> y [rows, c] */
    void (*geglu_forward)(size_t rows, size_t c, const float *x, float *y);
    void (*geglu_backward)(size_t rows, size_t c, const float *x, const float *dy,
                           const float *prev, float *dx);
    void (*add)(size_t n, const float *a, const float *b, float *y); /* y may be a or b */
    /* y = prev + a x; without prev y = a x */
    void (*accumulate)(size_t n, float a, const float *x, const float *prev, float *y);
    void (*mix)(size_t n, float ca, const float *a, float cb, const float *b, float *y);
    /* y[r] = x[r] + e */
    void (*add_channels)(size_t rows, size_t c, const float *x, const float *e, float *y);
    /* y [c] = prev + sums over rows of x, `row` floats apart; sums of 64 rows are added up in f64
     */
    void (*column_sums)(size_t rows, size_t c, size_t row, const float *x, const float *prev,
                        float *y);
    float (*largest)(size_t n, const float *x);
    /* y = exp(x - shift), returns the sum */
    float (*exp_sum)(size_t n, float shift, const float *x, float *y);

    /* stats: mean and 1 / deviation of each group, [groups, 2]. work: 4 * channels floats. */
    void (*group_norm_forward)(const npo_group_norm_sizes *sizes, const float *x,
                               const float *gamma, const float *beta, float *y, float *stats,
                               float *work);
    /* sums: [2, channels], this sample's part of the gradients of gamma and beta. slab: a sample,
     * work: 8 * channels floats. dx may be dy; dx NULL: sums only. */
    void (*group_norm_backward)(const npo_group_norm_sizes *sizes, const float *x,
                                const float *gamma, const float *beta, const float *stats,
                                const float *dy, const float *prev, float *dx, float *sums,
                                float *slab, float *work);
    /* stats [rows, 2] or NULL */
    void (*layer_norm_forward)(size_t rows, size_t c, float eps, const float *x, const float *gamma,
                               const float *beta, float *y, float *stats);
    /* sums [2, c] as above. dx may be dy. */
    void (*layer_norm_backward)(size_t rows, size_t c, const float *x, const float *gamma,
                                const float *stats, const float *dy, const float *prev, float *dx,
                                float *sums);

    size_t (*attention_scratch)(const npo_attention_sizes *sizes); /* a multiple of 16 */
    /* lse [queries] or NULL: log of the sum of exponentials of each row. */
    void (*attention_forward)(const npo_attention_sizes *sizes, const float *q, const float *k,
                              const float *v, float *out, float *lse, float *scratch);
    void (*attention_backward)(const npo_attention_sizes *sizes, const float *q, const float *k,
                               const float *v, const float *lse, const float *dout,
                               float *const prev[3], float *const grad[3], float *scratch);

    /* cpu/product/product.h. packed: packed_floats(k, n) floats. unpack_weights adds to grads. Both
     * do one of several parts. */
    size_t (*packed_floats)(size_t k, size_t n);
    void (*pack_weights)(const npo_weight_map *map, const float *weight, float *packed, size_t part,
                         size_t parts);
    void (*unpack_weights)(const npo_weight_map *map, const float *sums, float *grads, size_t part,
                           size_t parts);
    void (*product_forward)(const npo_product *p);
    void (*product_outer)(const npo_outer_product *p);

    void (*matrix_add)(const npo_matrix_product *p); /* c += a b */
    /* One thread's npo_gemm; scratch: gemm_scratch() floats. Threads divide columns of c in
     * multiples of gemm_width. */
    void (*gemm)(const npo_gemm *g, float *scratch);
    size_t (*gemm_scratch)(void);
    size_t gemm_width;

    /* cpu/product/winograd.h. What winograd_gradient writes and winograd_output reads begins with
     * channel t->channel. */
    void (*winograd_input)(const npo_winograd_tiles *t, const float *x, npo_winograd_store to);
    void (*winograd_gradient)(const npo_winograd_tiles *t, const float *dy, npo_winograd_store to);
    void (*winograd_output)(const npo_winograd_tiles *t, npo_winograd_store from, const float *bias,
                            const float *e, const float *add, float *y);
    /* Unit u of [first, last) is input u % inputs of panel u / inputs. */
    void (*winograd_weights)(const npo_winograd_weights *w, size_t first, size_t last, float *to);
    /* to += the weights' gradients, from a panel of products [36][rows][gemm_width]. */
    void (*winograd_unweights)(const float *products, size_t rows, size_t lanes, float *to,
                               size_t row);
    /* The same with b in panels of gemm_width columns, k after k; a_transposed: read in place. */
    void (*gemm_panels)(const npo_gemm *g);

    /* Element-wise with the same bits for every instruction set (kernels/vec.h). */
    void (*vec_scale)(size_t n, float a, float *x);
    void (*vec_axpy)(size_t n, float a, const float *x, float *y);
    void (*vec_lerp)(size_t n, float w, const float *x, float *y);
    double (*vec_square_sum)(size_t n, const float *x);
    void (*vec_adamw)(size_t n, const npo_adamw_scalars *s, const float *grad, float *param,
                      float *exp_avg, float *exp_avg_sq);
    /* Moments in whole blocks of 8 bits, the last one cut off at n. */
    void (*vec_adamw8)(size_t n, const npo_adamw_scalars *s, const float *grad, float *param,
                       npo_blockwise exp_avg, npo_blockwise exp_avg_sq);

    /* bf16 is the upper half of f32, rounded to nearest even; a NaN stays one. */
    void (*widen_bf16)(size_t n, const uint16_t *x, float *y);
    void (*narrow_bf16)(size_t n, const float *x, uint16_t *y);
    void (*round_bf16)(size_t n, const float *x, float *y);

    /* Multiply-adds on registers alone: what a core can reach. Returns the flops done. */
    double (*multiply_adds)(size_t rounds);
} npo_cpu_kernels;

enum { NPO_ATTENTION_ROWS = 48 }; /* queries that are worked on together */

/* The table of the best instruction set of this machine, or the named one ("avx512", "avx2",
 * "portable"); NULL when the machine or the build lacks it. */
const npo_cpu_kernels *npo_cpu_kernels_find(const char *isa);

#endif
