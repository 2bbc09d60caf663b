#include "tests/unit/model/device.h"

#include "common/buf.h"
#include "worker/model/files/single_file.h"
#include "worker/model/folder.h"
#include "worker/model/networks/unet.h"

#include <unistd.h>

enum { PARTS_MAX = 4, TENSORS_MAX = 4000 };

/* ---- a golden folder's weights under the names of single files ---- */

typedef struct {
    npo_layout *layout;
    npo_params *params;
    npo_single_part part;
} part;

/* UNet, text encoders and VAE of a model; part.params NULL: it has none. */
static void load_parts(const npo_folder *folder, part *parts)
{
    npo_unet_config unet;
    npo_clip_text_config text;
    npo_autoencoder_config vae;
    memset(parts, 0, PARTS_MAX * sizeof *parts);
    assert_ok(npo_folder_unet(folder, backend, &unet, &parts[0].layout, &error));
    assert_ok(npo_params_new(parts[0].layout, &parts[0].params));
    assert_ok(npo_folder_load_unet(folder, parts[0].params, &error));
    parts[0].part = NPO_SINGLE_UNET;
    assert_ok(
        npo_folder_load_text(folder, backend, &text, &parts[1].layout, &parts[1].params, &error));
    parts[1].part = folder->is_xl ? NPO_SINGLE_TEXT_XL : NPO_SINGLE_TEXT;
    if (folder->is_xl)
        assert_ok(npo_folder_load_text_2(folder, backend, &text, &parts[2].layout, &parts[2].params,
                                         &error));
    parts[2].part = NPO_SINGLE_TEXT_2;
    if (folder->vae_weights)
        assert_ok(
            npo_folder_load_vae(folder, backend, &vae, &parts[3].layout, &parts[3].params, &error));
    parts[3].part = NPO_SINGLE_VAE;
}

static void free_parts(part *parts)
{
    for (int i = 0; i < PARTS_MAX; i++) {
        npo_params_free(parts[i].params);
        npo_layout_unref(parts[i].layout);
    }
}

/* Tensors of a checkpoint to write, with memory of their own. */
static npo_tensor_source tensors[TENSORS_MAX];
static npo_single_place places[TENSORS_MAX];
static size_t tensor_count;

static void clear_tensors(void)
{
    for (size_t i = 0; i < tensor_count; i++)
        free((void *)tensors[i].data);
    tensor_count = 0;
}

static void add_tensor(const char *name, int ndim, const int64_t *dims, size_t count)
{
    npo_tensor_source *to = &tensors[tensor_count];
    assert_true(tensor_count < TENSORS_MAX);
    snprintf(places[tensor_count].name, sizeof places[0].name, "%s", name);
    *to = (npo_tensor_source){.name = places[tensor_count].name,
                              .dtype = NPO_TENSOR_F32,
                              .ndim = ndim,
                              .data = calloc(count ? count : 1, sizeof(float))};
    memcpy(to->dims, dims, (size_t)ndim * sizeof *dims);
    tensor_count++;
}

static npo_tensor_source *find_tensor(const char *name)
{
    for (size_t i = 0; i < tensor_count; i++)
        if (strcmp(tensors[i].name, name) == 0)
            return &tensors[i];
    return NULL;
}

static void place_tensor(const npo_single_names *names, const npo_param_info *info,
                         const float *values)
{
    npo_single_place place;
    int64_t dims[NPO_PARAM_DIMS_MAX];
    size_t rows = (size_t)info->dims[0], cols = info->count / rows;
    assert_true(npo_single_place_of(names, info->name, &place));
    memcpy(dims, info->dims, sizeof dims);
    if (place.third)
        dims[0] *= 3;
    if (place.transposed) {
        dims[0] = info->dims[1];
        dims[1] = info->dims[0];
    }
    if (!find_tensor(place.name))
        add_tensor(place.name, info->ndim, dims, info->count * (place.third ? 3 : 1));
    float *to = (float *)find_tensor(place.name)->data;
    to += place.third ? (size_t)(place.third - 1) * info->count : 0;
    for (size_t i = 0; i < rows; i++)
        for (size_t k = 0; k < cols; k++)
            to[place.transposed ? k * rows + i : i * cols + k] = values[i * cols + k];
}

static void place_parts(const part *parts)
{
    clear_tensors();
    for (int i = 0; i < PARTS_MAX; i++) {
        if (!parts[i].params)
            continue;
        npo_single_names names = npo_single_names_of(parts[i].part, parts[i].layout);
        for (size_t k = 0; k < npo_layout_count(parts[i].layout); k++) {
            const npo_param_info *info = npo_layout_at(parts[i].layout, k);
            place_tensor(&names, info, npo_params_data(parts[i].params) + info->offset);
        }
    }
}

static void write_tensors(const char *name)
{
    assert_ok(npo_safetensors_write(scratch_path(name), tensors, tensor_count, NULL, 0, &error));
}

/* The golden folder without its weights, and the checkpoint of them, as scratch model/. */
static void make_model(const char *golden, bool with_vae, part *parts)
{
    npo_folder folder;
    npo_file_list files;
    assert_ok(npo_folder_open(golden, &folder, &error));
    if (with_vae) { /* the golden folders have none of their own */
        folder.vae_config = strdup(GOLDEN("vae-tiny/vae/config.json"));
        folder.vae_weights = strdup(GOLDEN("vae-tiny/vae/diffusion_pytorch_model.safetensors"));
    }
    load_parts(&folder, parts);
    npo_folder_fini(&folder);
    assert_ok(npo_file_remove(scratch_path("model"), &error));
    assert_ok(npo_file_list_tree(golden, 100, &files, &error));
    for (size_t i = 0; i < files.count; i++) {
        char from[512], to[256];
        snprintf(from, sizeof from, "%s/%s", golden, files.paths[i]);
        snprintf(to, sizeof to, "model/%s", files.paths[i]);
        if (!strstr(files.paths[i], ".safetensors"))
            scratch_copy(from, to);
    }
    npo_file_list_fini(&files);
    if (with_vae)
        scratch_copy(GOLDEN("vae-tiny/vae/config.json"), "model/vae/config.json");
    place_parts(parts);
    write_tensors("model/small.safetensors");
}

static void check_same(const part *a, const part *b)
{
    for (int i = 0; i < PARTS_MAX; i++) {
        assert_int_equal(a[i].params != NULL, b[i].params != NULL);
        if (a[i].params)
            assert_memory_equal(npo_params_data(a[i].params), npo_params_data(b[i].params),
                                npo_layout_floats(a[i].layout) * sizeof(float));
    }
}

/* The UNet read where it lies has the values of the set. */
static void check_view(const npo_folder *folder, const part *unet)
{
    npo_weight_view *view = NULL;
    assert_ok(npo_folder_view_unet(folder, unet->layout, &view, &error));
    for (size_t i = 0; i < npo_layout_count(unet->layout); i++) {
        const npo_param_info *info = npo_layout_at(unet->layout, i);
        float *values = malloc(info->count * sizeof *values);
        assert_non_null(values);
        assert_ok(npo_weight_view_read(view, i, 0, info->count, values, &error));
        assert_memory_equal(values, npo_params_data(unet->params) + info->offset,
                            info->count * sizeof *values);
        free(values);
    }
    npo_weight_view_close(view);
}

static void check_loads_as(const char *path, const part *expected)
{
    npo_folder folder;
    part loaded[PARTS_MAX];
    assert_ok(npo_folder_open(path, &folder, &error));
    assert_non_null(folder.single_file);
    load_parts(&folder, loaded);
    check_same(expected, loaded);
    check_view(&folder, &expected[0]);
    free_parts(loaded);
    npo_folder_fini(&folder);
}

/* ---- loading ---- */

static void test_single_file_loads_the_same_weights_as_a_folder(void **state)
{
    static const char *const models[] = {GOLDEN("sd15-tiny"), GOLDEN("sdxl-small")};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        part parts[PARTS_MAX];
        make_model(models[i], true, parts);
        check_loads_as(scratch_path("model"), parts);
        free_parts(parts);
    }
}

/* Linear weights of a VAE stand as 1x1 convolutions, other tensors beside them, and older files
 * lack "text_model.". */
static void test_single_file_knows_how_files_differ(void **state)
{
    static const char text[] = "cond_stage_model.transformer.", model[] = "text_model.";
    part parts[PARTS_MAX];
    make_model(GOLDEN("sd15-tiny"), true, parts);
    for (size_t i = 0; i < tensor_count; i++) {
        char *name = places[i].name;
        if (strncmp(name, text, strlen(text)) == 0)
            memmove(name + strlen(text), name + strlen(text) + strlen(model),
                    strlen(name + strlen(text) + strlen(model)) + 1);
        if (strstr(name, "proj_in.weight")) /* [O,I,1,1] */
            tensors[i].ndim = 2;
        if (strstr(name, "attn_1.q.weight")) {
            tensors[i].ndim = 4;
            tensors[i].dims[2] = tensors[i].dims[3] = 1;
        }
    }
    add_tensor("alphas_cumprod", 1, (int64_t[]){1000}, 1000);
    add_tensor("cond_stage_model.transformer.embeddings.position_ids", 1, (int64_t[]){4}, 4);
    write_tensors("model/small.safetensors");
    check_loads_as(scratch_path("model"), parts);
    free_parts(parts);
}

static void test_single_file_takes_missing_parts_from_the_built_in(void **state)
{
    npo_folder folder;
    part parts[PARTS_MAX];
    make_model(GOLDEN("sd15-tiny"), true, parts);
    assert_ok(npo_folder_open(scratch_path("model/small.safetensors"), &folder, &error));
    assert_string_equal(folder.unet_config, "built-in:sd15/unet/config.json");
    assert_string_equal(folder.tokenizer, "built-in:sd15/tokenizer");
    assert_string_equal(folder.scheduler_config, "built-in:sd15/scheduler/scheduler_config.json");
    assert_string_equal(folder.vae_config, "built-in:sd15/vae/config.json");
    assert_string_equal(folder.unet_weights, scratch_path("model/small.safetensors"));
    assert_false(folder.is_xl);
    npo_folder_fini(&folder);
    assert_ok(npo_file_remove(scratch_path("model/tokenizer"), &error));
    assert_ok(npo_folder_open(scratch_path("model"), &folder, &error));
    assert_string_equal(folder.unet_config, scratch_path("model/unet/config.json"));
    assert_string_equal(folder.tokenizer, "built-in:sd15/tokenizer");
    npo_folder_fini(&folder);
    free_parts(parts);
    make_model(GOLDEN("sdxl-small"), false, parts);
    assert_ok(npo_folder_open(scratch_path("model/small.safetensors"), &folder, &error));
    assert_true(folder.is_xl && folder.zero_empty_prompt);
    assert_null(folder.vae_config); /* this one has no VAE */
    assert_string_equal(folder.text_config_2, "built-in:sdxl/text_encoder_2/config.json");
    assert_string_equal(folder.tokenizer_2, "built-in:sdxl/tokenizer_2");
    npo_folder_fini(&folder);
    free_parts(parts);
}

/* ---- refusing ---- */

static void check_stranger(const char *name, int ndim, const int64_t *dims, npo_err code,
                           const char *sentence)
{
    npo_folder folder = {0};
    clear_tensors();
    add_tensor(name, ndim, dims, (size_t)dims[0] * (size_t)(ndim > 1 ? dims[1] : 1));
    write_tensors("stranger.safetensors");
    assert_fails(code, sentence,
                 npo_folder_open(scratch_path("stranger.safetensors"), &folder, &error));
    assert_fails(code, "expected a single-file checkpoint of Stable Diffusion 1.5 or XL",
                 npo_folder_open(scratch_path("stranger.safetensors"), &folder, &error));
}

static void test_single_file_says_what_another_file_is(void **state)
{
    static const struct {
        const char *name;
        int ndim;
        int64_t dims[4];
        npo_err code;
        const char *sentence;
    } cases[] = {
        {"model.diffusion_model.double_blocks.0.img_attn.qkv.weight",
         1,
         {1},
         NPO_E_UNSUPPORTED,
         "found Flux"},
        {"double_blocks.0.img_attn.qkv.weight", 1, {1}, NPO_E_UNSUPPORTED, "found Flux"},
        {"model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight",
         1,
         {1},
         NPO_E_UNSUPPORTED,
         "found Stable Diffusion 3"},
        {"cond_stage_model.model.ln_final.weight",
         1,
         {1},
         NPO_E_UNSUPPORTED,
         "found Stable Diffusion 2"},
        {"model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
         2,
         {1, 1024},
         NPO_E_UNSUPPORTED,
         "found Stable Diffusion 2"},
        {"model.diffusion_model.input_blocks.0.0.weight",
         4,
         {1, 9, 1, 1},
         NPO_E_UNSUPPORTED,
         "found an inpainting model"},
        {"model.diffusion_model.input_blocks.0.0.weight",
         4,
         {1, 8, 1, 1},
         NPO_E_UNSUPPORTED,
         "found an image editing model"},
        {"conditioner.embedders.0.model.ln_final.weight",
         1,
         {1},
         NPO_E_UNSUPPORTED,
         "found the refiner of Stable Diffusion XL"},
        {"control_model.input_hint_block.0.weight", 1, {1}, NPO_E_UNSUPPORTED, "a ControlNet"},
        {"conv_in.weight", 4, {1, 4, 1, 1}, NPO_E_USAGE, "found a UNet in diffusers names alone"},
        {"encoder.conv_in.weight", 1, {1}, NPO_E_USAGE, "found a VAE alone"},
        {"text_model.embeddings.token_embedding.weight",
         1,
         {1},
         NPO_E_USAGE,
         "found a text encoder alone"},
        {"lora_unet_conv_in.lora_up.weight",
         1,
         {1},
         NPO_E_USAGE,
         "found 'lora_unet_conv_in.lora_up.weight' and no 'model.diffusion_model."},
        {"model.diffusion_model.input_blocks.0.0.weight",
         4,
         {1, 4, 1, 1},
         NPO_E_USAGE,
         "it has a UNet but no text encoder"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_stranger(cases[i].name, cases[i].ndim, cases[i].dims, cases[i].code,
                       cases[i].sentence);
}

static void test_single_file_refuses_what_is_no_safetensors(void **state)
{
    static const struct {
        const char *bytes, *sentence;
    } cases[] = {
        {"PK\x03\x04 and an archive", "found a pickle of PyTorch (.ckpt, .pt, .bin)"},
        {"\x80\x02 and opcodes", "found a pickle (.ckpt"},
        {"GGUF and so on", "found a GGUF file"},
        {"version https://git-lfs.github.com/spec/v1\n", "found a pointer of git-lfs"},
        {"<!DOCTYPE html>", "found a web page"},
        {"{}", "found 2 bytes, expected at least 8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        npo_folder folder = {0};
        scratch_text("strange.ckpt", cases[i].bytes);
        assert_fails(NPO_E_FORMAT, cases[i].sentence,
                     npo_folder_open(scratch_path("strange.ckpt"), &folder, &error));
    }
}

static void test_single_file_refuses_another_size_and_v_prediction(void **state)
{
    npo_folder folder;
    npo_unet_config config;
    npo_layout *layout;
    npo_safetensors *file;
    npo_single_names names;
    part parts[PARTS_MAX];
    make_model(GOLDEN("sd15-tiny"), true, parts);
    assert_ok(npo_folder_open(scratch_path("model/small.safetensors"), &folder, &error));
    assert_ok(npo_folder_unet(&folder, backend, &config, &layout, &error));
    assert_ok(npo_safetensors_open(folder.unet_weights, &file, &error));
    npo_weights_map map = npo_folder_unet_map(&folder, layout, &names);
    const npo_tensor **found = calloc(npo_layout_count(layout), sizeof *found);
    assert_fails(NPO_E_SHAPE,
                 "'model.diffusion_model.time_embed.0.weight': shape [64,16], expected [1280,320]",
                 npo_weights_find(file, &map, layout, found, &error));
    free(found);
    npo_safetensors_close(file);
    npo_layout_unref(layout);
    npo_folder_fini(&folder);
    add_tensor("v_pred", 1, (int64_t[]){0}, 0);
    write_tensors("v.safetensors");
    assert_fails(NPO_E_UNSUPPORTED, "put it in a folder with scheduler/scheduler_config.json",
                 npo_folder_open(scratch_path("v.safetensors"), &folder, &error));
    write_tensors("model/small.safetensors"); /* with the folder's own schedule */
    check_loads_as(scratch_path("model"), parts);
    write_tensors("model/other.safetensors");
    assert_fails(NPO_E_USAGE, "found 'other.safetensors' and 'small.safetensors', expected one",
                 npo_folder_open(scratch_path("model"), &folder, &error));
    free_parts(parts);
}

static void test_single_file_names_its_missing_tensors(void **state)
{
    npo_folder folder;
    npo_clip_text_config config;
    npo_layout *layout;
    npo_params *params;
    part parts[PARTS_MAX];
    make_model(GOLDEN("sdxl-small"), false, parts);
    npo_tensor_source *fused = find_tensor("conditioner.embedders.1.model.transformer.resblocks.0."
                                           "attn.in_proj_weight");
    assert_non_null(fused);
    fused->name = "conditioner.embedders.1.model.strange";
    write_tensors("model/small.safetensors");
    assert_ok(npo_folder_open(scratch_path("model"), &folder, &error));
    assert_fails(NPO_E_NOT_FOUND,
                 "'conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight': "
                 "missing",
                 npo_folder_load_text_2(&folder, backend, &config, &layout, &params, &error));
    assert_fails(NPO_E_NOT_FOUND, "'conditioner.embedders.1.model.strange': unexpected",
                 npo_folder_load_text_2(&folder, backend, &config, &layout, &params, &error));
    npo_folder_fini(&folder);
    free_parts(parts);
}

static void test_single_file_refuses_values_that_are_not_finite(void **state)
{
    npo_folder folder;
    npo_unet_config config;
    npo_layout *layout;
    npo_params *params;
    part parts[PARTS_MAX];
    make_model(GOLDEN("sd15-tiny"), true, parts);
    npo_tensor_source *bias = find_tensor("model.diffusion_model.out.2.bias");
    ((float *)bias->data)[3] = INFINITY;
    for (int dtype = NPO_TENSOR_F16; dtype <= NPO_TENSOR_F32; dtype++) {
        if (dtype == NPO_TENSOR_I32)
            continue;
        bias->dtype = (npo_tensor_dtype)dtype;
        write_tensors("model/small.safetensors");
        assert_ok(npo_folder_open(scratch_path("model"), &folder, &error));
        assert_ok(npo_folder_unet(&folder, backend, &config, &layout, &error));
        assert_ok(npo_params_new(layout, &params));
        assert_fails(NPO_E_RANGE,
                     "'model.diffusion_model.out.2.bias': element 3 is inf, expected a finite",
                     npo_folder_load_unet(&folder, params, &error));
        npo_params_free(params);
        npo_layout_unref(layout);
        npo_folder_fini(&folder);
    }
    free_parts(parts);
}

/* ---- writing ---- */

static void test_single_file_is_written_with_another_unet(void **state)
{
    static const char *const models[] = {GOLDEN("sd15-tiny"), GOLDEN("sdxl-small")};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        npo_folder folder;
        npo_safetensors *file;
        part parts[PARTS_MAX];
        make_model(models[i], true, parts);
        add_tensor("model_ema.diffusion_modelout2bias", 1, (int64_t[]){4}, 4);
        write_tensors("model/small.safetensors");
        npo_params_edit(parts[0].params)[5] = 0.75f;
        npo_weights_made weights = npo_weights_of(parts[0].params);
        assert_ok(npo_folder_open(scratch_path("model"), &folder, &error));
        assert_ok(
            npo_folder_save(&folder, &weights, NPO_TENSOR_F32, scratch_path("saved"), &error));
        check_loads_as(scratch_path("saved"), parts);
        assert_ok(npo_safetensors_open(scratch_path("saved/small.safetensors"), &file, &error));
        assert_int_equal(npo_safetensors_count(file), tensor_count - 1); /* without the EMA */
        npo_safetensors_close(file);
        assert_ok(
            npo_folder_save_unet(&folder, &weights, NPO_TENSOR_F16, scratch_path("unet"), &error));
        assert_true(npo_file_exists(scratch_path("unet/config.json")));
        npo_folder_fini(&folder);
        free_parts(parts);
    }
}

static void test_single_file_alone_becomes_a_folder_with_it(void **state)
{
    npo_folder folder;
    part parts[PARTS_MAX];
    make_model(GOLDEN("sd15-tiny"), true, parts);
    npo_weights_made weights = npo_weights_of(parts[0].params);
    assert_ok(npo_folder_open(scratch_path("model/small.safetensors"), &folder, &error));
    assert_ok(npo_folder_save(&folder, &weights, NPO_TENSOR_BF16, scratch_path("alone"), &error));
    npo_folder_fini(&folder);
    assert_ok(npo_folder_open(scratch_path("alone"), &folder, &error));
    assert_string_equal(folder.single_file, scratch_path("alone/model.safetensors"));
    assert_string_equal(folder.unet_config, "built-in:sd15/unet/config.json");
    npo_folder_fini(&folder);
    free_parts(parts);
}

static void test_single_file_reports_a_failed_write(void **state)
{
    npo_layout *other;
    npo_params *params;
    size_t index;
    char part_name[80];
    part parts[PARTS_MAX];
    make_model(GOLDEN("sd15-tiny"), true, parts);
    const char *from = scratch_path("model/small.safetensors"), *to = scratch_path("w.safetensors");
    npo_weights_made weights = npo_weights_of(parts[0].params);
    if (npo_file_exists("/dev/full")) {
        snprintf(part_name, sizeof part_name, "w.safetensors.%d.part", (int)getpid());
        assert_int_equal(symlink("/dev/full", scratch_path(part_name)), 0);
        assert_fails(NPO_E_FULL, "w.safetensors",
                     npo_single_file_write(from, &weights, NPO_TENSOR_F32, to, &error));
        assert_false(npo_file_exists(to));
    }
    assert_ok(npo_layout_new(&other));
    assert_ok(npo_layout_add(other, "conv_in.weight", 1, (int64_t[]){3}, &index, &error));
    assert_ok(npo_layout_add(other, "motion.weight", 1, (int64_t[]){3}, &index, &error));
    assert_ok(npo_params_new(other, &params));
    weights = npo_weights_of(params);
    assert_fails(NPO_E_SHAPE,
                 "'model.diffusion_model.input_blocks.0.0.weight': shape [16,4,3,3], expected [3]; "
                 "'motion.weight': missing",
                 npo_single_file_write(from, &weights, NPO_TENSOR_F32, to, &error));
    npo_params_free(params);
    npo_layout_unref(other);
    free_parts(parts);
}

static int teardown(void **state)
{
    clear_tensors();
    return device_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single_file_loads_the_same_weights_as_a_folder),
        cmocka_unit_test(test_single_file_knows_how_files_differ),
        cmocka_unit_test(test_single_file_takes_missing_parts_from_the_built_in),
        cmocka_unit_test(test_single_file_says_what_another_file_is),
        cmocka_unit_test(test_single_file_refuses_what_is_no_safetensors),
        cmocka_unit_test(test_single_file_refuses_another_size_and_v_prediction),
        cmocka_unit_test(test_single_file_names_its_missing_tensors),
        cmocka_unit_test(test_single_file_refuses_values_that_are_not_finite),
        cmocka_unit_test(test_single_file_is_written_with_another_unet),
        cmocka_unit_test(test_single_file_alone_becomes_a_folder_with_it),
        cmocka_unit_test(test_single_file_reports_a_failed_write),
    };
    return cmocka_run_group_tests(tests, device_setup, teardown);
}
