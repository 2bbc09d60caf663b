#include "proto/job_plan.h"
#include "server/expand.h"
#include "tests/unit/cmocka.h"

#include "common/bounds.h"
#include "common/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define C "cccccccccccccccccccccccccccccccc"
#define D "dddddddddddddddddddddddddddddddd"
#define E "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"

/* "3 generate r1 1/2 x1 >0 {...} model=a checkpoint=2.checkpoint": index, kind, round, shard,
 * ranks, steps behind it, params, inputs (hash by its letter, or source.output, and @rank). */
static void print_task(npo_buf *out, size_t index, const npo_expand_task *task)
{
    npo_buf_printf(out, "%zu %s r%lld %d/%d x%d >%lld %s", index, task->kind,
                   (long long)task->round, task->shard, task->shards, task->world,
                   (long long)task->step_end, task->params);
    for (size_t i = 0; i < task->input_count; i++) {
        const npo_expand_input *input = &task->inputs[i];
        npo_buf_printf(out, " %s=", input->name);
        if (input->hash)
            npo_buf_printf(out, "%c", input->hash[0]);
        else
            npo_buf_printf(out, "%lld.%s", (long long)input->source, input->output);
        if (input->rank >= 0)
            npo_buf_printf(out, "@%d", input->rank);
    }
    npo_buf_str(out, "\n");
}

static void check_order(const npo_expansion *expansion)
{
    for (size_t i = 0; i < expansion->count; i++)
        for (size_t k = 0; k < expansion->tasks[i].input_count; k++)
            assert_true(expansion->tasks[i].inputs[k].source < (int64_t)i);
}

/* `npoctl submit --dry-run` counts the same tasks. */
static void check_plan(const npo_job *job, const npo_expansion *expansion)
{
    npo_job_plan plan;
    npo_job_plan_make(job, &plan);
    assert_int_equal(plan.tasks, expansion->count);
    for (size_t row = 0; row < plan.row_count; row++) {
        int64_t count = 0;
        for (size_t i = 0; i < expansion->count; i++)
            count += strcmp(expansion->tasks[i].kind, plan.rows[row].kind) == 0 &&
                     expansion->tasks[i].world == plan.rows[row].ranks;
        assert_int_equal(count, plan.rows[row].tasks);
    }
}

static void assert_expands(const char *json, const char *expected)
{
    npo_job job;
    npo_error error = {0};
    npo_expansion expansion = {0};
    npo_buf out = NPO_BUF_INIT;
    cJSON *tree = cJSON_Parse(json);
    assert_non_null(tree);
    if (npo_job_read(tree, &job, &error) != NPO_OK ||
        npo_expand(&job, &expansion, &error) != NPO_OK)
        fail_msg("%s", error.text);
    for (size_t i = 0; i < expansion.count; i++)
        print_task(&out, i, &expansion.tasks[i]);
    if (strcmp(out.data, expected) != 0)
        fail_msg("found\n%sexpected\n%s", out.data, expected);
    check_order(&expansion);
    check_plan(&job, &expansion);
    npo_buf_fini(&out);
    npo_expansion_fini(&expansion);
    cJSON_Delete(tree);
}

static void test_expand_staged_self_npo(void **state)
{
    assert_expands(
        "{\"recipe\":\"self-npo\",\"model\":{\"artifact\":\"" A "\"},\"prompts\":[\"p\"],"
        "\"workers\":2,\"round_steps\":2,\"train\":{\"steps\":3,\"batch\":4}}",
        "0 generate r0 0/2 x1 >0 {\"first_step\":0,\"steps\":2} model=a\n"
        "1 generate r0 1/2 x1 >0 {\"first_step\":0,\"steps\":2} model=a\n"
        "2 truncate r0 0/2 x1 >0 {\"first_step\":0,\"steps\":2} model=a pool=0.pool\n"
        "3 truncate r0 1/2 x1 >0 {\"first_step\":0,\"steps\":2} model=a pool=1.pool\n"
        "4 train r0 0/2 x2 >2 {\"first_step\":0,\"steps\":2} model=a segment.0=2.segment@0 "
        "segment.1=3.segment@1\n"
        "5 generate r1 0/2 x1 >0 {\"first_step\":2,\"steps\":1} model=a checkpoint=4.checkpoint "
        "pool=2.pool\n"
        "6 generate r1 1/2 x1 >0 {\"first_step\":2,\"steps\":1} model=a checkpoint=4.checkpoint "
        "pool=3.pool\n"
        "7 truncate r1 0/2 x1 >0 {\"first_step\":2,\"steps\":1} model=a checkpoint=4.checkpoint "
        "pool=5.pool\n"
        "8 truncate r1 1/2 x1 >0 {\"first_step\":2,\"steps\":1} model=a checkpoint=4.checkpoint "
        "pool=6.pool\n"
        "9 train r1 0/2 x2 >3 {\"first_step\":2,\"steps\":1} model=a checkpoint=4.checkpoint "
        "segment.0=7.segment@0 segment.1=8.segment@1\n"
        "10 export r1 0/1 x1 >0 {\"step\":3} model=a checkpoint=9.checkpoint\n");
}

static void test_expand_stale_generation_uses_the_round_before(void **state)
{
    assert_expands(
        "{\"recipe\":\"self-npo\",\"model\":{\"artifact\":\"" A "\"},\"data\":{\"artifact\":\"" B
        "\"},\"staleness\":1,\"round_steps\":1,\"generate\":{\"starts\":\"latents\"},"
        "\"train\":{\"steps\":3,\"batch\":1}}",
        "0 generate r0 0/1 x1 >0 {\"first_step\":0,\"steps\":1} model=a data=b\n"
        "1 truncate r0 0/1 x1 >0 {\"first_step\":0,\"steps\":1} model=a pool=0.pool data=b\n"
        "2 train r0 0/1 x1 >1 {\"first_step\":0,\"steps\":1} model=a segment.0=1.segment@0 data=b\n"
        "3 generate r1 0/1 x1 >0 {\"first_step\":1,\"steps\":1} model=a pool=1.pool data=b\n"
        "4 truncate r1 0/1 x1 >0 {\"first_step\":1,\"steps\":1} model=a pool=3.pool data=b\n"
        "5 train r1 0/1 x1 >2 {\"first_step\":1,\"steps\":1} model=a checkpoint=2.checkpoint "
        "segment.0=4.segment@0 data=b\n"
        "6 generate r2 0/1 x1 >0 {\"first_step\":2,\"steps\":1} model=a checkpoint=2.checkpoint "
        "pool=4.pool data=b\n"
        "7 truncate r2 0/1 x1 >0 {\"first_step\":2,\"steps\":1} model=a checkpoint=2.checkpoint "
        "pool=6.pool data=b\n"
        "8 train r2 0/1 x1 >3 {\"first_step\":2,\"steps\":1} model=a checkpoint=5.checkpoint "
        "segment.0=7.segment@0 data=b\n"
        "9 export r2 0/1 x1 >0 {\"step\":3} model=a checkpoint=8.checkpoint\n");
}

static void test_expand_fused_self_npo_that_continues(void **state)
{
    assert_expands(
        "{\"recipe\":\"self-npo\",\"pipeline\":\"fused\",\"model\":{\"artifact\":\"" A
        "\"},\"prompts\":[\"p\"],\"workers\":2,\"round_steps\":2,\"train\":{\"steps\":6,\"batch\":"
        "4},"
        "\"from\":{\"job\":1,\"step\":2,\"checkpoint\":\"" C "\",\"pools\":[\"" D "\",\"" E "\"]}}",
        "0 train r1 0/2 x2 >4 {\"fused\":true,\"first_step\":2,\"steps\":2} model=a checkpoint=c "
        "pool.0=d pool.1=e\n"
        "1 train r2 0/2 x2 >6 {\"fused\":true,\"first_step\":4,\"steps\":2} model=a "
        "checkpoint=0.checkpoint pool.0=0.pool.0@0 pool.1=0.pool.1@1\n"
        "2 export r2 0/1 x1 >0 {\"step\":6} model=a checkpoint=1.checkpoint\n");
}

static void test_expand_staged_self_npo_that_continues(void **state)
{
    assert_expands(
        "{\"recipe\":\"self-npo\",\"model\":{\"artifact\":\"" A
        "\"},\"prompts\":[\"p\"],\"round_steps\":2,\"train\":{\"steps\":4,\"batch\":4},"
        "\"from\":{\"job\":1,\"step\":2,\"checkpoint\":\"" C "\",\"pools\":[\"" D "\",\"" E "\"]}}",
        "0 generate r1 0/1 x1 >0 {\"first_step\":2,\"steps\":2} model=a checkpoint=c pool.0=d "
        "pool.1=e\n"
        "1 truncate r1 0/1 x1 >0 {\"first_step\":2,\"steps\":2} model=a checkpoint=c pool=0.pool\n"
        "2 train r1 0/1 x1 >4 {\"first_step\":2,\"steps\":2} model=a checkpoint=c "
        "segment.0=1.segment@0\n"
        "3 export r1 0/1 x1 >0 {\"step\":4} model=a checkpoint=2.checkpoint\n");
}

static void test_expand_diffusion_with_previews(void **state)
{
    assert_expands(
        "{\"recipe\":\"diffusion\",\"model\":{\"artifact\":\"" A "\"},\"data\":{\"artifact\":\"" B
        "\"},\"workers\":3,\"round_steps\":10,\"preview_rounds\":2,"
        "\"train\":{\"steps\":30,\"batch\":3,\"warmup_steps\":0}}",
        "0 train r0 0/3 x3 >10 {\"first_step\":0,\"steps\":10} model=a data=b\n"
        "1 train r1 0/3 x3 >20 {\"first_step\":10,\"steps\":10} model=a checkpoint=0.checkpoint "
        "data=b\n"
        "2 sample r1 0/1 x1 >0 {\"preview\":true,\"step\":20} model=a checkpoint=1.checkpoint "
        "data=b\n"
        "3 train r2 0/3 x3 >30 {\"first_step\":20,\"steps\":10} model=a checkpoint=1.checkpoint "
        "data=b\n"
        "4 export r2 0/1 x1 >0 {\"step\":30} model=a checkpoint=3.checkpoint\n");
}

static void test_expand_self_npo_with_evaluation(void **state)
{
    assert_expands(
        "{\"recipe\":\"self-npo\",\"pipeline\":\"fused\",\"model\":{\"artifact\":\"" A
        "\"},\"data\":{\"artifact\":\"" B "\"},\"prompts\":[\"p\"],\"workers\":2,\"round_steps\":4,"
        "\"train\":{\"steps\":4,\"batch\":4},\"evaluate\":{\"classifier\":{\"artifact\":\"" C
        "\"},\"data\":{\"artifact\":\"" D "\"}}}",
        "0 train r0 0/2 x2 >4 {\"fused\":true,\"first_step\":0,\"steps\":4} model=a\n"
        "1 export r0 0/1 x1 >0 {\"step\":4} model=a checkpoint=0.checkpoint\n"
        "2 evaluate r0 0/2 x1 >0 {} model=a negative=1.model classifier=c data=d\n"
        "3 evaluate r0 1/2 x1 >0 {} model=a negative=1.model classifier=c data=d\n"
        "4 report r0 0/1 x1 >0 {} features.0=2.features.0 features.1=3.features.1 classifier=c "
        "data=d\n");
}

static void test_expand_single_recipes(void **state)
{
    assert_expands("{\"recipe\":\"sample\",\"model\":{\"artifact\":\"" A
                   "\"},\"negative\":{\"artifact\":\"" B "\"},\"prompts\":[\"p\"]}",
                   "0 sample r0 0/1 x1 >0 {} model=a negative=b\n");
    assert_expands("{\"recipe\":\"export\",\"model\":{\"artifact\":\"" A
                   "\"},\"negative\":{\"artifact\":\"" B "\"}}",
                   "0 export r0 0/1 x1 >0 {} model=a negative=b\n");
    assert_expands("{\"recipe\":\"evaluate\",\"model\":{\"artifact\":\"" A
                   "\"},\"negative\":{\"artifact\":\"" B "\"},\"data\":{\"artifact\":\"" D
                   "\"},\"evaluate\":{\"classifier\":{\"artifact\":\"" C "\"}}}",
                   "0 evaluate r0 0/1 x1 >0 {} model=a negative=b classifier=c data=d\n"
                   "1 report r0 0/1 x1 >0 {} features.0=0.features.0 classifier=c data=d\n");
    assert_expands("{\"recipe\":\"classifier\",\"data\":{\"artifact\":\"" B
                   "\"},\"round_steps\":5,\"train\":{\"steps\":6,\"batch\":2}}",
                   "0 train r0 0/1 x1 >5 {\"first_step\":0,\"steps\":5} data=b\n"
                   "1 train r1 0/1 x1 >6 {\"first_step\":5,\"steps\":1} checkpoint=0.checkpoint "
                   "data=b\n"
                   "2 export r1 0/1 x1 >0 {\"step\":6} checkpoint=1.checkpoint\n");
}

static npo_err expand_job(npo_job *job, npo_error *error)
{
    npo_expansion expansion = {0};
    npo_err err = npo_expand(job, &expansion, error);
    if (!err)
        npo_expansion_fini(&expansion);
    return err;
}

static void test_expand_refuses_too_many_tasks(void **state)
{
    npo_error error = {0};
    npo_job job = {.recipe = NPO_RECIPE_DIFFUSION, .workers = 1, .round_steps = 1};
    job.train.steps = NPO_TASKS_PER_JOB_MAX;
    assert_int_equal(expand_job(&job, &error), NPO_E_LIMIT);
    assert_non_null(strstr(error.text, "round_steps"));
    job.train.steps = NPO_TASKS_PER_JOB_MAX - 1; /* and the export */
    assert_int_equal(expand_job(&job, &error), NPO_OK);
}

static void test_expand_refuses_a_job_with_nothing_left_to_train(void **state)
{
    npo_error error = {0};
    cJSON *from = cJSON_Parse("{\"job\":1,\"step\":10,\"checkpoint\":\"" C "\",\"pools\":[]}");
    npo_job job = {.recipe = NPO_RECIPE_DIFFUSION, .workers = 1, .round_steps = 5, .from = from};
    job.train.steps = 10;
    assert_int_equal(expand_job(&job, &error), NPO_E_USAGE);
    assert_non_null(strstr(error.text, "more than the 10 steps"));
    cJSON_Delete(from);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_expand_staged_self_npo),
        cmocka_unit_test(test_expand_stale_generation_uses_the_round_before),
        cmocka_unit_test(test_expand_fused_self_npo_that_continues),
        cmocka_unit_test(test_expand_staged_self_npo_that_continues),
        cmocka_unit_test(test_expand_diffusion_with_previews),
        cmocka_unit_test(test_expand_self_npo_with_evaluation),
        cmocka_unit_test(test_expand_single_recipes),
        cmocka_unit_test(test_expand_refuses_too_many_tasks),
        cmocka_unit_test(test_expand_refuses_a_job_with_nothing_left_to_train),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
