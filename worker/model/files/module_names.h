/* A network's weights by every name that other programs' files may give their modules. */
#ifndef NPO_WORKER_MODEL_FILES_MODULE_NAMES_H
#define NPO_WORKER_MODEL_FILES_MODULE_NAMES_H

#include "kernels/params.h"

typedef struct npo_module_names npo_module_names;

/* Of the linear and convolution weights of a UNet: diffusers' path ("down_blocks.0.resnets.0.
 * conv1"), that of a single-file checkpoint ("input_blocks.1.0.in_layers.2"), and both with '_' for
 * '.'. Borrows the layout. NPO_E_NOMEM. */
npo_err npo_module_names_new(const npo_layout *layout, npo_module_names **ret_names) NPO_MUST_CHECK;
void npo_module_names_free(npo_module_names *names);
/* The weight of the module called name[len], or NULL. */
const npo_param_info *npo_module_names_find(const npo_module_names *names, const char *name,
                                            size_t len);

#endif
