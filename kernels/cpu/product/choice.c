/* Convolution and linear layers: the choice of an engine for each. */
#include "kernels/cpu/product/engine.h"
#include "kernels/cpu/product/geometry.h"

/* Packed weights that the own engine keeps in a core's second-level cache beside a padded image. */
enum { OWN_WEIGHTS_MAX = 400000 };

static const npo_product_engine *choose(const npo_cpu *cpu, const npo_op_desc *desc)
{
    if (cpu->products == NPO_PRODUCTS_DNNL || !npo_product_has_geometry(desc))
        return &npo_product_dnnl;
    bool small = npo_shape_count(&desc->in[1]) <= OWN_WEIGHTS_MAX;
    return small || cpu->products == NPO_PRODUCTS_OWN ? &npo_product_own : &npo_product_dnnl;
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
