#include "tests/unit/proto/job_text.h"

#include "proto/job_plan.h"

static int64_t planned(const npo_job_plan *plan, const char *kind)
{
    for (size_t i = 0; i < plan->row_count; i++)
        if (strcmp(plan->rows[i].kind, kind) == 0)
            return plan->rows[i].tasks;
    return 0;
}

static void test_job_plan_counts_tasks(void **state)
{
    npo_job job;
    npo_job_plan plan;
    cJSON *json = job_with(NPO_RECIPE_SELF_NPO,
                           PAIRS("workers", "2", "preview_rounds", "4", "train.steps", "240",
                                 "evaluate.classifier", "\"c\"", "evaluate.data", "\"d\""));
    read_ok(json, &job);
    npo_job_plan_make(&job, &plan);
    assert_int_equal(plan.rounds, 10);
    assert_int_equal(planned(&plan, "generate"), 20);
    assert_int_equal(planned(&plan, "truncate"), 20);
    assert_int_equal(planned(&plan, "train"), 10);
    assert_int_equal(planned(&plan, "sample"), 2);
    assert_int_equal(planned(&plan, "export"), 1);
    assert_int_equal(planned(&plan, "evaluate"), 2);
    assert_int_equal(planned(&plan, "report"), 1);
    assert_int_equal(plan.tasks, 56);
    cJSON_Delete(json);
}

static void test_job_plan_of_other_recipes(void **state)
{
    static const struct {
        npo_recipe recipe;
        int64_t rounds, tasks;
    } rows[] = {
        {NPO_RECIPE_DIFFUSION, 36, 37}, {NPO_RECIPE_CLASSIFIER, 5, 6}, {NPO_RECIPE_SAMPLE, 0, 1},
        {NPO_RECIPE_EVALUATE, 0, 2},    {NPO_RECIPE_EXPORT, 0, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        npo_job job;
        npo_job_plan plan;
        cJSON *json = parse(smallest[rows[i].recipe]);
        read_ok(json, &job);
        npo_job_plan_make(&job, &plan);
        assert_int_equal(plan.rounds, rows[i].rounds);
        assert_int_equal(plan.tasks, rows[i].tasks);
        cJSON_Delete(json);
    }
}

static void test_job_plan_of_a_continued_fused_job(void **state)
{
    npo_job job;
    npo_job_plan plan;
    cJSON *json = job_with(NPO_RECIPE_SELF_NPO,
                           PAIRS("pipeline", "\"fused\"", "preview_rounds", "2", "from",
                                 "{\"job\": 1, \"step\": 75, \"checkpoint\": \"" HASH "\"}"));
    read_ok(json, &job);
    npo_job_plan_make(&job, &plan);
    assert_int_equal(plan.rounds, 3);
    assert_int_equal(plan.first_step, 75);
    assert_int_equal(planned(&plan, "train"), 3);
    assert_int_equal(planned(&plan, "sample"), 2);
    assert_int_equal(planned(&plan, "generate"), 0);
    cJSON_Delete(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_job_plan_counts_tasks),
        cmocka_unit_test(test_job_plan_of_other_recipes),
        cmocka_unit_test(test_job_plan_of_a_continued_fused_job),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
