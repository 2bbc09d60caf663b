#include "worker/train/budget.h"

#include "common/memory.h"

#include <stdio.h>

static double gib(size_t bytes)
{
    return (double)bytes / (double)(1 << 30);
}

npo_err npo_budget_plan(size_t given, npo_trainer_options *options, npo_budget *ret_budget,
                        npo_error *error)
{
    npo_memory memory = npo_memory_now(given, npo_backend_arena_bytes(options->backend));
    npo_budget budget = {memory.given, memory.used, npo_trainer_set_bytes(options)};
    size_t fixed = budget.used + budget.sets;
    if (budget.given <= fixed)
        return npo_error_set(error, NPO_E_NOMEM,
                             "memory of %.2f GiB: expected more than %.2f GiB, which weights, "
                             "gradients and the optimizer's state take (%.2f GiB) with what is in "
                             "use (%.2f GiB)",
                             gib(budget.given), gib(fixed), gib(budget.sets), gib(budget.used));
    options->memory_bytes = budget.given - fixed;
    *ret_budget = budget;
    return NPO_OK;
}

size_t npo_budget_total(const npo_budget *budget, const npo_plan_info *plan)
{
    return budget->used + budget->sets + plan->arena_bytes + plan->private_bytes;
}

const char *npo_budget_format(const npo_budget *budget, const npo_plan_info *plan,
                              char text[NPO_BUDGET_TEXT_MAX])
{
    snprintf(text, NPO_BUDGET_TEXT_MAX,
             "memory: %.2f of %.2f GiB: %.2f in use, %.2f of weights, gradients and optimizer, "
             "%.2f of activations with %d of %d blocks computed twice",
             gib(npo_budget_total(budget, plan)), gib(budget->given), gib(budget->used),
             gib(budget->sets), gib(plan->arena_bytes + plan->private_bytes),
             plan->recomputed_blocks, plan->blocks);
    return text;
}
