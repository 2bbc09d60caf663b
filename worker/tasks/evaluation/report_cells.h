/* From files of features to the cells of an evaluation. */
#ifndef NPO_WORKER_TASKS_EVALUATION_REPORT_CELLS_H
#define NPO_WORKER_TASKS_EVALUATION_REPORT_CELLS_H

#include "worker/eval/frechet.h"
#include "worker/tasks/evaluation/feature_set.h"
#include "worker/tasks/evaluation/plan.h"

/* All shards put together, ordered by cell and sample. */
typedef struct {
    const npo_plan *plan;
    float *features, *logits; /* [cells * samples, D], [cells * samples, K] */
    double *confidence;       /* [cells * samples] */
    npo_cell *cells;          /* [plan->count] */
} npo_report_cells;

/* files: [file_count]. real: of real images. prompt_count: prompts take turns over the samples and
 * name the classes. Errors: NPO_E_FORMAT where samples are missing or stand twice; NPO_E_RANGE for
 * fewer than two samples; NPO_E_DIVERGED; NPO_E_NOMEM. Borrows plan for ret_cells' life. */
npo_err npo_report_cells_make(npo_context *ctx, const npo_plan *plan, const npo_features *files,
                              size_t file_count, const npo_gaussian *real, size_t prompt_count,
                              npo_report_cells *ret_cells) NPO_MUST_CHECK;
void npo_report_cells_fini(npo_report_cells *cells);

#endif
