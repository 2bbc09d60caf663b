/* The kernels of one instruction set. Compiled once for each (meson.build), with NPO_ISA_TABLE the
 * name of its table and NPO_ISA_TEXT its name for people. */
#include "kernels/cpu/isa/isa.h"

#include "kernels/cpu/isa/simd.h"

#include "kernels/cpu/isa/elementwise.h"
#include "kernels/cpu/isa/norm.h"

#include "kernels/cpu/isa/bf16.h"
#include "kernels/cpu/isa/gemm.h"
#include "kernels/cpu/isa/attention.h"
#include "kernels/cpu/isa/matrix.h"
#include "kernels/cpu/isa/product.h"
#include "kernels/cpu/isa/vec.h"
#include "kernels/cpu/isa/winograd.h"

extern const npo_cpu_kernels NPO_ISA_TABLE;

const npo_cpu_kernels NPO_ISA_TABLE = {
    .name = NPO_ISA_TEXT,
    .act_forward = act_forward,
    .act_backward = act_backward,
    .geglu_forward = geglu_forward,
    .geglu_backward = geglu_backward,
    .add = add,
    .accumulate = accumulate,
    .mix = mix,
    .add_channels = add_channels,
    .column_sums = column_sums,
    .largest = largest,
    .exp_sum = exp_sum,
    .group_norm_forward = group_norm_forward,
    .group_norm_backward = group_norm_backward,
    .layer_norm_forward = layer_norm_forward,
    .layer_norm_backward = layer_norm_backward,
    .attention_scratch = attention_scratch,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .packed_floats = packed_floats,
    .pack_weights = pack_weights,
    .unpack_weights = unpack_weights,
    .product_forward = product_forward,
    .product_outer = product_outer,
    .matrix_add = matrix_add,
    .gemm = gemm,
    .gemm_scratch = gemm_scratch,
    .gemm_width = GEMM_WIDTH,
    .gemm_panels = gemm_panels,
    .winograd_input = winograd_input,
    .winograd_gradient = winograd_gradient,
    .winograd_output = winograd_output,
    .winograd_weights = winograd_weights,
    .winograd_unweights = winograd_unweights,
    .vec_scale = vec_scale,
    .vec_axpy = vec_axpy,
    .vec_lerp = vec_lerp,
    .vec_square_sum = vec_square_sum,
    .vec_adamw = vec_adamw,
    .vec_adamw8 = vec_adamw8,
    .widen_bf16 = widen_bf16,
    .narrow_bf16 = narrow_bf16,
    .round_bf16 = round_bf16,
    .multiply_adds = multiply_adds,
};
