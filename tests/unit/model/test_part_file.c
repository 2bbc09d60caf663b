#include "tests/unit/model/device.h"

#include "worker/model/files/built_in.h"
#include "worker/model/files/part_file.h"
#include "worker/model/networks/autoencoder.h"
#include "worker/model/networks/clip_text.h"
#include "worker/model/networks/unet.h"
#include "worker/model/text/tokenizer.h"

static void test_part_file_table_is_sorted_and_whole(void **state)
{
    for (size_t i = 0; i < npo_built_in_count; i++) {
        char path[128];
        npo_buf buf = NPO_BUF_INIT;
        snprintf(path, sizeof path, "%s%s", NPO_BUILT_IN, npo_built_ins[i].name);
        assert_true(i == 0 || strcmp(npo_built_ins[i - 1].name, npo_built_ins[i].name) < 0);
        assert_true(npo_part_file_exists(path));
        assert_ok(npo_part_file_read(path, 1 << 20, &buf, &error));
        assert_int_equal(buf.len, npo_built_ins[i].bytes);
        assert_int_equal(strlen(buf.data), buf.len);
        npo_buf_fini(&buf);
    }
}

static void check_unet(const char *path, const char *table)
{
    npo_unet_config config;
    npo_layout *layout;
    assert_ok(npo_unet_config_load(path, &config, &error));
    assert_ok(npo_unet_layout(backend, &config, &layout, &error));
    check_layout(layout, table);
    npo_layout_unref(layout);
}

static void check_text(const char *path, bool with_projection, const char *table)
{
    npo_clip_text_config config;
    npo_layout *layout;
    assert_ok(npo_clip_text_config_load(path, &config, &error));
    config.with_projection = with_projection;
    assert_ok(npo_clip_text_layout(backend, &config, &layout, &error));
    check_layout(layout, table);
    npo_layout_unref(layout);
}

static void check_vae(const char *path, const char *table)
{
    npo_autoencoder_config config;
    npo_layout *layout;
    assert_ok(npo_autoencoder_config_load(path, &config, &error));
    assert_ok(npo_autoencoder_layout(backend, &config, &layout, &error));
    check_layout(layout, table);
    npo_layout_unref(layout);
}

static void test_part_file_configurations_are_those_of_the_published_networks(void **state)
{
    check_unet("built-in:sd15/unet/config.json", GOLDEN("full-size/sd15-unet.tsv"));
    check_text("built-in:sd15/text_encoder/config.json", false, GOLDEN("full-size/text-l.tsv"));
    check_vae("built-in:sd15/vae/config.json", GOLDEN("full-size/vae.tsv"));
    check_text("built-in:sdxl/text_encoder/config.json", false, GOLDEN("full-size/text-l.tsv"));
    check_text("built-in:sdxl/text_encoder_2/config.json", true, GOLDEN("full-size/text-bigg.tsv"));
    check_unet("built-in:sdxl/unet/config.json", GOLDEN("full-size/sdxl-unet.tsv"));
    check_vae("built-in:sdxl/vae/config.json", GOLDEN("full-size/vae.tsv"));
}

static void test_part_file_tokenizer_is_clips(void **state)
{
    static const int32_t expected[] = {49406, 320, 1125, 539, 550,  18376,
                                       6765,  320, 4558, 525, 7496, 49407};
    int32_t ids[16];
    size_t count;
    npo_tokenizer *tokenizer;
    assert_ok(npo_tokenizer_load("built-in:sd15/tokenizer", &tokenizer, &error));
    assert_int_equal(npo_tokenizer_max_length(tokenizer), 77);
    assert_ok(npo_tokenizer_encode(tokenizer, "a photo of an astronaut riding a horse on mars", 46,
                                   16, ids, &count, &error));
    assert_int_equal(count, 12);
    assert_memory_equal(ids, expected, sizeof expected);
    npo_tokenizer_free(tokenizer);
    /* The second one pads with "!". */
    assert_ok(npo_tokenizer_load("built-in:sdxl/tokenizer_2", &tokenizer, &error));
    assert_ok(npo_tokenizer_encode_padded(tokenizer, "cat", 3, 5, ids, &error));
    assert_int_equal(ids[3], 0);
    npo_tokenizer_free(tokenizer);
}

static void test_part_file_copies_and_refuses(void **state)
{
    npo_buf buf = NPO_BUF_INIT;
    cJSON *json;
    static const char path[] = "built-in:sd15/unet/config.json";
    assert_ok(npo_part_file_copy(path, scratch_path("config.json"), &error));
    assert_ok(npo_part_file_json(scratch_path("config.json"), 1 << 20, &json, &error));
    assert_float_equal(npo_json_number(json, "sample_size", 0), 64, 0);
    cJSON_Delete(json);
    assert_ok(npo_part_file_copy(scratch_path("config.json"), scratch_path("again.json"), &error));
    assert_false(npo_part_file_exists("built-in:sd15/unet"));
    assert_false(npo_part_file_exists("built-in:"));
    assert_fails(NPO_E_NOT_FOUND, "there is no file 'built-in:none'",
                 npo_part_file_read("built-in:none", 100, &buf, &error));
    assert_fails(NPO_E_NOT_FOUND, "'built-in:none'",
                 npo_part_file_copy("built-in:none", scratch_path("x"), &error));
    assert_fails(NPO_E_LIMIT, "config.json' has ", npo_part_file_json(path, 10, &json, &error));
    assert_fails(NPO_E_NOT_FOUND, "none.json",
                 npo_part_file_read(scratch_path("none.json"), 10, &buf, &error));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_part_file_table_is_sorted_and_whole),
        cmocka_unit_test(test_part_file_configurations_are_those_of_the_published_networks),
        cmocka_unit_test(test_part_file_tokenizer_is_clips),
        cmocka_unit_test(test_part_file_copies_and_refuses),
    };
    return cmocka_run_group_tests(tests, device_setup, device_teardown);
}
