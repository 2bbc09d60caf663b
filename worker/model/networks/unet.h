/* UNet2DConditionModel of diffusers as forward code that records ops. Parameters have the names of
 * the published files. */
#ifndef NPO_WORKER_MODEL_NETWORKS_UNET_H
#define NPO_WORKER_MODEL_NETWORKS_UNET_H

#include "kernels/graph.h"
#include "worker/model/networks/unet_config.h"

typedef struct {
    npo_value x;       /* [N,H,W,in_channels] f32 */
    npo_value t;       /* [N] f32, timesteps 0..999 */
    npo_value context; /* [N,L,context] f32; NPO_VALUE_NONE where the network attends to none */
    /* Of a network with added conditioning, else NPO_VALUE_NONE. */
    npo_value pooled;   /* [N,pooled_channels] f32 */
    npo_value time_ids; /* [N,6] f32, pixels */
} npo_unet_inputs;

typedef struct {
    /* Names the output of every module "out.<path>" as diffusers names it: out.time_embedding,
     * out.conv_in, out.down_blocks.0, out.down_blocks.0.resnets.0, ... For tests: each stays
     * readable after a run and costs memory of its own. */
    bool name_modules;
} npo_unet_options;

/* Declares the inputs of n samples, named as the members above ("x", "t", ...); those the network
 * does not have are left out. */
npo_unet_inputs npo_unet_declare(npo_graph *graph, const npo_unet_config *config, int64_t n,
                                 int64_t height, int64_t width, int64_t context_len);
/* A sample's added conditioning [pooled_channels + 6] to its two inputs. */
void npo_unet_split_added(const npo_unet_config *config, const float *added, float *ret_pooled,
                          float *ret_time_ids);

/* Records the network's prediction (eps or v, as it was trained) [N,H,W,out_channels]. Errors are
 * sticky in the graph. options may be NULL. */
npo_value npo_unet_record(npo_graph *graph, const npo_unet_config *config, npo_unet_inputs inputs,
                          const npo_unet_options *options);

/* Creates the layout of the network's parameters. */
npo_err npo_unet_layout(npo_backend *backend, const npo_unet_config *config,
                        npo_layout **ret_layout, npo_error *error) NPO_MUST_CHECK;

#endif
