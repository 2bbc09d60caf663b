/* Jobs of two ranks, each rank a process of its own, gradients through gloo. This process starts no
 * threads: it forks. */
#include "tests/unit/tasks/job_text.h"
#include "worker/diffusion/trajectory/pool.h"

static const char base_job[] =
    "{'recipe':'self-npo','workers':2,'seed':3,'round_steps':1,"
    "'prompts':['a photo of a circle','a photo of a cross','a photo of a bar'],"
    "'train':{'steps':2,'batch':8,'micro_batch':2,'lr':0.001}}";

static void run(const char *name, const char *changes)
{
    char all[1024];
    local_options options = {.threads = 1, .fork_all = true};
    npo_error error = {0};
    snprintf(all, sizeof all, "model=%s %s", model_path("tiny"), changes);
    cJSON *spec = job_json(base_job, all);
    if (local_job_run(spec, job_path("%s", name), &options, &error) != NPO_OK)
        fail_msg("%s: %s", name, error.text);
    cJSON_Delete(spec);
}

static void test_gang_staged_is_fused(void **state)
{
    run("staged", "");
    run("fused", "pipeline=fused");
    assert_same_file(job_path("staged/last-checkpoint"), job_path("fused/last-checkpoint"));
    /* Tasks of a staged round: two generate, two truncate, one train. */
    assert_same_file(job_path("staged/task-7/pool"), job_path("fused/task-1/pool.0"));
    assert_same_file(job_path("staged/task-8/pool"), job_path("fused/task-1/pool.1"));
}

static void test_gang_repeats_its_bytes(void **state)
{
    run("once", "round_steps=2");
    run("twice", "round_steps=2");
    assert_same_file(job_path("once/last-checkpoint"), job_path("twice/last-checkpoint"));
}

static void load(const char *path, npo_pool *pool)
{
    npo_error error = {0};
    if (npo_pool_load(path, (npo_latent_shape){8, 8, 1}, pool, &error) != NPO_OK)
        fail_msg("%s", error.text);
}

static void test_gang_shards_make_the_trajectories_of_one(void **state)
{
    run("two", "round_steps=2");
    run("one", "round_steps=2 workers=1");
    npo_pool whole, parts[2], gathered;
    load(job_path("one/task-0/pool"), &whole);
    load(job_path("two/task-0/pool"), &parts[0]);
    load(job_path("two/task-1/pool"), &parts[1]);
    assert_int_equal(whole.count, 16);
    assert_int_equal(parts[0].count, 8);
    assert_int_equal(parts[0].slot[4], 8); /* the first of rank 0 in the second step */
    assert_int_equal(npo_pool_gather(parts, 2, 16, whole.slot, &gathered, NULL), NPO_OK);
    assert_memory_equal(gathered.x, whole.x, 16 * 64 * sizeof *whole.x);
    assert_memory_equal(gathered.prompt, whole.prompt, 16 * sizeof *whole.prompt);
    npo_pool_fini(&whole);
    npo_pool_fini(&parts[0]);
    npo_pool_fini(&parts[1]);
    npo_pool_fini(&gathered);
}

static void test_gang_trains_diffusion(void **state)
{
    static const char diffusion_job[] =
        "{'recipe':'diffusion','workers':2,'seed':3,'round_steps':2,'init_random':true,"
        "'prompts':['a photo of a circle','a photo of a cross','a photo of a bar'],"
        "'train':{'steps':2,'batch':8,'micro_batch':4,'warmup_steps':0}}";
    char changes[1024];
    local_options options = {.threads = 1, .fork_all = true};
    npo_error error = {0};
    snprintf(changes, sizeof changes, "model=%s data=%s", model_path("no-weights"),
             model_path("data"));
    cJSON *spec = job_json(diffusion_job, changes);
    if (local_job_run(spec, job_path("diffusion"), &options, &error) != NPO_OK)
        fail_msg("%s", error.text);
    cJSON_Delete(spec);
    assert_true(
        npo_file_exists(job_path("diffusion/last-model/unet/diffusion_pytorch_model.safetensors")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gang_staged_is_fused),
        cmocka_unit_test(test_gang_repeats_its_bytes),
        cmocka_unit_test(test_gang_shards_make_the_trajectories_of_one),
        cmocka_unit_test(test_gang_trains_diffusion),
    };
    return cmocka_run_group_tests_name("gang", tests, job_dir_setup, job_dir_teardown);
}
