/* Single-file checkpoints: a whole pipeline's weights in one .safetensors file under the names that
 * single_name.h leads to. */
#ifndef NPO_WORKER_MODEL_FILES_SINGLE_FILE_H
#define NPO_WORKER_MODEL_FILES_SINGLE_FILE_H

#include "worker/model/files/weights.h"

typedef enum { NPO_SINGLE_SD15, NPO_SINGLE_SDXL } npo_single_family;

/* Which of the families the file is of, by its tensors. Others are refused with a sentence that
 * says what the file is: NPO_E_UNSUPPORTED (Stable Diffusion 2 and 3, Flux, the SDXL refiner,
 * inpainting, v-prediction without a configuration that says so) and NPO_E_USAGE (a UNet alone, a
 * LoRA, a VAE). published: the file has to have the published sizes, since the built-in
 * configuration is to be used with it. */
npo_err npo_single_file_family(const npo_safetensors *file, bool published,
                               npo_single_family *ret_family, npo_error *error) NPO_MUST_CHECK;
/* Whether it has tensors of the part. */
bool npo_single_file_has(const npo_safetensors *file, npo_single_part part);
/* Folder of the family's built-in parts: "built-in:sd15". */
const char *npo_single_file_parts(npo_single_family family);
/* Writes a copy of the checkpoint `from` with the UNet from weights in dtype (F32, F16, BF16); the
 * rest is copied as it is, but for an EMA of the older UNet ("model_ema.*"), which is left out.
 * Durable; holds a block in memory. `from` and `to` may not be the same file. Errors: those of
 * opening `from`, NPO_E_NOT_FOUND and NPO_E_SHAPE where it is another network, NPO_E_IO,
 * NPO_E_FULL, NPO_E_RANGE. */
npo_err npo_single_file_write(const char *from, const npo_weights_made *weights,
                              npo_tensor_dtype dtype, const char *to,
                              npo_error *error) NPO_MUST_CHECK;

#endif
