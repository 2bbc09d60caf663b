#include "tests/unit/train/support.h"

#include <math.h>

static small_unet unet;

static int setup(void **state)
{
    small_unet_init(&unet, 1);
    return 0;
}

static int teardown(void **state)
{
    small_unet_fini(&unet);
    return 0;
}

static npo_train_result step(npo_trainer *trainer, int64_t first, int64_t n)
{
    npo_batch batch;
    npo_train_result result = {0};
    npo_error error = {0};
    small_batch(&batch, first, n);
    npo_err err = npo_trainer_step(trainer, &batch, &result, &error);
    if (err)
        fail_msg("%s", error.text);
    npo_batch_fini(&batch);
    return result;
}

static void test_step_gives_the_same_bytes_twice(void **state)
{
    npo_trainer *a = small_trainer(&unet, NULL, 2), *b = small_trainer(&unet, NULL, 2);
    for (int i = 0; i < 3; i++) {
        npo_train_result x = step(a, 4 * i, 4), y = step(b, 4 * i, 4);
        assert_true(x.loss == y.loss && x.grad_norm == y.grad_norm && x.lr == y.lr);
    }
    assert_same_state(a, b);
    npo_trainer_free(a);
    npo_trainer_free(b);
}

/* Gradients of the mean over the batch, however it is cut. */
static void test_step_micro_batches_add_up(void **state)
{
    static const int64_t sizes[] = {1, 2, 3};
    npo_trainer *whole = small_trainer(&unet, NULL, 6);
    npo_batch batch;
    npo_train_result expected, result;
    npo_error error = {0};
    small_batch(&batch, 0, 6);
    assert_int_equal(npo_trainer_gradients(whole, &batch, &expected, &error), NPO_OK);
    const float *reference = npo_params_data(npo_trainer_grads(whole));
    size_t floats = npo_layout_floats(unet.layout);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        npo_trainer *parts = small_trainer(&unet, NULL, sizes[i]);
        assert_int_equal(npo_trainer_gradients(parts, &batch, &result, &error), NPO_OK);
        assert_true(fabs(result.loss - expected.loss) < 1e-5 * expected.loss);
        assert_true(fabs(result.grad_norm - expected.grad_norm) < 1e-3 * expected.grad_norm);
        const float *grads = npo_params_data(npo_trainer_grads(parts));
        double difference = 0;
        for (size_t k = 0; k < floats; k++)
            difference += pow((double)grads[k] - (double)reference[k], 2);
        assert_true(sqrt(difference) < 1e-3 * expected.grad_norm);
        npo_trainer_free(parts);
    }
    npo_batch_fini(&batch);
    npo_trainer_free(whole);
}

/* The loss is that of the prediction ca x + cb out, here from the network itself. */
static void check_loss(small_unet *on)
{
    enum { N = 2 };
    npo_trainer *trainer = small_trainer(on, NULL, N);
    npo_network *network = NULL;
    npo_batch batch;
    npo_train_result result;
    npo_error error = {0};
    float context[N * SMALL_TOKENS * SMALL_CONTEXT], added[N * SMALL_ADDED] = {0};
    float out[N * SMALL_FLOATS];
    small_batch(&batch, 0, N);
    assert_int_equal(
        npo_network_new(on->backend, on->layout, &on->config, &on->shape, &network, &error),
        NPO_OK);
    for (int i = 0; i < N; i++) {
        const float *row = npo_prompts_row(&on->prompts, batch.prompt[i]);
        memcpy(context + i * SMALL_TOKENS * SMALL_CONTEXT, row, sizeof context / N);
        memcpy(added + i * SMALL_ADDED, row + SMALL_TOKENS * SMALL_CONTEXT,
               npo_network_added_floats(network) * sizeof *added);
    }
    assert_int_equal(
        npo_network_eval(network, on->params, N, batch.x, batch.t, context, added, out, &error),
        NPO_OK);
    double sum = 0;
    assert_int_equal(npo_trainer_gradients(trainer, &batch, &result, &error), NPO_OK);
    for (int i = 0; i < N * SMALL_FLOATS; i++) {
        int row = i / SMALL_FLOATS;
        double prediction = (double)(batch.ca[row] * batch.x[i]) + (double)(batch.cb[row] * out[i]);
        double d = prediction - (double)batch.target[i];
        sum += sqrt(d * d + 1e-6) - 1e-3;
        assert_true(fabs((double)npo_trainer_prediction(trainer)[i] - prediction) < 1e-4);
    }
    assert_true(fabs(result.loss - sum / (N * SMALL_FLOATS)) < 1e-5);
    npo_batch_fini(&batch);
    npo_network_free(network);
    npo_trainer_free(trainer);
}

static void test_step_loss_is_the_pseudo_huber_mean(void **state)
{
    check_loss(&unet);
}

static void test_step_feeds_added_conditioning(void **state)
{
    small_unet with_added;
    small_unet_init_added(&with_added, 1);
    check_loss(&with_added);
    small_unet_fini(&with_added);
}

/* Clipping, AdamW's first step (torch: decay, then lr * g / (|g| + eps)) and the EMA by hand. */
static void test_step_update_is_adamw_and_ema(void **state)
{
    npo_trainer *trainer = small_trainer(&unet, NULL, 1);
    const npo_param_info *info = npo_layout_find(unet.layout, "conv_in.weight");
    size_t at = info->offset, floats = npo_layout_floats(unet.layout);
    float *grads = npo_params_edit(npo_trainer_edit_grads(trainer));
    memset(grads, 0, floats * sizeof *grads);
    grads[at] = 3;
    grads[at + 1] = -4;
    npo_trainer_update(trainer, 5, 0.01);
    assert_int_equal(npo_trainer_step_count(trainer), 1);
    const double gradient[3] = {0.6, -0.8, 0};
    /* In f32 the moments lie as the sets do. */
    const float *exp_avg = npo_moments_at(npo_trainer_moments(trainer), NPO_EXP_AVG, 0).values;
    for (int k = 0; k < 3; k++) {
        double base = (double)npo_params_data(unet.params)[at + (size_t)k], g = gradient[k];
        double moved = g == 0 ? 0 : 0.01 * g / (fabs(g) + 1e-8);
        double student = base * (1 - 0.01 * 0.01) - moved, ema = 0.9 * base + 0.1 * student;
        assert_true(fabs((double)npo_params_data(npo_trainer_student(trainer))[at + (size_t)k] -
                         student) < 1e-6);
        assert_true(fabs((double)npo_params_data(npo_trainer_ema(trainer))[at + (size_t)k] - ema) <
                    1e-6);
        assert_true(fabs((double)exp_avg[at + (size_t)k] - 0.1 * g) < 1e-6);
    }
    npo_trainer_free(trainer);
}

static void test_step_leaves_small_gradients_unclipped(void **state)
{
    npo_trainer *trainer = small_trainer(&unet, NULL, 1);
    size_t floats = npo_layout_floats(unet.layout);
    float *grads = npo_params_edit(npo_trainer_edit_grads(trainer));
    memset(grads, 0, floats * sizeof *grads);
    grads[0] = 0.5f;
    npo_trainer_update(trainer, 0.5, 0.01);
    const float *exp_avg = npo_moments_at(npo_trainer_moments(trainer), NPO_EXP_AVG, 0).values;
    assert_true(fabs((double)exp_avg[0] - 0.05) < 1e-7);
    npo_train_hyper hyper = small_hyper;
    hyper.clip = 0;
    npo_trainer_set_hyper(trainer, &hyper);
    npo_params_edit(npo_trainer_edit_grads(trainer))[0] = 50;
    npo_trainer_update(trainer, 50, 0.01);
    assert_true(fabs((double)exp_avg[0] - (0.9 * 0.05 + 0.1 * 50)) < 1e-5);
    npo_trainer_free(trainer);
}

static void test_step_learns(void **state)
{
    npo_trainer *trainer = small_trainer(&unet, NULL, 4);
    double first = step(trainer, 0, 4).loss, last = first;
    for (int i = 0; i < 30; i++)
        last = step(trainer, 0, 4).loss;
    assert_true(last < 0.97 * first);
    npo_offset_norms norms;
    npo_offset_base base = npo_offset_base_of(unet.params);
    assert_int_equal(npo_trainer_offset(trainer, &base, &norms, NULL), NPO_OK);
    assert_true(norms.total > 1e-4 && norms.total < 0.5);
    /* time_embedding, conv_in, two down blocks, mid_block, two up blocks, conv_norm_out, conv_out
     */
    assert_int_equal(norms.count, 9);
    npo_trainer_free(trainer);
}

static void test_step_stops_on_values_that_are_not_finite(void **state)
{
    npo_trainer *trainer = small_trainer(&unet, NULL, 2),
                *untouched = small_trainer(&unet, NULL, 2);
    npo_batch batch;
    npo_train_result result = {.loss = 7};
    npo_error error = {0};
    small_batch(&batch, 0, 2);
    batch.target[3] = NAN;
    assert_int_equal(npo_trainer_step(trainer, &batch, &result, &error), NPO_E_DIVERGED);
    assert_non_null(strstr(error.text, "step 1"));
    assert_true(result.loss == 7);
    assert_same_state(trainer, untouched);
    npo_batch_fini(&batch);
    npo_trainer_free(trainer);
    npo_trainer_free(untouched);
}

static void test_step_refuses_batches_of_another_shape(void **state)
{
    npo_trainer *trainer = small_trainer(&unet, NULL, 2);
    npo_batch batch;
    npo_train_result result;
    npo_error error = {0};
    small_batch(&batch, 0, 3);
    assert_int_equal(npo_trainer_step(trainer, &batch, &result, &error), NPO_E_SHAPE);
    npo_batch_fini(&batch);
    assert_int_equal(npo_batch_init(&batch, 2, SMALL_FLOATS - 1), NPO_OK);
    assert_int_equal(npo_trainer_step(trainer, &batch, &result, &error), NPO_E_SHAPE);
    npo_batch_fini(&batch);
    npo_trainer_free(trainer);
}

static void test_step_refuses_wrong_options(void **state)
{
    npo_trainer *trainer = NULL;
    npo_error error = {0};
    npo_prompts prompts = unet.prompts;
    npo_unet_config config = unet.config;
    npo_trainer_options options = {.backend = unet.backend,
                                   .layout = unet.layout,
                                   .config = &config,
                                   .shape = unet.shape,
                                   .prompts = &prompts,
                                   .micro_batch = 0};
    assert_int_equal(npo_trainer_new(&options, &trainer, &error), NPO_E_RANGE);
    options.micro_batch = 1;
    prompts.floats++;
    assert_int_equal(npo_trainer_new(&options, &trainer, &error), NPO_E_SHAPE);
    prompts.floats--;
    config.out_channels++;
    assert_int_equal(npo_trainer_new(&options, &trainer, &error), NPO_E_SHAPE);
    config.out_channels--;
    options.shape.height = 0; /* the graph's own complaint */
    assert_int_not_equal(npo_trainer_new(&options, &trainer, &error), NPO_OK);
    assert_null(trainer);
    npo_trainer_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_step_gives_the_same_bytes_twice),
        cmocka_unit_test(test_step_micro_batches_add_up),
        cmocka_unit_test(test_step_loss_is_the_pseudo_huber_mean),
        cmocka_unit_test(test_step_feeds_added_conditioning),
        cmocka_unit_test(test_step_update_is_adamw_and_ema),
        cmocka_unit_test(test_step_leaves_small_gradients_unclipped),
        cmocka_unit_test(test_step_learns),
        cmocka_unit_test(test_step_stops_on_values_that_are_not_finite),
        cmocka_unit_test(test_step_refuses_batches_of_another_shape),
        cmocka_unit_test(test_step_refuses_wrong_options),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
