/* The student's training graph of one micro-batch: network, the per-sample mixture that makes the
 * prediction comparable (worker/diffusion/trajectory/batch.h), loss. Inputs x, t, context, target,
 * ca, cb; outputs "prediction" and "loss". */
#ifndef NPO_TRAIN_OBJECTIVE_H
#define NPO_TRAIN_OBJECTIVE_H

#include "worker/train/step.h"

typedef struct {
    npo_graph *graph;                          /* owned, planned */
    float *x, *t, *context, *target, *ca, *cb; /* inputs, owned by the graph; context may be NULL */
    float *pooled, *time_ids;                  /* inputs of a network with added conditioning */
    const float *prediction, *loss;            /* outputs */
    npo_plan_info info;
} npo_objective;

/* Errors: those of recording and planning. */
npo_err npo_objective_init(npo_objective *objective, const npo_trainer_options *options,
                           npo_error *error) NPO_MUST_CHECK;
void npo_objective_fini(npo_objective *objective);

#endif
