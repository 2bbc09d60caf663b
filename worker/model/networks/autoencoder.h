/* AutoencoderKL of diffusers as forward code that records ops. Parameters have the names of the
 * published files; one layout holds encoder and decoder. */
#ifndef NPO_WORKER_MODEL_NETWORKS_AUTOENCODER_H
#define NPO_WORKER_MODEL_NETWORKS_AUTOENCODER_H

#include "kernels/graph.h"
#include "worker/model/networks/autoencoder_config.h"

/* x [N,H,W,3] in -1..1, H and W multiples of the factor f -> moments [N,H/f,W/f,2*latent_channels]:
 * the mean, then the logarithm of the variance (not clamped), neither scaled for the UNet. */
npo_value npo_autoencoder_record_encoder(npo_graph *graph, const npo_autoencoder_config *config,
                                         npo_value x);
/* z [N,h,w,latent_channels], not scaled -> image [N,h*f,w*f,3], about -1..1 (not clamped). */
npo_value npo_autoencoder_record_decoder(npo_graph *graph, const npo_autoencoder_config *config,
                                         npo_value z);
/* Creates the layout of the network's parameters. */
npo_err npo_autoencoder_layout(npo_backend *backend, const npo_autoencoder_config *config,
                               npo_layout **ret_layout, npo_error *error) NPO_MUST_CHECK;

#endif
