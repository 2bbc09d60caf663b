#include "tests/unit/proto/job_text.h"

#include "common/bounds.h"

/* ---- defaults ---- */

static void test_job_defaults_of_self_npo(void **state)
{
    npo_job job;
    cJSON *json = parse(SELF_NPO);
    read_ok(json, &job);
    assert_string_equal(job.name, "self-npo");
    assert_int_equal(job.recipe, NPO_RECIPE_SELF_NPO);
    assert_int_equal(job.workers, 1);
    assert_int_equal(job.priority, 0);
    assert_int_equal(job.time_limit_s, 0);
    assert_int_equal(job.retries, NPO_RETRIES_DEFAULT);
    assert_int_equal(job.pipeline, NPO_PIPELINE_STAGED);
    assert_int_equal(job.round_steps, 25);
    assert_int_equal(job.staleness, 0);
    assert_int_equal(job.preview_rounds, 0);
    assert_false(job.any_class || job.init_random || job.has_evaluate);
    assert_null(job.after);
    assert_null(job.constraints);
    assert_null(job.from);
    assert_string_equal(job.model.path, "m");
    assert_null(job.model.artifact);
    assert_null(job.data.path);
    const npo_job_train *train = &job.train;
    assert_int_equal(train->steps, 150);
    assert_int_equal(train->batch, 32);
    assert_int_equal(train->micro_batch, 32);
    assert_true(train->lr == 1e-4 && train->weight_decay == 1e-3);
    assert_true(train->beta1 == 0.9 && train->beta2 == 0.999 && train->eps == 1e-8);
    assert_true(train->clip == 1 && train->ema_decay == 0.999 && train->huber_c == 1e-3);
    assert_true(train->empty_prompt_share == 0);
    assert_int_equal(train->warmup_steps, 0);
    assert_int_equal(train->lr_schedule, NPO_LR_CONSTANT);
    assert_int_equal(train->loss, NPO_LOSS_PSEUDO_HUBER);
    assert_int_equal(train->weights, NPO_WEIGHTS_STUDENT);
    assert_true(job.generate.w_gen == -1 && job.generate.stagger);
    assert_int_equal(job.generate.starts, NPO_STARTS_NOISE);
    assert_int_equal(job.generate.solver_steps, 25);
    assert_int_equal(job.generate.segment_steps, 5);
    cJSON_Delete(json);
}

static void test_job_preset_gives_the_published_settings(void **state)
{
    npo_job job;
    cJSON *json = parse("{\"recipe\": \"self-npo\", \"preset\": \"sd15\", \"model\": \"m\", "
                        "\"prompts\": [\"a\"], \"workers\": 4}");
    read_ok(json, &job);
    assert_int_equal(job.train.steps, 1000);
    assert_int_equal(job.train.batch, 80);
    assert_int_equal(job.train.micro_batch, 1);
    assert_int_equal(job.train.optimizer, NPO_OPTIMIZER_ADAMW8BIT);
    assert_true(job.train.lr == 1e-6 && job.train.weight_decay == 1e-3);
    assert_true(job.train.ema_decay == 0.999 && job.train.clip == 1 && job.train.huber_c == 1e-3);
    assert_true(job.generate.w_gen == -1 && job.sample.guidance_scale == 7.5);
    assert_int_equal(job.generate.starts, NPO_STARTS_NOISE);
    cJSON_Delete(json);
    json = parse("{\"recipe\": \"self-npo\", \"preset\": \"sdxl\", \"model\": \"m\", \"data\": "
                 "\"d\", \"train\": {\"lr\": 2e-7, \"steps\": 50, \"batch\": 6}}");
    read_ok(json, &job);
    assert_int_equal(job.train.steps, 50);
    assert_int_equal(job.train.batch, 6);
    assert_true(job.train.lr == 2e-7 && job.train.weight_decay == 0);
    assert_true(job.generate.w_gen == -5 && job.sample.guidance_scale == 5);
    assert_int_equal(job.generate.starts, NPO_STARTS_LATENTS);
    assert_string_equal(npo_job_preset_name(&job), "sdxl");
    cJSON_Delete(json);
}

static void test_job_reads_a_lora(void **state)
{
    npo_job job;
    cJSON *json = parse("{\"recipe\": \"self-npo\", \"model\": \"m\", \"prompts\": [\"a\"], "
                        "\"train\": {\"steps\": 1, \"lora\": {\"rank\": 8}}}");
    read_ok(json, &job);
    assert_int_equal(job.train.lora.rank, 8);
    assert_true(job.train.lora.alpha == 8);
    assert_int_equal(job.train.lora.targets, NPO_JOB_LORA_ATTENTION);
    assert_string_equal(npo_lora_targets_name(job.train.lora.targets), "attention");
    cJSON_Delete(json);
}

static void test_job_defaults_of_diffusion(void **state)
{
    npo_job job;
    cJSON *json = parse(DIFFUSION);
    read_ok(json, &job);
    assert_int_equal(job.train.batch, 64);
    assert_true(job.train.lr == 1e-3 && job.train.weight_decay == 0.01);
    assert_true(job.train.empty_prompt_share == 0.1);
    assert_int_equal(job.train.warmup_steps, 200);
    assert_int_equal(job.train.lr_schedule, NPO_LR_COSINE);
    assert_int_equal(job.train.loss, NPO_LOSS_MSE);
    assert_int_equal(job.train.weights, NPO_WEIGHTS_EMA);
    assert_int_equal(job.round_steps, 100);
    cJSON_Delete(json);
}

static void test_job_defaults_of_the_others(void **state)
{
    npo_job job;
    cJSON *json = parse(CLASSIFIER);
    read_ok(json, &job);
    assert_int_equal(job.train.warmup_steps, 0);
    assert_int_equal(job.train.lr_schedule, NPO_LR_COSINE);
    cJSON_Delete(json);
    json = parse(EVALUATE);
    read_ok(json, &job);
    assert_true(job.has_evaluate);
    assert_int_equal(job.evaluate.samples, 500);
    assert_int_equal(job.evaluate.real_samples, 10000);
    assert_int_equal(cJSON_GetArraySize(job.evaluate.scales), 4);
    assert_true(cJSON_GetArrayItem(job.evaluate.scales, 1)->valuedouble == 1.5);
    assert_int_equal(cJSON_GetArraySize(job.evaluate.betas), 1);
    assert_true(cJSON_GetArrayItem(job.evaluate.betas, 0)->valuedouble == 1);
    assert_int_equal(cJSON_GetArraySize(job.evaluate.seeds), 1);
    assert_true(job.sample.guidance_scale == 2 && job.sample.beta == 1);
    assert_true(job.sample.interval_start == 0 && job.sample.interval_end == 1);
    assert_int_equal(job.sample.sampler, NPO_JOB_SAMPLER_DDIM);
    assert_int_equal(job.sample.spacing, NPO_JOB_SPACING_DEFAULT);
    assert_true(job.height == 0 && job.width == 0);
    assert_int_equal(job.sample.steps, 25);
    cJSON_Delete(json);
    json = parse(SAMPLE);
    read_ok(json, &job);
    assert_int_equal(job.sample.count, 16);
    cJSON_Delete(json);
    json = parse(EXPORT);
    read_ok(json, &job);
    assert_string_equal(job.negative.path, "n");
    cJSON_Delete(json);
}

static void test_job_reads_every_member(void **state)
{
    npo_job job;
    cJSON *json = parse(
        "{\"name\": \"n\", \"recipe\": \"self-npo\", \"workers\": 2, \"priority\": -3,"
        " \"time_limit_s\": 60, \"retries\": 0, \"seed\": 7, \"after\": [1, 2],"
        " \"constraints\": {\"device\": \"cpu\", \"label\": {\"rack\": \"a\"}}, \"any_class\": "
        "true,"
        " \"pipeline\": \"staged\", \"round_steps\": 10, \"staleness\": 1, \"preview_rounds\": 2,"
        " \"model\": {\"artifact\": \"" HASH "\"}, \"data\": {\"path\": \"d\"},"
        " \"height\": 64, \"width\": 96, \"prompts\": [\"x\", \"\"], \"_note\": \"a comment\","
        " \"train\": {\"steps\": 95, \"batch\": 8, \"micro_batch\": 2, \"lr\": 0.5,"
        "  \"weight_decay\": 0, \"beta1\": 0.1, \"beta2\": 0.2, \"eps\": 0.3, \"clip\": 0,"
        "  \"ema_decay\": 0.4, \"warmup_steps\": 5, \"lr_schedule\": \"linear\", \"loss\": \"mse\","
        "  \"huber_c\": 0.6, \"empty_prompt_share\": 1, \"weights\": \"ema\"},"
        " \"generate\": {\"w_gen\": -5, \"starts\": \"full\", \"solver_steps\": 20,"
        "  \"segment_steps\": 4, \"stagger\": false},"
        " \"sample\": {\"guidance_scale\": 3, \"beta\": 0.5, \"rescale\": 0.7,"
        "  \"interval_start\": 0.1, \"interval_end\": 0.9, \"steps\": 10, \"count\": 4, \"batch\": "
        "2,"
        "  \"seed\": 9, \"sampler\": \"dpmpp-2m\", \"spacing\": \"trailing\", \"karras\": true,"
        "  \"negative_prompt\": [\"y\", \"\"]},"
        " \"evaluate\": {\"classifier\": \"c\", \"samples\": 10, \"real_samples\": 20,"
        "  \"scales\": [2], \"betas\": [0.5, 1], \"seeds\": [1, 2, 3]}}");
    read_ok(json, &job);
    assert_string_equal(job.name, "n");
    assert_int_equal(job.workers, 2);
    assert_int_equal(job.priority, -3);
    assert_int_equal(job.time_limit_s, 60);
    assert_int_equal(job.retries, 0);
    assert_int_equal(job.seed, 7);
    assert_int_equal(cJSON_GetArraySize(job.after), 2);
    assert_string_equal(npo_json_string(job.constraints, "device", ""), "cpu");
    assert_true(job.any_class);
    assert_int_equal(job.round_steps, 10);
    assert_int_equal(job.staleness, 1);
    assert_int_equal(job.preview_rounds, 2);
    assert_string_equal(job.model.artifact, HASH);
    assert_null(job.model.path);
    assert_string_equal(job.data.path, "d");
    assert_int_equal(cJSON_GetArraySize(job.prompts), 2);
    const npo_job_train *train = &job.train;
    assert_int_equal(train->steps, 95);
    assert_int_equal(train->batch, 8);
    assert_int_equal(train->micro_batch, 2);
    assert_true(train->lr == 0.5 && train->weight_decay == 0 && train->beta1 == 0.1);
    assert_true(train->beta2 == 0.2 && train->eps == 0.3 && train->clip == 0);
    assert_true(train->ema_decay == 0.4 && train->huber_c == 0.6);
    assert_true(train->empty_prompt_share == 1);
    assert_int_equal(train->warmup_steps, 5);
    assert_int_equal(train->lr_schedule, NPO_LR_LINEAR);
    assert_int_equal(train->loss, NPO_LOSS_MSE);
    assert_int_equal(train->weights, NPO_WEIGHTS_EMA);
    assert_true(job.generate.w_gen == -5 && !job.generate.stagger);
    assert_int_equal(job.generate.starts, NPO_STARTS_FULL);
    assert_int_equal(job.generate.solver_steps, 20);
    assert_int_equal(job.generate.segment_steps, 4);
    assert_true(job.sample.guidance_scale == 3 && job.sample.beta == 0.5);
    assert_true(job.sample.rescale == 0.7 && job.sample.interval_start == 0.1);
    assert_true(job.sample.interval_end == 0.9);
    assert_int_equal(job.sample.steps, 10);
    assert_int_equal(job.sample.count, 4);
    assert_int_equal(job.sample.batch, 2);
    assert_int_equal(job.sample.seed, 9);
    assert_int_equal(job.sample.sampler, NPO_JOB_SAMPLER_DPMPP_2M);
    assert_int_equal(job.sample.spacing, NPO_JOB_SPACING_TRAILING);
    assert_true(job.sample.karras);
    assert_int_equal(cJSON_GetArraySize(job.sample.negative_prompt), 2);
    assert_int_equal(job.height, 64);
    assert_int_equal(job.width, 96);
    assert_true(job.has_evaluate);
    assert_string_equal(job.evaluate.classifier.path, "c");
    assert_string_equal(job.evaluate.data.path, "d"); /* the job's */
    assert_int_equal(job.evaluate.samples, 10);
    assert_int_equal(job.evaluate.real_samples, 20);
    assert_int_equal(cJSON_GetArraySize(job.evaluate.scales), 1);
    assert_int_equal(cJSON_GetArraySize(job.evaluate.betas), 2);
    assert_int_equal(cJSON_GetArraySize(job.evaluate.seeds), 3);
    cJSON_Delete(json);
}

/* ---- values ---- */

static void test_job_refuses_bad_references(void **state)
{
    const char *values[] = {"\"\"", "{}", "7", "{\"path\":\"a\",\"artifact\":\"b\"}"};
    char sentence[200];
    for (size_t i = 0; i < 4; i++) {
        snprintf(sentence, sizeof sentence,
                 "model: found %s, expected a path or {\"artifact\": HASH}", values[i]);
        expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("model", values[i]), NPO_E_TYPE, sentence);
    }
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("model", "{\"artifact\": \"abc\"}"), NPO_E_USAGE,
                   "model.artifact: found 'abc', expected 32 hex digits");
    expect_refused(NPO_RECIPE_EVALUATE, PAIRS("evaluate.classifier", "[]"), NPO_E_TYPE,
                   "evaluate.classifier: found [], expected a path or {\"artifact\": HASH}");
}

static void test_job_refuses_bad_lists(void **state)
{
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("after", "[\"1\"]"), NPO_E_TYPE,
                   "after[0]: found \"1\", expected a job id");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("after", "[3, 3]"), NPO_E_USAGE,
                   "after: 3 stands twice");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("after", "[]"), NPO_E_USAGE,
                   "after: found 0 entries, expected 1 to 64");
    expect_refused(NPO_RECIPE_EVALUATE, PAIRS("evaluate.scales", "[1, 0]"), NPO_E_TYPE,
                   "evaluate.scales[1]: found 0, expected a number from 0.001 to 1000");
    expect_refused(NPO_RECIPE_EVALUATE, PAIRS("evaluate.betas", "[true]"), NPO_E_TYPE,
                   "evaluate.betas[0]: found true, expected a number from -10 to 10");
    expect_refused(NPO_RECIPE_EVALUATE, PAIRS("evaluate.seeds", "[0.5]"), NPO_E_TYPE,
                   "evaluate.seeds[0]: found 0.5, expected a whole number of at least 0");
    char many[512] = "[";
    for (int i = 0; i < 65; i++)
        sprintf(many + strlen(many), "%s%d", i ? "," : "", i);
    strcat(many, "]");
    expect_refused(NPO_RECIPE_EVALUATE, PAIRS("evaluate.seeds", many), NPO_E_USAGE,
                   "evaluate.seeds: found 65 entries, expected 1 to 64");
}

static void test_job_refuses_bad_prompts(void **state)
{
    expect_refused(NPO_RECIPE_SAMPLE, PAIRS("prompts", "[]"), NPO_E_USAGE,
                   "prompts: found an empty list, expected prompts");
    expect_refused(NPO_RECIPE_SAMPLE, PAIRS("prompts", "[\"a\", 2]"), NPO_E_TYPE,
                   "prompts[1]: found 2, expected a string");
    char *prompt = malloc(5000);
    memset(prompt, 'x', 5000);
    memcpy(prompt, "[\"", 2);
    memcpy(prompt + 4099, "\"]", 3);
    expect_refused(NPO_RECIPE_SAMPLE, PAIRS("prompts", prompt), NPO_E_LIMIT,
                   "prompts[0]: found 4097 bytes, expected at most 4096");
    free(prompt);
}

static void test_job_refuses_bad_names(void **state)
{
    char name[140];
    memset(name, 'n', sizeof name);
    name[0] = '"';
    name[130] = '"';
    name[131] = '\0';
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("name", name), NPO_E_LIMIT,
                   "name: found 129 bytes, expected at most 128");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("name", "\"a\\u001b[2J\""), NPO_E_USAGE,
                   "name: found a control character");
}

static void test_job_refuses_bad_constraints(void **state)
{
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("constraints.device", "3"), NPO_E_TYPE,
                   "constraints.device: found 3, expected a string");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("constraints.label", "{\"a\": 1}"), NPO_E_TYPE,
                   "constraints.label: found 1, expected strings");
}

/* ---- keys against each other ---- */

static void test_job_refuses_batches_that_do_not_divide(void **state)
{
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("workers", "3"), NPO_E_USAGE,
                   "train.batch: found 32, expected a multiple of workers, 3");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("workers", "2", "train.micro_batch", "5"),
                   NPO_E_USAGE,
                   "train.micro_batch: found 5, expected a divisor of batch / workers, 16");
    npo_job job;
    cJSON *json = job_with(NPO_RECIPE_SELF_NPO, PAIRS("workers", "2"));
    read_ok(json, &job);
    assert_int_equal(job.train.micro_batch, 16);
    cJSON_Delete(json);
}

static void test_job_refuses_many_workers_where_one_runs(void **state)
{
    expect_refused(NPO_RECIPE_CLASSIFIER, PAIRS("workers", "2"), NPO_E_USAGE,
                   "workers: found 2, expected 1: recipe 'classifier' runs on one worker");
    expect_refused(NPO_RECIPE_SAMPLE, PAIRS("workers", "2"), NPO_E_USAGE,
                   "workers: found 2, expected 1: recipe 'sample' runs on one worker");
    expect_refused(NPO_RECIPE_EXPORT, PAIRS("workers", "2"), NPO_E_USAGE,
                   "workers: found 2, expected 1: recipe 'export' runs on one worker");
}

static void test_job_refuses_contradictions(void **state)
{
    expect_refused(
        NPO_RECIPE_SELF_NPO, PAIRS("pipeline", "\"fused\"", "staleness", "1"), NPO_E_USAGE,
        "staleness: found 1, expected 0: pipeline 'fused' has no rounds that could overlap");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("generate.starts", "\"latents\""), NPO_E_USAGE,
                   "missing key 'data': generate.starts 'latents' begins at its images");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("prompts", NULL), NPO_E_USAGE,
                   "missing key 'prompts': without 'data' there are no captions either");
    expect_refused(NPO_RECIPE_DIFFUSION,
                   PAIRS("init_random", "true", "train.lora", "{\"rank\": 2}"), NPO_E_USAGE,
                   "train.lora: found it with init_random, expected a trained model to stand "
                   "beside");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("train.lora", "{}"), NPO_E_USAGE,
                   "missing key 'train.lora.rank': recipe 'self-npo' needs it");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("generate.segment_steps", "26"), NPO_E_USAGE,
                   "generate.segment_steps: found 26, expected at most solver_steps, 25");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("evaluate.classifier", "\"c\""), NPO_E_USAGE,
                   "missing key 'evaluate.data': the job has no 'data' of its own that could be "
                   "compared with");
    expect_refused(NPO_RECIPE_SAMPLE, PAIRS("sample.interval_start", "1"), NPO_E_USAGE,
                   "sample.interval_start: found 1, expected less than interval_end, 1");
    expect_refused(NPO_RECIPE_SAMPLE, PAIRS("sample.karras", "true"), NPO_E_USAGE,
                   "sample.karras: found true, expected false: sampler 'ddim' has no such noise "
                   "levels");
    expect_refused(NPO_RECIPE_SAMPLE,
                   PAIRS("sample.sampler", "\"euler\"", "sample.spacing", "\"method\""),
                   NPO_E_USAGE,
                   "sample.spacing: found 'method', expected another one: only sampler 'ddim' runs "
                   "on the method's grid");
    expect_refused(NPO_RECIPE_SAMPLE, PAIRS("sample.negative_prompt", "[\"a\", \"b\"]"),
                   NPO_E_USAGE,
                   "sample.negative_prompt: found 2 entries, expected as many as prompts, 1");
    expect_refused(NPO_RECIPE_SAMPLE, PAIRS("sample.negative_prompt", "[3]"), NPO_E_TYPE,
                   "sample.negative_prompt[0]: found 3, expected a string");
    expect_refused(NPO_RECIPE_SAMPLE, PAIRS("sample.seeds", "[1, 2]"), NPO_E_USAGE,
                   "sample.seeds: found 2 entries, expected as many as prompts, 1");
    expect_refused(NPO_RECIPE_SAMPLE, PAIRS("sample.seeds", "[1.5]"), NPO_E_TYPE,
                   "sample.seeds[0]: found 1.5, expected a whole number of at least 0");
    expect_refused(NPO_RECIPE_DIFFUSION, PAIRS("train.steps", "200"), NPO_E_USAGE,
                   "train.warmup_steps: found 200, expected less than steps, 200");
    expect_refused(
        NPO_RECIPE_SELF_NPO, PAIRS("train.steps", "10000000", "round_steps", "1", "workers", "2"),
        NPO_E_LIMIT,
        "the job would have 50000001 tasks, at most 200000 are allowed: raise round_steps, "
        "now 1");
}

static void test_job_checks_from(void **state)
{
    const char *from =
        "{\"job\": 1, \"step\": %d, \"checkpoint\": \"" HASH "\", \"pools\": [\"" HASH "\"]}";
    char text[200];
    snprintf(text, sizeof text, from, 100);
    cJSON *json = job_with(NPO_RECIPE_SELF_NPO, PAIRS("from", text));
    npo_job job;
    read_ok(json, &job);
    assert_int_equal(npo_json_int(job.from, "step", 0), 100);
    cJSON_Delete(json);
    snprintf(text, sizeof text, from, 110);
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("from", text), NPO_E_USAGE,
                   "cannot continue from step 110: it is not a whole number of rounds of 25 steps");
    snprintf(text, sizeof text, from, 150);
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("from", text), NPO_E_USAGE,
                   "train.steps: found 150, expected more than 150: the job continues from there");
    expect_refused(NPO_RECIPE_SELF_NPO, PAIRS("from", "{\"job\": 1, \"step\": 0}"), NPO_E_USAGE,
                   "missing key 'from.checkpoint'");
    expect_refused(NPO_RECIPE_SELF_NPO,
                   PAIRS("from", "{\"job\": 1, \"step\": 0, \"checkpoint\": 3}"), NPO_E_TYPE,
                   "from.checkpoint: found 3, expected 32 hex digits");
    expect_refused(NPO_RECIPE_SELF_NPO,
                   PAIRS("from", "{\"job\": 1, \"step\": 0, \"checkpoint\": \"" HASH
                                 "\", \"pools\": [\"x\"]}"),
                   NPO_E_TYPE, "from.pools: found \"x\", expected 32 hex digits");
}

static void test_job_export_takes_what_its_form_needs(void **state)
{
    const struct {
        const char *const *pairs;
        const char *sentence;
    } rows[] = {
        {PAIRS("export.form", "\"merge\""), "missing key 'positive': form 'merge' adds its offset"},
        {PAIRS("positive", "\"p\""),
         "key 'positive' has no meaning in form 'negative', only in 'merge'"},
        {PAIRS("export.form", "\"one-network\""),
         "missing key 'export.w': form 'one-network' is theta_0 - w delta, with w above 0"},
        {PAIRS("export.w", "1"),
         "export.w has no meaning in form 'negative', only in 'one-network'"},
        {PAIRS("export.form", "\"lora\""),
         "missing key 'export.rank': form 'lora' takes a rank or an energy"},
        {PAIRS("export.rank", "4"),
         "export.rank has no meaning in form 'negative', only in 'lora'"},
        {PAIRS("export.energy", "0.5"),
         "export.energy has no meaning in form 'negative', only in 'lora'"},
        {PAIRS("export.naming", "\"kohya\""),
         "export.naming: 'kohya' has no meaning in form 'negative', only in 'lora'"},
        {PAIRS("export.naming", "\"comfyui\""),
         "export.naming: 'comfyui' has no meaning in form 'negative', only in 'delta'"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        expect_refused(NPO_RECIPE_EXPORT, rows[i].pairs, NPO_E_USAGE, rows[i].sentence);
    expect_refused(NPO_RECIPE_EXPORT, PAIRS("export.rank", "0", "export.form", "\"lora\""),
                   NPO_E_TYPE, "export.rank: found 0, expected a whole number from 1 to 4096");
    expect_refused(NPO_RECIPE_EXPORT, PAIRS("export.energy", "1.5", "export.form", "\"lora\""),
                   NPO_E_TYPE, "export.energy: found 1.5, expected a number from 0 to 1");
    expect_refused(NPO_RECIPE_SAMPLE, PAIRS("export.w", "1"), NPO_E_USAGE,
                   "key 'export' has no meaning in recipe 'sample'");
}

static void test_job_export_reads_its_section(void **state)
{
    npo_job job;
    npo_error error = {0};
    cJSON *json = job_with(NPO_RECIPE_EXPORT,
                           PAIRS("export.form", "\"lora\"", "export.rank", "16", "export.energy",
                                 "0.9", "export.naming", "\"kohya\"", "export.dtype", "\"f16\""));
    assert_int_equal(npo_job_read(json, &job, &error), NPO_OK);
    assert_int_equal(job.export.form, NPO_FORM_LORA);
    assert_int_equal(job.export.rank, 16);
    assert_true(job.export.energy == 0.9 && job.export.beta == 1 && job.export.alpha == 1);
    assert_int_equal(job.export.naming, NPO_NAMING_KOHYA);
    assert_int_equal(job.export.dtype, NPO_DTYPE_F16);
    cJSON_Delete(json);
}

static void test_job_path_keys_are_the_paths(void **state)
{
    const char *const *keys = npo_job_path_keys();
    size_t paths = 0, listed = 0;
    for (size_t i = 0; i < npo_job_key_count(); i++) {
        npo_job_key key;
        npo_job_key_at(i, &key);
        if (strcmp(key.type, "path") != 0)
            continue;
        paths++;
        for (size_t j = 0; keys[j]; j++)
            listed += strcmp(keys[j], key.key) == 0;
    }
    assert_int_equal(paths, listed);
    assert_null(keys[paths]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_job_defaults_of_self_npo),
        cmocka_unit_test(test_job_preset_gives_the_published_settings),
        cmocka_unit_test(test_job_reads_a_lora),
        cmocka_unit_test(test_job_defaults_of_diffusion),
        cmocka_unit_test(test_job_defaults_of_the_others),
        cmocka_unit_test(test_job_reads_every_member),
        cmocka_unit_test(test_job_refuses_bad_references),
        cmocka_unit_test(test_job_refuses_bad_lists),
        cmocka_unit_test(test_job_refuses_bad_prompts),
        cmocka_unit_test(test_job_refuses_bad_names),
        cmocka_unit_test(test_job_refuses_bad_constraints),
        cmocka_unit_test(test_job_refuses_batches_that_do_not_divide),
        cmocka_unit_test(test_job_refuses_many_workers_where_one_runs),
        cmocka_unit_test(test_job_refuses_contradictions),
        cmocka_unit_test(test_job_checks_from),
        cmocka_unit_test(test_job_export_takes_what_its_form_needs),
        cmocka_unit_test(test_job_export_reads_its_section),
        cmocka_unit_test(test_job_path_keys_are_the_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
