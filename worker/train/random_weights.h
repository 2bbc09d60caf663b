/* Weights to train from scratch, distributed as PyTorch initialises the same modules: convolutions
 * and linear layers uniform in +-1/sqrt(fan in), weight and bias (kaiming_uniform with a =
 * sqrt(5)); norms one and zero. Drawn by Philox from (seed, tensor number), so the same network and
 * seed give the same bytes.
 */
#ifndef NPO_WORKER_TRAIN_RANDOM_WEIGHTS_H
#define NPO_WORKER_TRAIN_RANDOM_WEIGHTS_H

#include "kernels/params.h"

/* Fills every tensor. "<layer>.weight" of one dimension is a norm's; "<layer>.bias" follows the
 * weight of its layer. Errors: NPO_E_UNSUPPORTED for a tensor that is neither. */
npo_err npo_random_weights(npo_params *params, uint64_t seed, npo_error *error) NPO_MUST_CHECK;

#endif
