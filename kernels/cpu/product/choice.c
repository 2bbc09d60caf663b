/* Convolution and linear layers: the choice of an engine for each. */
#include "kernels/cpu/product/engine.h"
#include "kernels/cpu/product/geometry.h"

/* Weights up to which the own engine is the fastest: of a convolution those that a core's
 * second-level cache keeps beside a padded image; of a linear layer fewer, since blocks of gemm.c
 * share what they pack (320 to 320 channels, 4096 rows: 55 against 45 GFLOP/s a core of a busy
 * Zen 3). */
enum { OWN_WEIGHTS_MAX = 400000, OWN_LINEAR_WEIGHTS_MAX = 100000 };

/* Whether winograd.c can do it, with fewer multiply-adds: 36 a tile, not 9 an output. */
static bool suits_winograd(const npo_op_desc *desc)
{
    const npo_shape *w = &desc->in[1], *y = &desc->out;
    const npo_conv_options *o = &desc->attrs.conv;
    if (desc->kind != NPO_OP_CONV2D || w->dims[2] != 3 || w->dims[3] != 3 || o->stride != 1 ||
        o->pad_top > 2 || o->pad_left > 2)
        return false;
    int64_t tiles = (y->dims[1] + 3) / 4 * ((y->dims[2] + 3) / 4);
    return 36 * tiles < 9 * y->dims[1] * y->dims[2];
}

static const npo_product_engine *choose(const npo_cpu *cpu, const npo_op_desc *desc)
{
    npo_products products = cpu->products;
    bool small = npo_shape_count(&desc->in[1]) <=
                 (npo_product_is_pointwise(desc) ? OWN_LINEAR_WEIGHTS_MAX : OWN_WEIGHTS_MAX);
    if (products == NPO_PRODUCTS_DNNL)
        return &npo_product_dnnl;
    if ((products == NPO_PRODUCTS_OWN || (products == NPO_PRODUCTS_BY_SIZE && small)) &&
        npo_product_has_geometry(desc))
        return &npo_product_own;
    return products != NPO_PRODUCTS_GEMM && suits_winograd(desc) ? &npo_product_winograd
                                                                 : &npo_product_gemm;
}

static const npo_product_engine *engine_of(const npo_op_work *work)
{
    return ((const npo_product_state *)work->state)->engine;
}

static npo_err prepare(const npo_cpu *cpu, npo_op_work *work, npo_error *error)
{
    return choose(cpu, &work->desc)->prepare(cpu, work, error);
}

static void finish(npo_op_work *work)
{
    if (work->state)
        engine_of(work)->finish(work);
}

static npo_err pack(const npo_cpu *cpu, const npo_op_work *work, npo_pack_side side,
                    const float *weight, void *packed)
{
    return engine_of(work)->pack(cpu, work, side, weight, packed);
}

static npo_err forward(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                       npo_error *error)
{
    return engine_of(work)->forward(cpu, work, args, error);
}

static npo_err backward(const npo_cpu *cpu, const npo_op_work *work, const npo_op_args *args,
                        npo_error *error)
{
    return engine_of(work)->backward(cpu, work, args, error);
}

/* An add of channels wants samples as units of work, which a layer over positions has not. */
static bool fuses(const npo_cpu *cpu, const npo_op_desc *desc, npo_op_kind add)
{
    return choose(cpu, desc) != &npo_product_dnnl &&
           (add == NPO_OP_ADD || !npo_product_is_pointwise(desc));
}

const npo_cpu_op npo_cpu_conv2d = {
    .fuses = fuses,
    .prepare = prepare,
    .finish = finish,
    .pack = pack,
    .forward = forward,
    .backward = backward,
};

const npo_cpu_op npo_cpu_linear = {
    .fuses = fuses,
    .prepare = prepare,
    .finish = finish,
    .pack = pack,
    .forward = forward,
    .backward = backward,
};
