/* Grids of the samples that the evaluation kept: one a guidance scale, a row a prompt, a column a
 * way of sampling. */
#ifndef NPO_WORKER_TASKS_EVALUATION_REPORT_GRIDS_H
#define NPO_WORKER_TASKS_EVALUATION_REPORT_GRIDS_H

#include "worker/eval/page/page.h"
#include "worker/tasks/evaluation/feature_set.h"
#include "worker/tasks/evaluation/plan.h"

typedef struct {
    char name[64]; /* "grid-scale-2.png": the output and its file */
    char title[96];
    npo_buf png;
} npo_report_grid;

/* *ret_grids [*ret_count] is owned. prompts: [prompt_count]; sample i has prompt i % prompt_count.
 * Errors: NPO_E_FORMAT where a sample to show is missing; NPO_E_NOMEM; those of drawing. */
npo_err npo_report_grids_make(npo_context *ctx, const npo_plan *plan, const npo_features *files,
                              size_t file_count, const char *const *prompts, size_t prompt_count,
                              npo_report_grid **ret_grids, size_t *ret_count) NPO_MUST_CHECK;
void npo_report_grids_free(npo_report_grid *grids, size_t count);

#endif
