#include "worker/tasks/task.h"

#include "common/crash.h"
#include "worker/tasks/kinds.h"

#include <string.h>

enum { ANY_RECIPE = -1 };

static const struct {
    const char *kind;
    int recipe;
    npo_err (*run)(npo_context *ctx);
} kinds[] = {
    {"generate", NPO_RECIPE_SELF_NPO, npo_kind_generate},
    {"truncate", NPO_RECIPE_SELF_NPO, npo_kind_truncate},
    {"train", NPO_RECIPE_SELF_NPO, npo_kind_train_self_npo},
    {"train", NPO_RECIPE_DIFFUSION, npo_kind_train_diffusion},
    {"train", NPO_RECIPE_CLASSIFIER, npo_kind_train_classifier},
    {"sample", ANY_RECIPE, npo_kind_sample},
    {"evaluate", ANY_RECIPE, npo_kind_evaluate},
    {"report", ANY_RECIPE, npo_kind_report},
    {"export", ANY_RECIPE, npo_kind_export},
};

npo_err npo_task_run(const npo_task *task, npo_task_cache *cache, const npo_task_services *services,
                     npo_error *error)
{
    npo_error own = {0};
    npo_context ctx = {task, cache, services, error ? error : &own, 0};
    npo_crash_point("task.start");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].kind, task->kind) == 0 &&
            (kinds[i].recipe == ANY_RECIPE || kinds[i].recipe == (int)task->spec->recipe)) {
            npo_context_start(&ctx);
            return kinds[i].run(&ctx);
        }
    return npo_error_set(ctx.error, NPO_E_UNSUPPORTED, "recipe '%s' has no task '%s'",
                         npo_job_recipe_name(task->spec->recipe), task->kind);
}

/* The others can pass: memory, disk, peers, time, a library that met one of them. */
bool npo_task_error_is_final(npo_err code)
{
    static const npo_err final[] = {
        NPO_E_NOT_FOUND, NPO_E_EXISTS,   NPO_E_RANGE,   NPO_E_SHAPE,
        NPO_E_TYPE,      NPO_E_FORMAT,   NPO_E_VERSION, NPO_E_UNSUPPORTED,
        NPO_E_LIMIT,     NPO_E_DIVERGED, NPO_E_REFUSED, NPO_E_USAGE,
    };
    for (size_t i = 0; i < sizeof final / sizeof *final; i++)
        if (final[i] == code)
            return true;
    return false;
}
