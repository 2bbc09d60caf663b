/* One optimizer step of one rank: forward and backward over micro-batches, average of the gradients
 * over ranks, clipping by global norm, AdamW, EMA. Nothing is allocated in a step. State (student,
 * EMA, moments, step) is what npo_checkpoint_save writes; a trainer that reads it back goes on bit
 * for bit.
 *
 * Belongs to one thread. */
#ifndef NPO_TRAIN_STEP_H
#define NPO_TRAIN_STEP_H

#include "kernels/comm/comm.h"
#include "kernels/graph.h"
#include "proto/job.h"
#include "worker/diffusion/denoiser.h"
#include "worker/diffusion/trajectory/batch.h"
#include "worker/model/networks/network.h"
#include "worker/train/moments.h"
#include "worker/train/offset.h"

typedef struct {
    double lr, weight_decay, beta1, beta2, eps;
    double clip; /* global norm of the gradients is brought down to this; 0: no clipping */
    double ema_decay;
    int64_t warmup_steps;
    npo_lr_kind lr_schedule;
    int64_t steps; /* in all; COSINE and LINEAR end there */
} npo_train_hyper;

/* Learning rate of step 0, 1, ...: lr * min(1, (step + 1) / warmup) times the schedule over the
 * steps behind the warm-up: CONSTANT 1; with p = (step - warmup) / (steps - warmup): COSINE (1 +
 * cos(pi p)) / 2, LINEAR 1 - p. */
double npo_train_lr(const npo_train_hyper *hyper, int64_t step);

typedef struct {
    npo_backend *backend;          /* borrowed */
    npo_layout *layout;            /* of npo_unet_layout or npo_lora_layout; kept by reference */
    const npo_params *base;        /* borrowed; what a LoRA stands beside, else NULL */
    const npo_unet_config *config; /* borrowed */
    npo_network_shape shape;
    const npo_prompts *prompts; /* borrowed */
    npo_comm *comm;             /* borrowed; NULL: one rank */
    int64_t micro_batch;        /* samples a forward pass */
    npo_loss_kind loss;
    double huber_c;
    npo_optimizer_kind optimizer;
    npo_compute compute;
    size_t memory_bytes; /* for the graph, 0: as much as it takes (kernels/graph.h) */
    npo_train_hyper hyper;
} npo_trainer_options;

typedef struct npo_trainer npo_trainer;

/* Sets start at zero: fill the student (npo_trainer_begin) or load a checkpoint. */
npo_err npo_trainer_new(const npo_trainer_options *options, npo_trainer **ret_trainer,
                        npo_error *error) NPO_MUST_CHECK;
void npo_trainer_free(npo_trainer *trainer);
/* Bytes of the sets that a trainer holds beside its graph. */
size_t npo_trainer_set_bytes(const npo_trainer_options *options);
const npo_plan_info *npo_trainer_plan(const npo_trainer *trainer); /* of its graph */
/* Student and EMA from base (which may be the student), moments and step zero. */
void npo_trainer_begin(npo_trainer *trainer, const npo_params *base);

/* Sets of the trainer, for reading, for a checkpoint, or as a denoiser's weights. Borrowed. */
npo_params *npo_trainer_student(npo_trainer *trainer);
npo_params *npo_trainer_ema(npo_trainer *trainer);
npo_moments *npo_trainer_moments(npo_trainer *trainer);
/* After a step: the averaged gradients, before clipping. */
const npo_params *npo_trainer_grads(npo_trainer *trainer);
int64_t npo_trainer_step_count(const npo_trainer *trainer); /* optimizer steps done */
void npo_trainer_set_step_count(npo_trainer *trainer, int64_t step);
void npo_trainer_set_hyper(npo_trainer *trainer, const npo_train_hyper *hyper);

typedef struct {
    double loss;      /* mean over the global batch */
    double grad_norm; /* of the averaged gradients, before clipping */
    double lr;
} npo_train_result;

/* batch: this rank's share, a multiple of micro_batch; every rank's share has the same size.
 * Errors: NPO_E_DIVERGED when the loss or the gradient of any rank is not finite (on every rank,
 * state untouched); NPO_E_SHAPE; those of the communicator. */
npo_err npo_trainer_step(npo_trainer *trainer, const npo_batch *batch, npo_train_result *ret_result,
                         npo_error *error) NPO_MUST_CHECK;

/* The parts of a step, for tests and benchmarks: gradients of a batch (averaged over ranks, with
 * loss and norm); clipping, AdamW and EMA from whatever gradients are there, which it leaves. */
npo_err npo_trainer_gradients(npo_trainer *trainer, const npo_batch *batch,
                              npo_train_result *ret_result, npo_error *error) NPO_MUST_CHECK;
void npo_trainer_update(npo_trainer *trainer, double grad_norm, double lr);
npo_params *npo_trainer_edit_grads(npo_trainer *trainer);
/* Prediction (the x0 or the output that the loss compares) of the last micro-batch run,
 * [micro_batch, sample_floats]. Borrowed until the next run. */
const float *npo_trainer_prediction(const npo_trainer *trainer);

/* Relative norm of student - base by block. Overwrites the trainer's gradients. */
npo_err npo_trainer_offset(npo_trainer *trainer, const npo_offset_base *base,
                           npo_offset_norms *ret_norms, npo_error *error) NPO_MUST_CHECK;

#endif
