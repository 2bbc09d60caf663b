/* The engines that compute convolutions and linear layers: the own one (own.c), fastest where the
 * weights stay in a core's cache; products of large matrices (gemm.c); large 3x3 convolutions with
 * a quarter of the multiply-adds (winograd.c); and oneDNN (dnnl.c). choice.c chooses. */
#ifndef NPO_KERNELS_CPU_PRODUCT_ENGINE_H
#define NPO_KERNELS_CPU_PRODUCT_ENGINE_H

#include "kernels/cpu/cpu.h"

typedef npo_cpu_op npo_product_engine;

/* An engine's state begins with a pointer to the engine. */
typedef struct {
    const npo_product_engine *engine;
} npo_product_state;

extern const npo_product_engine npo_product_dnnl, npo_product_own, npo_product_gemm,
    npo_product_winograd;

#endif
