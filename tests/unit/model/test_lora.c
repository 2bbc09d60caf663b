#include "tests/unit/model/device.h"

#include "worker/model/files/lora.h"
#include "worker/model/files/single_name.h"
#include "worker/model/networks/unet.h"

/* ---- a network of three modules ---- */

static npo_layout *layout;

static void make_layout(void)
{
    static const struct {
        const char *name;
        int ndim;
        int64_t dims[4];
    } tensors[] = {
        {"conv_in.weight", 4, {6, 4, 3, 3}},
        {"conv_in.bias", 1, {6}},
        {"down_blocks.0.resnets.0.conv_shortcut.weight", 4, {5, 6, 1, 1}},
        {"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight", 2, {5, 7}},
    };
    size_t index;
    assert_ok(npo_layout_new(&layout));
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
        assert_ok(npo_layout_add(layout, tensors[i].name, tensors[i].ndim, tensors[i].dims, &index,
                                 &error));
}

#define TO_Q        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
#define TO_Q_KOHYA  "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
#define TO_Q_SINGLE "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"

static const float values[256] = {0.5f, -1, 2, 0.25f, 3, -0.125f, 1, 4, 0.75f, -2};

static npo_tensor_source source(const char *name, int ndim, int64_t a, int64_t b)
{
    return (npo_tensor_source){name, NPO_TENSOR_F32, ndim, {a, b, 1, 1}, values};
}

static const char *write_lora(const npo_tensor_source *sources, size_t count, const char *metadata)
{
    npo_tensor_metadata entry = {"lora_adapter_metadata", metadata};
    assert_ok(npo_safetensors_write(scratch_path("lora.safetensors"), sources, count, &entry,
                                    metadata ? 1 : 0, &error));
    return scratch_path("lora.safetensors");
}

/* A LoRA on to_q of rank 2 in the given names. */
static const char *write_to_q(const char *module, const char *down, const char *up,
                              const char *metadata)
{
    char names[2][200];
    snprintf(names[0], sizeof names[0], "%s%s", module, down);
    snprintf(names[1], sizeof names[1], "%s%s", module, up);
    npo_tensor_source sources[] = {source(names[0], 2, 2, 7), source(names[1], 2, 5, 2)};
    return write_lora(sources, 2, metadata);
}

static float alpha_of_to_q(const char *metadata)
{
    npo_lora lora;
    const char *path = write_to_q("unet." TO_Q, ".lora_A.weight", ".lora_B.weight", metadata);
    assert_ok(npo_lora_load(path, layout, &lora, &error));
    assert_int_equal(lora.count, 1);
    assert_string_equal(lora.layers[0].module, TO_Q);
    assert_int_equal(lora.layers[0].rank, 2);
    float alpha = lora.layers[0].alpha;
    npo_lora_fini(&lora);
    return alpha;
}

/* ---- names ---- */

static void test_lora_knows_the_names_of_other_programs(void **state)
{
    static const struct {
        const char *module, *down, *up;
    } names[] = {
        {"unet." TO_Q, ".lora_A.weight", ".lora_B.weight"},
        {TO_Q, ".lora_A.weight", ".lora_B.weight"},
        {"base_model.model." TO_Q, ".lora_A.weight", ".lora_B.weight"},
        {"base_model.model.unet." TO_Q, ".lora_A.default.weight", ".lora_B.default.weight"},
        {"unet." TO_Q, ".lora.down.weight", ".lora.up.weight"},
        {TO_Q_KOHYA, ".lora_down.weight", ".lora_up.weight"},
        {TO_Q_SINGLE, ".lora_down.weight", ".lora_up.weight"},
        {"diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q", ".lora_down.weight",
         ".lora_up.weight"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        npo_lora lora;
        const char *path = write_to_q(names[i].module, names[i].down, names[i].up, NULL);
        assert_ok(npo_lora_load(path, layout, &lora, &error));
        assert_int_equal(lora.count, 1);
        assert_string_equal(lora.layers[0].module, TO_Q);
        assert_float_equal(lora.layers[0].alpha, 2, 0);
        assert_memory_equal(lora.layers[0].down, values, 14 * sizeof(float));
        assert_memory_equal(lora.layers[0].up, values, 10 * sizeof(float));
        npo_lora_fini(&lora);
    }
}

/* Every linear and convolution weight of the published UNets by its name in single files. */
static void test_lora_finds_every_module_of_published_networks(void **state)
{
    static const char *const configs[] = {GOLDEN("full-size/sd15-unet.config.json")};
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        npo_unet_config config;
        npo_layout *whole;
        npo_single_place place;
        assert_ok(npo_unet_config_load(configs[i], &config, &error));
        assert_ok(npo_unet_layout(backend, &config, &whole, &error));
        npo_single_names single = npo_single_names_of(NPO_SINGLE_UNET, whole);
        size_t count = 0, cap = npo_layout_count(whole);
        npo_tensor_source *sources = calloc(cap, 2 * sizeof *sources);
        char(*names)[300] = calloc(cap, 2 * sizeof *names);
        for (size_t k = 0; k < cap; k++) {
            const npo_param_info *info = npo_layout_at(whole, k);
            if (info->ndim == 1)
                continue;
            assert_true(npo_single_place_of(&single, info->name, &place));
            char *module = place.name + strlen("model.diffusion_model.");
            module[strlen(module) - strlen(".weight")] = '\0';
            for (char *at = module; *at; at++)
                *at = *at == '.' ? '_' : *at;
            snprintf(names[count], sizeof *names, "lora_unet_%s.lora_down.weight", module);
            snprintf(names[count + 1], sizeof *names, "lora_unet_%s.lora_up.weight", module);
            sources[count] = source(names[count], info->ndim, 1, 1);
            memcpy(sources[count].dims + 1, info->dims + 1, 3 * sizeof *info->dims);
            sources[count + 1] = source(names[count + 1], info->ndim, info->dims[0], 1);
            static const float zeros[1280 * 9 * 4];
            sources[count].data = sources[count + 1].data = zeros;
            count += 2;
        }
        npo_lora lora;
        assert_ok(npo_lora_load(write_lora(sources, count, NULL), whole, &lora, &error));
        assert_int_equal(lora.count, count / 2);
        npo_lora_fini(&lora);
        npo_layout_unref(whole);
        free(sources);
        free(names);
    }
}

/* ---- alpha ---- */

static void test_lora_takes_alpha_from_where_it_is_said(void **state)
{
    assert_float_equal(alpha_of_to_q(NULL), 2, 0);
    assert_float_equal(alpha_of_to_q("{\"r\": 2, \"lora_alpha\": 8}"), 8, 0);
    assert_float_equal(alpha_of_to_q("{\"unet.r\": 2, \"unet.lora_alpha\": 3}"), 3, 0);
    assert_float_equal(alpha_of_to_q("{\"lora_alpha\": 8, \"use_rslora\": true}"), 8 * sqrtf(2),
                       1e-6);
    assert_float_equal(alpha_of_to_q("{\"lora_alpha\": 8, \"alpha_pattern\": {\"to_k\": 5, "
                                     "\"attn1.to_q\": 6}}"),
                       6, 0);
    assert_float_equal(alpha_of_to_q("{\"lora_alpha\": 8, \"alpha_pattern\": {\"o_q\": 5}}"), 8, 0);
    scratch_text("adapter_config.json", "{\"lora_alpha\": 16}");
    assert_float_equal(alpha_of_to_q(NULL), 16, 0);
    assert_float_equal(alpha_of_to_q("{\"lora_alpha\": 8}"), 8, 0);
    assert_ok(npo_file_remove(scratch_path("adapter_config.json"), &error));
}

static void test_lora_tensor_alpha_comes_first(void **state)
{
    npo_lora lora;
    npo_tensor_source sources[] = {source(TO_Q_KOHYA ".lora_down.weight", 2, 2, 7),
                                   source(TO_Q_KOHYA ".lora_up.weight", 2, 5, 2),
                                   source(TO_Q_KOHYA ".alpha", 0, 0, 0)};
    assert_ok(npo_lora_load(write_lora(sources, 3, "{\"lora_alpha\": 8}"), layout, &lora, &error));
    assert_float_equal(lora.layers[0].alpha, 0.5, 0);
    npo_lora_fini(&lora);
}

/* ---- refusals ---- */

static void test_lora_names_what_is_wrong(void **state)
{
    const npo_tensor_source down = source("unet." TO_Q ".lora_A.weight", 2, 2, 7);
    const npo_tensor_source up = source("unet." TO_Q ".lora_B.weight", 2, 5, 2);
    npo_tensor_source whole = up;
    whole.dtype = NPO_TENSOR_I32;
    const struct {
        npo_tensor_source sources[3];
        size_t count;
        npo_err code;
        const char *sentence;
    } cases[] = {
        {{down}, 1, NPO_E_NOT_FOUND, "to_q.lora_A.weight': the module's up (lora_B) is missing"},
        {{up}, 1, NPO_E_NOT_FOUND, "to_q.lora_B.weight': the module's down (lora_A) is missing"},
        {{down, source("unet." TO_Q ".lora_B.weight", 2, 6, 2)},
         2,
         NPO_E_SHAPE,
         "to_q.lora_B.weight': shape [6,2], expected [5,2]"},
        {{source("unet." TO_Q ".lora_A.weight", 2, 2, 9), up},
         2,
         NPO_E_SHAPE,
         "to_q.lora_A.weight': shape [2,9], expected [2,7]"},
        {{source("unet." TO_Q ".lora_A.weight", 0, 0, 0), up},
         2,
         NPO_E_SHAPE,
         "rank 0, expected 1 to 4096"},
        {{source("unet.conv_in.lora_A.weight", 2, 2, 36),
          source("unet.conv_in.lora_B.weight", 2, 6, 2)},
         2,
         NPO_E_SHAPE,
         "conv_in.lora_A.weight': shape [2,36], expected [2,4,3,3]"},
        {{down, whole}, 2, NPO_E_TYPE, "to_q.lora_B.weight': dtype I32, expected F32, F16 or BF16"},
        {{down, up, source(TO_Q ".lora_A.weight", 2, 2, 7)},
         3,
         NPO_E_EXISTS,
         "second such tensor for module"},
        {{down, up, source("unet." TO_Q ".alpha", 1, 2, 0)},
         3,
         NPO_E_SHAPE,
         "to_q.alpha': 2 values, expected one"},
        {{down, up, source("unet.conv_out.lora_A.weight", 2, 2, 7)},
         3,
         NPO_E_USAGE,
         "'unet.conv_out.lora_A.weight': the network has no such module"},
        {{down, up, source(TO_Q_KOHYA ".hada_w1_a", 2, 2, 7)},
         3,
         NPO_E_UNSUPPORTED,
         "to_q.hada_w1_a': not a tensor of a LoRA in PEFT or kohya names"},
        {{source("lora_te_text_model.lora_down.weight", 2, 2, 7)},
         1,
         NPO_E_USAGE,
         "it has no LoRA of a UNet"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        npo_lora lora = {0};
        const char *path = write_lora(cases[i].sources, cases[i].count, NULL);
        assert_fails(cases[i].code, cases[i].sentence, npo_lora_load(path, layout, &lora, &error));
        assert_fails(cases[i].code, "lora.safetensors'",
                     npo_lora_load(path, layout, &lora, &error));
        assert_null(lora.layers);
    }
}

static void test_lora_refuses_bad_values(void **state)
{
    npo_lora lora;
    float bad[14] = {1, 2, NAN};
    npo_tensor_source sources[] = {source("unet." TO_Q ".lora_A.weight", 2, 2, 7),
                                   source("unet." TO_Q ".lora_B.weight", 2, 5, 2)};
    sources[0].data = bad;
    assert_fails(NPO_E_RANGE, "to_q.lora_A.weight': element 2 is nan, expected a finite number",
                 npo_lora_load(write_lora(sources, 2, NULL), layout, &lora, &error));
    sources[0].data = values;
    assert_fails(
        NPO_E_RANGE, "expected a finite number",
        npo_lora_load(write_lora(sources, 2, "{\"lora_alpha\": 1e300}"), layout, &lora, &error));
    assert_fails(
        NPO_E_UNSUPPORTED, "'use_dora' is true",
        npo_lora_load(write_lora(sources, 2, "{\"use_dora\": true}"), layout, &lora, &error));
    assert_fails(NPO_E_FORMAT, "lora_adapter_metadata",
                 npo_lora_load(write_lora(sources, 2, "{"), layout, &lora, &error));
    assert_fails(NPO_E_NOT_FOUND, "none.safetensors",
                 npo_lora_load(scratch_path("none.safetensors"), layout, &lora, &error));
}

/* A truncated file, or one with a changed byte, is refused or read whole. */
static void test_lora_survives_broken_files(void **state)
{
    npo_file_map map;
    write_to_q("unet." TO_Q, ".lora_A.weight", ".lora_B.weight", "{\"lora_alpha\": 8}");
    assert_ok(npo_file_map_open(scratch_path("lora.safetensors"), &map, &error));
    uint8_t *bytes = malloc(map.size);
    for (size_t i = 0; i < 2 * map.size; i++) {
        npo_lora lora;
        npo_error sentence = {0};
        memcpy(bytes, map.data, map.size);
        bytes[i % map.size] ^= 0x15;
        scratch_write("broken.safetensors", bytes, i < map.size ? map.size : i - map.size);
        if (npo_lora_load(scratch_path("broken.safetensors"), layout, &lora, &sentence) == NPO_OK)
            npo_lora_fini(&lora);
        else
            assert_non_null(strstr(sentence.text, "broken.safetensors"));
    }
    free(bytes);
    npo_file_map_close(&map);
}

/* ---- writing and applying ---- */

static void check_applied(const char *path)
{
    npo_lora lora;
    npo_params *params;
    assert_ok(npo_lora_load(path, layout, &lora, &error));
    assert_ok(npo_params_new(layout, &params));
    npo_lora_apply(&lora, 0.5f, params);
    const npo_param_info *conv = npo_layout_find(layout, "conv_in.weight");
    const npo_param_info *linear = npo_layout_find(layout, TO_Q ".weight");
    /* scale 0.5, alpha 6 at rank 2 */
    for (size_t o = 0; o < 5; o++)
        for (size_t i = 0; i < 7; i++)
            assert_float_equal(
                npo_params_data(params)[linear->offset + o * 7 + i],
                1.5f * (values[o * 2] * values[i] + values[o * 2 + 1] * values[7 + i]), 1e-5);
    for (size_t o = 0; o < 6; o++)
        for (size_t i = 0; i < 36; i++)
            assert_float_equal(npo_params_data(params)[conv->offset + o * 36 + i],
                               1.5f * values[o] * values[i], 1e-5);
    npo_params_free(params);
    npo_lora_fini(&lora);
}

static void test_lora_is_the_same_in_either_names(void **state)
{
    npo_lora_layer layers[] = {
        {"conv_in", 1, 3, 4, {6, 4, 3, 3}, (float *)values, (float *)values},
        {TO_Q, 2, 6, 2, {5, 7}, (float *)values, (float *)values},
    };
    npo_lora lora = {layers, 2, 0};
    for (int names = NPO_LORA_PEFT; names <= NPO_LORA_KOHYA; names++)
        for (int dtype = NPO_TENSOR_F16; dtype <= NPO_TENSOR_F32; dtype++) {
            if (dtype == NPO_TENSOR_I32)
                continue;
            assert_ok(npo_lora_save(scratch_path("saved.safetensors"), &lora, (npo_lora_names)names,
                                    (npo_tensor_dtype)dtype, &error));
            check_applied(scratch_path("saved.safetensors"));
        }
}

static void test_lora_has_the_names_of_its_kind(void **state)
{
    static const char *const expected[][3] = {
        [NPO_LORA_PEFT] = {"unet.conv_in.lora_A.weight", "unet.conv_in.lora_B.weight"},
        [NPO_LORA_KOHYA] = {"lora_unet_conv_in.lora_down.weight",
                            "lora_unet_conv_in.lora_up.weight", "lora_unet_conv_in.alpha"},
    };
    static const int64_t down_dims[] = {1, 4, 3, 3}, up_dims[] = {6, 1, 1, 1};
    npo_lora_layer layer = {"conv_in", 1, 3, 4, {6, 4, 3, 3}, (float *)values, (float *)values};
    npo_lora lora = {&layer, 1, 0};
    for (int names = NPO_LORA_PEFT; names <= NPO_LORA_KOHYA; names++) {
        npo_safetensors *file;
        assert_ok(npo_lora_save(scratch_path("saved.safetensors"), &lora, (npo_lora_names)names,
                                NPO_TENSOR_F32, &error));
        assert_ok(npo_safetensors_open(scratch_path("saved.safetensors"), &file, &error));
        assert_int_equal(npo_safetensors_count(file), names == NPO_LORA_PEFT ? 2 : 3);
        for (int i = 0; i < 3 && expected[names][i]; i++)
            assert_non_null(npo_safetensors_find(file, expected[names][i]));
        const npo_tensor *down = npo_safetensors_find(file, expected[names][0]);
        const npo_tensor *up = npo_safetensors_find(file, expected[names][1]);
        assert_memory_equal(down->dims, down_dims, sizeof down_dims);
        assert_memory_equal(up->dims, up_dims, sizeof up_dims);
        npo_safetensors_close(file);
    }
    assert_fails(NPO_E_NOT_FOUND, "no/saved",
                 npo_lora_save(scratch_path("no/saved.safetensors"), &lora, NPO_LORA_PEFT,
                               NPO_TENSOR_F32, &error));
}

static int setup(void **state)
{
    if (device_setup(state))
        return -1;
    make_layout();
    return 0;
}

static int teardown(void **state)
{
    npo_layout_unref(layout);
    return device_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lora_knows_the_names_of_other_programs),
        cmocka_unit_test(test_lora_finds_every_module_of_published_networks),
        cmocka_unit_test(test_lora_takes_alpha_from_where_it_is_said),
        cmocka_unit_test(test_lora_tensor_alpha_comes_first),
        cmocka_unit_test(test_lora_names_what_is_wrong),
        cmocka_unit_test(test_lora_refuses_bad_values),
        cmocka_unit_test(test_lora_survives_broken_files),
        cmocka_unit_test(test_lora_is_the_same_in_either_names),
        cmocka_unit_test(test_lora_has_the_names_of_its_kind),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
