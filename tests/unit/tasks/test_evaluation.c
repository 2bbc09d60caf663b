/* Diffusion, classifier, sampling, evaluation and report: tasks that make and judge images. */
#include "tests/unit/tasks/one_task.h"
#include "worker/image/png.h"
#include "worker/tasks/evaluation/feature_set.h"

static void run(const char *name, const char *text, const char *changes, npo_err expected,
                const char *part)
{
    local_options options = {.threads = 1};
    npo_error error = {0};
    cJSON *spec = job_json(text, changes);
    npo_err err = local_job_run(spec, job_path("%s", name), &options, &error);
    if (err != expected || !strstr(error.text, part))
        fail_msg("%s: %s: %s", name, npo_err_name(err), error.text);
    cJSON_Delete(spec);
}

static const char evaluate_job[] =
    "{'recipe':'evaluate','name':'a < b','prompts':['a photo of a circle','a photo of a cross',"
    "'a photo of a bar'],'sample':{'batch':4,'steps':3},"
    "'evaluate':{'samples':10,'real_samples':40,'scales':[1,2,3],'betas':[0.5,1],'seeds':[1,7]}}";

static const char *evaluate_changes(const char *more)
{
    static char text[2048];
    snprintf(text, sizeof text,
             "model=%s negative=%s evaluate.classifier=%s/unit/classifier/model.safetensors "
             "evaluate.data=%s %s",
             model_path("large"), model_path("large-other"), NPO_GOLDEN_DIR,
             model_path("large-data"), more);
    return text;
}

static cJSON *load_metrics(const char *name)
{
    cJSON *json = NULL;
    assert_int_equal(npo_json_load(job_path("%s/last-metrics.json", name), 1 << 20, &json, NULL),
                     NPO_OK);
    return json;
}

static void test_evaluation_report_has_every_cell(void **state)
{
    run("report", evaluate_job, evaluate_changes(""), NPO_OK, "");
    cJSON *json = load_metrics("report");
    cJSON *cells = cJSON_GetObjectItem(json, "cells");
    /* A seed has none, and two scales with plain and two betas each. */
    assert_int_equal(cJSON_GetArraySize(cells), 2 * (1 + 2 * 3));
    const cJSON *cell;
    cJSON_ArrayForEach(cell, cells)
    {
        assert_int_equal(npo_json_int(cell, "samples", 0), 10);
        assert_true(npo_json_number(cell, "frechet", -1) > 0);
        bool first = strcmp(npo_json_string(cell, "method", ""), "none") == 0;
        assert_int_equal(npo_json_int(cell, "wins", -1) + npo_json_int(cell, "ties", -1) +
                             npo_json_int(cell, "losses", -1),
                         first ? 0 : 10);
    }
    assert_true(npo_json_number(cJSON_GetObjectItem(json, "offset"), "total", 0) > 0);
    assert_int_equal(npo_json_int(json, "real_samples", 0), 40);
    cJSON_Delete(json);
    assert_true(file_has(job_path("report/last-report.html"), "<h1>a &lt; b</h1>"));
    npo_image grid;
    assert_int_equal(npo_png_read(job_path("report/task-1/grid-scale-2.png"), &grid, NULL), NPO_OK);
    assert_int_equal(grid.channels, 1);
    npo_image_fini(&grid);
    assert_true(npo_file_exists(job_path("report/task-1/grid-scale-3.png")));
    assert_false(npo_file_exists(job_path("report/task-1/grid-scale-1.png")));
}

/* Rows of one shard by cell and sample. */
static const float *find_row(const npo_features *files, int count, int cell, int64_t sample)
{
    for (int f = 0; f < count; f++)
        for (int64_t i = 0; i < files[f].count; i++)
            if (files[f].cell[i] == cell && files[f].sample[i] == sample)
                return files[f].features + i * NPO_FEATURES_DIMS;
    fail_msg("no sample %d of cell %d", (int)sample, cell);
    return NULL;
}

static void run_shard(int shard, int shards, npo_features *ret_features)
{
    one_task t;
    char inputs[2048], path[600];
    snprintf(inputs, sizeof inputs,
             "model=%s negative=%s classifier=%s/unit/classifier/model.safetensors",
             model_path("large"), model_path("large-other"), NPO_GOLDEN_DIR);
    one_task_init(&t, "evaluate",
                  "{'recipe':'evaluate','model':'m','negative':'n','prompts':['a','b','c'],"
                  "'sample':{'batch':4,'steps':2},'evaluate':{'classifier':'c','data':'d',"
                  "'samples':10,'scales':[1,2],'betas':[0.5,1]}}",
                  "{}", inputs);
    t.task.shard = shard;
    t.task.shards = shards;
    if (one_task_run(&t) != NPO_OK)
        fail_msg("%s", t.error.text);
    snprintf(path, sizeof path, "%s/features.%d", t.dir, shard);
    assert_int_equal(npo_features_load(path, ret_features, NULL), NPO_OK);
    one_task_fini(&t);
}

static void test_evaluation_shards_share_the_cells(void **state)
{
    npo_features whole, parts[3];
    run_shard(0, 1, &whole);
    for (int k = 0; k < 3; k++)
        run_shard(k, 3, &parts[k]);
    assert_int_equal(whole.count, 4 * 10);
    assert_int_equal(parts[0].count + parts[1].count + parts[2].count, 4 * 10);
    for (int cell = 0; cell < 4; cell++)
        for (int64_t i = 0; i < 10; i++)
            assert_memory_equal(find_row(parts, 3, cell, i), find_row(&whole, 1, cell, i),
                                NPO_FEATURES_DIMS * sizeof(float));
    /* Another way of sampling gives other features, from the same noise. */
    assert_memory_not_equal(find_row(&whole, 1, 0, 0), find_row(&whole, 1, 1, 0),
                            NPO_FEATURES_DIMS * sizeof(float));
    assert_memory_not_equal(find_row(&whole, 1, 2, 0), find_row(&whole, 1, 3, 0),
                            NPO_FEATURES_DIMS * sizeof(float));
    npo_features_fini(&whole);
    for (int k = 0; k < 3; k++)
        npo_features_fini(&parts[k]);
}

static void test_evaluation_with_beta_zero_is_plain_guidance(void **state)
{
    run("beta-0", evaluate_job, evaluate_changes("evaluate.betas=[0] evaluate.scales=[2]"), NPO_OK,
        "");
    cJSON *json = load_metrics("beta-0");
    cJSON *cells = cJSON_GetObjectItem(json, "cells");
    const cJSON *plain = cJSON_GetArrayItem(cells, 1), *own = cJSON_GetArrayItem(cells, 2);
    assert_int_equal(npo_json_int(own, "ties", -1), 10);
    assert_true(npo_json_number(own, "frechet", 0) == npo_json_number(plain, "frechet", 1));
    cJSON_Delete(json);
}

static void test_evaluation_refuses_what_does_not_fit(void **state)
{
    char changes[2100];
    snprintf(changes, sizeof changes, "%s model=%s", evaluate_changes(""), model_path("tiny"));
    run("bad-1", evaluate_job, changes, NPO_E_SHAPE, "8 x 8 with 1 channels, expected 28 x 28");
    snprintf(changes, sizeof changes, "%s evaluate.data=%s", evaluate_changes(""),
             model_path("data"));
    run("bad-2", evaluate_job, changes, NPO_E_SHAPE, "as the classifier reads them");
    run("bad-3", evaluate_job,
        evaluate_changes(
            "prompts=[\"0\",\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\"]"),
        NPO_E_RANGE, "11 prompts, expected at most 10");
    snprintf(changes, sizeof changes, "%s evaluate.classifier=%s", evaluate_changes(""),
             model_path("tiny"));
    run("bad-4", evaluate_job, changes, NPO_E_NOT_FOUND, "model.safetensors");
}

/* ---- sampling ---- */

static const char sample_job[] =
    "{'recipe':'sample','model':'m','prompts':['a photo of a circle','a photo of a cross'],"
    "'sample':{'count':5,'batch':2,'steps':3,'guidance_scale':2,'seed':5,'grid':true}}";

static void test_sample_writes_images_and_a_grid(void **state)
{
    char changes[1200];
    snprintf(changes, sizeof changes, "model=%s", model_path("tiny"));
    run("plain", sample_job, changes, NPO_OK, "");
    snprintf(changes, sizeof changes, "model=%s negative=%s", model_path("tiny"),
             model_path("other"));
    run("two", sample_job, changes, NPO_OK, "");
    snprintf(changes, sizeof changes, "model=%s negative=%s sample.beta=0", model_path("tiny"),
             model_path("other"));
    run("zero", sample_job, changes, NPO_OK, "");
    npo_image a, b, c;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(npo_png_read(job_path("plain/last-images/image-0000%d.png", i), &a, NULL),
                         NPO_OK);
        assert_int_equal(npo_png_read(job_path("two/last-images/image-0000%d.png", i), &b, NULL),
                         NPO_OK);
        assert_int_equal(npo_png_read(job_path("zero/last-images/image-0000%d.png", i), &c, NULL),
                         NPO_OK);
        assert_int_equal(a.width, 8);
        assert_memory_not_equal(a.pixels, b.pixels, 64);
        assert_memory_equal(a.pixels, c.pixels, 64); /* no offset: the base itself */
        npo_image_fini(&a);
        npo_image_fini(&b);
        npo_image_fini(&c);
    }
    assert_true(npo_file_exists(job_path("plain/last-images/grid.png")));
    assert_false(npo_file_exists(job_path("plain/last-images/image-00005.png")));
    npo_buf png = NPO_BUF_INIT;
    read_all(job_path("two/last-images/image-00001.png"), &png);
    assert_non_null(memmem(png.data, png.len,
                           "{\"prompt\": \"a photo of a cross\", \"negative_prompt\": \"\",", 53));
    npo_buf_fini(&png);
}

/* ---- training on images ---- */

static const char diffusion_job[] =
    "{'recipe':'diffusion','seed':3,'round_steps':20,'init_random':true,"
    "'prompts':['a photo of a circle','a photo of a cross','a photo of a bar'],"
    "'train':{'steps':60,'batch':16,'micro_batch':8,'warmup_steps':5,'lr':0.01}}";

static double mean_loss(const char *path, int first, int last)
{
    npo_buf lines = NPO_BUF_INIT;
    double sum = 0;
    int count = 0;
    read_all(path, &lines);
    char *rest = lines.data, *line;
    while ((line = strsep(&rest, "\n"))) {
        cJSON *json = cJSON_Parse(line);
        int64_t step = npo_json_int(json, "step", -1);
        if (step >= first && step <= last) {
            sum += npo_json_number(json, "loss", 1e9);
            count++;
        }
        cJSON_Delete(json);
    }
    npo_buf_fini(&lines);
    assert_int_equal(count, last - first + 1);
    return sum / count;
}

static void test_diffusion_learns_and_continues_bit_for_bit(void **state)
{
    char changes[1200];
    snprintf(changes, sizeof changes, "model=%s data=%s preview_rounds=3 sample.steps=2",
             model_path("no-weights"), model_path("data"));
    run("diffusion", diffusion_job, changes, NPO_OK, "");
    double before = mean_loss(job_path("diffusion/task-0/metrics.0"), 1, 5);
    double after = mean_loss(job_path("diffusion/task-2/metrics.0"), 51, 60);
    assert_true(after < 0.6 * before);
    /* Three prompts below each other, four starting noises of 16 pixels and 4 between. */
    npo_image preview;
    assert_int_equal(npo_png_read(job_path("diffusion/task-3/preview-60.png"), &preview, NULL),
                     NPO_OK);
    assert_int_equal(preview.width, 4 + 19 * 8 + 4 * 20); /* 19 letters of the longest prompt */
    assert_int_equal(preview.height, 4 + 3 * 20);
    npo_image_fini(&preview);
    /* The same in rounds of 60: where a job is cut changes nothing. */
    snprintf(changes, sizeof changes, "model=%s data=%s round_steps=60", model_path("no-weights"),
             model_path("data"));
    run("whole", diffusion_job, changes, NPO_OK, "");
    assert_same_file(job_path("diffusion/last-checkpoint"), job_path("whole/last-checkpoint"));
    assert_same_file(job_path("diffusion/last-model/unet/diffusion_pytorch_model.safetensors"),
                     job_path("whole/last-model/unet/diffusion_pytorch_model.safetensors"));
}

static void test_classifier_learns_and_tells_its_accuracy(void **state)
{
    char changes[1200];
    snprintf(changes, sizeof changes, "data=%s", model_path("large-data"));
    run("classifier",
        "{'recipe':'classifier','seed':3,'round_steps':15,"
        "'train':{'steps':30,'batch':20,'warmup_steps':0,'lr':0.001}}",
        changes, NPO_OK, "");
    assert_true(npo_file_exists(job_path("classifier/last-model/model.safetensors")));
    /* Three kinds of bars are easy. */
    assert_true(file_has(job_path("classifier/task-1/metrics.0"),
                         "{\"phase\": \"test\", \"step\": 30, \"accuracy\": 1.0"));
    assert_false(file_has(job_path("classifier/task-0/metrics.0"), "accuracy"));
    /* What it exported is what evaluate reads. */
    one_task t;
    npo_classifier *classifier = NULL;
    one_task_init(&t, "sample", sample_job, "{}", "");
    assert_int_equal(
        npo_loaded_classifier(t.cache, job_path("classifier/last-model"), &classifier, &t.error),
        NPO_OK);
    one_task_fini(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_evaluation_report_has_every_cell),
        cmocka_unit_test(test_evaluation_shards_share_the_cells),
        cmocka_unit_test(test_evaluation_with_beta_zero_is_plain_guidance),
        cmocka_unit_test(test_evaluation_refuses_what_does_not_fit),
        cmocka_unit_test(test_sample_writes_images_and_a_grid),
        cmocka_unit_test(test_diffusion_learns_and_continues_bit_for_bit),
        cmocka_unit_test(test_classifier_learns_and_tells_its_accuracy),
    };
    return cmocka_run_group_tests_name("evaluation", tests, job_dir_setup, job_dir_teardown);
}
