/* The tensors of a LoRA over a UNet: an adapter's layout (kernels/params.h) with, for every layer
 * it adapts, "<module>.lora_A.weight" [rank,in] or [rank,in,kh,kw] and "<module>.lora_B.weight"
 * [out,rank] or [out,rank,1,1], as PEFT names and shapes them. */
#ifndef NPO_WORKER_MODEL_NETWORKS_LORA_LAYOUT_H
#define NPO_WORKER_MODEL_NETWORKS_LORA_LAYOUT_H

#include "kernels/params.h"
#include "worker/model/files/lora.h"

typedef enum {
    NPO_LORA_ATTENTION, /* to_q, to_k, to_v, to_out.0 */
    NPO_LORA_LINEAR,    /* every linear layer */
    NPO_LORA_ALL,       /* convolutions too */
} npo_lora_targets;

typedef struct {
    int64_t rank; /* 0: no LoRA */
    double alpha; /* the LoRA's part is multiplied by alpha / rank */
    npo_lora_targets targets;
} npo_lora_options;

/* base: the UNet's layout. Errors: NPO_E_RANGE where it has no layers to adapt, NPO_E_NOMEM,
 * NPO_E_LIMIT. */
npo_err npo_lora_layout(npo_layout *base, const npo_lora_options *options, npo_layout **ret_layout,
                        npo_error *error) NPO_MUST_CHECK;
/* As PEFT begins: down uniform in +-1/sqrt(fan in) drawn by Philox from (seed, tensor number), up
 * zero. */
void npo_lora_begin(npo_params *params, uint64_t seed);
/* A copy of a set as LoRA layers, to write or to apply. */
npo_err npo_lora_of_params(const npo_params *params, npo_lora *ret_lora,
                           npo_error *error) NPO_MUST_CHECK;

#endif
