/* A network with fixed weights as the samplers and trajectories see it: noised samples, timesteps
 * and prompts in, the raw prediction (eps or v) out. A sample's result depends on nothing but the
 * sample, its timestep, its prompt and the weights: never on who shares a batch. */
#ifndef NPO_DIFFUSION_DENOISER_H
#define NPO_DIFFUSION_DENOISER_H

#include "common/err.h"
#include "worker/model/networks/network.h"

#define NPO_PROMPT_EMPTY ((int32_t)-1)

/* Text embeddings by prompt id 0 .. count-1, [count, floats]; borrowed. */
typedef struct {
    const float *rows;
    int64_t count;
    const float *empty; /* [floats]: NPO_PROMPT_EMPTY */
    /* Of a row: context length * context channels, and for a network with added conditioning
     * (npo_network_added_floats) the pooled text embedding and the time ids behind it. */
    size_t floats;
} npo_prompts;

/* The embedding of a prompt id, asserted to be in range. */
const float *npo_prompts_row(const npo_prompts *prompts, int32_t id);

typedef struct {
    void *self;
    size_t sample_floats; /* height * width * channels, the same for input and output */
    /* x [n, sample_floats], t [n] (timesteps, not always whole), prompt [n] ids -> ret_out
     * [n, sample_floats], not x. n >= 0. */
    npo_err (*predict)(void *self, int64_t n, const float *x, const float *t, const int32_t *prompt,
                       float *ret_out, npo_error *error);
} npo_denoiser;

/* A denoiser on a network. Batches are cut into micro-batches of one fixed size and the last is
 * filled up with copies, because the libraries choose other kernels, and so other bits, for other
 * batch sizes. */
typedef struct npo_network_denoiser npo_network_denoiser;

/* network, params and what prompts points to are borrowed for the denoiser's life. Errors:
 * NPO_E_SHAPE where the prompts do not fit the network, or its output is not shaped as its input.
 */
npo_err npo_network_denoiser_new(npo_network *network, const npo_params *params,
                                 const npo_prompts *prompts, int64_t micro_batch,
                                 npo_network_denoiser **ret_denoiser,
                                 npo_error *error) NPO_MUST_CHECK;
void npo_network_denoiser_free(npo_network_denoiser *denoiser);
const npo_denoiser *npo_network_denoiser_get(npo_network_denoiser *denoiser); /* borrowed */
/* Other weights of the same layout from now on. */
void npo_network_denoiser_use(npo_network_denoiser *denoiser, const npo_params *params);

#endif
