/* Weights read range by range against the same files loaded whole. */
#include "tests/unit/model/device.h"
#include "tests/unit/model/support.h"

#include "worker/model/files/lora.h"
#include "worker/model/folder.h"
#include "worker/model/weight_view.h"

static npo_folder folder;
static npo_layout *layout;

static int setup(void **state)
{
    npo_unet_config config;
    npo_error error = {0};
    return device_setup(state) || npo_folder_open(GOLDEN("sd15-tiny"), &folder, &error) ||
                   npo_folder_unet(&folder, backend, &config, &layout, &error)
               ? -1
               : 0;
}

static int teardown(void **state)
{
    npo_layout_unref(layout);
    npo_folder_fini(&folder);
    return device_teardown(state);
}

/* Every tensor of the view in parts of an odd length equals that of the set. */
static void check_view(const npo_weight_view *view, const npo_params *params, float tolerance)
{
    enum { PART = 997 };
    float part[PART];
    for (size_t i = 0; i < npo_layout_count(layout); i++) {
        const npo_param_info *info = npo_layout_at(layout, i);
        const float *expected = npo_params_data(params) + info->offset;
        for (size_t at = 0, n; at < info->count; at += n) {
            n = info->count - at < PART ? info->count - at : (size_t)PART;
            assert_ok(npo_weight_view_read(view, i, at, n, part, &error));
            for (size_t k = 0; k < n; k++)
                if (!(fabsf(part[k] - expected[at + k]) <= tolerance))
                    fail_msg("'%s' [%zu] is %g, expected %g", info->name, at + k, (double)part[k],
                             (double)expected[at + k]);
        }
        npo_weight_view_release(view, i);
    }
}

static npo_params *new_params(void)
{
    npo_params *params;
    assert_int_equal(npo_params_new(layout, &params), NPO_OK);
    return params;
}

static void test_weight_view_reads_a_folder(void **state)
{
    npo_weight_view *view;
    npo_params *params = new_params();
    assert_ok(npo_folder_load_unet(&folder, params, &error));
    assert_ok(npo_weight_view_open(folder.unet_weights, NULL, layout, &view, &error));
    assert_false(npo_weight_view_is_offset(view));
    check_view(view, params, 0);
    npo_weight_view_close(view);
    npo_params_free(params);
}

/* Writes every tensor of the set as "student.NAME", all but the last `left_out`. */
static void write_set(const npo_params *params, size_t left_out)
{
    size_t count = npo_layout_count(layout) - left_out;
    npo_tensor_source *sources = calloc(count, sizeof *sources);
    char(*names)[NPO_PARAM_NAME_MAX + 16] = calloc(count, sizeof *names);
    for (size_t i = 0; i < count; i++) {
        const npo_param_info *info = npo_layout_at(layout, i);
        snprintf(names[i], sizeof names[i], "student.%s", info->name);
        sources[i] = (npo_tensor_source){.name = names[i],
                                         .dtype = NPO_TENSOR_F32,
                                         .ndim = info->ndim,
                                         .data = npo_params_data(params) + info->offset};
        memcpy(sources[i].dims, info->dims, sizeof info->dims);
    }
    assert_ok(
        npo_safetensors_write(scratch_path("set.safetensors"), sources, count, NULL, 0, &error));
    free(sources);
    free(names);
}

static void test_weight_view_reads_a_set(void **state)
{
    npo_weight_view *view;
    npo_params *params = new_params();
    assert_ok(npo_folder_load_unet(&folder, params, &error));
    write_set(params, 0);
    assert_ok(npo_weight_view_open_set(scratch_path("set.safetensors"), "student.", layout, &view,
                                       &error));
    check_view(view, params, 0);
    npo_weight_view_close(view);
    assert_fails(
        NPO_E_NOT_FOUND, "'ema.conv_in.weight': missing",
        npo_weight_view_open_set(scratch_path("set.safetensors"), "ema.", layout, &view, &error));
    write_set(params, 1);
    assert_fails(NPO_E_NOT_FOUND, "missing",
                 npo_weight_view_open_set(scratch_path("set.safetensors"), "student.", layout,
                                          &view, &error));
    npo_params_edit(params)[3] = NAN;
    write_set(params, 0);
    assert_ok(npo_weight_view_open_set(scratch_path("set.safetensors"), "student.", layout, &view,
                                       &error));
    float values[8];
    assert_fails(NPO_E_RANGE, "': element 3 is nan",
                 npo_weight_view_read(view, 0, 0, 8, values, &error));
    npo_weight_view_close(view);
    npo_params_free(params);
}

static void test_weight_view_reads_a_lora(void **state)
{
    const char *const paths[] = {GOLDEN("sd15-tiny/negative-lora-peft.safetensors"),
                                 GOLDEN("sd15-tiny/negative-lora-kohya.safetensors")};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        npo_weight_view *view;
        npo_lora lora;
        npo_params *params = new_params();
        assert_ok(npo_lora_load(paths[i], layout, &lora, &error));
        npo_lora_apply(&lora, 1, params);
        assert_ok(npo_weight_view_open_lora(paths[i], layout, &view, &error));
        assert_true(npo_weight_view_is_offset(view));
        check_view(view, params, 1e-7f);
        npo_weight_view_close(view);
        npo_lora_fini(&lora);
        npo_params_free(params);
    }
}

static void test_weight_view_refuses_other_files(void **state)
{
    npo_weight_view *view;
    scratch_text("text.safetensors", "no tensors here");
    assert_fails(
        NPO_E_LIMIT, "text.safetensors",
        npo_weight_view_open(scratch_path("text.safetensors"), NULL, layout, &view, &error));
    assert_fails(NPO_E_NOT_FOUND, "missing",
                 npo_weight_view_open(folder.text_weights, NULL, layout, &view, &error));
    assert_fails(NPO_E_UNSUPPORTED, "not a tensor of a LoRA",
                 npo_weight_view_open_lora(folder.unet_weights, layout, &view, &error));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weight_view_reads_a_folder),
        cmocka_unit_test(test_weight_view_reads_a_set),
        cmocka_unit_test(test_weight_view_reads_a_lora),
        cmocka_unit_test(test_weight_view_refuses_other_files),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
