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
} npo_unet_inputs;

typedef struct {
    /* Names the output of every module "out.<path>" as diffusers names it: out.time_embedding,
     * out.conv_in, out.down_blocks.0, out.down_blocks.0.resnets.0, ... For tests: each stays
     * readable after a run and costs memory of its own. */
    bool name_modules;
} npo_unet_options;

/* Records the network's prediction (eps or v, as it was trained) [N,H,W,out_channels]. Errors are
 * sticky in the graph. options may be NULL. */
npo_value npo_unet_record(npo_graph *graph, const npo_unet_config *config, npo_unet_inputs inputs,
                          const npo_unet_options *options);

/* Creates the layout of the network's parameters. */
npo_err npo_unet_layout(npo_backend *backend, const npo_unet_config *config,
                        npo_layout **ret_layout, npo_error *error) NPO_MUST_CHECK;

#endif
