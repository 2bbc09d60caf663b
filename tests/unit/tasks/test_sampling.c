/* Sampling and training on a model with a VAE: sizes, samplers, prompts, what stands in a picture.
 */
#include "tests/unit/tasks/one_task.h"
#include "worker/image/png.h"
#include "worker/model/vae_tiles.h"
#include "worker/tasks/sampling/picture_text.h"
#include "worker/train/checkpoint.h"

#include <math.h>

/* A task that must work; its output stands in t->dir. */
static void run_task(one_task *t, const char *kind, const char *spec, const char *params,
                     const char *inputs)
{
    one_task_init(t, kind, spec, params, inputs);
    if (one_task_run(t) != NPO_OK)
        fail_msg("%s", t->error.text);
}

static npo_image picture(const one_task *t, int number)
{
    npo_image image;
    npo_error error = {0};
    char path[400];
    snprintf(path, sizeof path, "%s/images/image-%05d.png", t->dir, number);
    if (npo_png_read(path, &image, &error) != NPO_OK)
        fail_msg("%s", error.text);
    return image;
}

static bool same_picture(const one_task *a, int i, const one_task *b, int k)
{
    npo_image x = picture(a, i), y = picture(b, k);
    bool same = npo_image_bytes(&x) == npo_image_bytes(&y) &&
                memcmp(x.pixels, y.pixels, npo_image_bytes(&x)) == 0;
    npo_image_fini(&x);
    npo_image_fini(&y);
    return same;
}

static const char *with_model(const char *more)
{
    static char text[4][2048];
    static int at;
    char *to = text[at++ % 4];
    snprintf(to, sizeof text[0], "model=%s %s", model_path("vae"), more);
    return to;
}

static const char *with_negative(void)
{
    static char text[1200];
    snprintf(text, sizeof text, "negative=%s", model_path("vae-negative"));
    return with_model(text);
}

#define SAMPLE(more)                                                                               \
    "{'recipe':'sample','model':'m','prompts':['a photo of a sneaker','a bag'],'height':16,"       \
    "'width':24,'sample':{'count':2,'batch':2,'steps':3,'guidance_scale':5" more "}}"

/* A VAE gets what memory is left; where it works in tiles, the log says so once. */
static void test_sampling_bounds_the_vae(void **state)
{
    one_task t;
    npo_model *model = NULL;
    one_task_init(&t, "sample", SAMPLE(""), "{}", with_model(""));
    npo_task_cache_set_memory(t.cache, 1);
    assert_int_equal(one_task_run(&t), NPO_E_NOMEM);
    assert_non_null(strstr(t.error.text, "expected at most"));
    one_task_fini(&t);

    one_task_init(&t, "sample",
                  "{'recipe':'sample','model':'m','prompts':['a bag'],'height':48,'width':48,"
                  "'sample':{'count':2,'batch':2,'steps':1}}",
                  "{}", with_model(""));
    assert_int_equal(npo_loaded_model(t.cache, model_path("vae"), &model, &t.error), NPO_OK);
    assert_int_equal(npo_loaded_need_vae(t.cache, &t.error), NPO_OK);
    npo_vae_set_tile(model->vae, NPO_VAE_TILE_MULTIPLE);
    if (one_task_run(&t) != NPO_OK)
        fail_msg("%s", t.error.text);
    const char *told = strstr(t.process.log.data, "decoded in tiles of");
    assert_non_null(told);
    assert_null(strstr(told + 1, "decoded in tiles"));
    one_task_fini(&t);
}

/* Latents are decoded to the size that was asked for. */
static void test_sampling_decodes_latents(void **state)
{
    one_task plain, two;
    run_task(&plain, "sample", SAMPLE(""), "{}", with_model(""));
    npo_image image = picture(&plain, 1);
    assert_int_equal(image.height, 16);
    assert_int_equal(image.width, 24);
    assert_int_equal(image.channels, 3);
    npo_image_fini(&image);
    char grid[400];
    snprintf(grid, sizeof grid, "%s/images/grid.png", plain.dir);
    assert_false(npo_file_exists(grid));
    run_task(&two, "sample", SAMPLE(",'grid':true"), "{}", with_negative());
    assert_false(same_picture(&plain, 0, &two, 0));
    snprintf(grid, sizeof grid, "%s/images/grid.png", two.dir);
    assert_true(npo_file_exists(grid));
    one_task_fini(&plain);
    one_task_fini(&two);
}

/* Without a size the model's own: 16 positions of 4 pixels. */
static void test_sampling_takes_the_size_of_the_model(void **state)
{
    one_task t;
    run_task(&t, "sample",
             "{'recipe':'sample','model':'m','prompts':['a'],'sample':{'count':1,'batch':1,"
             "'steps':1}}",
             "{}", with_model(""));
    npo_image image = picture(&t, 0);
    assert_true(image.height == 64 && image.width == 64);
    npo_image_fini(&image);
    one_task_fini(&t);
}

/* Each gives other pictures, and each the same ones again in other batches. */
static void test_sampling_with_every_sampler(void **state)
{
    static const char *const specs[][2] = {
        {SAMPLE(""), SAMPLE(",'batch':1")},
        {SAMPLE(",'sampler':'dpmpp-2m'"), SAMPLE(",'batch':1,'sampler':'dpmpp-2m'")},
        {SAMPLE(",'sampler':'euler','karras':true"),
         SAMPLE(",'batch':1,'sampler':'euler','karras':true")},
        {SAMPLE(",'sampler':'euler-ancestral'"), SAMPLE(",'batch':1,'sampler':'euler-ancestral'")},
    };
    enum { SPECS = sizeof specs / sizeof *specs };
    one_task tasks[SPECS][2];
    for (int i = 0; i < SPECS; i++)
        for (int k = 0; k < 2; k++)
            run_task(&tasks[i][k], "sample", specs[i][k], "{}", with_model(""));
    for (int i = 0; i < SPECS; i++)
        for (int k = 0; k < i; k++)
            assert_false(same_picture(&tasks[i][0], 0, &tasks[k][0], 0));
    for (int i = 0; i < SPECS; i++)
        for (int k = 0; k < 2; k++)
            one_task_fini(&tasks[i][k]);
}

/* A negative prompt for all, one for each, and none. */
static void test_sampling_with_negative_prompts(void **state)
{
    one_task none, all, each;
    run_task(&none, "sample", SAMPLE(""), "{}", with_model(""));
    run_task(&all, "sample", SAMPLE(",'negative_prompt':'grey'"), "{}", with_model(""));
    run_task(&each, "sample", SAMPLE(",'negative_prompt':['','grey']"), "{}", with_model(""));
    assert_false(same_picture(&none, 0, &all, 0));
    assert_true(same_picture(&none, 0, &each, 0));
    assert_true(same_picture(&all, 1, &each, 1));
    one_task_fini(&none);
    one_task_fini(&all);
    one_task_fini(&each);
}

/* With a seed for each prompt an image depends on its own line alone. */
static void test_sampling_with_seeds_by_prompt(void **state)
{
    one_task two, one;
    run_task(&two, "sample", SAMPLE(",'seeds':[7,8],'sampler':'euler-ancestral'"), "{}",
             with_model(""));
    run_task(&one, "sample",
             "{'recipe':'sample','model':'m','prompts':['a bag'],'height':16,'width':24,"
             "'sample':{'count':1,'batch':2,'steps':3,'guidance_scale':5,'seed':8,"
             "'sampler':'euler-ancestral'}}",
             "{}", with_model(""));
    assert_true(same_picture(&two, 1, &one, 0));
    one_task_fini(&two);
    one_task_fini(&one);
}

/* A model with two text encoders and added conditioning, in its own size and in another. */
static void test_sampling_draws_with_xl(void **state)
{
    one_task t;
    run_task(&t, "sample",
             "{'recipe':'sample','model':'m','prompts':['a bag'],'height':24,'width':40,'sample':"
             "{'count':1,'steps':2,'guidance_scale':5,'sampler':'euler','negative_prompt':'x'}}",
             "{}", "model=" NPO_MODELS_DIR "/xl");
    npo_image image = picture(&t, 0);
    assert_true(image.height == 24 && image.width == 40);
    npo_image_fini(&image);
    one_task_fini(&t);
}

/* ---- text ---- */

static void read_picture(const one_task *t, int number, npo_buf *ret_png)
{
    char path[400];
    snprintf(path, sizeof path, "%s/images/image-%05d.png", t->dir, number);
    read_all(path, ret_png);
}

static void expect_text(const npo_buf *png, const char *text)
{
    if (!memmem(png->data, png->len, text, strlen(text)))
        fail_msg("'%s' stands nowhere in the picture", text);
}

static void test_sampling_writes_settings_into_pictures(void **state)
{
    one_task t;
    npo_buf png = NPO_BUF_INIT;
    run_task(&t, "sample",
             "{'recipe':'sample','model':'m','prompts':['a bag','ein Stiefel, größer'],'height':16,"
             "'width':24,'sample':{'count':2,'batch':2,'steps':3,'guidance_scale':5,'rescale':0.5,"
             "'seeds':[7,8],'negative_prompt':['grey',''],'sampler':'dpmpp-2m','karras':true}}",
             "{}", with_negative());
    read_picture(&t, 0, &png);
    expect_text(&png, "tEXtparameters");
    expect_text(&png, "a bag\nNegative prompt: grey\nSteps: 3, Sampler: DPM++ 2M Karras, CFG "
                      "scale: 5, Seed: 7, Size: 24x16, Guidance rescale: 0.5, Negative network: 1, "
                      "Image: 0");
    expect_text(&png, "{\"prompt\": \"a bag\", \"negative_prompt\": \"grey\", \"image\": 0, "
                      "\"seed\": 7, \"guidance_scale\": 5, \"beta\": 1, \"rescale\": 0.5, "
                      "\"interval_start\": 0, \"interval_end\": 1, \"sampler\": \"dpmpp-2m\", "
                      "\"spacing\": \"default\", \"karras\": true, \"steps\": 3, \"width\": 24, "
                      "\"height\": 16}");
    npo_buf_clear(&png);
    read_picture(&t, 1, &png);
    expect_text(&png, "iTXtparameters");
    expect_text(&png, "ein Stiefel, größer\nSteps: 3,");
    npo_buf_fini(&png);
    one_task_fini(&t);
}

/* ---- previews ---- */

/* A whole job on latents: trained, looked at in pixels with another sampler, exported. */
static void test_sampling_previews_of_latents(void **state)
{
    char changes[600];
    local_options options = {.threads = 1};
    npo_error error = {0};
    npo_image sheet;
    snprintf(changes, sizeof changes, "model=%s", model_path("vae"));
    cJSON *spec = job_json("{'recipe':'self-npo','model':'m','prompts':['a bag','a shoe'],"
                           "'round_steps':2,'preview_rounds':1,'height':16,'width':24,"
                           "'train':{'steps':2,'batch':2},"
                           "'sample':{'count':2,'steps':2,'sampler':'dpmpp-2m','karras':true}}",
                           changes);
    if (local_job_run(spec, job_path("preview"), &options, &error) != NPO_OK)
        fail_msg("%s", error.text);
    cJSON_Delete(spec);
    if (npo_png_read(job_path("preview/task-3/preview-2.png"), &sheet, &error) != NPO_OK)
        fail_msg("%s", error.text);
    assert_int_equal(sheet.channels, 3);
    assert_true(sheet.width > 2 * 2 * 24 && sheet.height > 2 * 2 * 16); /* two by two, doubled */
    npo_image_fini(&sheet);
    assert_true(npo_file_exists(job_path("preview/last-model/vae/config.json")));
}

/* ---- images to latents ---- */

#define ON_IMAGES "'model':'m','data':'d','height':32,'width':48,'train':{'steps':2,'batch':2"

static const char *with_data(const char *name)
{
    static char text[1200];
    snprintf(text, sizeof text, "data=%s", model_path(name));
    return with_model(text);
}

static void test_sampling_trains_on_encoded_images(void **state)
{
    one_task t;
    run_task(&t, "train", "{'recipe':'diffusion'," ON_IMAGES ",'warmup_steps':0}}",
             "{'first_step':0,'steps':2}", with_data("colours"));
    char path[400];
    snprintf(path, sizeof path, "%s/checkpoint", t.dir);
    assert_true(npo_file_exists(path));
    one_task_fini(&t);
}

static void test_sampling_starts_from_encoded_images(void **state)
{
    const char *spec = "{'recipe':'self-npo','round_steps':2,'generate':{'starts':'latents'}," //
        ON_IMAGES "}}";
    one_task t;
    npo_latents *latents = NULL;
    run_task(&t, "generate", spec, "{'first_step':0,'steps':2}", with_data("colours"));
    /* the cache kept them, and an encoding is a draw's mean, not noise */
    float a[8 * 12 * 4], b[8 * 12 * 4];
    assert_int_equal(npo_loaded_latents(t.cache, &latents, &t.error), NPO_OK);
    assert_int_equal(npo_latents_get(latents, 3, a, &t.error), NPO_OK);
    assert_int_equal(npo_latents_get(latents, 3, b, &t.error), NPO_OK);
    assert_memory_equal(a, b, sizeof a);
    for (size_t i = 0; i < sizeof a / sizeof *a; i++)
        assert_true(isfinite(a[i]));
    one_task_fini(&t);
    expect_failure("generate", spec, "{'first_step':0,'steps':2}", with_data("captions"),
                   NPO_E_SHAPE, "8 x 8 with 1 channels, expected 48 x 32 with 3");
}

/* ---- Stable Diffusion XL ---- */

static const char *with_xl(const char *more)
{
    static char text[2048];
    snprintf(text, sizeof text, "model=%s %s", model_path("xl"), more);
    return text;
}

#define SAMPLE_XL(more)                                                                            \
    "{'recipe':'sample','model':'m','prompts':['a sneaker','a bag'],'height':32,'width':20,"       \
    "'sample':{'count':2,'batch':2,'steps':2,'guidance_scale':5" more "}}"

/* No negative prompt is zeros, which a text without words is not. */
static void test_sampling_with_xl(void **state)
{
    one_task zeros, text;
    run_task(&zeros, "sample", SAMPLE_XL(""), "{}", with_xl(""));
    run_task(&text, "sample", SAMPLE_XL(",'negative_prompt':' '"), "{}", with_xl(""));
    npo_image image = picture(&zeros, 0);
    assert_true(image.height == 32 && image.width == 20 && image.channels == 3);
    npo_image_fini(&image);
    assert_false(same_picture(&zeros, 0, &text, 0));
    one_task_fini(&zeros);
    one_task_fini(&text);
}

static void test_sampling_trains_xl_on_encoded_images(void **state)
{
    one_task t;
    char inputs[1200], path[400];
    snprintf(inputs, sizeof inputs, "data=%s", model_path("colours"));
    run_task(&t, "train", "{'recipe':'diffusion'," ON_IMAGES ",'warmup_steps':0}}",
             "{'first_step':0,'steps':2}", with_xl(inputs));
    snprintf(path, sizeof path, "%s/checkpoint", t.dir);
    assert_true(npo_file_exists(path));
    one_task_fini(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sampling_decodes_latents),
        cmocka_unit_test(test_sampling_bounds_the_vae),
        cmocka_unit_test(test_sampling_takes_the_size_of_the_model),
        cmocka_unit_test(test_sampling_with_every_sampler),
        cmocka_unit_test(test_sampling_with_negative_prompts),
        cmocka_unit_test(test_sampling_with_seeds_by_prompt),
        cmocka_unit_test(test_sampling_draws_with_xl),
        cmocka_unit_test(test_sampling_writes_settings_into_pictures),
        cmocka_unit_test(test_sampling_previews_of_latents),
        cmocka_unit_test(test_sampling_trains_on_encoded_images),
        cmocka_unit_test(test_sampling_starts_from_encoded_images),
        cmocka_unit_test(test_sampling_with_xl),
        cmocka_unit_test(test_sampling_trains_xl_on_encoded_images),
    };
    return cmocka_run_group_tests_name("sampling", tests, job_dir_setup, job_dir_teardown);
}
