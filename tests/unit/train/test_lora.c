#include "tests/unit/train/support.h"

#include "kernels/op.h"
#include "worker/model/files/weights.h"
#include "worker/model/networks/lora_layout.h"
#include "worker/model/networks/unet.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static npo_backend *backend;
static npo_error error;

static void assert_ok(npo_err err)
{
    if (err)
        fail_msg("%s", error.text);
}

static int setup(void **state)
{
    const npo_backend_options options = {.device = "cpu", .threads = 1};
    return npo_backend_new(&options, &backend, NULL);
}

static int teardown(void **state)
{
    npo_backend_free(backend);
    return 0;
}

/* A LoRA on every layer of a golden network, with the golden's matrices. */
typedef struct {
    npo_unet_config config;
    npo_layout *layout, *lora_layout;
    npo_params *base, *lora, *grads;
    npo_safetensors *file;
    npo_graph *graph;
} lora_case;

static void read_into(const lora_case *c, const char *name, float *ret_values)
{
    const npo_tensor *tensor = npo_safetensors_find(c->file, name);
    if (!tensor)
        fail_msg("no golden '%s'", name);
    npo_tensor_read_f32(tensor, 0, tensor->count, ret_values);
}

static void open_base(lora_case *c)
{
    const npo_lora_options options = {.rank = 3, .alpha = 5, .targets = NPO_LORA_ALL};
    assert_ok(
        npo_unet_config_load(NPO_GOLDEN_DIR "/unet-mixed/unet/config.json", &c->config, &error));
    assert_ok(npo_unet_layout(backend, &c->config, &c->layout, &error));
    assert_ok(npo_params_new(c->layout, &c->base));
    assert_ok(npo_weights_load(NPO_GOLDEN_DIR
                               "/unet-mixed/unet/diffusion_pytorch_model.safetensors",
                               NULL, c->base, &error));
    assert_ok(npo_lora_layout(c->layout, &options, &c->lora_layout, &error));
    assert_ok(npo_params_new(c->lora_layout, &c->lora));
    assert_ok(npo_params_new(c->lora_layout, &c->grads));
    npo_params_set_base(c->lora, c->base);
}

/* The network with `layout` and the golden's loss. */
static npo_graph *record(const lora_case *c, npo_layout *layout)
{
    npo_graph *graph;
    const npo_tensor *x = npo_safetensors_find(c->file, "x");
    assert_ok(npo_graph_new(backend, layout, &graph));
    npo_unet_inputs inputs = npo_unet_declare(graph, &c->config, x->dims[0], x->dims[1], x->dims[2],
                                              npo_safetensors_find(c->file, "context")->dims[1]);
    npo_value target = npo_graph_input(graph, "target", NPO_F32, 4, x->dims);
    npo_value y = npo_unet_record(graph, &c->config, inputs, NULL);
    npo_plan_options plan = {.loss = npo_op_mse_loss(graph, y, target)};
    npo_graph_output(graph, "y", y);
    npo_graph_output(graph, "loss", plan.loss);
    assert_ok(npo_graph_plan(graph, &plan, NULL, &error));
    static const char *const names[] = {"x", "t", "context", "target"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        read_into(c, names[i], npo_graph_input_data(graph, names[i]));
    return graph;
}

static void open_case(lora_case *c)
{
    *c = (lora_case){0};
    assert_ok(npo_safetensors_open(NPO_GOLDEN_DIR "/unit/lora/case.safetensors", &c->file, &error));
    open_base(c);
    float *data = npo_params_edit(c->lora);
    for (size_t i = 0; i < npo_layout_count(c->lora_layout); i++) {
        const npo_param_info *info = npo_layout_at(c->lora_layout, i);
        read_into(c, info->name, data + info->offset);
    }
    c->graph = record(c, c->lora_layout);
}

static void close_case(lora_case *c)
{
    npo_graph_free(c->graph);
    npo_params_free(c->grads);
    npo_params_free(c->lora);
    npo_params_free(c->base);
    npo_layout_unref(c->lora_layout);
    npo_layout_unref(c->layout);
    npo_safetensors_close(c->file);
}

/* Largest difference, relative to the largest expected. */
static double difference(const lora_case *c, const char *name, const float *values)
{
    size_t n = npo_safetensors_find(c->file, name)->count;
    float *expected = malloc(n * sizeof *expected);
    double most = 0, largest = 0;
    read_into(c, name, expected);
    for (size_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)values[i] - (double)expected[i]));
        largest = fmax(largest, fabs((double)expected[i]));
    }
    free(expected);
    return most / largest;
}

static void test_lora_computes_and_differentiates_as_peft(void **state)
{
    lora_case c;
    open_case(&c);
    assert_ok(npo_graph_forward(c.graph, c.lora, &error));
    assert_true(difference(&c, "y", npo_graph_output_data(c.graph, "y", NULL)) < 1e-5);
    assert_true(difference(&c, "loss", npo_graph_output_data(c.graph, "loss", NULL)) < 1e-5);
    assert_ok(npo_graph_backward(c.graph, c.lora, 1, c.grads, &error));
    for (size_t i = 0; i < npo_layout_count(c.lora_layout); i++) {
        const npo_param_info *info = npo_layout_at(c.lora_layout, i);
        char name[NPO_PARAM_NAME_MAX + 8];
        snprintf(name, sizeof name, "grad.%s", info->name);
        double apart = difference(&c, name, npo_params_data(c.grads) + info->offset);
        if (!(apart < 1e-4))
            fail_msg("'%s' is %g apart", name, apart);
    }
    close_case(&c);
}

/* Weights kept packed from run to run follow the LoRA and the base. */
static void test_lora_graph_notices_new_weights(void **state)
{
    lora_case c;
    open_case(&c);
    npo_graph *other = record(&c, c.lora_layout);
    size_t n = npo_safetensors_find(c.file, "y")->count;
    for (int i = 0; i < 3; i++) {
        assert_ok(npo_graph_forward(c.graph, c.lora, &error));
        npo_params_edit(c.lora)[i] += 0.5f;
        if (i == 1)
            npo_params_edit(c.base)[0] += 0.5f;
    }
    assert_ok(npo_graph_forward(c.graph, c.lora, &error));
    float *y = malloc(n * sizeof *y);
    memcpy(y, npo_graph_output_data(c.graph, "y", NULL), n * sizeof *y);
    assert_ok(npo_graph_forward(other, c.lora, &error));
    assert_memory_equal(y, npo_graph_output_data(other, "y", NULL), n * sizeof *y);
    free(y);
    npo_graph_free(other);
    close_case(&c);
}

/* Merged into its base the same network; alpha and rank go along. */
static void test_lora_layers_merge_to_the_same_network(void **state)
{
    lora_case c;
    npo_lora lora;
    open_case(&c);
    assert_ok(npo_lora_of_params(c.lora, &lora, &error));
    assert_int_equal(2 * lora.count, npo_layout_count(c.lora_layout));
    assert_int_equal(lora.layers[0].rank, 3);
    assert_true(fabsf(lora.layers[0].alpha - 5) < 1e-6f);
    npo_lora_apply(&lora, 1, c.base);
    npo_lora_fini(&lora);
    npo_graph *merged = record(&c, c.layout);
    assert_ok(npo_graph_forward(merged, c.base, &error));
    assert_true(difference(&c, "y", npo_graph_output_data(merged, "y", NULL)) < 1e-5);
    npo_graph_free(merged);
    close_case(&c);
}

/* ---- training ---- */

static small_unet unet;

static npo_trainer *lora_trainer(npo_layout *layout)
{
    npo_trainer *trainer = NULL;
    npo_params *first = NULL;
    const npo_trainer_options options = {.backend = unet.backend,
                                         .layout = layout,
                                         .base = unet.params,
                                         .config = &unet.config,
                                         .shape = unet.shape,
                                         .prompts = &unet.prompts,
                                         .micro_batch = 2,
                                         .loss = NPO_LOSS_PSEUDO_HUBER,
                                         .huber_c = 1e-3,
                                         .hyper = small_hyper};
    assert_ok(npo_trainer_new(&options, &trainer, &error));
    assert_ok(npo_params_new(layout, &first));
    npo_lora_begin(first, 3);
    npo_trainer_begin(trainer, first);
    npo_params_free(first);
    return trainer;
}

static void check_offset(npo_trainer *trainer)
{
    npo_offset_norms norms, expected;
    npo_params *whole, *scratch;
    npo_lora lora;
    npo_offset_base base = npo_offset_base_of(unet.params);
    assert_int_equal(npo_trainer_offset(trainer, &base, &norms, NULL), NPO_OK);
    assert_ok(npo_params_new(unet.layout, &whole));
    assert_ok(npo_params_new(unet.layout, &scratch));
    npo_params_copy(whole, unet.params);
    assert_ok(npo_lora_of_params(npo_trainer_student(trainer), &lora, &error));
    npo_lora_apply(&lora, 1, whole);
    npo_lora_fini(&lora);
    assert_int_equal(npo_offset_measure(unet.backend, whole, &base, scratch, &expected, NULL),
                     NPO_OK);
    assert_int_equal(norms.count, expected.count);
    assert_true(expected.total > 1e-4);
    assert_true(fabs(norms.total - expected.total) < 1e-3 * expected.total);
    for (size_t i = 0; i < norms.count; i++)
        assert_true(fabs(norms.blocks[i].relative - expected.blocks[i].relative) <
                    1e-3 * expected.total);
    npo_params_free(whole);
    npo_params_free(scratch);
}

static void test_lora_training_learns_beside_a_frozen_base(void **state)
{
    const npo_lora_options options = {.rank = 2, .alpha = 4, .targets = NPO_LORA_LINEAR};
    npo_layout *layout;
    npo_batch batch;
    npo_train_result result;
    small_unet_init(&unet, 1);
    size_t bytes = npo_layout_floats(unet.layout) * sizeof(float);
    float *before = malloc(bytes);
    memcpy(before, npo_params_data(unet.params), bytes);
    assert_ok(npo_lora_layout(unet.layout, &options, &layout, &error));
    assert_true(npo_layout_floats(layout) < npo_layout_floats(unet.layout) / 2);
    npo_trainer *trainer = lora_trainer(layout), *plain = small_trainer(&unet, NULL, 2);
    small_batch(&batch, 0, 4);
    /* up is zero at first: the base's loss */
    assert_ok(npo_trainer_gradients(plain, &batch, &result, &error));
    double first = result.loss;
    assert_ok(npo_trainer_gradients(trainer, &batch, &result, &error));
    assert_true(result.loss == first);
    for (int i = 0; i < 40; i++)
        assert_ok(npo_trainer_step(trainer, &batch, &result, &error));
    assert_true(result.loss < 0.99 * first);
    assert_memory_equal(before, npo_params_data(unet.params), bytes);
    check_offset(trainer);
    npo_batch_fini(&batch);
    free(before);
    npo_trainer_free(trainer);
    npo_trainer_free(plain);
    npo_layout_unref(layout);
    small_unet_fini(&unet);
}

static void test_lora_layout_chooses_layers(void **state)
{
    lora_case c;
    npo_layout *layout = NULL;
    open_case(&c);
    size_t counts[3];
    for (int targets = NPO_LORA_ATTENTION; targets <= NPO_LORA_ALL; targets++) {
        const npo_lora_options options = {1, 1, (npo_lora_targets)targets};
        assert_ok(npo_lora_layout(c.layout, &options, &layout, &error));
        counts[targets] = npo_layout_count(layout);
        npo_layout_unref(layout);
    }
    /* three transformers of two attentions, each of four projections in two matrices */
    assert_int_equal(counts[NPO_LORA_ATTENTION] % 16, 0);
    assert_true(counts[0] < counts[1] && counts[1] < counts[2]);
    npo_layout *empty;
    const npo_lora_options options = {1, 1, NPO_LORA_ATTENTION};
    assert_ok(npo_layout_new(&empty));
    assert_int_equal(npo_lora_layout(empty, &options, &layout, &error), NPO_E_RANGE);
    npo_layout_unref(empty);
    close_case(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lora_computes_and_differentiates_as_peft),
        cmocka_unit_test(test_lora_graph_notices_new_weights),
        cmocka_unit_test(test_lora_layers_merge_to_the_same_network),
        cmocka_unit_test(test_lora_training_learns_beside_a_frozen_base),
        cmocka_unit_test(test_lora_layout_chooses_layers),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
