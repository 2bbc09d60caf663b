/* Training a denoiser for the steps of one task: trainer, gang, checkpoint in and out, metrics.
 * What a step trains on is the recipe's affair: it fills `batch` before each step. */
#ifndef NPO_WORKER_TASKS_TRAINING_FIT_H
#define NPO_WORKER_TASKS_TRAINING_FIT_H

#include "worker/diffusion/trajectory/batch.h"
#include "worker/tasks/setup.h"
#include "worker/tasks/training/gang.h"
#include "worker/tasks/training/slots.h"
#include "worker/train/checkpoint.h"
#include "worker/train/step.h"

typedef struct {
    npo_context *ctx;
    const npo_setup *setup;
    const npo_slots *slots;
    npo_gang gang;
    npo_trainer *trainer;
    npo_batch batch;       /* [slots->local] */
    npo_batch_draws draws; /* of the next step */
    npo_weight_view *base; /* offsets are measured against it; NULL: not measured */
} npo_fit;

/* begin: the weights of a job without a checkpoint, NULL for those of the model's file; unused
 * where the task has a checkpoint. Without it offsets from the model's file are measured. *fit must
 * stay where it is. Errors: NPO_E_USAGE where the checkpoint is of another step than
 * params.first_step.
 */
npo_err npo_fit_init(npo_fit *fit, npo_context *ctx, const npo_setup *setup, const npo_slots *slots,
                     const npo_params *begin) NPO_MUST_CHECK;
void npo_fit_fini(npo_fit *fit);
/* One optimizer step on fit->batch, its metrics and progress; then fit->draws are those of the
 * next. */
npo_err npo_fit_step(npo_fit *fit) NPO_MUST_CHECK;
/* Waits until every rank is here; then rank 0 writes and publishes "checkpoint". */
npo_err npo_fit_finish(npo_fit *fit) NPO_MUST_CHECK;

/* What npo_checkpoint_meta holds, shared with the classifier's training. */
npo_err npo_fit_meta(npo_context *ctx, int64_t micro_batch, int64_t step,
                     npo_checkpoint_meta *ret_meta) NPO_MUST_CHECK;
/* Checks that a checkpoint stands where the task goes on. */
npo_err npo_fit_check_step(npo_context *ctx, const npo_checkpoint_meta *meta,
                           int64_t first_step) NPO_MUST_CHECK;
npo_train_hyper npo_fit_hyper(const npo_job *job);

#endif
