/* A loaded model: the rows of its prompts, and models whose parts do not fit. */
#include "common/file.h"
#include "tests/unit/cmocka.h"
#include "worker/tasks/loaded/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static npo_backend *backend;
static npo_error error;
static char scratch[] = "/tmp/npo-model-XXXXXX";

enum { CONTEXT = 16 * 20, POOLED = 10 }; /* of sdxl-small */

static int setup(void **state)
{
    const npo_backend_options options = {.device = "cpu", .threads = 1};
    return !mkdtemp(scratch) || npo_backend_new(&options, &backend, &error) ? -1 : 0;
}

static int teardown(void **state)
{
    npo_backend_free(backend);
    return npo_file_remove(scratch, NULL) ? -1 : 0;
}

static const char *in_scratch(const char *name)
{
    static char paths[4][256];
    static int at;
    char *path = paths[at++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", scratch, name);
    return path;
}

/* A copy of a golden model, with the file `path` from another one. */
static const char *mixed(const char *model, const char *other, const char *path)
{
    npo_file_list files;
    char root[512], from[640], to[256];
    assert_int_equal(npo_file_remove(in_scratch("model"), &error), NPO_OK);
    snprintf(root, sizeof root, "%s/%s", NPO_GOLDEN_DIR, model);
    assert_int_equal(npo_file_list_tree(root, 100, &files, &error), NPO_OK);
    for (size_t i = 0; i < files.count; i++) {
        bool is_other = strcmp(files.paths[i], path) == 0;
        snprintf(from, sizeof from, "%s/%s/%s", NPO_GOLDEN_DIR, is_other ? other : model,
                 files.paths[i]);
        snprintf(to, sizeof to, "%s/model/%s", scratch, files.paths[i]);
        char *dir = strndup(to, (size_t)(strrchr(to, '/') - to));
        assert_int_equal(npo_file_make_dirs(dir, &error), NPO_OK);
        assert_int_equal(npo_file_copy(from, to, 0666, &error), NPO_OK);
        free(dir);
    }
    npo_file_list_fini(&files);
    return in_scratch("model");
}

static void assert_time_ids(const float *ids, float height, float width)
{
    const float expected[] = {height, width, 0, 0, height, width};
    assert_memory_equal(ids, expected, sizeof expected);
}

static void test_model_rows_hold_text_and_sizes(void **state)
{
    static const char *const prompts[] = {"a photo of a sneaker", ""};
    float context[2 * CONTEXT], pooled[2 * POOLED];
    npo_model *model;
    assert_int_equal(npo_model_open(backend, NPO_GOLDEN_DIR "/sdxl-small", &model, &error), NPO_OK);
    assert_int_equal(npo_model_set_size(model, backend, 0, 0, &error), NPO_OK);
    assert_int_equal(npo_model_encode(model, prompts, 2, &error), NPO_OK);
    assert_int_equal(model->prompts.floats, CONTEXT + POOLED + 6);
    assert_null(model->text); /* it has left memory */
    npo_text_encoder *text;
    assert_int_equal(npo_text_encoder_new(backend, &model->folder, &text, &error), NPO_OK);
    assert_int_equal(npo_text_encoder_encode(text, prompts, 2, context, pooled, &error), NPO_OK);
    npo_text_encoder_free(text);
    for (int i = 0; i < 2; i++) {
        const float *row = npo_prompts_row(&model->prompts, i);
        assert_memory_equal(row, context + i * CONTEXT, CONTEXT * sizeof *row);
        assert_memory_equal(row + CONTEXT, pooled + i * POOLED, POOLED * sizeof *row);
        assert_time_ids(row + CONTEXT + POOLED, 8, 8);
    }
    const float *empty = npo_prompts_row(&model->prompts, NPO_PROMPT_EMPTY);
    for (int i = 0; i < CONTEXT + POOLED; i++)
        assert_true(empty[i] == 0);
    assert_time_ids(empty + CONTEXT + POOLED, 8, 8);
    model->latent.width = 6; /* other sizes are other rows */
    model->pixel_factor = 8;
    assert_int_equal(npo_model_encode(model, prompts, 2, &error), NPO_OK);
    assert_time_ids(npo_prompts_row(&model->prompts, 1) + CONTEXT + POOLED, 64, 48);
    npo_model_free(model);
}

static void test_model_refuses_a_network_for_other_text(void **state)
{
    npo_model *model = NULL;
    const char *path = mixed("sdxl-small", "sd15-tiny", "unet/config.json");
    assert_int_equal(npo_model_open(backend, path, &model, &error), NPO_E_SHAPE);
    assert_non_null(strstr(error.text, "model/unet/config.json': found cross_attention_dim 32, "
                                       "expected 20 as the text embeddings have"));
    path = mixed("sdxl-small", "unet-plain", "unet/config.json"); /* attends to nothing */
    assert_int_equal(npo_model_open(backend, path, &model, &error), NPO_E_UNSUPPORTED);
    path = mixed("sdxl-small", "unet-odd", "unet/config.json");
    assert_int_equal(npo_model_open(backend, path, &model, &error), NPO_E_SHAPE);
    assert_null(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_rows_hold_text_and_sizes),
        cmocka_unit_test(test_model_refuses_a_network_for_other_text),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
