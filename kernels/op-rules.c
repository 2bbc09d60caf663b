/* Shape rules and flops of the op table. */
#include "kernels/op-table.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* ---- shapes ---- */

npo_shape npo_shape_make(npo_dtype dtype, int ndim, const int64_t *dims)
{
    npo_shape shape = {.dtype = dtype, .ndim = ndim};
    for (int i = 0; i < ndim; i++)
        shape.dims[i] = dims[i];
    return shape;
}

int64_t npo_shape_count(const npo_shape *shape)
{
    int64_t count = 1;
    for (int i = 0; i < shape->ndim; i++)
        count *= shape->dims[i];
    return count;
}

int64_t npo_shape_last(const npo_shape *shape)
{
    return shape->ndim ? shape->dims[shape->ndim - 1] : 1;
}

int64_t npo_shape_rows(const npo_shape *shape)
{
    return npo_shape_count(shape) / npo_shape_last(shape);
}

bool npo_shape_equal(const npo_shape *a, const npo_shape *b)
{
    return a->dtype == b->dtype && a->ndim == b->ndim &&
           memcmp(a->dims, b->dims, (size_t)a->ndim * sizeof *a->dims) == 0;
}

const char *npo_shape_format(const npo_shape *shape, char text[NPO_SHAPE_TEXT_MAX])
{
    int len = snprintf(text, NPO_SHAPE_TEXT_MAX, "[");
    for (int i = 0; i < shape->ndim; i++)
        len += snprintf(text + len, NPO_SHAPE_TEXT_MAX - (size_t)len, "%s%lld", i ? "," : "",
                        (long long)shape->dims[i]);
    snprintf(text + len, NPO_SHAPE_TEXT_MAX - (size_t)len, "]%s",
             shape->dtype == NPO_I32 ? " i32" : "");
    return text;
}

/* ---- failures ---- */

/* "op 'conv2d': weight [4,3,3,3], expected [O,16,kh,kw]" */
static npo_err mismatch(const npo_op_desc *desc, int operand, const char *what, npo_error *error,
                        const char *expected)
{
    char text[NPO_SHAPE_TEXT_MAX];
    return npo_error_set(error, NPO_E_SHAPE, "op '%s': %s %s, expected %s",
                         npo_op_rule_of(desc->kind)->name, what,
                         npo_shape_format(&desc->in[operand], text), expected);
}

static bool is_f32(const npo_shape *shape, int ndim)
{
    return shape->dtype == NPO_F32 && shape->ndim == ndim;
}

/* [count] floats, or an operand that was not given. */
static npo_err check_vector(const npo_op_desc *desc, int operand, const char *what, int64_t count,
                            npo_error *error)
{
    char expected[32];
    const npo_shape *shape = &desc->in[operand];
    if (!(desc->given & 1u << operand) || (is_f32(shape, 1) && shape->dims[0] == count))
        return NPO_OK;
    snprintf(expected, sizeof expected, "[%lld]", (long long)count);
    return mismatch(desc, operand, what, error, expected);
}

static npo_err check_same(const npo_op_desc *desc, int operand, const char *what, int like,
                          npo_error *error)
{
    char expected[NPO_SHAPE_TEXT_MAX];
    if (npo_shape_equal(&desc->in[operand], &desc->in[like]))
        return NPO_OK;
    return mismatch(desc, operand, what, error, npo_shape_format(&desc->in[like], expected));
}

static npo_err check_f32(const npo_op_desc *desc, int ndim_min, npo_error *error)
{
    const npo_shape *x = &desc->in[0];
    if (x->dtype == NPO_F32 && x->ndim >= ndim_min)
        return NPO_OK;
    char expected[64];
    snprintf(expected, sizeof expected, "f32 of %d or more dimensions", ndim_min);
    return mismatch(desc, 0, "x", error, expected);
}

static npo_err check_image(const npo_op_desc *desc, npo_error *error)
{
    return is_f32(&desc->in[0], 4) ? NPO_OK : mismatch(desc, 0, "x", error, "[N,H,W,C]");
}

/* ---- convolution and linear ---- */

static npo_err shape_conv2d(npo_op_desc *desc, npo_error *error)
{
    const npo_shape *x = &desc->in[0], *w = &desc->in[1];
    const npo_conv_options *o = &desc->attrs.conv;
    char expected[64];
    NPO_TRY(check_image(desc, error));
    if (!is_f32(w, 4) || w->dims[1] != x->dims[3]) {
        snprintf(expected, sizeof expected, "[O,%lld,kh,kw]", (long long)x->dims[3]);
        return mismatch(desc, 1, "weight", error, expected);
    }
    NPO_TRY(check_vector(desc, 2, "bias", w->dims[0], error));
    if (o->stride < 1 || o->pad_top < 0 || o->pad_left < 0 || o->pad_bottom < 0 || o->pad_right < 0)
        return npo_error_set(error, NPO_E_RANGE,
                             "op 'conv2d': stride %d, padding %d %d %d %d, expected a stride of at "
                             "least 1 and no negative padding",
                             o->stride, o->pad_top, o->pad_left, o->pad_bottom, o->pad_right);
    int64_t height = x->dims[1] + o->pad_top + o->pad_bottom - w->dims[2];
    int64_t width = x->dims[2] + o->pad_left + o->pad_right - w->dims[3];
    if (height < 0 || width < 0)
        return mismatch(desc, 0, "x", error, "a padded size of at least the kernel's");
    int64_t dims[] = {x->dims[0], height / o->stride + 1, width / o->stride + 1, w->dims[0]};
    desc->out = npo_shape_make(NPO_F32, 4, dims);
    return NPO_OK;
}

static npo_err shape_linear(npo_op_desc *desc, npo_error *error)
{
    const npo_shape *w = &desc->in[1];
    NPO_TRY(check_f32(desc, 1, error));
    bool conv = is_f32(w, 4) && w->dims[2] == 1 && w->dims[3] == 1;
    if (!(is_f32(w, 2) || conv) || w->dims[1] != npo_shape_last(&desc->in[0])) {
        char expected[64];
        snprintf(expected, sizeof expected, "[O,%lld]", (long long)npo_shape_last(&desc->in[0]));
        return mismatch(desc, 1, "weight", error, expected);
    }
    NPO_TRY(check_vector(desc, 2, "bias", w->dims[0], error));
    desc->out = desc->in[0];
    desc->out.dims[desc->out.ndim - 1] = w->dims[0];
    return NPO_OK;
}

static double flops_product(const npo_op_desc *desc)
{
    double macs = (double)npo_shape_rows(&desc->out) * (double)npo_shape_count(&desc->in[1]);
    return 2 * macs;
}

static double flops_product_backward(const npo_op_desc *desc)
{
    return flops_product(desc) * ((desc->want & 1 ? 1 : 0) + (desc->want & 2 ? 1 : 0));
}

/* ---- norms and element-wise ---- */

static npo_err shape_group_norm(npo_op_desc *desc, npo_error *error)
{
    int groups = desc->attrs.groups;
    NPO_TRY(check_f32(desc, 2, error));
    int64_t channels = npo_shape_last(&desc->in[0]);
    if (groups < 1 || channels % groups)
        return npo_error_set(error, NPO_E_SHAPE,
                             "op 'group_norm': %lld channels in %d groups, expected a multiple",
                             (long long)channels, groups);
    if (desc->attrs.act != NPO_ACT_NONE && desc->attrs.act != NPO_ACT_SILU)
        return npo_error_set(error, NPO_E_UNSUPPORTED,
                             "op 'group_norm': activation %d, expected none or silu",
                             desc->attrs.act);
    NPO_TRY(check_vector(desc, 1, "gamma", channels, error));
    NPO_TRY(check_vector(desc, 2, "beta", channels, error));
    desc->out = desc->in[0];
    return NPO_OK;
}

static npo_err shape_layer_norm(npo_op_desc *desc, npo_error *error)
{
    NPO_TRY(check_f32(desc, 1, error));
    int64_t channels = npo_shape_last(&desc->in[0]);
    NPO_TRY(check_vector(desc, 1, "gamma", channels, error));
    NPO_TRY(check_vector(desc, 2, "beta", channels, error));
    desc->out = desc->in[0];
    return NPO_OK;
}

static npo_err shape_activation(npo_op_desc *desc, npo_error *error)
{
    NPO_TRY(check_f32(desc, 0, error));
    desc->out = desc->in[0];
    return NPO_OK;
}

static npo_err shape_scale(npo_op_desc *desc, npo_error *error)
{
    return shape_activation(desc, error);
}

static npo_err shape_geglu(npo_op_desc *desc, npo_error *error)
{
    NPO_TRY(check_f32(desc, 1, error));
    int64_t channels = npo_shape_last(&desc->in[0]);
    if (channels % 2)
        return mismatch(desc, 0, "x", error, "an even last axis");
    desc->out = desc->in[0];
    desc->out.dims[desc->out.ndim - 1] = channels / 2;
    return NPO_OK;
}

static npo_err shape_add(npo_op_desc *desc, npo_error *error)
{
    NPO_TRY(check_f32(desc, 0, error));
    NPO_TRY(check_same(desc, 1, "b", 0, error));
    desc->out = desc->in[0];
    return NPO_OK;
}

static npo_err shape_add_channels(npo_op_desc *desc, npo_error *error)
{
    const npo_shape *x = &desc->in[0], *e = &desc->in[1];
    NPO_TRY(check_f32(desc, 2, error));
    if (!is_f32(e, 2) || e->dims[0] != x->dims[0] || e->dims[1] != npo_shape_last(x)) {
        char expected[64];
        snprintf(expected, sizeof expected, "[%lld,%lld]", (long long)x->dims[0],
                 (long long)npo_shape_last(x));
        return mismatch(desc, 1, "e", error, expected);
    }
    desc->out = *x;
    return NPO_OK;
}

static npo_err shape_concat(npo_op_desc *desc, npo_error *error)
{
    NPO_TRY(check_f32(desc, 1, error));
    npo_shape like = desc->in[1];
    int last = desc->in[0].ndim - 1;
    if (like.ndim == last + 1)
        like.dims[last] = desc->in[0].dims[last];
    if (!npo_shape_equal(&like, &desc->in[0])) {
        char text[NPO_SHAPE_TEXT_MAX], expected[NPO_SHAPE_TEXT_MAX + 40];
        snprintf(expected, sizeof expected, "%s but for the last axis",
                 npo_shape_format(&desc->in[0], text));
        return mismatch(desc, 1, "b", error, expected);
    }
    desc->out = desc->in[0];
    desc->out.dims[last] += desc->in[1].dims[last];
    return NPO_OK;
}

static npo_err shape_upsample(npo_op_desc *desc, npo_error *error)
{
    NPO_TRY(check_image(desc, error));
    const npo_shape *x = &desc->in[0];
    int64_t height = desc->attrs.height, width = desc->attrs.width;
    if (height < x->dims[1] || width < x->dims[2])
        return npo_error_set(
            error, NPO_E_RANGE, "op 'upsample': to %lldx%lld, expected at least %lldx%lld",
            (long long)height, (long long)width, (long long)x->dims[1], (long long)x->dims[2]);
    desc->out = *x;
    desc->out.dims[1] = height;
    desc->out.dims[2] = width;
    return NPO_OK;
}

/* ---- attention and embeddings ---- */

static npo_err shape_attention(npo_op_desc *desc, npo_error *error)
{
    const npo_shape *q = &desc->in[0], *k = &desc->in[1];
    if (!is_f32(q, 3))
        return mismatch(desc, 0, "q", error, "[N,Lq,D]");
    if (!is_f32(k, 3) || k->dims[0] != q->dims[0] || k->dims[2] != q->dims[2]) {
        char expected[64];
        snprintf(expected, sizeof expected, "[%lld,Lk,%lld]", (long long)q->dims[0],
                 (long long)q->dims[2]);
        return mismatch(desc, 1, "k", error, expected);
    }
    NPO_TRY(check_same(desc, 2, "v", 1, error));
    if (desc->attrs.heads < 1 || q->dims[2] % desc->attrs.heads)
        return npo_error_set(error, NPO_E_SHAPE,
                             "op 'attention': %lld channels in %d heads, expected a multiple",
                             (long long)q->dims[2], desc->attrs.heads);
    desc->out = *q;
    return NPO_OK;
}

static double flops_attention(const npo_op_desc *desc)
{
    return 4 * (double)npo_shape_count(&desc->in[0]) * (double)desc->in[1].dims[1];
}

static double flops_attention_backward(const npo_op_desc *desc)
{
    return desc->want ? 2.5 * flops_attention(desc) : 0;
}

static npo_err shape_timestep(npo_op_desc *desc, npo_error *error)
{
    int64_t dims[] = {desc->in[0].dims[0], desc->attrs.channels};
    if (!is_f32(&desc->in[0], 1))
        return mismatch(desc, 0, "t", error, "[N]");
    if (dims[1] < 1)
        return npo_error_set(error, NPO_E_RANGE, "op 'timestep': %lld channels, expected 1 or more",
                             (long long)dims[1]);
    desc->out = npo_shape_make(NPO_F32, 2, dims);
    return NPO_OK;
}

static npo_err shape_embedding(npo_op_desc *desc, npo_error *error)
{
    const npo_shape *ids = &desc->in[0], *table = &desc->in[1];
    if (ids->dtype != NPO_I32 || ids->ndim != 2)
        return mismatch(desc, 0, "ids", error, "[N,L] i32");
    if (!is_f32(table, 2))
        return mismatch(desc, 1, "table", error, "[V,C]");
    int64_t dims[] = {ids->dims[0], ids->dims[1], table->dims[1]};
    desc->out = npo_shape_make(NPO_F32, 3, dims);
    return NPO_OK;
}

static npo_err shape_add_rows(npo_op_desc *desc, npo_error *error)
{
    const npo_shape *x = &desc->in[0], *p = &desc->in[1];
    if (!is_f32(x, 3))
        return mismatch(desc, 0, "x", error, "[N,L,C]");
    if (!is_f32(p, 2) || p->dims[0] < x->dims[1] || p->dims[1] != x->dims[2]) {
        char expected[64];
        snprintf(expected, sizeof expected, "[%lld or more,%lld]", (long long)x->dims[1],
                 (long long)x->dims[2]);
        return mismatch(desc, 1, "p", error, expected);
    }
    desc->out = *x;
    return NPO_OK;
}

static npo_err shape_max_pool(npo_op_desc *desc, npo_error *error)
{
    NPO_TRY(check_image(desc, error));
    if (desc->in[0].dims[1] < 2 || desc->in[0].dims[2] < 2)
        return mismatch(desc, 0, "x", error, "at least 2x2 positions");
    desc->out = desc->in[0];
    desc->out.dims[1] /= 2;
    desc->out.dims[2] /= 2;
    return NPO_OK;
}

/* ---- mixtures and losses ---- */

static npo_err shape_mix(npo_op_desc *desc, npo_error *error)
{
    NPO_TRY(check_f32(desc, 1, error));
    NPO_TRY(check_same(desc, 1, "b", 0, error));
    NPO_TRY(check_vector(desc, 2, "ca", desc->in[0].dims[0], error));
    NPO_TRY(check_vector(desc, 3, "cb", desc->in[0].dims[0], error));
    desc->out = desc->in[0];
    return NPO_OK;
}

static npo_err shape_mse_loss(npo_op_desc *desc, npo_error *error)
{
    NPO_TRY(check_f32(desc, 1, error));
    NPO_TRY(check_same(desc, 1, "target", 0, error));
    desc->out = npo_shape_make(NPO_F32, 0, NULL);
    return NPO_OK;
}

static npo_err shape_pseudo_huber_loss(npo_op_desc *desc, npo_error *error)
{
    if (!(desc->attrs.factor > 0))
        return npo_error_set(error, NPO_E_RANGE,
                             "op 'pseudo_huber_loss': h %g, expected a positive number",
                             (double)desc->attrs.factor);
    return shape_mse_loss(desc, error);
}

static npo_err shape_cross_entropy_loss(npo_op_desc *desc, npo_error *error)
{
    const npo_shape *logits = &desc->in[0], *labels = &desc->in[1];
    if (!is_f32(logits, 2))
        return mismatch(desc, 0, "logits", error, "[N,K]");
    if (labels->dtype != NPO_I32 || labels->ndim != 1 || labels->dims[0] != logits->dims[0]) {
        char expected[32];
        snprintf(expected, sizeof expected, "[%lld] i32", (long long)logits->dims[0]);
        return mismatch(desc, 1, "labels", error, expected);
    }
    desc->out = npo_shape_make(NPO_F32, 0, NULL);
    return NPO_OK;
}

/* ---- flops of the rest: one a written or reduced element and pass ---- */

static double flops_elements(const npo_op_desc *desc)
{
    int64_t in = npo_shape_count(&desc->in[0]), out = npo_shape_count(&desc->out);
    return (double)(in > out ? in : out);
}

static double flops_elements_backward(const npo_op_desc *desc)
{
    return desc->want ? flops_elements(desc) : 0;
}

/* ---- the table ---- */

#define A 1u
#define B 2u
#define C 4u
#define D 8u
static const npo_op_rule rules[] = {
#define NPO_OP(KIND, name, flops, ...)                                                             \
    {#name, shape_##name, flops_##flops, flops_##flops##_backward, __VA_ARGS__},
#include "kernels/op.def"
#undef NPO_OP
};
static_assert(sizeof rules / sizeof *rules == NPO_OP_COUNT, "one rule an op");

const npo_op_rule *npo_op_rule_of(npo_op_kind kind)
{
    return &rules[kind];
}
