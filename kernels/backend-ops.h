/* The contract between planned graphs and a device. Internal to kernels/.
 *
 * A device fills npo_backend_ops. The planner prepares each op once (npo_op_work), learns how much
 * memory it wants, and places that memory; a run hands pointers in (npo_op_args). All calls come
 * between enter and leave, from one thread at a time. */
#ifndef NPO_KERNELS_BACKEND_OPS_H
#define NPO_KERNELS_BACKEND_OPS_H

#include "kernels/matrix.h"
#include "kernels/op-table.h"
#include "kernels/vec.h"

/* The pass that packed weights are for. */
typedef enum { NPO_PACK_FORWARD, NPO_PACK_BACKWARD, NPO_PACK_SIDES } npo_pack_side;

/* One op of a planned graph. The device fills sizes (bytes) and state in op_prepare. */
typedef struct {
    npo_op_desc desc;
    size_t saved;            /* from forward to backward (statistics); 0 where desc.keep is false */
    size_t scratch_forward;  /* during the call */
    size_t scratch_backward; /* during the call */
    /* Weights (operand 1) in the device's layout, by the pass that reads them: op_pack fills a side
     * before its pass, long before or just before. 0: the op reads in[1] itself. */
    size_t packed_forward, packed_backward;
    void *state;
} npo_op_work;

/* Backward writes grad_in[i] = grad_prev[i] + gradient for each wanted operand with grad_in[i] not
 * NULL. grad_prev[i] is NULL (nothing to add), grad_in[i] itself, or another buffer. Unless the op
 * table says overwrite, grad_in[i] is not grad_out. */
typedef struct {
    const void *in[NPO_OP_INPUTS_MAX];
    float *out;
    const float *fused_channels, *fused_add;
    const float *grad_out;
    float *grad_in[NPO_OP_INPUTS_MAX];
    const float *grad_prev[NPO_OP_INPUTS_MAX];
    void *saved, *scratch;
    const void *packed; /* the pass's side */
} npo_op_args;

typedef struct {
    const char *device;
    npo_err (*open)(npo_backend *be, const npo_backend_options *options, npo_error *error);
    void (*close)(npo_backend *be);
    npo_err (*alloc)(npo_backend *be, size_t bytes,
                     void **ret_memory); /* 64-byte aligned, zeroed */
    void (*release)(npo_backend *be, void *memory);
    /* Bind the calling thread to the device (thread count), and let go. */
    void (*enter)(npo_backend *be);
    void (*leave)(npo_backend *be);

    /* Whether the op can take along an add of a tensor (NPO_OP_ADD) or NPO_OP_ADD_CHANNELS. */
    bool (*op_fuses)(npo_backend *be, const npo_op_desc *desc, npo_op_kind add);
    npo_err (*op_prepare)(npo_backend *be, npo_op_work *work, npo_error *error);
    void (*op_finish)(npo_backend *be, npo_op_work *work);
    npo_err (*op_pack)(npo_backend *be, const npo_op_work *work, npo_pack_side side,
                       const float *weight, void *packed);
    npo_err (*op_forward)(npo_backend *be, const npo_op_work *work, const npo_op_args *args,
                          npo_error *error);
    npo_err (*op_backward)(npo_backend *be, const npo_op_work *work, const npo_op_args *args,
                           npo_error *error);

    /* kernels/vec.h, and writing one float */
    double (*norm)(npo_backend *be, size_t n, const float *x);
    void (*scale)(npo_backend *be, size_t n, float a, float *x);
    void (*axpy)(npo_backend *be, size_t n, float a, const float *x, float *y);
    void (*lerp)(npo_backend *be, size_t n, float w, const float *x, float *y);
    void (*update)(npo_backend *be, size_t n, const npo_update *update, float *exp_avg,
                   float *exp_avg_sq);
    void (*update8)(npo_backend *be, size_t n, const npo_update *update, npo_blockwise exp_avg,
                    npo_blockwise exp_avg_sq);
    void (*multiply)(npo_backend *be, const npo_matrix_product *product); /* kernels/matrix.h */
    void (*put)(npo_backend *be, float value, float *at);

    /* bf16, rounded to nearest even; round: f32 with the values of bf16 */
    void (*widen_bf16)(npo_backend *be, size_t n, const uint16_t *x, float *y);
    void (*narrow_bf16)(npo_backend *be, size_t n, const float *x, uint16_t *y);
    void (*round_bf16)(npo_backend *be, size_t n, const float *x, float *y);
} npo_backend_ops;

enum { NPO_BACKEND_CLASS_MAX = 96 };

struct npo_backend {
    const npo_backend_ops *ops;
    void *device; /* the device's own */
    char class_text[NPO_BACKEND_CLASS_MAX];
    void *arena; /* shared by the backend's graphs; grows at plan */
    size_t arena_bytes;
    uint64_t arena_stamp; /* the forward run whose values it holds; 0: none */
    uint64_t last_stamp;
};

/* Makes the shared arena at least so large. What it held is lost. */
npo_err npo_backend_reserve(npo_backend *be, size_t bytes) NPO_MUST_CHECK;

extern const npo_backend_ops npo_cpu_backend_ops;

#endif
