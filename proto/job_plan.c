#include "proto/job_plan.h"

#include <assert.h>

static void add(npo_job_plan *plan, const char *kind, int64_t tasks, int64_t ranks)
{
    if (tasks == 0)
        return;
    assert(plan->row_count < NPO_JOB_PLAN_ROWS_MAX);
    plan->rows[plan->row_count++] = (npo_job_plan_row){kind, tasks, ranks};
    plan->tasks += tasks;
}

static void add_rounds(const npo_job *job, npo_job_plan *plan)
{
    int64_t per_round = job->round_steps;
    int64_t first_round = (plan->first_step + per_round - 1) / per_round;
    plan->rounds = (job->train.steps - plan->first_step + per_round - 1) / per_round;
    int64_t last_round = first_round + plan->rounds;
    plan->steps = job->train.steps;
    if (job->recipe == NPO_RECIPE_SELF_NPO && job->pipeline == NPO_PIPELINE_STAGED) {
        add(plan, "generate", plan->rounds * job->workers, 1);
        add(plan, "truncate", plan->rounds * job->workers, 1);
    }
    add(plan, "train", plan->rounds, job->workers);
    if (job->preview_rounds > 0)
        add(plan, "sample", last_round / job->preview_rounds - first_round / job->preview_rounds,
            1);
    add(plan, "export", 1, 1);
}

void npo_job_plan_make(const npo_job *job, npo_job_plan *ret_plan)
{
    *ret_plan = (npo_job_plan){0};
    ret_plan->first_step = npo_json_int(job->from, "step", 0);
    if (npo_job_is_training(job))
        add_rounds(job, ret_plan);
    if (job->recipe == NPO_RECIPE_SAMPLE)
        add(ret_plan, "sample", 1, 1);
    if (job->recipe == NPO_RECIPE_EXPORT)
        add(ret_plan, "export", 1, 1);
    if (job->has_evaluate) {
        add(ret_plan, "evaluate", job->workers, 1);
        add(ret_plan, "report", 1, 1);
    }
}
