/* One oneDNN primitive with the memories of its arguments: made at plan, run with pointers. */
#ifndef NPO_KERNELS_CPU_PRODUCT_DNNL_CALL_H
#define NPO_KERNELS_CPU_PRODUCT_DNNL_CALL_H

#include "kernels/cpu/cpu.h"

enum { NPO_DNNL_ARGS_MAX = 6 };

typedef struct {
    dnnl_primitive_t primitive; /* NULL: not made */
    int count;
    dnnl_exec_arg_t args[NPO_DNNL_ARGS_MAX]; /* the last is the scratchpad */
    size_t scratchpad;                       /* bytes */
} npo_dnnl_call;

/* Takes the descriptor. names: DNNL_ARG_*, 0 ends; the scratchpad is added behind them. */
npo_err npo_dnnl_call_init(npo_dnnl_call *call, const npo_cpu *cpu, dnnl_primitive_desc_t desc,
                           const int *names) NPO_MUST_CHECK;
void npo_dnnl_call_fini(npo_dnnl_call *call);
/* data: one pointer for each of names. */
npo_err npo_dnnl_call_run(const npo_dnnl_call *call, const npo_cpu *cpu, void *const *data,
                          void *scratchpad) NPO_MUST_CHECK;

/* A reorder of `from` to `to`; sum: adds to what is there. */
npo_err npo_dnnl_reorder_init(npo_dnnl_call *call, const npo_cpu *cpu,
                              const dnnl_memory_desc_t *from, const dnnl_memory_desc_t *to,
                              bool sum) NPO_MUST_CHECK;
/* The memory descriptor of an argument. Borrowed from desc. */
const dnnl_memory_desc_t *npo_dnnl_md(const_dnnl_primitive_desc_t desc, int arg);
/* Attributes with the scratchpad handed in by the caller, or NULL. */
dnnl_primitive_attr_t npo_dnnl_attr(void);

#endif
