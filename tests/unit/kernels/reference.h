/* The ops of kernels/op.h once more, in f64 and as plainly as possible: what the op test compares
 * every backend and instruction set with. */
#ifndef NPO_TESTS_UNIT_KERNELS_REFERENCE_H
#define NPO_TESTS_UNIT_KERNELS_REFERENCE_H

#include "kernels/op.h"

enum { REF_OPERANDS_MAX = 4 };

typedef struct {
    npo_conv_options conv;
    npo_act act;
    int groups, heads;
    double eps, factor;
    bool causal, flip;
    int64_t height, width, channels;
} ref_attrs;

/* Values of i32 operands are kept as doubles too. */
typedef struct {
    ref_attrs attrs;
    npo_shape in[REF_OPERANDS_MAX];
    const double *x[REF_OPERANDS_MAX]; /* NULL where not given */
    npo_shape out;
} ref_call;

typedef void (*ref_function)(const ref_call *call, double *out);

void ref_conv2d(const ref_call *call, double *out);
void ref_linear(const ref_call *call, double *out);
void ref_group_norm(const ref_call *call, double *out);
void ref_layer_norm(const ref_call *call, double *out);
void ref_activation(const ref_call *call, double *out);
void ref_geglu(const ref_call *call, double *out);
void ref_add(const ref_call *call, double *out);
void ref_add_channels(const ref_call *call, double *out);
void ref_scale(const ref_call *call, double *out);
void ref_concat(const ref_call *call, double *out);
void ref_upsample(const ref_call *call, double *out);
void ref_attention(const ref_call *call, double *out);
void ref_timestep(const ref_call *call, double *out);
void ref_embedding(const ref_call *call, double *out);
void ref_add_rows(const ref_call *call, double *out);
void ref_max_pool(const ref_call *call, double *out);
void ref_mix(const ref_call *call, double *out);
void ref_mse_loss(const ref_call *call, double *out);
void ref_pseudo_huber_loss(const ref_call *call, double *out);
void ref_cross_entropy_loss(const ref_call *call, double *out);

int64_t ref_count(const npo_shape *shape);

#endif
