/* What a job will be expanded into, counted by kind of task: for `npoctl submit --dry-run`, and for
 * the bound on the number of tasks. server/expand.c makes the tasks themselves. */
#ifndef NPO_PROTO_JOB_PLAN_H
#define NPO_PROTO_JOB_PLAN_H

#include "proto/job.h"

enum { NPO_JOB_PLAN_ROWS_MAX = 8 };

typedef struct {
    const char *kind; /* "generate" */
    int64_t tasks;
    int64_t ranks; /* of each task */
} npo_job_plan_row;

typedef struct {
    int64_t rounds; /* that are still to be done; 0 where the recipe has none */
    int64_t first_step, steps;
    int64_t tasks;
    npo_job_plan_row rows[NPO_JOB_PLAN_ROWS_MAX];
    size_t row_count;
} npo_job_plan;

void npo_job_plan_make(const npo_job *job, npo_job_plan *ret_plan);

#endif
