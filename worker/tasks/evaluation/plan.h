/* The cells of an evaluation and which task samples what. A unit is one batch of one cell; unit u,
 * counted over all cells, belongs to shard u % shards, so that batches are the same whatever the
 * number of shards. */
#ifndef NPO_WORKER_TASKS_EVALUATION_PLAN_H
#define NPO_WORKER_TASKS_EVALUATION_PLAN_H

#include "worker/eval/results.h"
#include "worker/tasks/context.h"

#define NPO_PLAN_CELLS_MAX 4096

typedef struct {
    npo_cell_key *cells; /* [count], owned */
    size_t count;
    int64_t samples; /* of each cell */
    int64_t batch;   /* of a unit; the last of a cell may be smaller */
    int64_t units;   /* of one cell */
} npo_plan;

/* From the job's "evaluate" section: for each seed no guidance; for each scale but 1 plain guidance
 * and Self-NPO with each beta. Errors: NPO_E_LIMIT, NPO_E_NOMEM. */
npo_err npo_plan_make(npo_context *ctx, npo_plan *ret_plan) NPO_MUST_CHECK;
void npo_plan_fini(npo_plan *plan);

#endif
