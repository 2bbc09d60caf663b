#include "tests/unit/model/device.h"

#include "worker/model/networks/autoencoder.h"

static npo_err read_text(const char *json, npo_autoencoder_config *ret_config, npo_error *error)
{
    cJSON *tree = NULL;
    NPO_TRY(npo_json_parse(json, strlen(json), "test", &tree, error));
    npo_err err = npo_autoencoder_config_read(tree, "'c'", ret_config, error);
    cJSON_Delete(tree);
    return err;
}

static void test_autoencoder_lays_out_the_published_tensors(void **state)
{
    npo_autoencoder_config config;
    npo_layout *layout;
    assert_ok(npo_autoencoder_config_load(GOLDEN("full-size/vae.config.json"), &config, &error));
    assert_int_equal(npo_autoencoder_config_factor(&config), 8);
    assert_int_equal(config.channels[3], 512);
    assert_ok(npo_autoencoder_layout(backend, &config, &layout, &error));
    check_layout(layout, GOLDEN("full-size/vae.tsv"));
    npo_layout_unref(layout);
}

/* diffusers' own defaults. */
static void test_autoencoder_config_fills_defaults(void **state)
{
    npo_autoencoder_config c;
    assert_ok(read_text("{\"_class_name\": \"AutoencoderKL\"}", &c, &error));
    assert_int_equal(c.level_count, 1);
    assert_int_equal(c.channels[0], 64);
    assert_int_equal(c.layers, 1);
    assert_int_equal(c.latent_channels, 4);
    assert_int_equal(c.norm_groups, 32);
    assert_true(c.mid_attention && c.quant_conv && c.post_quant_conv);
    assert_float_equal(c.latent_scale, 0.18215f, 0);
    assert_float_equal(c.latent_shift, 0, 0);
    assert_int_equal(npo_autoencoder_config_factor(&c), 1);
}

static void test_autoencoder_config_accepts_what_has_no_effect(void **state)
{
    npo_autoencoder_config c;
    assert_ok(read_text("{\"force_upcast\":true,\"sample_size\":[512,256],\"shift_factor\":-0.5,"
                        "\"latents_mean\":null,\"some_later_option\":false}",
                        &c, &error));
    assert_float_equal(c.latent_shift, -0.5f, 0);
}

static void test_autoencoder_config_refuses(void **state)
{
    static const struct {
        const char *json;
        npo_err code;
        const char *sentence;
    } refused[] = {
        {"[]", NPO_E_TYPE, "'c': expected an object"},
        {"{\"act_fn\":\"gelu\"}", NPO_E_UNSUPPORTED, "'c': act_fn: found \"gelu\", expected"},
        {"{\"latents_mean\":[0,0,0,0]}", NPO_E_UNSUPPORTED, "latents_mean: found [0,0,0,0]"},
        {"{\"latents_std\":[1,1,1,1]}", NPO_E_UNSUPPORTED, "latents_std: found [1,1,1,1]"},
        {"{\"in_channels\":1}", NPO_E_UNSUPPORTED, "in_channels: found 1, expected 3"},
        {"{\"out_channels\":4}", NPO_E_UNSUPPORTED, "out_channels: found 4, expected 3"},
        {"{\"scale\":2}", NPO_E_UNSUPPORTED, "scale: found 2, expected an option of AutoencoderKL"},
        {"{\"down_block_types\":[\"AttnDownEncoderBlock2D\"]}", NPO_E_UNSUPPORTED,
         "down_block_types: found [\"AttnDownEncoderBlock2D\"], expected a list of 1, each "
         "\"DownEncoderBlock2D\""},
        {"{\"up_block_types\":[5]}", NPO_E_UNSUPPORTED, "up_block_types: found [5], expected"},
        {"{\"up_block_types\":\"UpDecoderBlock2D\"}", NPO_E_RANGE, "up_block_types: found \"Up"},
        {"{\"block_out_channels\":[64,64]}", NPO_E_RANGE, "down_block_types: found nothing"},
        {"{\"block_out_channels\":[]}", NPO_E_RANGE, "a list of 1 to 8 numbers"},
        {"{\"block_out_channels\":[33]}", NPO_E_RANGE,
         "level 0 has 33 channels, expected a multiple of norm_num_groups 32"},
        {"{\"layers_per_block\":9}", NPO_E_RANGE, "layers_per_block: found 9"},
        {"{\"latent_channels\":0}", NPO_E_RANGE, "latent_channels: found 0"},
        {"{\"norm_num_groups\":0.5}", NPO_E_RANGE, "norm_num_groups: found 0.5"},
        {"{\"mid_block_add_attention\":1}", NPO_E_TYPE, "mid_block_add_attention: found 1"},
        {"{\"use_quant_conv\":\"no\"}", NPO_E_TYPE, "use_quant_conv: found \"no\""},
        {"{\"use_post_quant_conv\":0}", NPO_E_TYPE, "use_post_quant_conv: found 0"},
        {"{\"scaling_factor\":0}", NPO_E_RANGE, "scaling_factor: found 0"},
        {"{\"shift_factor\":\"x\"}", NPO_E_RANGE, "shift_factor: found \"x\""},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        npo_autoencoder_config c;
        assert_fails(refused[i].code, refused[i].sentence, read_text(refused[i].json, &c, &error));
        assert_fails(refused[i].code, "'c': ", read_text(refused[i].json, &c, &error));
    }
    npo_autoencoder_config c;
    scratch_text("config.json", "{\"act_fn\":1}");
    assert_fails(NPO_E_UNSUPPORTED, "/config.json': act_fn: found 1",
                 npo_autoencoder_config_load(scratch_path("config.json"), &c, &error));
    assert_fails(NPO_E_NOT_FOUND, "none.json'",
                 npo_autoencoder_config_load(scratch_path("none.json"), &c, &error));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_autoencoder_lays_out_the_published_tensors),
        cmocka_unit_test(test_autoencoder_config_fills_defaults),
        cmocka_unit_test(test_autoencoder_config_accepts_what_has_no_effect),
        cmocka_unit_test(test_autoencoder_config_refuses),
    };
    return cmocka_run_group_tests(tests, device_setup, device_teardown);
}
