/* Every allocation of an operation fails in turn: it returns an error with a sentence and leaks
 * nothing. (glibc does without a few: qsort's and asprintf's; then the operation succeeds.) The
 * sanitizers bring their own malloc, so the test stands aside there. */
#include "tests/unit/model/support.h"

#include "common/json.h"
#include "worker/model/files/lora.h"
#include "worker/model/files/single_file.h"
#include "worker/model/folder.h"
#include "worker/model/networks/unet_config.h"
#include "worker/model/text/tokenizer.h"
#include "worker/model/vae_tiles.h"

#include <limits.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define OWN_MALLOC 0
#elif defined(__has_feature)
#define OWN_MALLOC !(__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define OWN_MALLOC 1
#endif

static long fail_at = -1; /* allocations left until one fails; -1: none does */
static long outstanding, allocations;

#if OWN_MALLOC
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void __libc_free(void *memory);

static bool fails(void)
{
    allocations++;
    return fail_at >= 0 && fail_at-- == 0;
}

__attribute__((visibility("default"))) void *malloc(size_t size)
{
    void *memory = fails() ? NULL : __libc_malloc(size);
    outstanding += memory != NULL;
    return memory;
}

__attribute__((visibility("default"))) void *calloc(size_t count, size_t size)
{
    void *memory = fails() ? NULL : __libc_calloc(count, size);
    outstanding += memory != NULL;
    return memory;
}

__attribute__((visibility("default"))) void *realloc(void *old, size_t size)
{
    void *memory = fails() ? NULL : __libc_realloc(old, size);
    outstanding += memory && !old;
    return memory;
}

__attribute__((visibility("default"))) void free(void *memory)
{
    outstanding -= memory != NULL;
    __libc_free(memory);
}
#endif

/* ---- operations ---- */

static npo_layout *layout, *lora_layout;
static npo_params *params;

static npo_err fill_zeros(void *user, size_t tensor, size_t first, size_t n, float *ret_values,
                          npo_error *error)
{
    memset(ret_values, 0, n * sizeof *ret_values);
    return NPO_OK;
}

static npo_err open_file(npo_error *error)
{
    npo_safetensors *file;
    NPO_TRY(npo_safetensors_open(GOLDEN("unit/safetensors/mixed.safetensors"), &file, error));
    npo_safetensors_close(file);
    return NPO_OK;
}

static npo_err open_shards(npo_error *error)
{
    npo_safetensors *file;
    NPO_TRY(npo_safetensors_open(GOLDEN("unit/safetensors/model.safetensors.index.json"), &file,
                                 error));
    npo_safetensors_close(file);
    return NPO_OK;
}

static npo_err save(npo_error *error)
{
    return npo_weights_save(scratch_path("saved.safetensors"), params, NPO_TENSOR_F16, NULL, error);
}

static npo_err load(npo_error *error)
{
    static const char *const ignored[] = {"c", NULL};
    static const npo_weights_map map = {.ignore = ignored};
    return npo_weights_load(GOLDEN("unit/safetensors/part-1.safetensors"), &map, params, error);
}

static npo_err complain(npo_error *error) /* the sentence itself needs memory */
{
    npo_err err =
        npo_weights_load(GOLDEN("unit/safetensors/part-2.safetensors"), NULL, params, error);
    return err == NPO_E_NOT_FOUND ? NPO_OK : err;
}

static npo_err read_config(npo_error *error)
{
    npo_unet_config config;
    return npo_unet_config_load(GOLDEN("unet-depths/unet/config.json"), &config, error);
}

static npo_err read_vae_config(npo_error *error)
{
    npo_autoencoder_config config;
    return npo_autoencoder_config_load(GOLDEN("vae-tiny/vae/config.json"), &config, error);
}

static npo_err copy_tile(void *self, const float *in, int64_t height, int64_t width, float *ret_out,
                         npo_error *error)
{
    memcpy(ret_out, in, (size_t)(height * width) * sizeof *in);
    return NPO_OK;
}

static npo_err tile(npo_error *error)
{
    float in[9 * 7] = {1}, out[9 * 7];
    const npo_vae_tiling tiling = {.height = 9,
                                   .width = 7,
                                   .tile = 4,
                                   .in_scale = 1,
                                   .in_channels = 1,
                                   .out_scale = 1,
                                   .out_channels = 1,
                                   .run = copy_tile};
    return npo_vae_tiling_run(&tiling, in, out, error);
}

static npo_err tokenize(npo_error *error)
{
    static const char text[] = "A caf\xc3\xa9 e\xcc\x81 <|endoftext|> 3 words";
    int32_t ids[32];
    npo_tokenizer *tokenizer;
    NPO_TRY(npo_tokenizer_load(GOLDEN("sd15-tiny/tokenizer"), &tokenizer, error));
    npo_err err = npo_tokenizer_encode_padded(tokenizer, text, strlen(text), 32, ids, error);
    npo_tokenizer_free(tokenizer);
    return err;
}

static npo_err open_folder(npo_error *error)
{
    npo_folder folder;
    NPO_TRY(npo_folder_open(GOLDEN("sd15-tiny"), &folder, error));
    npo_folder_fini(&folder);
    return NPO_OK;
}

/* A checkpoint alone: of the smallest shape that is taken for one. */
static npo_err open_single(npo_error *error)
{
    npo_folder folder;
    NPO_TRY(npo_folder_open(scratch_path("single.safetensors"), &folder, error));
    npo_folder_fini(&folder);
    return NPO_OK;
}

static npo_err load_lora(npo_error *error)
{
    npo_lora lora;
    NPO_TRY(npo_lora_load(scratch_path("lora.safetensors"), lora_layout, &lora, error));
    npo_err err = npo_lora_save(scratch_path("lora-2.safetensors"), &lora, NPO_LORA_PEFT,
                                NPO_TENSOR_F32, error);
    npo_lora_fini(&lora);
    return err;
}

static npo_err write_single(npo_error *error)
{
    npo_weights_made weights = {.layout = lora_layout, .fill = fill_zeros};
    return npo_single_file_write(scratch_path("single.safetensors"), &weights, NPO_TENSOR_F32,
                                 scratch_path("single-2.safetensors"), error);
}

static npo_err write_shards(npo_error *error)
{
    static const float values[2];
    npo_tensor_source sources[] = {
        {.name = "a", .dtype = NPO_TENSOR_F32, .ndim = 1, .dims = {2}, .data = values},
        {.name = "b", .dtype = NPO_TENSOR_F32, .ndim = 1, .dims = {2}, .data = values}};
    return npo_safetensors_write_shards(scratch_path("shards.safetensors"), sources, 2, NULL, 0, 8,
                                        error);
}

static npo_err save_folder(npo_error *error)
{
    npo_folder folder;
    NPO_TRY(npo_folder_open(GOLDEN("sd15-tiny"), &folder, error));
    npo_weights_made weights = npo_weights_of(params);
    npo_err err =
        npo_folder_save_unet(&folder, &weights, NPO_TENSOR_F32, scratch_path("unet"), error);
    npo_folder_fini(&folder);
    return err;
}

/* Runs with allocation n failing. *ret_reached: there was an allocation n. */
static npo_err run_failing(npo_err (*run)(npo_error *error), long n, bool *ret_reached,
                           long *ret_leaked)
{
    npo_error error = {0};
    long before = outstanding;
    allocations = 0;
    fail_at = n;
    npo_err err = run(&error);
    *ret_reached = fail_at < 0;
    fail_at = -1;
    *ret_leaked = outstanding - before;
    assert_true(!err || *error.text);
    return err;
}

static void test_nomem_is_an_error_of_every_operation(void **state)
{
    static const struct {
        const char *name;
        npo_err (*run)(npo_error *error);
    } operations[] = {
        {"open_file", open_file},
        {"open_shards", open_shards},
        {"save", save},
        {"load", load},
        {"complain", complain},
        {"read_config", read_config},
        {"read_vae_config", read_vae_config},
        {"tile", tile},
        {"open_folder", open_folder},
        {"save_folder", save_folder},
        {"open_single", open_single},
        {"load_lora", load_lora},
        {"write_single", write_single},
        {"write_shards", write_shards},
    };
    if (!OWN_MALLOC)
        skip();
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        npo_err err = NPO_OK;
        long n = 0, refused = 0, leaked;
        for (bool reached = true; reached; n++) {
            err = run_failing(operations[i].run, n, &reached, &leaked);
            if (leaked)
                print_error("%s, allocation %ld: %s\n", operations[i].name, n, npo_err_name(err));
            assert_int_equal(leaked, 0);
            refused += err != NPO_OK;
        }
        assert_int_equal(err, NPO_OK);
        assert_true(n > 3 && refused > n / 2);
    }
}

/* A vocabulary makes thousands of allocations: every 37th of them, and each of the first and of
 * those that encoding makes at the end. */
static void test_nomem_is_an_error_of_the_tokenizer(void **state)
{
    bool reached = true;
    long leaked, refused = 0, runs = 0;
    if (!OWN_MALLOC)
        skip();
    assert_int_equal(run_failing(tokenize, LONG_MAX, &reached, &leaked), NPO_OK);
    long total = allocations;
    for (long n = 0; n < total; n += n < 40 || n > total - 60 ? 1 : 37, runs++) {
        refused += run_failing(tokenize, n, &reached, &leaked) != NPO_OK;
        assert_int_equal(leaked, 0);
        assert_true(reached);
    }
    assert_true(refused > runs - 10);
}

static int setup_files(void)
{
    static const float values[16] = {1};
    size_t index;
    npo_tensor_source single[] = {{.name = "model.diffusion_model.input_blocks.0.0.weight",
                                   .dtype = NPO_TENSOR_F32,
                                   .ndim = 2,
                                   .dims = {2, 3},
                                   .data = values},
                                  {.name = "cond_stage_model.transformer.text_model.x",
                                   .dtype = NPO_TENSOR_F32,
                                   .data = values}};
    npo_tensor_source lora[] = {{.name = "unet.conv_in.lora_A.weight",
                                 .dtype = NPO_TENSOR_F32,
                                 .ndim = 2,
                                 .dims = {1, 3},
                                 .data = values},
                                {.name = "unet.conv_in.lora_B.weight",
                                 .dtype = NPO_TENSOR_F32,
                                 .ndim = 2,
                                 .dims = {2, 1},
                                 .data = values}};
    npo_tensor_metadata alpha = {"lora_adapter_metadata", "{\"lora_alpha\": 2}"};
    return npo_layout_new(&lora_layout) ||
           npo_layout_add(lora_layout, "conv_in.weight", 2, (int64_t[]){2, 3}, &index, NULL) ||
           npo_safetensors_write(scratch_path("single.safetensors"), single, 2, NULL, 0, NULL) ||
           npo_safetensors_write(scratch_path("lora.safetensors"), lora, 2, &alpha, 1, NULL);
}

static int setup(void **state)
{
    size_t index;
    return scratch_setup(state) || npo_layout_new(&layout) ||
                   npo_layout_add(layout, "a", 2, (int64_t[]){2, 3}, &index, NULL) ||
                   npo_params_new(layout, &params) || setup_files()
               ? -1
               : 0;
}

static int teardown(void **state)
{
    npo_params_free(params);
    npo_layout_unref(layout);
    npo_layout_unref(lora_layout);
    return scratch_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nomem_is_an_error_of_every_operation),
        cmocka_unit_test(test_nomem_is_an_error_of_the_tokenizer),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
