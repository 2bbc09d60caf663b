/* What goes wrong: every sentence names the thing, nothing is published. */
#include "tests/unit/tasks/one_task.h"
#include "worker/diffusion/trajectory/pool.h"
#include "worker/diffusion/trajectory/segment.h"

static const char self_npo[] =
    "{'recipe':'self-npo','model':'m','round_steps':2,'prompts':['a','b'],"
    "'train':{'steps':4,'batch':4}}";
static const char no_prompts[] =
    "{'recipe':'self-npo','model':'m','round_steps':2,'data':'d','train':{'steps':4,'batch':4}}";
static const char latents[] =
    "{'recipe':'self-npo','model':'m','round_steps':2,'prompts':['a','b','c'],'data':'d',"
    "'generate':{'starts':'latents'},'train':{'steps':4,'batch':4}}";
static const char diffusion[] =
    "{'recipe':'diffusion','model':'m','data':'d','prompts':['a','b','c'],"
    "'train':{'steps':4,'batch':4,'warmup_steps':0}}";
static const char sample_30[] =
    "{'recipe':'sample','model':'m','prompts':['a'],'height':32,'width':30}";
static const char two_steps[] = "{'first_step':0,'steps':2}";

/* "model=PATH" and more. */
static const char *inputs(const char *model, const char *more)
{
    static char text[4][2048];
    static int at;
    char *to = text[at++ % 4];
    snprintf(to, sizeof text[0], "model=%s %s", model_path(model), more);
    return to;
}

static void test_task_refuses_unknown_kinds(void **state)
{
    expect_failure("dance", self_npo, "{}", "", NPO_E_UNSUPPORTED,
                   "recipe 'self-npo' has no task 'dance'");
    expect_failure("generate", diffusion, "{}", "", NPO_E_UNSUPPORTED,
                   "recipe 'diffusion' has no task 'generate'");
}

static void test_task_names_missing_inputs(void **state)
{
    static const struct {
        const char *kind, *spec, *inputs, *missing;
    } cases[] = {
        {"generate", self_npo, "", "model"},
        {"truncate", self_npo, "", "pool"},
        {"train", self_npo, "", "model"},
        {"train", diffusion, "", "model"},
        {"sample", self_npo, "", "model"},
        {"evaluate", self_npo, "", "negative"},
        {"report", self_npo, "", "features.0"},
        {"export", self_npo, "", "negative"},
        {"export", self_npo, "checkpoint=c", "model"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char part[64];
        snprintf(part, sizeof part, "has no input '%s'", cases[i].missing);
        expect_failure(cases[i].kind, cases[i].spec, two_steps, cases[i].inputs, NPO_E_USAGE, part);
    }
    expect_failure("train", diffusion, two_steps, inputs("tiny", ""), NPO_E_USAGE,
                   "has no input 'data'");
    expect_failure("train", self_npo, two_steps, inputs("tiny", ""), NPO_E_USAGE,
                   "has no input 'segment.0'");
    expect_failure("generate", latents, two_steps, inputs("tiny", ""), NPO_E_USAGE,
                   "has no input 'data'");
}

static void test_task_checks_steps(void **state)
{
    expect_failure("generate", self_npo, "{}", inputs("tiny", ""), NPO_E_USAGE,
                   "-1 steps from step -1");
    expect_failure("generate", self_npo, "{'first_step':0,'steps':3}", inputs("tiny", ""),
                   NPO_E_USAGE, "3 steps from step 0, expected 1 to 2 steps");
    expect_failure("train", self_npo, "{'first_step':2,'steps':2}", inputs("tiny", ""), NPO_E_USAGE,
                   "the checkpoint is of step 0, expected step 2");
}

static void test_task_checks_models(void **state)
{
    expect_failure("generate", self_npo, two_steps, "model=/nonexistent", NPO_E_NOT_FOUND,
                   "/nonexistent");
    expect_failure("generate", self_npo, two_steps, inputs("no-weights", ""), NPO_E_NOT_FOUND,
                   "has no weights");
    expect_failure("train", self_npo, two_steps, inputs("no-weights", ""), NPO_E_NOT_FOUND,
                   "has no weights");
    expect_failure("generate", self_npo, two_steps, inputs("no-size", ""), NPO_E_UNSUPPORTED,
                   "sample_size");
    expect_failure("generate", no_prompts, two_steps, inputs("tiny", ""), NPO_E_USAGE,
                   "found no prompts");
    char data[600];
    snprintf(data, sizeof data, "data=%s", model_path("data"));
    expect_failure("generate", latents, two_steps, inputs("vae", data), NPO_E_SHAPE,
                   "8 x 8 with 1 channels, expected 64 x 64 with 3");
    expect_failure("sample", sample_30, "{}", inputs("vae", ""), NPO_E_SHAPE,
                   "width: found 30 pixels, expected a multiple of 4");
    expect_failure("sample", sample_30, "{}", inputs("latents-only", ""), NPO_E_UNSUPPORTED,
                   "has samples of 4 channels and no VAE");
    expect_failure("sample", sample_30, "{}", inputs("vae-other", ""), NPO_E_SHAPE,
                   "latents of 8 channels, expected 4");
    expect_failure("generate", latents, two_steps, inputs("large", data), NPO_E_SHAPE,
                   "8 x 8 with 1 channels, expected 28 x 28");
    expect_failure("train", diffusion, two_steps, inputs("no-weights", data), NPO_E_NOT_FOUND,
                   "init_random");
    snprintf(data, sizeof data, "data=%s", model_path("captions"));
    expect_failure("train", diffusion, two_steps, inputs("tiny", data), NPO_E_USAGE,
                   "has captions, and the job names prompts as well");
}

static void test_task_checks_files(void **state)
{
    char more[1200];
    snprintf(more, sizeof more, "pool=%s/tiny/unet/diffusion_pytorch_model.safetensors",
             NPO_MODELS_DIR);
    expect_failure("generate", self_npo, two_steps, inputs("tiny", more), NPO_E_FORMAT,
                   "diffusion_pytorch_model");
    snprintf(more, sizeof more, "checkpoint=%s/tiny/unet/diffusion_pytorch_model.safetensors",
             NPO_MODELS_DIR);
    expect_failure("generate", self_npo, two_steps, inputs("tiny", more), NPO_E_FORMAT,
                   "diffusion_pytorch_model");
    snprintf(more, sizeof more, "segment.0=%s/tiny/model_index.json", NPO_MODELS_DIR);
    expect_failure("train", self_npo, two_steps, inputs("tiny", more), NPO_E_FORMAT, "model_index");
}

/* Numbers that point outside of the job's lists must not reach an assertion. */
static void test_task_checks_prompts_of_trajectories(void **state)
{
    const npo_latent_shape shape = {8, 8, 1};
    const int64_t slots[] = {0, 1, 2, 3, 4, 5, 6, 7};
    npo_segment segment;
    npo_pool pool;
    char more[1200];
    assert_int_equal(npo_segment_init(&segment, shape, 8), NPO_OK);
    assert_int_equal(npo_pool_init(&pool, shape, 8, slots, false), NPO_OK);
    memcpy(segment.slot, slots, sizeof slots);
    for (int i = 0; i < 8; i++)
        pool.index[i] = 3;
    segment.prompt[5] = pool.prompt[5] = 3;
    assert_int_equal(npo_segment_save(&segment, job_path("segment"), NULL), NPO_OK);
    assert_int_equal(npo_pool_save(&pool, job_path("pool"), NULL), NPO_OK);
    snprintf(more, sizeof more, "segment.0=%s", job_path("segment"));
    expect_failure("train", self_npo, two_steps, inputs("tiny", more), NPO_E_RANGE,
                   "slot 5 has prompt 3");
    snprintf(more, sizeof more, "pool=%s", job_path("pool"));
    expect_failure("truncate", latents, two_steps, inputs("tiny", more), NPO_E_RANGE,
                   "slot 5 has prompt 3");
    npo_segment_fini(&segment);
    npo_pool_fini(&pool);
}

static void test_task_final_errors_are_those_of_the_input(void **state)
{
    static const npo_err passing[] = {NPO_E_NOMEM,   NPO_E_IO,          NPO_E_FULL,
                                      NPO_E_CORRUPT, NPO_E_BUSY,        NPO_E_TIMEOUT,
                                      NPO_E_PEER,    NPO_E_UNREACHABLE, NPO_E_FENCED,
                                      NPO_E_STATE,   NPO_E_CANCELLED,   NPO_E_LIBRARY};
    int final = 0;
    for (size_t i = 0; i < sizeof passing / sizeof *passing; i++)
        assert_false(npo_task_error_is_final(passing[i]));
    for (int code = NPO_OK; code < NPO_E_COUNT; code++)
        final += npo_task_error_is_final((npo_err)code);
    /* Every code stands on one side. */
    assert_int_equal(final + (int)(sizeof passing / sizeof *passing) + 1, NPO_E_COUNT);
    assert_true(npo_task_error_is_final(NPO_E_DIVERGED));
}

/* A task that is cancelled at its k-th check publishes nothing, for every k it reaches. */
static void check_cancel(const char *kind, const char *spec, const char *params, const char *in,
                         int64_t stride)
{
    for (int64_t k = 1;; k += stride) {
        one_task t;
        one_task_init(&t, kind, spec, params, in);
        t.process.cancel_at = k;
        npo_err err = one_task_run(&t);
        bool reached = t.process.checks >= k;
        npo_file_list list;
        assert_int_equal(npo_file_list_tree(t.dir, 100, &list, NULL), NPO_OK);
        if (reached) {
            assert_int_equal(err, NPO_E_CANCELLED);
            assert_int_equal(list.count, 0);
        } else {
            assert_int_equal(err, NPO_OK);
            assert_true(list.count > 0);
        }
        npo_file_list_fini(&list);
        one_task_fini(&t);
        if (!reached)
            return;
    }
}

static void test_task_cancel_at_every_check(void **state)
{
    check_cancel("generate", self_npo, two_steps, inputs("tiny", ""), 7);
    check_cancel("train", self_npo, "{'first_step':0,'steps':2,'fused':true}", inputs("tiny", ""),
                 7);
    char more[600];
    snprintf(more, sizeof more, "data=%s", model_path("data"));
    check_cancel("train", diffusion, two_steps, inputs("tiny", more), 1);
    check_cancel("sample",
                 "{'recipe':'sample','model':'m','prompts':['a'],"
                 "'sample':{'count':2,'batch':1,'steps':2}}",
                 "{}", inputs("tiny", ""), 1);
    check_cancel("sample",
                 "{'recipe':'sample','model':'m','prompts':['a'],'height':16,'width':16,"
                 "'sample':{'count':2,'batch':1,'steps':1,'sampler':'euler','grid':true}}",
                 "{}", inputs("vae", ""), 1);
}

static void test_task_reports_a_failed_publication(void **state)
{
    one_task t;
    one_task_init(&t, "generate", self_npo, two_steps, inputs("tiny", ""));
    t.process.fail_output = true;
    assert_int_equal(one_task_run(&t), NPO_E_FULL);
    assert_non_null(strstr(t.error.text, "cannot publish output 'pool'"));
    one_task_fini(&t);
}

static void test_task_diverges_with_a_sentence(void **state)
{
    /* A learning rate at which the first step throws the weights away. */
    char more[600];
    snprintf(more, sizeof more, "data=%s", model_path("data"));
    expect_failure("train",
                   "{'recipe':'diffusion','model':'m','data':'d','prompts':['a','b','c'],"
                   "'round_steps':50,'train':{'steps':50,'batch':4,'lr':10,'warmup_steps':0,"
                   "'weight_decay':10,'clip':0}}",
                   "{'first_step':0,'steps':50}", inputs("tiny", more), NPO_E_DIVERGED, "step");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_task_refuses_unknown_kinds),
        cmocka_unit_test(test_task_names_missing_inputs),
        cmocka_unit_test(test_task_checks_steps),
        cmocka_unit_test(test_task_checks_models),
        cmocka_unit_test(test_task_checks_files),
        cmocka_unit_test(test_task_checks_prompts_of_trajectories),
        cmocka_unit_test(test_task_final_errors_are_those_of_the_input),
        cmocka_unit_test(test_task_cancel_at_every_check),
        cmocka_unit_test(test_task_reports_a_failed_publication),
        cmocka_unit_test(test_task_diverges_with_a_sentence),
    };
    return cmocka_run_group_tests_name("task", tests, job_dir_setup, job_dir_teardown);
}
