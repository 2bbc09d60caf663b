#include "worker/data/dataset.h"

#include "tests/unit/data/scratch.h"
#include "worker/image/png.h"

static const char *const prompts[] = {"a photo of a bag", "a photo of a coat"};
static const npo_dataset_options with_prompts = {NPO_SPLIT_TRAIN, prompts, 2};

/* Three images of 1 x 2. */
static const uint8_t images[] = {0, 0, 8, 3, 0, 0, 0,   3,  0,   0,   0,
                                 1, 0, 0, 0, 2, 0, 255, 51, 102, 153, 204};
static const uint8_t labels[] = {0, 0, 8, 1, 0, 0, 0, 3, 1, 0, 1};

/* A folder of its own below the scratch folder. */
static const char *folder(const char *name)
{
    const char *path = scratch_path(name);
    assert_int_equal(npo_file_make_dirs(path, NULL), NPO_OK);
    return path;
}

static void expect(const char *path, const npo_dataset_options *options, npo_err err,
                   const char *part)
{
    npo_dataset *ds;
    npo_error error = {0};
    assert_int_equal(npo_dataset_open(path, options, &ds, &error), err);
    if (!strstr(error.text, part))
        fail_msg("'%s' lacks '%s'", error.text, part);
}

static void test_dataset_reads_idx(void **state)
{
    const char *path = folder("idx");
    scratch_write_gz("idx/train-images-idx3-ubyte.gz", images, sizeof images);
    scratch_write("idx/train-labels-idx1-ubyte", labels, sizeof labels);
    npo_dataset *ds;
    assert_int_equal(npo_dataset_open(path, &with_prompts, &ds, NULL), NPO_OK);
    assert_int_equal(npo_dataset_count(ds), 3);
    assert_int_equal(npo_dataset_height(ds), 1);
    assert_int_equal(npo_dataset_width(ds), 2);
    assert_int_equal(npo_dataset_channels(ds), 1);
    assert_int_equal(npo_dataset_floats(ds), 2);
    float x[2];
    npo_dataset_image(ds, 0, x);
    assert_true(x[0] == -1 && x[1] == 1);
    npo_dataset_image(ds, 2, x);
    assert_true(x[0] == 153 / 127.5f - 1 && x[1] == 204 / 127.5f - 1);
    assert_int_equal(npo_dataset_label(ds, 0), 1);
    assert_int_equal(npo_dataset_prompt_of(ds, 1), 0);
    assert_int_equal(npo_dataset_prompt_count(ds), 2);
    assert_string_equal(npo_dataset_prompt(ds, 1), "a photo of a coat");
    npo_dataset_free(ds);
    /* The same without prompts, and a split that is not there. */
    npo_dataset_options bare = {NPO_SPLIT_TRAIN, NULL, 0}, test = {NPO_SPLIT_TEST, NULL, 0};
    assert_int_equal(npo_dataset_open(path, &bare, &ds, NULL), NPO_OK);
    assert_int_equal(npo_dataset_prompt_count(ds), 0);
    npo_dataset_free(ds);
    expect(path, &test, NPO_E_NOT_FOUND, "t10k-images-idx3-ubyte");
}

static void test_dataset_refuses_bad_idx(void **state)
{
    const char *path = folder("bad-idx");
    scratch_write("bad-idx/train-images-idx3-ubyte", images, sizeof images);
    expect(path, &with_prompts, NPO_E_NOT_FOUND, "labels-idx1-ubyte");
    uint8_t two[] = {0, 0, 8, 1, 0, 0, 0, 2, 1, 0};
    scratch_write("bad-idx/train-labels-idx1-ubyte", two, sizeof two);
    expect(path, &with_prompts, NPO_E_SHAPE, "3 train images and 2 labels");
    uint8_t high[sizeof labels];
    memcpy(high, labels, sizeof labels);
    high[9] = 2;
    scratch_write("bad-idx/train-labels-idx1-ubyte", high, sizeof high);
    expect(path, &with_prompts, NPO_E_RANGE, "image 1");
    scratch_write("bad-idx/train-labels-idx1-ubyte", images, sizeof images);
    expect(path, &with_prompts, NPO_E_FORMAT, "train-labels-idx1-ubyte");
    expect(folder("empty"), &with_prompts, NPO_E_NOT_FOUND, "captions.jsonl");
    expect(scratch_path("absent"), &with_prompts, NPO_E_NOT_FOUND, "absent");
}

static void write_png(const char *name, int width, int height, int channels, uint8_t fill)
{
    npo_image image;
    assert_int_equal(npo_image_init(&image, width, height, channels, fill), NPO_OK);
    assert_int_equal(npo_png_write(scratch_path(name), &image, NULL, 0, NULL), NPO_OK);
    npo_image_fini(&image);
}

static void write_captions(const char *name, const char *text)
{
    scratch_write(name, text, strlen(text));
}

static void test_dataset_reads_png_folder(void **state)
{
    const char *path = folder("png");
    write_png("png/a.png", 2, 3, 3, 0);
    write_png("png/b.png", 2, 3, 3, 255);
    write_captions("png/captions.jsonl", "{\"file\":\"b.png\",\"caption\":\"white\"}\n"
                                         "{\"file\":\"a.png\",\"caption\":\"black\"}\n"
                                         "{\"file\":\"b.png\",\"caption\":\"white\"}\n");
    npo_dataset *ds;
    assert_int_equal(npo_dataset_open(path, &with_prompts, &ds, NULL), NPO_OK);
    assert_int_equal(npo_dataset_count(ds), 3);
    assert_int_equal(npo_dataset_height(ds), 3);
    assert_int_equal(npo_dataset_width(ds), 2);
    assert_int_equal(npo_dataset_channels(ds), 3);
    assert_int_equal(npo_dataset_prompt_count(ds), 2);
    assert_string_equal(npo_dataset_prompt(ds, 0), "white");
    assert_string_equal(npo_dataset_prompt(ds, 1), "black");
    const int32_t expected[] = {0, 1, 0};
    float x[18];
    for (int i = 0; i < 3; i++) {
        assert_int_equal(npo_dataset_prompt_of(ds, i), expected[i]);
        npo_dataset_image(ds, i, x);
        assert_true(x[0] == (expected[i] ? -1 : 1) && x[17] == x[0]);
    }
    npo_dataset_free(ds);
}

static void test_dataset_refuses_bad_png_folder(void **state)
{
    const char *path = folder("bad-png");
    write_png("bad-png/a.png", 2, 2, 1, 0);
    write_captions("bad-png/captions.jsonl", "{\"file\":\"a.png\",\"caption\":\"x\"}\n"
                                             "{\"file\":\"b.png\",\"caption\":\"x\"}\n");
    expect(path, &with_prompts, NPO_E_NOT_FOUND, "b.png");
    write_png("bad-png/b.png", 3, 2, 1, 0);
    expect(path, &with_prompts, NPO_E_SHAPE, "b.png' is 3 x 2 with 1 channels, expected 2 x 2");
    write_png("bad-png/b.png", 2, 2, 3, 0);
    expect(path, &with_prompts, NPO_E_SHAPE, "3 channels");
    scratch_write("bad-png/b.png", "not a png", 9);
    expect(path, &with_prompts, NPO_E_FORMAT, "b.png");
    npo_dataset_options test = {NPO_SPLIT_TEST, NULL, 0};
    expect(path, &test, NPO_E_UNSUPPORTED, "no test split");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dataset_reads_idx),
        cmocka_unit_test(test_dataset_refuses_bad_idx),
        cmocka_unit_test(test_dataset_reads_png_folder),
        cmocka_unit_test(test_dataset_refuses_bad_png_folder),
    };
    return cmocka_run_group_tests_name("dataset", tests, scratch_setup, scratch_teardown);
}
