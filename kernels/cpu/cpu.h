/* The CPU device: its state, the functions behind each op, and how work is split over threads. */
#ifndef NPO_KERNELS_CPU_CPU_H
#define NPO_KERNELS_CPU_CPU_H

#include "kernels/backend-ops.h"
#include "kernels/cpu/isa/isa.h"

#include <oneapi/dnnl/dnnl.h>

typedef enum {
    NPO_PRODUCTS_BY_SIZE,
    NPO_PRODUCTS_OWN,
    NPO_PRODUCTS_GEMM,
    NPO_PRODUCTS_WINOGRAD, /* and gemm where it does not apply */
    NPO_PRODUCTS_DNNL,
} npo_products;

typedef struct {
    const npo_cpu_kernels *k;
    npo_products products;
    int threads;
    int outer_threads; /* the caller's setting, restored by leave */
    dnnl_engine_t engine;
    dnnl_stream_t stream;
} npo_cpu;

/* What the CPU does for an op. NULL members: nothing to do. */
typedef struct {
    bool (*fuses)(const npo_cpu *cpu, const npo_op_desc *desc, npo_op_kind add);
    npo_err (*prepare)(const npo_cpu *cpu, npo_op_work *work, npo_error *error);
    void (*finish)(npo_op_work *work);
    npo_err (*pack)(const npo_cpu *cpu, const npo_op_work *work, npo_pack_side side,
                    const float *weight, void *packed);
    npo_err (*forward)(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                       npo_error *error);
    npo_err (*backward)(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                        npo_error *error);
} npo_cpu_op;

#define NPO_OP(KIND, name, ...) extern const npo_cpu_op npo_cpu_##name;
#include "kernels/op.def"
#undef NPO_OP

/* ---- threads ---- */

typedef struct {
    size_t first, last; /* [first, last) */
} npo_cpu_part;

/* Threads worth starting for so many elements. */
int npo_cpu_team(const npo_cpu *cpu, size_t elements);
/* The part of n items of the calling thread of a team, in multiples of grain. */
npo_cpu_part npo_cpu_part_of(size_t n, size_t grain);

/* ---- helpers for ops ---- */

/* Element-wise y = prev + a x over all threads. */
void npo_cpu_accumulate(const npo_cpu *cpu, size_t n, float a, const float *x, const float *prev,
                        float *y);
/* y [c] = prev + column sums of parts [count, c], in the order of the parts. */
void npo_cpu_sum_parts(size_t count, size_t c, size_t stride, const float *parts, const float *prev,
                       float *y);

static inline const float *npo_at(const float *base, size_t offset)
{
    return base ? base + offset : NULL;
}

static inline bool npo_wants(const npo_op_args *args, int operand)
{
    return args->grad_in[operand] != NULL;
}

/* kernels/vec.h on the CPU (vec.c) */
double npo_cpu_norm(npo_backend *be, size_t n, const float *x);
void npo_cpu_scale_vector(npo_backend *be, size_t n, float a, float *x);
void npo_cpu_axpy(npo_backend *be, size_t n, float a, const float *x, float *y);
void npo_cpu_lerp(npo_backend *be, size_t n, float w, const float *x, float *y);
void npo_cpu_update(npo_backend *be, size_t n, const npo_update *update, float *exp_avg,
                    float *exp_avg_sq);
void npo_cpu_update8(npo_backend *be, size_t n, const npo_update *update, npo_blockwise exp_avg,
                     npo_blockwise exp_avg_sq);
/* kernels/matrix.h (matrix.c) */
void npo_cpu_multiply(npo_backend *be, const npo_matrix_product *p);
/* bf16 (vec.c) */
void npo_cpu_widen_bf16(npo_backend *be, size_t n, const uint16_t *x, float *y);
void npo_cpu_narrow_bf16(npo_backend *be, size_t n, const float *x, uint16_t *y);
void npo_cpu_round_bf16(npo_backend *be, size_t n, const float *x, float *y);

#endif
