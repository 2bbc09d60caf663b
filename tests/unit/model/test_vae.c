#include "tests/unit/model/device.h"

#include "worker/model/vae.h"

/* A VAE of the goldens and what diffusers computes with it. */
typedef struct {
    npo_folder folder;
    npo_vae *vae;
    npo_safetensors *file;
    float *image, *mean, *logvar, *latent, *decoded;
    int64_t height, width;                                           /* of the image */
    int64_t latent_height, latent_width;                             /* of the latent */
    size_t latent_floats, mean_floats, image_floats, decoded_floats; /* of one sample */
} vae_case;

static size_t sample_floats(const npo_safetensors *file, const char *name)
{
    const npo_tensor *tensor = npo_safetensors_find(file, name);
    return tensor->count / (size_t)tensor->dims[0];
}

static void locate(npo_folder *folder, const char *dir)
{
    folder->vae_config = npo_file_join(dir, "vae/config.json");
    folder->vae_weights = npo_file_join(dir, "vae/diffusion_pytorch_model.safetensors");
}

static void open_case(vae_case *c, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", NPO_GOLDEN_DIR, name);
    *c = (vae_case){0};
    locate(&c->folder, path);
    assert_ok(npo_vae_open(backend, &c->folder, &c->vae, &error));
    snprintf(path, sizeof path, "%s/%s/vae.safetensors", NPO_GOLDEN_DIR, name);
    assert_ok(npo_safetensors_open(path, &c->file, &error));
    c->image = golden_values(c->file, "image");
    c->mean = golden_values(c->file, "mean");
    c->logvar = golden_values(c->file, "logvar");
    c->latent = golden_values(c->file, "latent");
    c->decoded = golden_values(c->file, "decoded");
    c->height = npo_safetensors_find(c->file, "image")->dims[2];
    c->width = npo_safetensors_find(c->file, "image")->dims[3];
    c->latent_height = npo_safetensors_find(c->file, "latent")->dims[2];
    c->latent_width = npo_safetensors_find(c->file, "latent")->dims[3];
    c->image_floats = sample_floats(c->file, "image");
    c->mean_floats = sample_floats(c->file, "mean");
    c->latent_floats = sample_floats(c->file, "latent");
    c->decoded_floats = sample_floats(c->file, "decoded");
}

static void close_case(vae_case *c)
{
    npo_vae_free(c->vae);
    npo_folder_fini(&c->folder);
    npo_safetensors_close(c->file);
    free(c->image);
    free(c->mean);
    free(c->logvar);
    free(c->latent);
    free(c->decoded);
}

static const struct {
    const char *name;
    int64_t factor, channels;
    float scale, shift;
} cases[] = {
    {"vae-tiny", 4, 4, 0.18215f, 0},
    {"vae-old", 2, 3, 0.36f, 0.12f}, /* older names */
    {"vae-plain", 1, 4, 0.18215f, 0},
};

static void test_vae_encodes_the_goldens(void **state)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        vae_case c;
        open_case(&c, cases[i].name);
        float *mean = calloc(c.mean_floats, sizeof *mean), *logvar = calloc(c.mean_floats, 4);
        assert_int_equal(npo_vae_factor(c.vae), cases[i].factor);
        assert_int_equal(npo_vae_channels(c.vae), cases[i].channels);
        for (size_t n = 0; n < 2; n++) {
            const float *image = c.image + n * c.image_floats;
            const float *expected = c.mean + n * c.mean_floats;
            assert_ok(npo_vae_moments(c.vae, image, c.height, c.width, mean, logvar, &error));
            assert_true(relative_error(mean, expected, c.mean_floats) <= 1e-4);
            assert_true(relative_error(logvar, c.logvar + n * c.mean_floats, c.mean_floats) <=
                        1e-4);
            assert_ok(npo_vae_moments(c.vae, image, c.height, c.width, NULL, NULL, &error));
            assert_ok(npo_vae_encode(c.vae, image, c.height, c.width, mean, &error));
            for (size_t k = 0; k < c.mean_floats; k++)
                mean[k] = mean[k] / cases[i].scale + cases[i].shift;
            assert_true(relative_error(mean, expected, c.mean_floats) <= 1e-4);
        }
        free(mean);
        free(logvar);
        close_case(&c);
    }
}

static void test_vae_decodes_the_goldens(void **state)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        vae_case c;
        open_case(&c, cases[i].name);
        float *image = calloc(c.decoded_floats, sizeof *image);
        for (size_t k = 0; k < 2 * c.latent_floats; k++)
            c.latent[k] = (c.latent[k] - cases[i].shift) * cases[i].scale;
        for (size_t n = 0; n < 2; n++) {
            assert_ok(npo_vae_decode(c.vae, c.latent + n * c.latent_floats, c.latent_height,
                                     c.latent_width, image, &error));
            assert_true(relative_error(image, c.decoded + n * c.decoded_floats, c.decoded_floats) <=
                        1e-4);
        }
        free(image);
        close_case(&c);
    }
}

/* What diffusers computes in tiles, with edges of every kind. */
static void test_vae_tiles_as_diffusers_does(void **state)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        vae_case c;
        open_case(&c, cases[i].name);
        float *mean = calloc(c.mean_floats, sizeof *mean), *logvar = calloc(c.mean_floats, 4);
        float *image = calloc(c.decoded_floats, sizeof *image);
        float *means = golden_values(c.file, "tiled.mean");
        float *logvars = golden_values(c.file, "tiled.logvar");
        float *decoded = golden_values(c.file, "tiled.decoded");
        int64_t tile;
        npo_tensor_read_i64(npo_safetensors_find(c.file, "tile"), 0, 1, &tile);
        npo_vae_set_tile(c.vae, tile);
        assert_ok(npo_vae_moments(c.vae, c.image, c.height, c.width, mean, logvar, &error));
        assert_int_equal(npo_vae_tile(c.vae), tile);
        assert_true(relative_error(mean, means, c.mean_floats) <= 1e-4);
        assert_true(relative_error(logvar, logvars, c.mean_floats) <= 1e-4);
        for (size_t k = 0; k < c.latent_floats; k++)
            c.latent[k] = (c.latent[k] - cases[i].shift) * cases[i].scale;
        assert_ok(npo_vae_decode(c.vae, c.latent, c.latent_height, c.latent_width, image, &error));
        assert_true(relative_error(image, decoded, c.decoded_floats) <= 1e-4);
        free(mean);
        free(logvar);
        free(image);
        free(means);
        free(logvars);
        free(decoded);
        close_case(&c);
    }
}

static npo_err decode(const vae_case *c, float *ret_image)
{
    npo_error error = {0};
    return npo_vae_decode(c->vae, c->latent, 9, 13, ret_image, &error);
}

/* A limit that grows: first nothing fits, then tiles, then the whole. */
static void test_vae_takes_tiles_where_memory_is_short(void **state)
{
    vae_case c;
    open_case(&c, "vae-tiny"); /* 9 x 13 positions */
    size_t bytes = c.decoded_floats * sizeof(float), steps[3] = {0};
    float *whole = malloc(bytes), *tiled = malloc(bytes), *image = malloc(bytes);
    assert_ok(npo_vae_decode(c.vae, c.latent, 9, 13, whole, &error));
    assert_int_equal(npo_vae_tile(c.vae), 0);
    npo_vae_set_tile(c.vae, 8);
    assert_ok(npo_vae_decode(c.vae, c.latent, 9, 13, tiled, &error));
    assert_int_equal(npo_vae_tile(c.vae), 8);
    npo_vae_set_tile(c.vae, 0);
    for (size_t limit = 16 << 10; !steps[2]; limit += 16 << 10) {
        npo_vae_limit_memory(c.vae, limit);
        npo_err err = decode(&c, image);
        int step = err ? 0 : npo_vae_tile(c.vae) ? 1 : 2;
        assert_true(step != 0 || err == NPO_E_NOMEM);
        assert_true(step >= 1 || steps[1] == 0); /* more memory never takes it back */
        steps[step]++;
        if (step)
            assert_true(relative_error(image, step == 1 ? tiled : whole, c.decoded_floats) <= 1e-6);
        if (step == 1) /* the choice is kept */
            assert_ok(npo_vae_decode(c.vae, c.latent, 9, 13, image, &error));
    }
    assert_true(steps[0] && steps[1]);
    npo_vae_limit_memory(c.vae, 16 << 10);
    assert_fails(NPO_E_NOMEM, "cannot plan the VAE for a latent of 8 x 8: ",
                 npo_vae_decode(c.vae, c.latent, 9, 13, image, &error));
    npo_vae_limit_memory(c.vae, 1);
    assert_fails(NPO_E_NOMEM, "0 KiB of picture, expected at most 0 KiB",
                 npo_vae_encode(c.vae, c.image, 4, 4, image, &error));
    free(whole);
    free(tiled);
    free(image);
    close_case(&c);
}

static void test_vae_refuses_sides_that_the_factor_does_not_divide(void **state)
{
    vae_case c;
    float *out = calloc(4096, sizeof *out);
    open_case(&c, "vae-tiny");
    assert_fails(NPO_E_SHAPE, "image of 30 x 28 pixels, expected multiples of 4 for the VAE",
                 npo_vae_encode(c.vae, c.image, 30, 28, out, &error));
    assert_fails(NPO_E_SHAPE, "image of 28 x 2 pixels",
                 npo_vae_moments(c.vae, c.image, 28, 2, out, NULL, &error));
    assert_fails(NPO_E_SHAPE, "image of 0 x 4 pixels",
                 npo_vae_encode(c.vae, c.image, 0, 4, out, &error));
    free(out);
    close_case(&c);
}

#define DOWN "\"DownEncoderBlock2D\""
#define UP   "\"UpDecoderBlock2D\""

static void test_vae_names_what_is_wrong_with_its_files(void **state)
{
    npo_folder folder = {.root = strdup("somewhere")};
    npo_vae *vae = NULL;
    assert_fails(NPO_E_NOT_FOUND, "model folder 'somewhere' has no vae/config.json",
                 npo_vae_open(backend, &folder, &vae, &error));
    locate(&folder, scratch_dir);
    scratch_text(
        "vae/config.json",
        "{\"block_out_channels\": [4, 4, 8], \"norm_num_groups\": 2, \"latent_channels\": 5,"
        "\"down_block_types\": [" DOWN "," DOWN "," DOWN "],"
        "\"up_block_types\": [" UP "," UP "," UP "]}");
    scratch_copy(GOLDEN("vae-tiny/vae/diffusion_pytorch_model.safetensors"),
                 "vae/diffusion_pytorch_model.safetensors");
    assert_fails(NPO_E_SHAPE, "'encoder.conv_out.weight': shape [8,8,3,3], expected [10,8,3,3]",
                 npo_vae_open(backend, &folder, &vae, &error));
    free(folder.vae_weights);
    folder.vae_weights = NULL;
    assert_fails(NPO_E_NOT_FOUND, "has no vae/diffusion_pytorch_model.safetensors",
                 npo_vae_open(backend, &folder, &vae, &error));
    npo_folder_fini(&folder);
    npo_vae_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vae_encodes_the_goldens),
        cmocka_unit_test(test_vae_decodes_the_goldens),
        cmocka_unit_test(test_vae_tiles_as_diffusers_does),
        cmocka_unit_test(test_vae_takes_tiles_where_memory_is_short),
        cmocka_unit_test(test_vae_refuses_sides_that_the_factor_does_not_divide),
        cmocka_unit_test(test_vae_names_what_is_wrong_with_its_files),
    };
    return cmocka_run_group_tests(tests, device_setup, device_teardown);
}
