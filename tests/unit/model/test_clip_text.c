#include "tests/unit/model/device.h"

#include "common/json.h"
#include "worker/model/text_encoder.h"

static npo_err read_text(const char *json, npo_clip_text_config *ret_config, npo_error *error)
{
    cJSON *tree = NULL;
    NPO_TRY(npo_json_parse(json, strlen(json), "test", &tree, error));
    npo_err err = npo_clip_text_config_read(tree, "'c'", ret_config, error);
    cJSON_Delete(tree);
    return err;
}

static void test_clip_text_lays_out_the_published_tensors(void **state)
{
    npo_clip_text_config config;
    npo_layout *layout;
    assert_ok(npo_clip_text_config_load(GOLDEN("full-size/text-l.config.json"), &config, &error));
    assert_int_equal(config.act, NPO_ACT_QUICK_GELU);
    assert_int_equal(config.heads, 12);
    assert_ok(npo_clip_text_layout(backend, &config, &layout, &error));
    check_layout(layout, GOLDEN("full-size/text-l.tsv"));
    npo_layout_unref(layout);
    assert_ok(
        npo_clip_text_config_load(GOLDEN("full-size/text-bigg.config.json"), &config, &error));
    assert_int_equal(config.act, NPO_ACT_GELU);
    assert_int_equal(config.projection, 1280);
    assert_false(config.with_projection);
    config.with_projection = true;
    assert_ok(npo_clip_text_layout(backend, &config, &layout, &error));
    check_layout(layout, GOLDEN("full-size/text-bigg.tsv"));
    npo_layout_unref(layout);
}

static void test_clip_text_config_fills_defaults(void **state)
{
    npo_clip_text_config c;
    assert_ok(read_text("{}", &c, &error));
    assert_int_equal(c.hidden, 512);
    assert_int_equal(c.layers, 12);
    assert_int_equal(c.positions, 77);
    assert_int_equal(c.act, NPO_ACT_QUICK_GELU);
    assert_ok(read_text("{\"hidden_act\":\"gelu\",\"layer_norm_eps\":1e-6}", &c, &error));
    assert_int_equal(c.act, NPO_ACT_GELU);
    assert_float_equal(c.norm_eps, 1e-6f, 0);
}

static void test_clip_text_config_refuses(void **state)
{
    static const struct {
        const char *json, *sentence;
        npo_err code;
    } refused[] = {
        {"[]", "'c': ", NPO_E_TYPE},
        {"{\"hidden_act\":\"relu\"}", "'c': hidden_act: found \"relu\", expected one of",
         NPO_E_TYPE},
        {"{\"num_attention_heads\":7}",
         "num_attention_heads: found 7, expected a divisor of hidden_size 512", NPO_E_RANGE},
        {"{\"num_hidden_layers\":0}", "num_hidden_layers: found 0", NPO_E_TYPE},
        {"{\"max_position_embeddings\":1}", "max_position_embeddings: found 1", NPO_E_TYPE},
        {"{\"projection_dim\":0}", "projection_dim: found 0", NPO_E_TYPE},
        {"{\"vocab_size\":\"x\"}", "vocab_size: found \"x\"", NPO_E_TYPE},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        npo_clip_text_config c;
        assert_fails(refused[i].code, refused[i].sentence, read_text(refused[i].json, &c, &error));
    }
}

static void test_clip_text_pools_at_the_end_token(void **state)
{
    static const int32_t ids[] = {10, 3, 9, 12, 9, 12};
    npo_clip_text_config config = {.eos_id = 9};
    assert_int_equal(npo_clip_text_pooled_index(&config, ids, 6), 2);
    config.eos_id = 99;
    assert_int_equal(npo_clip_text_pooled_index(&config, ids, 6), 0);
    config.eos_id = 2; /* written by old versions, which meant the highest id */
    assert_int_equal(npo_clip_text_pooled_index(&config, ids, 6), 3);
}

/* ---- prompts to embeddings ---- */

static void test_text_encoder_embeds_the_golden_prompts(void **state)
{
    static const char *const prompts[] = {"a photo of a sneaker", "",
                                          "An ankle boot, grey picture; 3 bags!"};
    npo_folder folder;
    npo_text_encoder *encoder;
    npo_safetensors *file;
    assert_ok(npo_folder_open(GOLDEN("sd15-tiny"), &folder, &error));
    assert_ok(npo_text_encoder_new(backend, &folder, &encoder, &error));
    assert_ok(npo_safetensors_open(GOLDEN("sd15-tiny/text.safetensors"), &file, &error));
    assert_int_equal(npo_text_encoder_length(encoder), 16);
    assert_int_equal(npo_text_encoder_channels(encoder), 32);
    assert_int_equal(npo_text_encoder_pooled(encoder), 0);
    float out[3 * 16 * 32], again[16 * 32], *expected = golden_values(file, "last_hidden_state");
    assert_ok(npo_text_encoder_encode(encoder, prompts, 3, out, NULL, &error));
    for (int i = 0; i < 3; i++)
        assert_true(relative_error(out + i * 512, expected + i * 512, 512) <= 1e-4);
    assert_ok(npo_text_encoder_encode(encoder, prompts + 2, 1, again, NULL, &error));
    assert_memory_equal(again, out + 2 * 512, sizeof again);
    assert_ok(npo_text_encoder_encode_empty(encoder, again, NULL, &error));
    assert_memory_equal(again, out + 512, sizeof again);
    free(expected);
    npo_safetensors_close(file);
    npo_text_encoder_free(encoder);
    npo_folder_fini(&folder);
}

static void test_text_encoder_embeds_the_golden_prompts_of_xl(void **state)
{
    enum { TOKENS = 16, CHANNELS = 8 + 12, FLOATS = TOKENS * CHANNELS, POOLED = 10 };
    static const char *const prompts[] = {"a photo of a sneaker", "",
                                          "An ankle boot, grey picture; 3 bags!"};
    npo_folder folder;
    npo_text_encoder *encoder;
    npo_safetensors *file;
    float out[3 * FLOATS], pooled[3 * POOLED];
    assert_ok(npo_folder_open(GOLDEN("sdxl-small"), &folder, &error));
    assert_ok(npo_text_encoder_new(backend, &folder, &encoder, &error));
    assert_ok(npo_safetensors_open(GOLDEN("sdxl-small/text.safetensors"), &file, &error));
    assert_int_equal(npo_text_encoder_length(encoder), TOKENS);
    assert_int_equal(npo_text_encoder_channels(encoder), CHANNELS);
    assert_int_equal(npo_text_encoder_pooled(encoder), POOLED);
    float *context = golden_values(file, "context"), *expected = golden_values(file, "pooled");
    assert_ok(npo_text_encoder_encode(encoder, prompts, 3, out, pooled, &error));
    for (int i = 0; i < 3; i++) {
        assert_true(relative_error(out + i * FLOATS, context + i * FLOATS, FLOATS) <= 1e-4);
        assert_true(relative_error(pooled + i * POOLED, expected + i * POOLED, POOLED) <= 1e-4);
    }
    assert_ok(npo_text_encoder_encode_empty(encoder, out, pooled, &error)); /* zeros */
    for (int i = 0; i < FLOATS; i++)
        assert_true(out[i] == 0 && pooled[i % POOLED] == 0);
    npo_text_encoder_free(encoder);
    folder.zero_empty_prompt = false;
    assert_ok(npo_text_encoder_new(backend, &folder, &encoder, &error));
    assert_ok(npo_text_encoder_encode_empty(encoder, out, pooled, &error));
    assert_true(relative_error(out, context + FLOATS, FLOATS) <= 1e-4);
    assert_true(relative_error(pooled, expected + POOLED, POOLED) <= 1e-4);
    free(context);
    free(expected);
    npo_safetensors_close(file);
    npo_text_encoder_free(encoder);
    npo_folder_fini(&folder);
}

/* A copy of a golden folder whose PART/tokenizer_config.json is `config`. */
static void copy_folder(npo_folder *ret_folder, const char *model, const char *part,
                        const char *config)
{
    npo_file_list files;
    char root[512], path[128];
    snprintf(root, sizeof root, "%s/%s", NPO_GOLDEN_DIR, model);
    assert_ok(npo_file_remove(scratch_path("model"), &error));
    assert_ok(npo_file_list_tree(root, 100, &files, &error));
    for (size_t i = 0; i < files.count; i++) {
        char from[512], to[256];
        snprintf(from, sizeof from, "%s/%s/%s", NPO_GOLDEN_DIR, model, files.paths[i]);
        snprintf(to, sizeof to, "model/%s", files.paths[i]);
        if (strchr(files.paths[i], '/'))
            scratch_copy(from, to);
    }
    npo_file_list_fini(&files);
    snprintf(path, sizeof path, "model/%s/tokenizer_config.json", part);
    scratch_text(path, config);
    assert_ok(npo_folder_open(scratch_path("model"), ret_folder, &error));
}

static void test_text_encoder_refuses_a_tokenizer_that_does_not_fit(void **state)
{
    npo_folder folder;
    npo_text_encoder *encoder = NULL;
    copy_folder(&folder, "sd15-tiny", "tokenizer", "{\"model_max_length\": 17}");
    assert_fails(NPO_E_RANGE,
                 "model_max_length is 17, expected at most the text encoder's 16 positions",
                 npo_text_encoder_new(backend, &folder, &encoder, &error));
    npo_folder_fini(&folder);
    copy_folder(&folder, "sd15-tiny", "tokenizer", "{}"); /* then the encoder's length counts */
    assert_ok(npo_text_encoder_new(backend, &folder, &encoder, &error));
    assert_int_equal(npo_text_encoder_length(encoder), 16);
    npo_text_encoder_free(encoder);
    npo_folder_fini(&folder);
    copy_folder(&folder, "sdxl-small", "tokenizer_2", "{\"model_max_length\": 12}");
    assert_fails(NPO_E_RANGE,
                 "tokenizer_2': prompts of 12 tokens, expected 16 as for the first text encoder",
                 npo_text_encoder_new(backend, &folder, &encoder, &error));
    npo_folder_fini(&folder);
    copy_folder(&folder, "sd15-tiny", "tokenizer", "{}");
    scratch_copy(GOLDEN("clip-tokenizer/vocab.json"), "model/tokenizer/vocab.json");
    scratch_copy(GOLDEN("clip-tokenizer/merges.txt"), "model/tokenizer/merges.txt");
    assert_fails(NPO_E_RANGE, "49408 tokens, expected at most the text encoder's 575",
                 npo_text_encoder_new(backend, &folder, &encoder, &error));
    npo_folder_fini(&folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clip_text_lays_out_the_published_tensors),
        cmocka_unit_test(test_clip_text_config_fills_defaults),
        cmocka_unit_test(test_clip_text_config_refuses),
        cmocka_unit_test(test_clip_text_pools_at_the_end_token),
        cmocka_unit_test(test_text_encoder_embeds_the_golden_prompts),
        cmocka_unit_test(test_text_encoder_embeds_the_golden_prompts_of_xl),
        cmocka_unit_test(test_text_encoder_refuses_a_tokenizer_that_does_not_fit),
    };
    return cmocka_run_group_tests(tests, device_setup, device_teardown);
}
