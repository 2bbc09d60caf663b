#include "tests/unit/model/device.h"

#include "worker/model/files/weights.h"
#include "worker/model/networks/network.h"
#include "worker/model/networks/unet.h"

/* A network with the golden of one folder. */
typedef struct {
    npo_unet_config config;
    npo_layout *layout;
    npo_params *params;
    npo_network *network;
    npo_safetensors *file;
    float *x, *t, *context, *added, *y; /* added: NULL where the network has none */
    int64_t n;
} network_case;

/* Rows of pooled text and time ids side by side. */
static float *added_rows(const npo_safetensors *file)
{
    if (!npo_safetensors_find(file, "pooled"))
        return NULL;
    float *pooled = golden_values(file, "pooled"), *ids = golden_values(file, "time_ids");
    size_t n = (size_t)npo_safetensors_find(file, "pooled")->dims[0];
    size_t channels = (size_t)npo_safetensors_find(file, "pooled")->dims[1];
    size_t floats = channels + NPO_UNET_TIME_IDS;
    float *rows = malloc(n * floats * sizeof *rows);
    for (size_t i = 0; i < n; i++) {
        memcpy(rows + i * floats, pooled + i * channels, channels * sizeof *rows);
        memcpy(rows + i * floats + channels, ids + i * NPO_UNET_TIME_IDS,
               NPO_UNET_TIME_IDS * sizeof *rows);
    }
    free(pooled);
    free(ids);
    return rows;
}

static void open_case(network_case *c, const char *dir, const char *file)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s/unet/config.json", NPO_GOLDEN_DIR, dir);
    assert_ok(npo_unet_config_load(path, &c->config, &error));
    assert_ok(npo_unet_layout(backend, &c->config, &c->layout, &error));
    assert_ok(npo_params_new(c->layout, &c->params));
    snprintf(path, sizeof path, "%s/%s/unet/diffusion_pytorch_model.safetensors", NPO_GOLDEN_DIR,
             dir);
    assert_ok(npo_weights_load(path, NULL, c->params, &error));
    snprintf(path, sizeof path, "%s/%s/%s", NPO_GOLDEN_DIR, dir, file);
    assert_ok(npo_safetensors_open(path, &c->file, &error));
    const npo_tensor *x = npo_safetensors_find(c->file, "x");
    npo_network_shape shape = {x->dims[2], x->dims[3],
                               npo_safetensors_find(c->file, "context")->dims[1]};
    assert_ok(npo_network_new(backend, c->layout, &c->config, &shape, &c->network, &error));
    c->n = x->dims[0];
    c->x = golden_values(c->file, "x");
    c->t = golden_values(c->file, "t");
    c->context = golden_values(c->file, "context");
    c->y = golden_values(c->file, "y");
    c->added = added_rows(c->file);
}

static void close_case(network_case *c)
{
    npo_network_free(c->network);
    npo_params_free(c->params);
    npo_layout_unref(c->layout);
    npo_safetensors_close(c->file);
    free(c->x);
    free(c->t);
    free(c->context);
    free(c->added);
    free(c->y);
}

static void test_unet_lays_out_the_published_tensors(void **state)
{
    static const char *const models[] = {"sd15-unet", "sdxl-unet"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char path[512];
        npo_unet_config config;
        npo_layout *layout;
        snprintf(path, sizeof path, "%s/%s.config.json", GOLDEN("full-size"), models[i]);
        assert_ok(npo_unet_config_load(path, &config, &error));
        assert_ok(npo_unet_layout(backend, &config, &layout, &error));
        snprintf(path, sizeof path, "%s/%s.tsv", GOLDEN("full-size"), models[i]);
        check_layout(layout, path);
        npo_layout_unref(layout);
    }
}

static void test_network_predicts_the_goldens(void **state)
{
    static const struct {
        const char *dir, *file;
    } cases[] = {
        {"sd15-tiny", "unet-square.safetensors"}, {"sd15-tiny", "unet-wide.safetensors"},
        {"unet-odd", "unet-case.safetensors"},    {"unet-plain", "unet-case.safetensors"},
        {"unet-depths", "unet-case.safetensors"}, {"unet-mixed", "unet-case.safetensors"},
        {"sdxl-small", "unet-case.safetensors"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        network_case c = {0};
        open_case(&c, cases[i].dir, cases[i].file);
        size_t count = npo_safetensors_find(c.file, "y")->count;
        float *out = malloc(count * sizeof *out);
        assert_ok(
            npo_network_eval(c.network, c.params, c.n, c.x, c.t, c.context, c.added, out, &error));
        assert_true(relative_error(out, c.y, count) <= 1e-4);
        free(out);
        close_case(&c);
    }
}

/* More batch sizes than are kept, in an order that evicts; a sample's own result every time. */
static void test_network_evaluates_any_batch_size(void **state)
{
    enum { MAX = 6 };
    network_case c = {0};
    open_case(&c, "sd15-tiny", "unet-square.safetensors");
    size_t floats = npo_network_sample_floats(c.network);
    size_t context = npo_network_context_floats(c.network);
    float *x = malloc(MAX * floats * sizeof *x), *out = malloc(MAX * floats * sizeof *out);
    float *ctx = malloc(MAX * context * sizeof *ctx), t[MAX];
    static const int64_t sizes[] = {1, 2, 3, 4, 5, 6, 1, 3, 5, 5, 2};
    assert_int_equal(floats, 16 * 16 * 4);
    assert_int_equal(context, 16 * 32);
    for (size_t i = 0; i < MAX; i++) {
        memcpy(x + i * floats, c.x + i % 3 * floats, floats * sizeof *x);
        memcpy(ctx + i * context, c.context + i % 3 * context, context * sizeof *ctx);
        t[i] = c.t[i % 3];
    }
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        assert_ok(npo_network_eval(c.network, c.params, sizes[k], x, t, ctx, NULL, out, &error));
        for (size_t i = 0; i < (size_t)sizes[k]; i++)
            assert_true(relative_error(out + i * floats, c.y + i % 3 * floats, floats) <= 1e-4);
    }
    free(x);
    free(out);
    free(ctx);
    close_case(&c);
}

static void test_network_is_deterministic_and_independent_of_neighbours(void **state)
{
    network_case c = {0};
    open_case(&c, "sd15-tiny", "unet-square.safetensors");
    size_t floats = npo_network_sample_floats(c.network);
    float *a = malloc(3 * floats * sizeof *a), *b = malloc(3 * floats * sizeof *b);
    assert_ok(npo_network_eval(c.network, c.params, 3, c.x, c.t, c.context, NULL, a, &error));
    assert_ok(npo_network_eval(c.network, c.params, 3, c.x, c.t, c.context, NULL, b, &error));
    assert_memory_equal(a, b, 3 * floats * sizeof *a);
    for (size_t i = 0; i < floats; i++)
        c.x[i] = 7.0f * (float)(i % 3);
    assert_ok(npo_network_eval(c.network, c.params, 3, c.x, c.t, c.context, NULL, b, &error));
    assert_memory_equal(a + floats, b + floats, 2 * floats * sizeof *a);
    assert_memory_not_equal(a, b, floats * sizeof *a);
    free(a);
    free(b);
    close_case(&c);
}

static void test_network_follows_its_parameters(void **state)
{
    network_case c = {0};
    npo_params *other;
    open_case(&c, "unet-plain", "unet-case.safetensors");
    assert_int_equal(npo_network_context_floats(c.network), 0);
    size_t count = npo_safetensors_find(c.file, "y")->count;
    float *a = malloc(count * sizeof *a), *b = malloc(count * sizeof *b);
    assert_ok(npo_params_new(c.layout, &other));
    npo_params_copy(other, c.params);
    assert_ok(npo_network_eval(c.network, other, c.n, c.x, c.t, NULL, NULL, a, &error));
    npo_params_edit(other)[npo_layout_find(c.layout, "conv_out.bias")->offset] += 1;
    assert_ok(npo_network_eval(c.network, other, c.n, c.x, c.t, NULL, NULL, b, &error));
    assert_true(fabsf(b[0] - a[0] - 1) < 1e-5f && b[1] == a[1]);
    assert_ok(npo_network_eval(c.network, c.params, c.n, c.x, c.t, NULL, NULL, b, &error));
    assert_memory_equal(a, b, count * sizeof *a);
    npo_params_free(other);
    free(a);
    free(b);
    close_case(&c);
}

static void test_network_refuses_a_bad_shape(void **state)
{
    network_case c = {0};
    npo_network *network = NULL;
    open_case(&c, "unet-mixed", "unet-case.safetensors");
    assert_fails(NPO_E_RANGE, "found height 0, width 8, 5 tokens",
                 npo_network_new(backend, c.layout, &c.config, &(npo_network_shape){0, 8, 5},
                                 &network, &error));
    close_case(&c);
}

/* A layout of another network: recording finds the disagreement, planning reports it. */
static void test_network_refuses_another_layout(void **state)
{
    network_case a = {0}, b = {0};
    npo_network *network;
    float out[2 * 8 * 8 * 6];
    open_case(&a, "unet-mixed", "unet-case.safetensors");
    open_case(&b, "unet-plain", "unet-case.safetensors");
    assert_ok(npo_network_new(backend, a.layout, &b.config, npo_network_shape_of(b.network),
                              &network, &error));
    assert_fails(NPO_E_SHAPE, "cannot plan the network for batch 2",
                 npo_network_eval(network, a.params, 2, b.x, b.t, NULL, NULL, out, &error));
    npo_network_free(network);
    close_case(&a);
    close_case(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unet_lays_out_the_published_tensors),
        cmocka_unit_test(test_network_predicts_the_goldens),
        cmocka_unit_test(test_network_evaluates_any_batch_size),
        cmocka_unit_test(test_network_is_deterministic_and_independent_of_neighbours),
        cmocka_unit_test(test_network_follows_its_parameters),
        cmocka_unit_test(test_network_refuses_a_bad_shape),
        cmocka_unit_test(test_network_refuses_another_layout),
    };
    return cmocka_run_group_tests(tests, device_setup, device_teardown);
}
