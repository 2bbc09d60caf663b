#include "tests/unit/model/support.h"

#include "worker/model/networks/unet_config.h"

/* Parses `json`; the error's sentence begins with 'c'. */
static npo_err read_text(const char *json, npo_unet_config *ret_config, npo_error *error)
{
    cJSON *tree = NULL;
    NPO_TRY(npo_json_parse(json, strlen(json), "test", &tree, error));
    npo_err err = npo_unet_config_read(tree, "'c'", ret_config, error);
    cJSON_Delete(tree);
    return err;
}

static void test_unet_config_reads_published_configs(void **state)
{
    npo_unet_config c;
    assert_ok(npo_unet_config_load(GOLDEN("full-size/sd15-unet.config.json"), &c, &error));
    assert_int_equal(c.level_count, 4);
    assert_int_equal(c.levels[3].channels, 1280);
    assert_int_equal(c.levels[0].heads, 8);
    assert_int_equal(c.levels[2].context, 768);
    assert_true(c.levels[0].down_attention && c.levels[0].up_attention);
    assert_true(!c.levels[3].down_attention && !c.levels[3].up_attention);
    assert_int_equal(c.mid, NPO_UNET_MID_CROSS_ATTN);
    assert_int_equal(c.time_embed_channels, 1280);
    assert_int_equal(c.sample_height, 64);
    assert_int_equal(c.norm_groups, 32);
    assert_false(c.linear_projection);
    assert_int_equal(npo_unet_config_context(&c), 768);
}

static void test_unet_config_reads_added_conditioning(void **state)
{
    npo_unet_config c;
    assert_ok(npo_unet_config_load(GOLDEN("full-size/sdxl-unet.config.json"), &c, &error));
    assert_int_equal(c.pooled_channels, 1280);
    assert_int_equal(c.time_id_channels, 256);
    assert_int_equal(npo_unet_config_added(&c), 1286);
    assert_int_equal(npo_unet_config_context(&c), 2048);
    assert_int_equal(c.levels[2].heads, 20);
    assert_int_equal(c.levels[2].up_depth[2], 10);
    assert_int_equal(c.mid_depth, 10);
    assert_int_equal(c.sample_height, 128);
    assert_true(!c.levels[0].down_attention && c.linear_projection);
}

/* diffusers' own defaults. */
static void test_unet_config_fills_defaults(void **state)
{
    npo_unet_config c;
    assert_ok(read_text("{\"_class_name\": \"UNet2DConditionModel\"}", &c, &error));
    assert_int_equal(c.level_count, 4);
    assert_int_equal(c.levels[1].channels, 640);
    assert_int_equal(c.levels[1].layers, 2);
    assert_int_equal(c.levels[1].up_depth[2], 1);
    assert_true(c.levels[0].up_attention && !c.levels[3].up_attention);
    assert_int_equal(c.in_channels, 4);
    assert_int_equal(c.downsample_padding, 1);
    assert_int_equal(c.conv_out_kernel, 3);
    assert_true(c.flip_sin_to_cos);
    assert_float_equal(c.mid_scale, 1, 0);
    assert_int_equal(c.sample_height, 0);
    assert_int_equal(npo_unet_config_context(&c), 1280);
    assert_int_equal(npo_unet_config_added(&c), 0);
}

static void test_unet_config_reads_lists(void **state)
{
    npo_unet_config c;
    assert_ok(npo_unet_config_load(GOLDEN("unet-depths/unet/config.json"), &c, &error));
    assert_int_equal(c.levels[0].layers, 2);
    assert_int_equal(c.levels[1].layers, 1);
    assert_int_equal(c.levels[0].down_depth[1], 2);
    assert_int_equal(c.levels[1].down_depth[0], 2);
    assert_int_equal(c.levels[1].up_depth[1], 2); /* the first up block is the deepest level's */
    assert_int_equal(c.levels[0].up_depth[2], 2);
    assert_int_equal(c.mid, NPO_UNET_MID_NONE);
    assert_ok(npo_unet_config_load(GOLDEN("unet-odd/unet/config.json"), &c, &error));
    assert_int_equal(c.levels[2].heads, 4);
    assert_int_equal(c.levels[2].down_depth[0], 2);
    assert_int_equal(c.levels[2].up_depth[1], 2);
    assert_int_equal(c.mid_depth, 2);
    assert_true(c.linear_projection);
    assert_ok(npo_unet_config_load(GOLDEN("unet-plain/unet/config.json"), &c, &error));
    assert_int_equal(npo_unet_config_context(&c), 0);
    assert_int_equal(c.sample_width, 8);
    assert_int_equal(c.conv_in_kernel, 1);
    assert_int_equal(c.time_embed_channels, 24);
    assert_false(c.flip_sin_to_cos);
}

static void test_unet_config_accepts_what_has_no_effect(void **state)
{
    npo_unet_config c;
    assert_ok(read_text("{\"upcast_attention\":true,\"resnet_out_scale_factor\":2,"
                        "\"act_fn\":\"swish\",\"only_cross_attention\":[false,false,false,false],"
                        "\"some_later_option\":null,\"another\":false,\"_note\":7,"
                        "\"down_block_types\":[\"UNetResDownBlock2D\",\"DownBlock2D\","
                        "\"DownBlock2D\",\"DownBlock2D\"]}",
                        &c, &error));
    assert_false(c.levels[0].down_attention);
}

#define LEVELS_9 "[8,8,8,8,8,8,8,8,8]"

static const struct {
    const char *json;
    npo_err code;
    const char *sentence;
} refused[] = {
    {"[]", NPO_E_TYPE, "'c': expected an object"},
    {"{\"addition_embed_type\":\"text\"}", NPO_E_UNSUPPORTED,
     "'c': addition_embed_type: found \"text\", expected null or \"text_time\" (other values are "
     "not supported)"},
    {"{\"addition_embed_type\":2}", NPO_E_UNSUPPORTED, "addition_embed_type: found 2"},
    {"{\"addition_embed_type\":\"text_time\"}", NPO_E_RANGE,
     "'c': addition_time_embed_dim: found nothing, expected a whole number"},
    {"{\"addition_embed_type\":\"text_time\",\"addition_time_embed_dim\":256}", NPO_E_RANGE,
     "projection_class_embeddings_input_dim: found nothing, expected a whole number from 1537"},
    {"{\"addition_embed_type\":\"text_time\",\"addition_time_embed_dim\":256,"
     "\"projection_class_embeddings_input_dim\":1536}",
     NPO_E_RANGE, "projection_class_embeddings_input_dim: found 1536"},
    {"{\"class_embed_type\":\"timestep\"}", NPO_E_UNSUPPORTED, "class_embed_type: found"},
    {"{\"num_class_embeds\":10}", NPO_E_UNSUPPORTED, "num_class_embeds: found 10, expected null"},
    {"{\"encoder_hid_dim\":5}", NPO_E_UNSUPPORTED, "encoder_hid_dim: found 5"},
    {"{\"encoder_hid_dim_type\":\"text_proj\"}", NPO_E_UNSUPPORTED, "encoder_hid_dim_type: found"},
    {"{\"only_cross_attention\":true}", NPO_E_UNSUPPORTED,
     "only_cross_attention: found true, expected false"},
    {"{\"only_cross_attention\":[false,true,false,false]}", NPO_E_UNSUPPORTED,
     "only_cross_attention: found [false,true"},
    {"{\"resnet_time_scale_shift\":\"scale_shift\"}", NPO_E_UNSUPPORTED,
     "resnet_time_scale_shift: found \"scale_shift\", expected \"default\""},
    {"{\"dual_cross_attention\":true}", NPO_E_UNSUPPORTED, "dual_cross_attention: found true"},
    {"{\"center_input_sample\":true}", NPO_E_UNSUPPORTED, "center_input_sample: found true"},
    {"{\"time_embedding_type\":\"fourier\"}", NPO_E_UNSUPPORTED, "time_embedding_type: found"},
    {"{\"time_embedding_act_fn\":\"silu\"}", NPO_E_UNSUPPORTED, "time_embedding_act_fn: found"},
    {"{\"timestep_post_act\":\"silu\"}", NPO_E_UNSUPPORTED, "timestep_post_act: found"},
    {"{\"time_cond_proj_dim\":256}", NPO_E_UNSUPPORTED, "time_cond_proj_dim: found 256"},
    {"{\"attention_type\":\"gated\"}", NPO_E_UNSUPPORTED, "attention_type: found \"gated\""},
    {"{\"cross_attention_norm\":\"layer_norm\"}", NPO_E_UNSUPPORTED, "cross_attention_norm: found"},
    {"{\"num_attention_heads\":8}", NPO_E_UNSUPPORTED, "num_attention_heads: found 8"},
    {"{\"dropout\":0.1}", NPO_E_UNSUPPORTED, "dropout: found 0.1, expected 0"},
    {"{\"class_embeddings_concat\":true}", NPO_E_UNSUPPORTED, "class_embeddings_concat: found"},
    {"{\"act_fn\":\"gelu\"}", NPO_E_UNSUPPORTED, "act_fn: found \"gelu\", expected \"silu\""},
    {"{\"norm_num_groups\":null}", NPO_E_UNSUPPORTED, "norm_num_groups: found null"},
    {"{\"mid_block_type\":\"UNetMidBlock2DSimpleCrossAttn\"}", NPO_E_UNSUPPORTED,
     "mid_block_type: found \"UNetMidBlock2DSimpleCrossAttn\", expected"},
    {"{\"down_block_types\":[\"AttnDownBlock2D\",\"DownBlock2D\",\"DownBlock2D\",\"DownBlock2D\"]}",
     NPO_E_UNSUPPORTED, "down_block_types: found [\"AttnDownBlock2D\""},
    {"{\"up_block_types\":[\"UpBlock2D\",3,\"UpBlock2D\",\"UpBlock2D\"]}", NPO_E_UNSUPPORTED,
     "up_block_types: found"},
    {"{\"up_block_types\":[\"UpBlock2D\"]}", NPO_E_RANGE, "up_block_types: found"},
    {"{\"block_out_channels\":[8,8]}", NPO_E_RANGE,
     "down_block_types: found nothing, expected a list"},
    {"{\"block_out_channels\":[]}", NPO_E_RANGE, "block_out_channels: found []"},
    {"{\"block_out_channels\":8}", NPO_E_RANGE, "block_out_channels: found 8"},
    {"{\"block_out_channels\":" LEVELS_9 "}", NPO_E_RANGE, "a list of 1 to 8 numbers"},
    {"{\"block_out_channels\":[8,8,8,\"x\"]}", NPO_E_RANGE, "block_out_channels: found \"x\""},
    {"{\"block_out_channels\":[320,640,1280,1281]}", NPO_E_RANGE,
     "level 3 has 1281 channels, expected a multiple of norm_num_groups 32"},
    {"{\"layers_per_block\":0}", NPO_E_RANGE, "layers_per_block: found 0, expected a whole number"},
    {"{\"layers_per_block\":[1,2]}", NPO_E_RANGE, "layers_per_block: found [1,2], expected"},
    {"{\"layers_per_block\":1.5}", NPO_E_RANGE, "layers_per_block: found 1.5"},
    {"{\"attention_head_dim\":641}", NPO_E_RANGE,
     "attention_head_dim: level 0 has 641 heads, expected at most its 320 channels"},
    {"{\"attention_head_dim\":\"8\"}", NPO_E_RANGE, "attention_head_dim: found \"8\""},
    {"{\"cross_attention_dim\":[1,2,1,1]}", NPO_E_UNSUPPORTED,
     "cross_attention_dim: level 1 has 2, expected 1 as the other levels"},
    {"{\"transformer_layers_per_block\":[1,2]}", NPO_E_RANGE,
     "transformer_layers_per_block: found"},
    {"{\"transformer_layers_per_block\":33}", NPO_E_RANGE,
     "transformer_layers_per_block: found 33"},
    {"{\"transformer_layers_per_block\":[[1,1],1,1,1]}", NPO_E_RANGE,
     "reverse_transformer_layers_per_block: found nothing, expected a list"},
    {"{\"transformer_layers_per_block\":[[1],1,1,1],"
     "\"reverse_transformer_layers_per_block\":[1,1,1,1]}",
     NPO_E_RANGE,
     "transformer_layers_per_block: found [1], expected one number for each attention"},
    {"{\"reverse_transformer_layers_per_block\":3}", NPO_E_RANGE,
     "reverse_transformer_layers_per_block: found 3"},
    {"{\"conv_in_kernel\":4}", NPO_E_UNSUPPORTED,
     "conv_in_kernel: found 4, expected an odd number"},
    {"{\"conv_out_kernel\":17}", NPO_E_RANGE, "conv_out_kernel: found 17"},
    {"{\"downsample_padding\":2}", NPO_E_RANGE, "downsample_padding: found 2"},
    {"{\"sample_size\":[8,0]}", NPO_E_RANGE, "sample_size: found 0"},
    {"{\"sample_size\":\"big\"}", NPO_E_RANGE, "sample_size: found \"big\""},
    {"{\"norm_eps\":-1}", NPO_E_RANGE, "norm_eps: found -1"},
    {"{\"mid_block_scale_factor\":0}", NPO_E_RANGE, "mid_block_scale_factor: found 0"},
    {"{\"flip_sin_to_cos\":1}", NPO_E_TYPE, "flip_sin_to_cos: found 1, expected true or false"},
    {"{\"use_linear_projection\":\"no\"}", NPO_E_TYPE, "use_linear_projection: found \"no\""},
    {"{\"in_channels\":-4}", NPO_E_RANGE, "in_channels: found -4"},
    {"{\"new_option\":3}", NPO_E_UNSUPPORTED,
     "new_option: found 3, expected an option of UNet2DConditionModel"},
};

static void test_unet_config_refuses(void **state)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        npo_unet_config c;
        assert_fails(refused[i].code, refused[i].sentence, read_text(refused[i].json, &c, &error));
        assert_fails(refused[i].code, "'c': ", read_text(refused[i].json, &c, &error));
    }
}

static void test_unet_config_names_the_file(void **state)
{
    npo_unet_config c;
    scratch_text("config.json", "{\"dropout\":1}");
    assert_fails(NPO_E_UNSUPPORTED, "/config.json': dropout: found 1",
                 npo_unet_config_load(scratch_path("config.json"), &c, &error));
    scratch_text("config.json", "{\"dropout\":");
    assert_fails(NPO_E_FORMAT, "/config.json': not JSON",
                 npo_unet_config_load(scratch_path("config.json"), &c, &error));
    assert_fails(NPO_E_NOT_FOUND, "none.json'",
                 npo_unet_config_load(scratch_path("none.json"), &c, &error));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unet_config_reads_published_configs),
        cmocka_unit_test(test_unet_config_reads_added_conditioning),
        cmocka_unit_test(test_unet_config_fills_defaults),
        cmocka_unit_test(test_unet_config_reads_lists),
        cmocka_unit_test(test_unet_config_accepts_what_has_no_effect),
        cmocka_unit_test(test_unet_config_refuses),
        cmocka_unit_test(test_unet_config_names_the_file),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
