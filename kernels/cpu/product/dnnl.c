/* Convolution and linear layers by oneDNN, in f32: the engine for large weights.
 *
 * Activations keep their plain order, channels last; weights are handed over in the layout that
 * oneDNN prefers for each pass. A convolution of 1x1 with stride 1 is a linear layer over
 * positions. */
#include "kernels/cpu/product/dnnl-call.h"
#include "kernels/cpu/product/engine.h"
#include "kernels/cpu/product/geometry.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    const npo_product_engine *engine;
    npo_dnnl_call forward, backward_data, backward_weights;
    npo_dnnl_call pack_forward, pack_backward, unpack;
    size_t grad_weights; /* bytes in oneDNN's layout */
} product_state;

/* What both ops come down to. */
typedef struct {
    bool linear;
    dnnl_dims_t src_dims, weight_dims, dst_dims, bias_dims;
    dnnl_dims_t strides, pad_begin, pad_end;
    dnnl_memory_desc_t src, weight_user, weight_any, dst, bias;
    bool has_bias;
} dnnl_geometry;

static size_t round_bytes(size_t n)
{
    return (n + 63) / 64 * 64;
}

static npo_err describe(const npo_op_desc *d, dnnl_geometry *g)
{
    const npo_shape *x = &d->in[0], *w = &d->in[1];
    const npo_conv_options *o = &d->attrs.conv;
    *g = (dnnl_geometry){.has_bias = d->given & 4};
    g->linear = npo_product_is_pointwise(d);
    int ndim = g->linear ? 2 : 4;
    memcpy(g->weight_dims, w->dims, sizeof w->dims);
    g->bias_dims[0] = w->dims[0];
    if (g->linear) {
        g->src_dims[0] = g->dst_dims[0] = npo_shape_rows(x);
        g->src_dims[1] = w->dims[1];
        g->dst_dims[1] = w->dims[0];
    } else {
        memcpy(g->src_dims, (int64_t[]){x->dims[0], x->dims[3], x->dims[1], x->dims[2]}, 32);
        memcpy(g->dst_dims, (int64_t[]){x->dims[0], w->dims[0], d->out.dims[1], d->out.dims[2]},
               32);
        g->strides[0] = g->strides[1] = o->stride;
        g->pad_begin[0] = o->pad_top;
        g->pad_begin[1] = o->pad_left;
        g->pad_end[0] = o->pad_bottom;
        g->pad_end[1] = o->pad_right;
    }
    dnnl_format_tag_t tag = g->linear ? dnnl_ab : dnnl_acdb;
    dnnl_format_tag_t weight_tag = g->linear ? dnnl_ab : dnnl_abcd;
    if (dnnl_memory_desc_init_by_tag(&g->src, ndim, g->src_dims, dnnl_f32, tag) != dnnl_success ||
        dnnl_memory_desc_init_by_tag(&g->dst, ndim, g->dst_dims, dnnl_f32, tag) != dnnl_success ||
        dnnl_memory_desc_init_by_tag(&g->weight_user, ndim, g->weight_dims, dnnl_f32, weight_tag) !=
            dnnl_success ||
        dnnl_memory_desc_init_by_tag(&g->weight_any, ndim, g->weight_dims, dnnl_f32,
                                     dnnl_format_tag_any) != dnnl_success ||
        dnnl_memory_desc_init_by_tag(&g->bias, 1, g->bias_dims, dnnl_f32, dnnl_a) != dnnl_success)
        return NPO_E_LIBRARY;
    return NPO_OK;
}

/* ---- descriptors ---- */

typedef union {
    dnnl_convolution_desc_t conv;
    dnnl_inner_product_desc_t linear;
} operation;

typedef enum { FORWARD, BACKWARD_DATA, BACKWARD_WEIGHTS } pass_kind;

static dnnl_status_t init_linear(operation *op, const dnnl_geometry *g, pass_kind pass, bool keep)
{
    const dnnl_memory_desc_t *bias = g->has_bias ? &g->bias : NULL;
    if (pass == FORWARD)
        return dnnl_inner_product_forward_desc_init(
            &op->linear, keep ? dnnl_forward_training : dnnl_forward_inference, &g->src,
            &g->weight_any, bias, &g->dst);
    if (pass == BACKWARD_DATA)
        return dnnl_inner_product_backward_data_desc_init(&op->linear, &g->src, &g->weight_any,
                                                          &g->dst);
    return dnnl_inner_product_backward_weights_desc_init(&op->linear, &g->src, &g->weight_any, bias,
                                                         &g->dst);
}

static dnnl_status_t init_conv(operation *op, const dnnl_geometry *g, pass_kind pass, bool keep)
{
    const dnnl_memory_desc_t *bias = g->has_bias ? &g->bias : NULL;
    if (pass == FORWARD)
        return dnnl_convolution_forward_desc_init(
            &op->conv, keep ? dnnl_forward_training : dnnl_forward_inference,
            dnnl_convolution_direct, &g->src, &g->weight_any, bias, &g->dst, g->strides,
            g->pad_begin, g->pad_end);
    if (pass == BACKWARD_DATA)
        return dnnl_convolution_backward_data_desc_init(&op->conv, dnnl_convolution_direct, &g->src,
                                                        &g->weight_any, &g->dst, g->strides,
                                                        g->pad_begin, g->pad_end);
    return dnnl_convolution_backward_weights_desc_init(&op->conv, dnnl_convolution_direct, &g->src,
                                                       &g->weight_any, bias, &g->dst, g->strides,
                                                       g->pad_begin, g->pad_end);
}

/* The descriptor of a pass; the backward ones want the forward one as a hint. */
static npo_err make_desc(const npo_cpu *cpu, const dnnl_geometry *g, pass_kind pass, bool keep,
                         dnnl_primitive_desc_t hint, dnnl_primitive_desc_t *ret_desc)
{
    operation op;
    if ((g->linear ? init_linear(&op, g, pass, keep) : init_conv(&op, g, pass, keep)) !=
        dnnl_success)
        return NPO_E_LIBRARY;
    dnnl_primitive_attr_t attr = npo_dnnl_attr();
    if (!attr)
        return NPO_E_NOMEM;
    dnnl_status_t status = dnnl_primitive_desc_create(ret_desc, &op, attr, cpu->engine, hint);
    dnnl_primitive_attr_destroy(attr);
    return status == dnnl_success ? NPO_OK : NPO_E_LIBRARY;
}

/* ---- preparing ---- */

static const int forward_args[] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST, DNNL_ARG_BIAS, 0};
static const int data_args[] = {DNNL_ARG_DIFF_DST, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_SRC, 0};
static const int weights_args[] = {DNNL_ARG_SRC, DNNL_ARG_DIFF_DST, DNNL_ARG_DIFF_WEIGHTS,
                                   DNNL_ARG_DIFF_BIAS, 0};

/* names without the bias where there is none. */
static const int *without_bias(const int *names, bool has_bias, int shorter[5])
{
    if (has_bias)
        return names;
    memcpy(shorter, names, 3 * sizeof *names);
    shorter[3] = 0;
    return shorter;
}

/* The packed copy of the weights that a pass reads. */
static npo_err add_packing(const npo_cpu *cpu, const dnnl_geometry *g,
                           const dnnl_memory_desc_t *wanted, npo_dnnl_call *ret_pack,
                           size_t *ret_bytes)
{
    *ret_bytes = round_bytes(dnnl_memory_desc_get_size(wanted));
    return npo_dnnl_reorder_init(ret_pack, cpu, &g->weight_user, wanted, false);
}

static npo_err prepare_data(const npo_cpu *cpu, const dnnl_geometry *g, npo_op_work *work,
                            dnnl_primitive_desc_t hint)
{
    product_state *state = work->state;
    dnnl_primitive_desc_t desc;
    NPO_TRY(make_desc(cpu, g, BACKWARD_DATA, true, hint, &desc));
    npo_err err = add_packing(cpu, g, npo_dnnl_md(desc, DNNL_ARG_WEIGHTS), &state->pack_backward,
                              &work->packed_backward);
    if (err) {
        dnnl_primitive_desc_destroy(desc);
        return err;
    }
    return npo_dnnl_call_init(&state->backward_data, cpu, desc, data_args);
}

static npo_err prepare_weights(const npo_cpu *cpu, const dnnl_geometry *g, npo_op_work *work,
                               dnnl_primitive_desc_t hint)
{
    product_state *state = work->state;
    dnnl_primitive_desc_t desc;
    int names[5];
    NPO_TRY(make_desc(cpu, g, BACKWARD_WEIGHTS, true, hint, &desc));
    const dnnl_memory_desc_t *md = npo_dnnl_md(desc, DNNL_ARG_DIFF_WEIGHTS);
    state->grad_weights = round_bytes(dnnl_memory_desc_get_size(md));
    npo_err err = npo_dnnl_reorder_init(&state->unpack, cpu, md, &g->weight_user, true);
    if (err) {
        dnnl_primitive_desc_destroy(desc);
        return err;
    }
    return npo_dnnl_call_init(&state->backward_weights, cpu, desc,
                              without_bias(weights_args, g->has_bias, names));
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static npo_err prepare_passes(const npo_cpu *cpu, const dnnl_geometry *g, npo_op_work *work)
{
    product_state *state = work->state;
    dnnl_primitive_desc_t desc, hint = NULL;
    int names[5];
    NPO_TRY(make_desc(cpu, g, FORWARD, work->desc.keep, NULL, &desc));
    npo_err err = dnnl_primitive_desc_clone(&hint, desc) == dnnl_success ? NPO_OK : NPO_E_NOMEM;
    if (!err)
        err = add_packing(cpu, g, npo_dnnl_md(desc, DNNL_ARG_WEIGHTS), &state->pack_forward,
                          &work->packed_forward);
    if (err)
        dnnl_primitive_desc_destroy(desc);
    else
        err = npo_dnnl_call_init(&state->forward, cpu, desc,
                                 without_bias(forward_args, g->has_bias, names));
    if (!err && work->desc.want & 1)
        err = prepare_data(cpu, g, work, hint);
    if (!err && work->desc.want & 6)
        err = prepare_weights(cpu, g, work, hint);
    if (hint)
        dnnl_primitive_desc_destroy(hint);
    return err;
}

static void product_finish(npo_op_work *work)
{
    product_state *state = work->state;
    if (!state)
        return;
    npo_dnnl_call_fini(&state->forward);
    npo_dnnl_call_fini(&state->backward_data);
    npo_dnnl_call_fini(&state->backward_weights);
    npo_dnnl_call_fini(&state->pack_forward);
    npo_dnnl_call_fini(&state->pack_backward);
    npo_dnnl_call_fini(&state->unpack);
    free(state);
    work->state = NULL;
}

/* Scratch of the backward pass: oneDNN's, gradients of weights and bias, and a gradient of the
 * operand that is to be added to what is there. */
static npo_err product_prepare(const npo_cpu *cpu, npo_op_work *work, npo_error *error)
{
    dnnl_geometry g;
    product_state *state = work->state = calloc(1, sizeof *state);
    if (state)
        state->engine = &npo_product_dnnl;
    npo_err err = state ? describe(&work->desc, &g) : NPO_E_NOMEM;
    if (!err)
        err = prepare_passes(cpu, &g, work);
    if (err) {
        char x[NPO_SHAPE_TEXT_MAX], w[NPO_SHAPE_TEXT_MAX];
        product_finish(work);
        return npo_error_set(error, err, "op '%s': oneDNN does not take x %s, weight %s: %s",
                             npo_op_rule_of(work->desc.kind)->name,
                             npo_shape_format(&work->desc.in[0], x),
                             npo_shape_format(&work->desc.in[1], w), npo_err_text(err));
    }
    size_t pad = larger(state->backward_data.scratchpad, state->backward_weights.scratchpad);
    size_t bias = round_bytes((size_t)g.bias_dims[0] * sizeof(float));
    size_t data = (size_t)npo_shape_count(&work->desc.in[0]) * sizeof(float);
    work->scratch_forward = state->forward.scratchpad;
    work->scratch_backward =
        round_bytes(pad) + larger(state->grad_weights + bias, work->desc.want & 1 ? data : 0);
    return NPO_OK;
}

/* ---- running ---- */

static npo_err product_pack(const npo_cpu *cpu, const npo_op_work *work, npo_pack_side side,
                            const float *weight, void *packed)
{
    const product_state *state = work->state;
    void *data[] = {(void *)weight, packed};
    return npo_dnnl_call_run(
        side == NPO_PACK_FORWARD ? &state->pack_forward : &state->pack_backward, cpu, data, NULL);
}

static npo_err explain(npo_err err, const npo_op_work *work, npo_error *error)
{
    if (!err)
        return NPO_OK;
    return npo_error_set(error, err, "op '%s': oneDNN failed",
                         npo_op_rule_of(work->desc.kind)->name);
}

static npo_err product_forward(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                               npo_error *error)
{
    const product_state *state = work->state;
    void *data[] = {(void *)args->in[0], (void *)args->packed, args->out, (void *)args->in[2]};
    return explain(npo_dnnl_call_run(&state->forward, cpu, data, args->scratch), work, error);
}

static npo_err run_data(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                        char *pad, float *extra)
{
    const product_state *state = work->state;
    size_t n = (size_t)npo_shape_count(&work->desc.in[0]);
    float *target = args->grad_prev[0] == args->grad_in[0] ? extra : args->grad_in[0];
    void *data[] = {(void *)args->grad_out, (void *)args->packed, target};
    NPO_TRY(npo_dnnl_call_run(&state->backward_data, cpu, data, pad));
    if (args->grad_prev[0])
        npo_cpu_accumulate(cpu, n, 1, target, args->grad_prev[0], args->grad_in[0]);
    return NPO_OK;
}

static npo_err run_weights(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                           char *pad, char *extra)
{
    const product_state *state = work->state;
    float *bias = (float *)(void *)(extra + state->grad_weights);
    void *data[] = {(void *)args->in[0], (void *)args->grad_out, extra, bias};
    NPO_TRY(npo_dnnl_call_run(&state->backward_weights, cpu, data, pad));
    if (npo_wants(args, 2))
        npo_cpu_accumulate(cpu, (size_t)work->desc.in[2].dims[0], 1, bias, args->grad_prev[2],
                           args->grad_in[2]);
    if (!npo_wants(args, 1))
        return NPO_OK;
    npo_product_begin_sum((size_t)npo_shape_count(&work->desc.in[1]), args->grad_prev[1],
                          args->grad_in[1]);
    void *weights[] = {extra, args->grad_in[1]};
    return npo_dnnl_call_run(&state->unpack, cpu, weights, NULL);
}

static npo_err product_backward(const npo_cpu *cpu, const npo_op_work *work,
                                const npo_op_args *args, npo_error *error)
{
    const product_state *state = work->state;
    size_t size = larger(state->backward_data.scratchpad, state->backward_weights.scratchpad);
    char *pad = args->scratch, *extra = pad + round_bytes(size);
    npo_err err = NPO_OK;
    if (npo_wants(args, 1) || npo_wants(args, 2))
        err = run_weights(cpu, work, args, pad, extra);
    if (!err && npo_wants(args, 0))
        err = run_data(cpu, work, args, pad, (float *)(void *)extra);
    return explain(err, work, error);
}

const npo_product_engine npo_product_dnnl = {
    .prepare = product_prepare,
    .finish = product_finish,
    .pack = product_pack,
    .forward = product_forward,
    .backward = product_backward,
};
