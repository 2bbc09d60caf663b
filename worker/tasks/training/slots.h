/* Which trajectory slots a shard or rank has. A job has round_steps * batch slots; slot s feeds
 * step r * round_steps + s / batch of round r, and its place s % batch belongs to rank place /
 * (batch / ranks). So a shard's slots, ascending, are round_steps rows of batch / ranks neighbours,
 * and step i has row i % round_steps. */
#ifndef NPO_WORKER_TASKS_TRAINING_SLOTS_H
#define NPO_WORKER_TASKS_TRAINING_SLOTS_H

#include "worker/tasks/context.h"

typedef struct {
    int64_t local;             /* slots of this shard in one step */
    int64_t round_steps;       /* of the job */
    int64_t micro_batch;       /* of one forward pass */
    int64_t first_step, steps; /* of the job, this task's part */
    int64_t *slots;            /* [count], ascending */
    int64_t count;             /* round_steps * local */
} npo_slots;

/* part of `parts`. Reads params.first_step and params.steps. Errors: NPO_E_USAGE for steps that are
 * missing or more than a round has, or a batch that the parts do not divide; NPO_E_NOMEM. */
npo_err npo_slots_init(npo_context *ctx, int part, int parts, npo_slots *ret_slots) NPO_MUST_CHECK;
void npo_slots_fini(npo_slots *slots);
/* Index in `slots` where a step's begin. */
int64_t npo_slots_row(const npo_slots *slots, int64_t step);
/* The slots of the task's own steps, ascending: ret_slots [steps * local]. */
void npo_slots_used(const npo_slots *slots, int64_t *ret_slots);

#endif
