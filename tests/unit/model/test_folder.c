#include "tests/unit/model/device.h"

#include "worker/model/folder.h"

#include <unistd.h>

/* A fresh copy of a golden model, without the files of the cases. */
static void copy_golden(const char *name)
{
    npo_file_list files;
    char root[512];
    snprintf(root, sizeof root, "%s/%s", NPO_GOLDEN_DIR, name);
    assert_ok(npo_file_remove(scratch_path("model"), &error));
    assert_ok(npo_file_list_tree(root, 100, &files, &error));
    for (size_t i = 0; i < files.count; i++) {
        char from[512], to[256];
        snprintf(from, sizeof from, "%s/%s/%s", NPO_GOLDEN_DIR, name, files.paths[i]);
        snprintf(to, sizeof to, "model/%s", files.paths[i]);
        if (strchr(files.paths[i], '/') || strcmp(files.paths[i], "model_index.json") == 0)
            scratch_copy(from, to);
    }
    npo_file_list_fini(&files);
}

static void copy_model(void)
{
    copy_golden("sd15-tiny");
}

static void remove_part(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "model/%s", name);
    assert_ok(npo_file_remove(scratch_path(path), &error));
}

/* ---- locating ---- */

static void test_folder_locates_every_part(void **state)
{
    npo_folder folder;
    copy_model();
    remove_part("model_index.json"); /* optional */
    assert_ok(npo_folder_open(scratch_path("model"), &folder, &error));
    assert_string_equal(folder.root, scratch_path("model"));
    assert_string_equal(folder.tokenizer, scratch_path("model/tokenizer"));
    assert_string_equal(folder.unet_weights,
                        scratch_path("model/unet/diffusion_pytorch_model.safetensors"));
    assert_string_equal(folder.scheduler_config,
                        scratch_path("model/scheduler/scheduler_config.json"));
    assert_null(folder.vae_config);
    assert_false(folder.is_xl || folder.zero_empty_prompt);
    npo_folder_fini(&folder);
    scratch_text("model/vae/config.json", "{}");
    assert_ok(npo_folder_open(scratch_path("model"), &folder, &error));
    assert_string_equal(folder.vae_config, scratch_path("model/vae/config.json"));
    assert_null(folder.vae_weights);
    npo_folder_fini(&folder);
}

static void test_folder_prefers_plain_weights_over_variants(void **state)
{
    static const char *const names[] = {
        "model/unet/diffusion_pytorch_model.safetensors.index.fp16.json",
        "model/unet/diffusion_pytorch_model.fp16.safetensors",
        "model/unet/diffusion_pytorch_model.safetensors.index.json",
        "model/unet/diffusion_pytorch_model.safetensors",
    };
    npo_folder folder;
    copy_model();
    remove_part("unet/diffusion_pytorch_model.safetensors");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        scratch_text(names[i], "");
        assert_ok(npo_folder_open(scratch_path("model"), &folder, &error));
        assert_string_equal(folder.unet_weights, scratch_path(names[i]));
        npo_folder_fini(&folder);
    }
}

static void test_folder_names_the_missing_part(void **state)
{
    static const char *const parts[] = {
        "unet/config.json",     "text_encoder/config.json",        "text_encoder/model.safetensors",
        "tokenizer/vocab.json", "scheduler/scheduler_config.json",
    };
    npo_folder folder = {0};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char expected[128];
        copy_model();
        remove_part(parts[i]);
        snprintf(expected, sizeof expected, "model' has no %s", parts[i]);
        assert_fails(NPO_E_NOT_FOUND, expected,
                     npo_folder_open(scratch_path("model"), &folder, &error));
    }
    assert_fails(NPO_E_NOT_FOUND, "there is no model folder",
                 npo_folder_open(scratch_path("none"), &folder, &error));
}

static void test_folder_locates_the_second_text_encoder(void **state)
{
    static const char *const parts[] = {
        "text_encoder_2/config.json", "text_encoder_2/model.safetensors", "tokenizer_2/vocab.json"};
    npo_folder folder;
    copy_golden("sdxl-small");
    assert_ok(npo_folder_open(scratch_path("model"), &folder, &error));
    assert_true(folder.is_xl && folder.zero_empty_prompt);
    assert_string_equal(folder.text_config_2, scratch_path("model/text_encoder_2/config.json"));
    assert_string_equal(folder.text_weights_2,
                        scratch_path("model/text_encoder_2/model.safetensors"));
    assert_string_equal(folder.tokenizer_2, scratch_path("model/tokenizer_2"));
    npo_folder_fini(&folder);
    scratch_text("model/model_index.json", "{\"_class_name\": \"StableDiffusionXLPipeline\","
                                           "\"force_zeros_for_empty_prompt\": false}");
    assert_ok(npo_folder_open(scratch_path("model"), &folder, &error));
    assert_true(folder.is_xl && !folder.zero_empty_prompt);
    npo_folder_fini(&folder);
    remove_part("model_index.json"); /* then the second encoder says what it is */
    assert_ok(npo_folder_open(scratch_path("model"), &folder, &error));
    assert_true(folder.is_xl && folder.zero_empty_prompt);
    npo_folder_fini(&folder);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char expected[128];
        copy_golden("sdxl-small");
        remove_part(parts[i]);
        snprintf(expected, sizeof expected, "model' has no %s", parts[i]);
        assert_fails(NPO_E_NOT_FOUND, expected,
                     npo_folder_open(scratch_path("model"), &folder, &error));
    }
}

static void test_folder_refuses_other_pipelines(void **state)
{
    npo_folder folder = {0};
    copy_model();
    scratch_text("model/model_index.json", "{\"_class_name\": \"StableDiffusion3Pipeline\"}");
    assert_fails(NPO_E_UNSUPPORTED,
                 "found pipeline 'StableDiffusion3Pipeline', expected StableDiffusionPipeline or "
                 "StableDiffusionXLPipeline",
                 npo_folder_open(scratch_path("model"), &folder, &error));
    scratch_text("model/model_index.json", "{");
    assert_fails(NPO_E_FORMAT, "model_index.json'",
                 npo_folder_open(scratch_path("model"), &folder, &error));
}

/* ---- loading ---- */

typedef struct {
    npo_folder folder;
    npo_unet_config config;
    npo_layout *layout;
    npo_params *params;
} loaded;

static void open_unet(loaded *m, const char *root)
{
    assert_ok(npo_folder_open(root, &m->folder, &error));
    assert_ok(npo_folder_unet(&m->folder, backend, &m->config, &m->layout, &error));
    assert_ok(npo_params_new(m->layout, &m->params));
}

static void close_unet(loaded *m)
{
    npo_params_free(m->params);
    npo_layout_unref(m->layout);
    npo_folder_fini(&m->folder);
}

/* Writes the model's UNet weights again with `edit` applied to the list of tensors. */
static void rewrite_weights(size_t (*edit)(npo_tensor_source *sources, size_t count))
{
    static const float zeros[320 * 9 * 9];
    npo_safetensors *file;
    npo_tensor_source sources[1024];
    const char *path = scratch_path("model/unet/diffusion_pytorch_model.safetensors");
    assert_ok(npo_safetensors_open(GOLDEN("sd15-tiny/unet/diffusion_pytorch_model.safetensors"),
                                   &file, &error));
    size_t count = npo_safetensors_count(file);
    assert_true(count < 1023);
    for (size_t i = 0; i < count; i++) {
        const npo_tensor *t = npo_safetensors_at(file, i);
        sources[i] = (npo_tensor_source){t->name, t->dtype, t->ndim, {0}, t->data};
        memcpy(sources[i].dims, t->dims, sizeof t->dims);
    }
    sources[count].data = zeros;
    count = edit(sources, count);
    assert_ok(npo_safetensors_write(path, sources, count, NULL, 0, &error));
    npo_safetensors_close(file);
}

static npo_tensor_source *find_source(npo_tensor_source *sources, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(sources[i].name, name) == 0)
            return &sources[i];
    fail_msg("no '%s'", name);
    return NULL;
}

static size_t widen_conv_in(npo_tensor_source *sources, size_t count)
{
    npo_tensor_source *conv_in = find_source(sources, count, "conv_in.weight");
    conv_in->dims[1] = 9;
    conv_in->data = sources[count].data;
    return count;
}

static size_t drop_conv_out(npo_tensor_source *sources, size_t count)
{
    *find_source(sources, count, "conv_out.bias") = sources[count - 1];
    return count - 1;
}

static size_t add_unknown(npo_tensor_source *sources, size_t count)
{
    const void *data = sources[count].data;
    sources[count] =
        (npo_tensor_source){"add_embedding.linear_1.weight", NPO_TENSOR_F32, 1, {3}, data};
    return count + 1;
}

static size_t make_whole(npo_tensor_source *sources, size_t count)
{
    npo_tensor_source *bias = find_source(sources, count, "conv_out.bias");
    bias->dtype = NPO_TENSOR_I32;
    return count;
}

static size_t drop_most(npo_tensor_source *sources, size_t count)
{
    return 1;
}

static size_t mix_all(npo_tensor_source *sources, size_t count)
{
    count = widen_conv_in(sources, count);
    const void *data = sources[count].data;
    count = drop_conv_out(sources, count);
    sources[count].data = data;
    return add_unknown(sources, count);
}

static void test_folder_names_wrong_tensors(void **state)
{
    static const struct {
        size_t (*edit)(npo_tensor_source *sources, size_t count);
        npo_err code;
        const char *sentence;
    } cases[] = {
        {widen_conv_in, NPO_E_SHAPE,
         "cannot load 'conv_in.weight': shape [16,9,3,3], expected [16,4,3,3] in '"},
        {drop_conv_out, NPO_E_NOT_FOUND, "cannot load 'conv_out.bias': missing in '"},
        {add_unknown, NPO_E_USAGE, "cannot load 'add_embedding.linear_1.weight': unexpected in '"},
        {make_whole, NPO_E_TYPE, "'conv_out.bias': dtype I32, expected F32, F16 or BF16"},
        {drop_most, NPO_E_NOT_FOUND, " more in '"},
        {mix_all, NPO_E_SHAPE,
         "'conv_out.bias': missing; 'add_embedding.linear_1.weight': unexpected"},
    };
    copy_model();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        loaded m;
        rewrite_weights(cases[i].edit);
        open_unet(&m, scratch_path("model"));
        npo_params_edit(m.params)[0] = 42;
        assert_fails(cases[i].code, cases[i].sentence,
                     npo_folder_load_unet(&m.folder, m.params, &error));
        assert_fails(cases[i].code, "diffusion_pytorch_model.safetensors'",
                     npo_folder_load_unet(&m.folder, m.params, &error));
        assert_float_equal(npo_params_data(m.params)[0], 42, 0); /* untouched */
        close_unet(&m);
    }
}

static void test_folder_without_weights_can_be_opened_but_not_loaded(void **state)
{
    loaded m;
    copy_model();
    remove_part("unet/diffusion_pytorch_model.safetensors");
    open_unet(&m, scratch_path("model"));
    assert_fails(NPO_E_NOT_FOUND, "has no unet/diffusion_pytorch_model.safetensors",
                 npo_folder_load_unet(&m.folder, m.params, &error));
    close_unet(&m);
}

static void test_folder_reports_a_bad_config(void **state)
{
    npo_folder folder;
    npo_unet_config config;
    npo_layout *layout = NULL;
    copy_model();
    scratch_text("model/unet/config.json", "{\"dropout\": 0.5}");
    assert_ok(npo_folder_open(scratch_path("model"), &folder, &error));
    assert_fails(NPO_E_UNSUPPORTED, "unet/config.json': dropout: found 0.5",
                 npo_folder_unet(&folder, backend, &config, &layout, &error));
    npo_folder_fini(&folder);
}

/* ---- the text encoder's names ---- */

/* Writes the text encoder's weights with every name changed by `rename`, and a position_ids buffer.
 */
static void rename_text(const char *(*rename)(const char *name))
{
    static const int64_t positions[16];
    npo_safetensors *file;
    npo_tensor_source sources[128];
    assert_ok(
        npo_safetensors_open(GOLDEN("sd15-tiny/text_encoder/model.safetensors"), &file, &error));
    size_t count = npo_safetensors_count(file);
    assert_true(count < 128);
    for (size_t i = 0; i < count; i++) {
        const npo_tensor *t = npo_safetensors_at(file, i);
        sources[i] = (npo_tensor_source){rename(t->name), t->dtype, t->ndim, {0}, t->data};
        memcpy(sources[i].dims, t->dims, sizeof t->dims);
    }
    sources[count] = (npo_tensor_source){
        rename("text_model.embeddings.position_ids"), NPO_TENSOR_I64, 2, {1, 16}, positions};
    assert_ok(npo_safetensors_write(scratch_path("model/text_encoder/model.safetensors"), sources,
                                    count + 1, NULL, 0, &error));
    npo_safetensors_close(file);
}

static const char *keep_name(const char *name)
{
    return name;
}

static const char *drop_prefix(const char *name)
{
    return name + strlen("text_model.");
}

static void load_text(const char *root, npo_params **ret_params, npo_layout **ret_layout)
{
    npo_folder folder;
    npo_clip_text_config config;
    assert_ok(npo_folder_open(root, &folder, &error));
    assert_ok(npo_folder_load_text(&folder, backend, &config, ret_layout, ret_params, &error));
    npo_folder_fini(&folder);
}

static void test_folder_reads_text_encoders_of_any_age(void **state)
{
    const char *(*const renames[])(const char *) = {keep_name, drop_prefix};
    npo_params *expected, *params;
    npo_layout *layout, *other;
    load_text(GOLDEN("sd15-tiny"), &expected, &layout);
    for (int i = 0; i < 2; i++) {
        copy_model();
        rename_text(renames[i]);
        load_text(scratch_path("model"), &params, &other);
        assert_memory_equal(npo_params_data(params), npo_params_data(expected),
                            npo_layout_floats(layout) * sizeof(float));
        npo_params_free(params);
        npo_layout_unref(other);
    }
    npo_params_free(expected);
    npo_layout_unref(layout);
}

static void test_folder_reports_a_bad_text_encoder(void **state)
{
    npo_folder folder;
    npo_clip_text_config config;
    npo_layout *layout = NULL;
    npo_params *params = NULL;
    copy_model();
    scratch_text("model/text_encoder/config.json", "{\"hidden_size\": 32, \"vocab_size\": 575}");
    assert_ok(npo_folder_open(scratch_path("model"), &folder, &error));
    assert_fails(NPO_E_SHAPE, "position_embedding.weight': shape [16,32], expected [77,32]",
                 npo_folder_load_text(&folder, backend, &config, &layout, &params, &error));
    assert_null(layout);
    npo_folder_fini(&folder);
}

/* ---- saving ---- */

static void assert_same_file(const char *a, const char *b)
{
    npo_file_map x, y;
    assert_ok(npo_file_map_open(a, &x, &error));
    assert_ok(npo_file_map_open(b, &y, &error));
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.data, y.data, x.size);
    npo_file_map_close(&x);
    npo_file_map_close(&y);
}

/* The golden's weights were written by the safetensors package: loaded and saved they keep every
 * byte. */
static void test_folder_saves_what_it_loaded(void **state)
{
    loaded m, again;
    open_unet(&m, GOLDEN("sd15-tiny"));
    assert_ok(npo_folder_load_unet(&m.folder, m.params, &error));
    npo_weights_made weights = npo_weights_of(m.params);
    assert_ok(npo_folder_save(&m.folder, &weights, NPO_TENSOR_F32, scratch_path("saved"), &error));
    assert_same_file(scratch_path("saved/unet/diffusion_pytorch_model.safetensors"),
                     GOLDEN("sd15-tiny/unet/diffusion_pytorch_model.safetensors"));
    assert_same_file(scratch_path("saved/tokenizer/merges.txt"),
                     GOLDEN("sd15-tiny/tokenizer/merges.txt"));
    open_unet(&again, scratch_path("saved"));
    assert_ok(npo_folder_load_unet(&again.folder, again.params, &error));
    assert_memory_equal(npo_params_data(again.params), npo_params_data(m.params),
                        npo_layout_floats(m.layout) * sizeof(float));
    close_unet(&again);
    close_unet(&m);
}

static void test_folder_saves_halves(void **state)
{
    loaded m, again;
    open_unet(&m, GOLDEN("sd15-tiny"));
    assert_ok(npo_folder_load_unet(&m.folder, m.params, &error));
    npo_weights_made weights = npo_weights_of(m.params);
    assert_ok(npo_folder_save(&m.folder, &weights, NPO_TENSOR_F16, scratch_path("half"), &error));
    open_unet(&again, scratch_path("half"));
    assert_ok(npo_folder_load_unet(&again.folder, again.params, &error));
    const float *a = npo_params_data(m.params), *b = npo_params_data(again.params);
    for (size_t i = 0; i < npo_layout_floats(m.layout); i++)
        assert_true(fabsf(a[i] - b[i]) <= fabsf(a[i]) * 0x1p-11f + 0x1p-25f);
    npo_params_edit(m.params)[0] = 1e6f;
    assert_fails(NPO_E_RANGE, "holds 1e+06, expected at most 65504",
                 npo_folder_save_unet(&m.folder, &weights, NPO_TENSOR_F16,
                                      scratch_path("half/unet"), &error));
    close_unet(&again);
    open_unet(&again, scratch_path("half")); /* the old file is still whole */
    assert_ok(npo_folder_load_unet(&again.folder, again.params, &error));
    close_unet(&again);
    close_unet(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folder_locates_every_part),
        cmocka_unit_test(test_folder_prefers_plain_weights_over_variants),
        cmocka_unit_test(test_folder_names_the_missing_part),
        cmocka_unit_test(test_folder_locates_the_second_text_encoder),
        cmocka_unit_test(test_folder_refuses_other_pipelines),
        cmocka_unit_test(test_folder_names_wrong_tensors),
        cmocka_unit_test(test_folder_without_weights_can_be_opened_but_not_loaded),
        cmocka_unit_test(test_folder_reports_a_bad_config),
        cmocka_unit_test(test_folder_reads_text_encoders_of_any_age),
        cmocka_unit_test(test_folder_reports_a_bad_text_encoder),
        cmocka_unit_test(test_folder_saves_what_it_loaded),
        cmocka_unit_test(test_folder_saves_halves),
    };
    return cmocka_run_group_tests(tests, device_setup, device_teardown);
}
