/* What an export reads, opened where it lies: no set of weights is loaded. */
#ifndef NPO_WORKER_TASKS_EXPORT_INPUTS_H
#define NPO_WORKER_TASKS_EXPORT_INPUTS_H

#include "worker/model/folder.h"
#include "worker/model/weight_view.h"
#include "worker/tasks/context.h"

typedef struct {
    npo_folder folder; /* the model's */
    npo_layout *layout;
    npo_weight_view *base; /* NULL: the model has no weights, it was trained from random ones */
    npo_weight_view *negative;
    npo_weight_view *positive; /* NULL: not given */
} npo_export_inputs;

/* The task's inputs: "model", "checkpoint" or "negative", and "positive" where there is one. A
 * sentence about a network says which of them it is. Errors: those of opening; NPO_E_NOT_FOUND
 * where a LoRA's model has no weights. */
npo_err npo_export_inputs_open(npo_context *ctx, npo_export_inputs *ret_inputs) NPO_MUST_CHECK;
void npo_export_inputs_fini(npo_export_inputs *inputs);

#endif
