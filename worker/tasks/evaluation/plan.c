#include "worker/tasks/evaluation/plan.h"

#include "worker/tasks/sampling/drawer.h"

#include <stdlib.h>

static void add(npo_plan *plan, npo_method method, double scale, double beta, int64_t seed)
{
    plan->cells[plan->count++] = (npo_cell_key){method, scale, beta, seed};
}

static void add_seed(npo_plan *plan, const npo_job_evaluate *evaluate, int64_t seed)
{
    const cJSON *scale, *beta;
    add(plan, NPO_METHOD_NONE, 1, 0, seed);
    cJSON_ArrayForEach(scale, evaluate->scales)
    {
        if (scale->valuedouble == 1)
            continue;
        add(plan, NPO_METHOD_PLAIN, scale->valuedouble, 0, seed);
        cJSON_ArrayForEach(beta, evaluate->betas)
            add(plan, NPO_METHOD_SELF_NPO, scale->valuedouble, beta->valuedouble, seed);
    }
}

npo_err npo_plan_make(npo_context *ctx, npo_plan *ret_plan)
{
    const npo_job_evaluate *evaluate = &ctx->task->spec->evaluate;
    size_t scales = (size_t)cJSON_GetArraySize(evaluate->scales);
    size_t betas = (size_t)cJSON_GetArraySize(evaluate->betas);
    size_t seeds = (size_t)cJSON_GetArraySize(evaluate->seeds);
    if (scales > NPO_PLAN_CELLS_MAX || betas > NPO_PLAN_CELLS_MAX ||
        seeds > NPO_RESULTS_SEEDS_MAX || (scales * (betas + 1) + 1) * seeds > NPO_PLAN_CELLS_MAX)
        return npo_error_set(
            ctx->error, NPO_E_LIMIT,
            "evaluate asks for %zu scales, %zu betas and %zu seeds, expected at most "
            "%d seeds and %d cells in all",
            scales, betas, seeds, NPO_RESULTS_SEEDS_MAX, NPO_PLAN_CELLS_MAX);
    int64_t batch = ctx->task->spec->sample.batch;
    npo_plan plan = {.samples = evaluate->samples, .batch = batch ? batch : NPO_DRAWER_BATCH};
    plan.units = (plan.samples + plan.batch - 1) / plan.batch;
    plan.cells = calloc((scales * (betas + 1) + 1) * seeds, sizeof *plan.cells);
    if (!plan.cells)
        return npo_context_fail(ctx, NPO_E_NOMEM, "cells");
    const cJSON *seed;
    cJSON_ArrayForEach(seed, evaluate->seeds) add_seed(&plan, evaluate, (int64_t)seed->valuedouble);
    *ret_plan = plan;
    return NPO_OK;
}

void npo_plan_fini(npo_plan *plan)
{
    free(plan->cells);
    *plan = (npo_plan){0};
}
