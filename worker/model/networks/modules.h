/* Layers as PyTorch modules store them, recorded on a graph: `path` is the module's name and the
 * parameters are path.weight and path.bias. Shapes follow from the input; a value that is NONE
 * after a sticky failure is passed through. Where the graph's layout is an adapter's
 * (worker/model/networks/lora_layout.h) that has the layer, its part is added: scale up(down(x)).
 */
#ifndef NPO_WORKER_MODEL_NETWORKS_MODULES_H
#define NPO_WORKER_MODEL_NETWORKS_MODULES_H

#include "kernels/op.h"

#define NPO_PATH_MAX NPO_PARAM_NAME_MAX

/* Formats a module's name; one that does not fit fails the graph. */
void npo_module_path(npo_graph *graph, char ret_path[NPO_PATH_MAX], const char *format, ...)
    NPO_PRINTF(3, 4);
/* Size of the last axis; 1 for NONE, so that shape arithmetic goes on after a failure. */
int64_t npo_module_channels(const npo_graph *graph, npo_value x);

npo_value npo_module_linear(npo_graph *graph, const char *path, npo_value x, int64_t out,
                            bool bias);
/* A 1x1 convolution, which is a linear layer whose weight is stored as [out,in,1,1]. */
npo_value npo_module_pointwise(npo_graph *graph, const char *path, npo_value x, int64_t out);
npo_value npo_module_conv(npo_graph *graph, const char *path, npo_value x, int64_t out, int kernel,
                          npo_conv_options options);
npo_value npo_module_group_norm(npo_graph *graph, const char *path, npo_value x, int groups,
                                float eps, npo_act act);
npo_value npo_module_layer_norm(npo_graph *graph, const char *path, npo_value x, float eps);

/* The layout of a network: the parameters that `record` declares on a graph of small inputs.
 * config is handed to record; what: the network in sentences, "the VAE". Errors: those of
 * recording, NPO_E_NOMEM. */
npo_err npo_module_layout(npo_backend *backend, const char *what,
                          void (*record)(npo_graph *graph, const void *config), const void *config,
                          npo_layout **ret_layout, npo_error *error) NPO_MUST_CHECK;

#endif
