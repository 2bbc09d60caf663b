/* The tasks of recipe self-npo from job to checkpoint, one rank, in this process. */
#include "tests/unit/tasks/job_text.h"
#include "worker/diffusion/trajectory/pool.h"
#include "worker/train/checkpoint.h"

static const char base_job[] =
    "{'recipe':'self-npo','workers':1,'seed':3,'round_steps':1,"
    "'prompts':['a photo of a circle','a photo of a cross','a photo of a bar'],"
    "'train':{'steps':3,'batch':4,'micro_batch':2,'lr':0.001}}";

static void run(const char *name, const char *changes, const local_options *options)
{
    char all[1024];
    local_options one = {.threads = 1};
    npo_error error = {0};
    snprintf(all, sizeof all, "model=%s %s", model_path("tiny"), changes);
    cJSON *spec = job_json(base_job, all);
    if (local_job_run(spec, job_path("%s", name), options ? options : &one, &error) != NPO_OK)
        fail_msg("%s: %s", name, error.text);
    cJSON_Delete(spec);
}

/* Staged with rounds of one step and fused give the same bytes, state and trajectories. */
static void check_staged_is_fused(const char *changes)
{
    char fused[512];
    static int number;
    const char *a = job_path("staged-%d", number), *b = job_path("fused-%d", number);
    char first[64], second[64];
    snprintf(first, sizeof first, "staged-%d", number);
    snprintf(second, sizeof second, "fused-%d", number++);
    snprintf(fused, sizeof fused, "pipeline=fused %s", changes);
    run(first, changes, NULL);
    run(second, fused, NULL);
    char x[512], y[512];
    snprintf(x, sizeof x, "%s/last-checkpoint", a);
    snprintf(y, sizeof y, "%s/last-checkpoint", b);
    assert_same_file(x, y);
    snprintf(x, sizeof x, "%s/task-7/pool", a); /* truncate of the third round */
    snprintf(y, sizeof y, "%s/task-2/pool.0", b);
    assert_same_file(x, y);
}

static void test_self_npo_staged_is_fused_from_noise(void **state)
{
    check_staged_is_fused("generate.w_gen=-1");
    check_staged_is_fused("generate.stagger=false train.empty_prompt_share=0.5");
}

static void test_self_npo_staged_is_fused_with_branch(void **state)
{
    check_staged_is_fused("generate.w_gen=-1.5");
}

static void test_self_npo_staged_is_fused_from_latents(void **state)
{
    char changes[600];
    snprintf(changes, sizeof changes, "generate.starts=latents data=%s", model_path("data"));
    check_staged_is_fused(changes);
}

static void test_self_npo_staged_is_fused_full(void **state)
{
    check_staged_is_fused("generate.starts=full");
}

/* Two rounds, and the second one alone from the first one's checkpoint. */
static void check_continues(const char *name, const char *changes)
{
    static const char hash_a[] = "0123456789abcdef0123456789abcdef";
    static const char hash_b[] = "0123456789abcdef0123456789abcdff";
    char all[900], whole[64], half[64], second[64];
    snprintf(whole, sizeof whole, "%swhole", name);
    snprintf(half, sizeof half, "%shalf", name);
    snprintf(second, sizeof second, "%ssecond", name);
    snprintf(all, sizeof all, "round_steps=2 train.steps=4 %s", changes);
    run(whole, all, NULL);
    snprintf(all, sizeof all, "round_steps=2 train.steps=2 %s", changes);
    run(half, all, NULL);
    const char *artifacts[] = {hash_a, job_path("%s/task-2/checkpoint", half), hash_b,
                               job_path("%s/task-1/pool", half), NULL};
    local_options options = {.threads = 1, .artifacts = artifacts};
    snprintf(all, sizeof all,
             "round_steps=2 train.steps=4 %s "
             "from={\"job\":1,\"step\":2,\"checkpoint\":\"%s\",\"pools\":[\"%s\"]}",
             changes, hash_a, hash_b);
    run(second, all, &options);
    assert_same_file(job_path("%s/last-checkpoint", whole), job_path("%s/last-checkpoint", second));
}

#define LORA "train.lora={\"rank\":2,\"targets\":\"linear\"} train.optimizer=adamw8bit"

static void test_self_npo_staged_is_fused_with_a_lora(void **state)
{
    check_staged_is_fused(LORA);
}

static void test_self_npo_staged_is_fused_in_8_bits(void **state)
{
    check_staged_is_fused("train.optimizer=adamw8bit");
}

/* The LoRA alone is in the checkpoint; the export has it by itself and merged. */
static void test_self_npo_trains_and_exports_a_lora(void **state)
{
    npo_checkpoint_meta meta;
    npo_error error = {0};
    run("lora", "preview_rounds=3 sample.steps=2 " LORA, NULL);
    run("full", "", NULL);
    assert_int_equal(npo_checkpoint_read_meta(job_path("lora/last-checkpoint"), &meta, &error),
                     NPO_OK);
    assert_int_equal(meta.lora.rank, 2);
    assert_true(meta.lora.alpha == 2);
    assert_int_equal(meta.optimizer, NPO_OPTIMIZER_ADAMW8BIT);
    assert_true(file_size(job_path("lora/last-checkpoint")) <
                file_size(job_path("full/last-checkpoint")) / 2);
    assert_true(npo_file_exists(job_path("lora/task-9/preview-3.png")));
    assert_true(npo_file_exists(job_path("lora/task-10/lora-peft.safetensors")));
    assert_true(npo_file_exists(job_path("lora/task-10/lora-kohya.safetensors")));
    assert_other_file(job_path("lora/last-model/unet/diffusion_pytorch_model.safetensors"),
                      model_path("tiny/unet/diffusion_pytorch_model.safetensors"));
}

static void test_self_npo_continues_a_lora_bit_for_bit(void **state)
{
    check_continues("lora-", LORA);
}

/* The job names no prompts: they are the data's, in every task. */
static void test_self_npo_with_captions_of_the_data(void **state)
{
    static const char job[] =
        "{'recipe':'self-npo','round_steps':1,'generate':{'starts':'latents'},"
        "'train':{'steps':1,'batch':4,'micro_batch':2}}";
    local_options options = {.threads = 1};
    char changes[1200];
    npo_error error = {0};
    for (int fused = 0; fused < 2; fused++) {
        snprintf(changes, sizeof changes, "model=%s data=%s pipeline=%s", model_path("tiny"),
                 model_path("captions"), fused ? "fused" : "staged");
        cJSON *spec = job_json(job, changes);
        if (local_job_run(spec, job_path("captions-%d", fused), &options, &error) != NPO_OK)
            fail_msg("%s", error.text);
        cJSON_Delete(spec);
    }
    assert_same_file(job_path("captions-0/last-checkpoint"),
                     job_path("captions-1/last-checkpoint"));
}

static void test_self_npo_repeats_its_bytes_warm_and_cold(void **state)
{
    local_options cold = {.threads = 1, .fresh_cache = true};
    run("warm", "round_steps=2 train.steps=4", NULL);
    run("cold", "round_steps=2 train.steps=4", &cold);
    assert_same_file(job_path("warm/last-checkpoint"), job_path("cold/last-checkpoint"));
    run("other-seed", "round_steps=2 train.steps=4 seed=4", NULL);
    assert_other_file(job_path("warm/last-checkpoint"), job_path("other-seed/last-checkpoint"));
}

static void test_self_npo_at_minus_one_never_conditions_the_target(void **state)
{
    run("w-1", "round_steps=3", NULL);
    /* 12 slots: truncate evaluates each once. */
    assert_true(file_has(job_path("w-1/task-1/metrics.0"),
                         "\"phase\": \"truncate\", \"round\": 0, \"conditional\": 0, "
                         "\"unconditional\": 12}"));
    assert_true(file_has(job_path("w-1/task-0/metrics.0"), "\"conditional\": 0,"));
    run("w-5", "round_steps=3 generate.w_gen=-1.5", NULL);
    assert_true(
        file_has(job_path("w-5/task-1/metrics.0"), "\"conditional\": 12, \"unconditional\": 12}"));
}

static void test_self_npo_staleness_uses_the_older_average(void **state)
{
    /* With two rounds, staleness 1 generates the second with the base: the trajectories differ. */
    run("fresh", "train.steps=2", NULL);
    run("stale", "train.steps=2 staleness=1", NULL);
    assert_same_file(job_path("fresh/task-1/segment"), job_path("stale/task-1/segment"));
    assert_other_file(job_path("fresh/task-4/segment"), job_path("stale/task-4/segment"));
}

static void test_self_npo_continues_bit_for_bit(void **state)
{
    check_continues("", "");
}

static void test_self_npo_metrics_and_offset_grow(void **state)
{
    run("metrics", "", NULL);
    const char *path = job_path("metrics/task-8/metrics.0");
    assert_true(file_has(path, "{\"step\": 3, \"loss\": "));
    assert_true(file_has(path, "\"offset\": {\"total\": "));
    assert_true(file_has(path, "\"mid_block\": "));
    assert_true(file_has(job_path("metrics/task-1/log.0"), "RMS of the cuts"));
}

static void test_self_npo_exports_a_whole_pipeline(void **state)
{
    run("export", "", NULL);
    static const char *const files[] = {"unet/config.json",
                                        "unet/diffusion_pytorch_model.safetensors",
                                        "text_encoder/model.safetensors", "tokenizer/vocab.json",
                                        "scheduler/scheduler_config.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        assert_true(npo_file_exists(job_path("export/last-model/%s", files[i])));
    assert_other_file(job_path("export/last-model/%s", files[1]),
                      model_path("tiny/unet/diffusion_pytorch_model.safetensors"));
}

static void test_self_npo_previews(void **state)
{
    run("preview", "preview_rounds=2 train.steps=4 sample.steps=2", NULL);
    assert_true(npo_file_exists(job_path("preview/task-6/preview-2.png")));
    assert_true(npo_file_exists(job_path("preview/task-13/preview-4.png")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_self_npo_staged_is_fused_from_noise),
        cmocka_unit_test(test_self_npo_staged_is_fused_with_branch),
        cmocka_unit_test(test_self_npo_staged_is_fused_from_latents),
        cmocka_unit_test(test_self_npo_staged_is_fused_full),
        cmocka_unit_test(test_self_npo_staged_is_fused_with_a_lora),
        cmocka_unit_test(test_self_npo_staged_is_fused_in_8_bits),
        cmocka_unit_test(test_self_npo_trains_and_exports_a_lora),
        cmocka_unit_test(test_self_npo_continues_a_lora_bit_for_bit),
        cmocka_unit_test(test_self_npo_with_captions_of_the_data),
        cmocka_unit_test(test_self_npo_repeats_its_bytes_warm_and_cold),
        cmocka_unit_test(test_self_npo_at_minus_one_never_conditions_the_target),
        cmocka_unit_test(test_self_npo_staleness_uses_the_older_average),
        cmocka_unit_test(test_self_npo_continues_bit_for_bit),
        cmocka_unit_test(test_self_npo_metrics_and_offset_grow),
        cmocka_unit_test(test_self_npo_exports_a_whole_pipeline),
        cmocka_unit_test(test_self_npo_previews),
    };
    return cmocka_run_group_tests_name("self_npo", tests, job_dir_setup, job_dir_teardown);
}
