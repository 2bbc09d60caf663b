/* The memory of training, planned before it is allocated: what is in use, sets of weights with
 * gradients and the optimizer's state, and what is left for the graph, which computes blocks twice
 * rather than exceed it. */
#ifndef NPO_TRAIN_BUDGET_H
#define NPO_TRAIN_BUDGET_H

#include "worker/train/step.h"

typedef struct {
    size_t given; /* bytes the process may use */
    size_t used;  /* now, but for the activations that graphs share */
    size_t sets;
} npo_budget;

/* given: bytes, 0: what the machine has. Sets options->memory_bytes. Errors: NPO_E_NOMEM where the
 * sets alone do not fit. */
npo_err npo_budget_plan(size_t given, npo_trainer_options *options, npo_budget *ret_budget,
                        npo_error *error) NPO_MUST_CHECK;
/* What the process takes at most, with the graph as it is planned. */
size_t npo_budget_total(const npo_budget *budget, const npo_plan_info *plan);

enum { NPO_BUDGET_TEXT_MAX = 240 };
/* "memory: 13.10 of 20.00 GiB: 0.31 in use, ...". Returns text. */
const char *npo_budget_format(const npo_budget *budget, const npo_plan_info *plan,
                              char text[NPO_BUDGET_TEXT_MAX]);

#endif
