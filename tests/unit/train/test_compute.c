/* Training in bf16 beside training in f32, and with blocks computed twice. */
#include "tests/unit/train/support.h"

#include <math.h>

enum { STEPS = 200, BATCH = 4 };

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

static npo_trainer *open_trainer(npo_compute compute, size_t memory_bytes)
{
    npo_trainer *trainer = NULL;
    npo_error error = {0};
    npo_trainer_options options = small_options(&unet, NULL, BATCH, NPO_OPTIMIZER_ADAMW);
    options.compute = compute;
    options.memory_bytes = memory_bytes;
    if (npo_trainer_new(&options, &trainer, &error))
        fail_msg("%s", error.text);
    npo_trainer_begin(trainer, unet.params);
    return trainer;
}

static double step(npo_trainer *trainer, int64_t first)
{
    npo_batch batch;
    npo_train_result result = {0};
    npo_error error = {0};
    small_batch(&batch, first, BATCH);
    if (npo_trainer_step(trainer, &batch, &result, &error))
        fail_msg("%s", error.text);
    npo_batch_fini(&batch);
    return result.loss;
}

/* Means over 50 steps: single steps drift apart as any two roundings of a run do. */
static void test_compute_in_bf16_trains_as_f32(void **state)
{
    enum { PART = 50 };
    npo_trainer *f32 = open_trainer(NPO_COMPUTE_F32, 0), *bf16 = open_trainer(NPO_COMPUTE_BF16, 0);
    for (int part = 0; part < STEPS / PART; part++) {
        double a = 0, b = 0;
        for (int i = 0; i < PART; i++) {
            a += step(f32, i % 5 * BATCH) / PART;
            b += step(bf16, i % 5 * BATCH) / PART;
        }
        print_message("mean loss %.5f in f32, %.5f in bf16\n", a, b);
        assert_true(b != a);
        assert_true(fabs(b - a) < 0.01 * a);
    }
    npo_trainer_free(f32);
    npo_trainer_free(bf16);
}

static void test_compute_twice_trains_the_same(void **state)
{
    static const npo_compute computes[] = {NPO_COMPUTE_F32, NPO_COMPUTE_BF16};
    for (size_t i = 0; i < 2; i++) {
        npo_trainer *whole = open_trainer(computes[i], 0);
        const npo_plan_info *plan = npo_trainer_plan(whole);
        npo_trainer *less = open_trainer(computes[i], plan->arena_bytes * 9 / 10);
        assert_true(npo_trainer_plan(less)->recomputed_blocks > 0);
        for (int k = 0; k < 3; k++) {
            double x = step(whole, k), y = step(less, k);
            assert_true(x == y);
        }
        assert_same_state(whole, less);
        npo_trainer_free(whole);
        npo_trainer_free(less);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compute_in_bf16_trains_as_f32),
        cmocka_unit_test(test_compute_twice_trains_the_same),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
