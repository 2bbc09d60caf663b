/* A UNet ready to evaluate: forward-only planned graphs of one latent shape, one per batch size.
 * The samplers and the trajectory code run any parameter set (base, student, EMA, negative) through
 * it.
 *
 * Graphs are planned at first use and the NPO_NETWORK_GRAPHS_MAX last used are kept, so that a loop
 * over a fixed batch and its remainder plans twice and allocates no more. A sample's bits may
 * depend on the batch size it is evaluated with (the libraries block differently), never on its
 * neighbours in the batch. Belongs to one thread. */
#ifndef NPO_WORKER_MODEL_NETWORKS_NETWORK_H
#define NPO_WORKER_MODEL_NETWORKS_NETWORK_H

#include "kernels/graph.h"
#include "worker/model/networks/unet_config.h"

#define NPO_NETWORK_GRAPHS_MAX 4

typedef struct npo_network npo_network;

typedef struct {
    int64_t height, width; /* of the latent (pixels where the model has no VAE) */
    int64_t context_len;   /* tokens of the text embedding */
} npo_network_shape;

/* layout: of npo_unet_layout for the same config; kept by reference. backend is borrowed for the
 * network's life. */
npo_err npo_network_new(npo_backend *backend, npo_layout *layout, const npo_unet_config *config,
                        const npo_network_shape *shape, npo_network **ret_network,
                        npo_error *error) NPO_MUST_CHECK;
void npo_network_free(npo_network *network);

typedef struct {
    npo_compute compute;
    size_t packed_bytes; /* as npo_plan_options has it */
} npo_network_plan;

/* How graphs are planned from now on; those of another plan are given up. */
void npo_network_set_plan(npo_network *network, npo_network_plan plan);
/* Gives up its graphs and their memory; they are planned anew when they are needed. */
void npo_network_trim(npo_network *network);
/* Plans the graph of a batch size, if it is not there, and says what it takes. */
npo_err npo_network_prepare(npo_network *network, int64_t n, npo_plan_info *ret_info,
                            npo_error *error) NPO_MUST_CHECK;
const npo_unet_config *npo_network_config(const npo_network *network);     /* borrowed */
const npo_network_shape *npo_network_shape_of(const npo_network *network); /* borrowed */
/* Elements of one sample: height * width * channels. */
size_t npo_network_sample_floats(const npo_network *network);
/* Elements of one sample's text embedding: context_len * context channels. */
size_t npo_network_context_floats(const npo_network *network);

/* Elements of one sample's added conditioning: the pooled text embedding and the time ids; 0 for a
 * network without. */
size_t npo_network_added_floats(const npo_network *network);

/* x [N,H,W,in_channels], t [N] f32, context [N,L,context] (may be NULL where the network attends to
 * none), added [N,added floats] (may be NULL where there are none) -> ret_out [N,H,W,out_channels],
 * which may be x. Borrows all for the call. */
npo_err npo_network_eval(npo_network *network, const npo_params *params, int64_t n, const float *x,
                         const float *t, const float *context, const float *added, float *ret_out,
                         npo_error *error) NPO_MUST_CHECK;

#endif
