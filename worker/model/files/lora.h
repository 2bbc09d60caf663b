/* LoRA files: low-rank offsets of a UNet's linear and convolution weights.
 *
 *   names    of a module's tensors, shapes for a linear layer | a convolution
 *   PEFT     unet.<module>.lora_A.weight   [rank,in]  | [rank,in,kh,kw]
 *            unet.<module>.lora_B.weight   [out,rank] | [out,rank,1,1]
 *   kohya    lora_unet_<module>.lora_down.weight, .lora_up.weight of the same shapes, .alpha []
 *
 * <module> is diffusers' path of the module, in kohya's names with '_' for '.'. Read are also PEFT
 * names without "unet." or behind "base_model.model.", and modules by their names in single-file
 * checkpoints (input_blocks_4_1_...), which files made for SDXL have. The offset of a weight is
 * alpha / rank * up @ down; alpha is the rank where a file says nothing. It is looked for in
 * <module>.alpha, in the file's metadata (as diffusers' save_lora_adapter and save_lora_weights
 * write it), and in adapter_config.json beside the file (as peft writes it). */
#ifndef NPO_WORKER_MODEL_FILES_LORA_H
#define NPO_WORKER_MODEL_FILES_LORA_H

#include "kernels/params.h"
#include "worker/model/files/safetensors.h"

typedef struct {
    char module[NPO_PARAM_NAME_MAX]; /* of the UNet, without ".weight" */
    int64_t rank;
    float alpha;
    int ndim; /* of the module's weight: 2 or 4 */
    int64_t dims[NPO_PARAM_DIMS_MAX];
    float *down; /* [rank, in*kh*kw], malloc'ed */
    float *up;   /* [out, rank], malloc'ed */
} npo_lora_layer;

typedef struct {
    npo_lora_layer *layers; /* malloc'ed, in the layout's order after loading */
    size_t count;
    size_t text_tensors; /* of text encoders, which the file holds too and which were not read */
} npo_lora;

typedef enum { NPO_LORA_PEFT, NPO_LORA_KOHYA } npo_lora_names;

/* Reads the file's offsets of the network whose layout is given. Errors: NPO_E_NOT_FOUND (half of a
 * module missing), NPO_E_SHAPE (a LoRA for another base), NPO_E_USAGE (a module that the layout
 * lacks, no LoRA in the file), NPO_E_UNSUPPORTED (LoHa, LoKr, DoRA and other kinds), NPO_E_TYPE,
 * NPO_E_RANGE (a value that is not finite), and those of npo_safetensors_open; the sentence names
 * the tensors. */
npo_err npo_lora_load(const char *path, const npo_layout *layout, npo_lora *ret_lora,
                      npo_error *error) NPO_MUST_CHECK;
/* Durable. dtype: F32, F16 or BF16. Programs differ in where they look for the alpha of PEFT names,
 * so `up` is written times alpha / rank there, and alpha is the rank. */
npo_err npo_lora_save(const char *path, const npo_lora *lora, npo_lora_names names,
                      npo_tensor_dtype dtype, npo_error *error) NPO_MUST_CHECK;
/* W += scale * alpha / rank * up @ down for every layer; its module and dims are those of the
 * params' layout (asserted). */
void npo_lora_apply(const npo_lora *lora, float scale, npo_params *params);
void npo_lora_fini(npo_lora *lora);

#endif
