#include "tests/unit/cmocka.h"
#include "worker/train/step.h"

#include <math.h>

static void assert_lr(const npo_train_hyper *hyper, int64_t step, double expected)
{
    double lr = npo_train_lr(hyper, step);
    if (fabs(lr - expected) > 1e-12)
        fail_msg("step %lld: %.12g, expected %.12g", (long long)step, lr, expected);
}

static void test_lr_constant_after_warm_up(void **state)
{
    const npo_train_hyper hyper = {.lr = 2, .warmup_steps = 4, .steps = 10};
    static const double expected[] = {0.5, 1, 1.5, 2, 2, 2, 2, 2, 2, 2, 2};
    for (int i = 0; i < 11; i++)
        assert_lr(&hyper, i, expected[i]);
    const npo_train_hyper plain = {.lr = 2, .steps = 10};
    assert_lr(&plain, 0, 2);
}

/* torch's LambdaLR of diffusers.get_scheduler("cosine", warmup 4, training 12) is (1 + cos(pi p))
 * / 2. */
static void test_lr_cosine_and_linear_reach_zero(void **state)
{
    npo_train_hyper hyper = {.lr = 2, .warmup_steps = 4, .lr_schedule = NPO_LR_COSINE, .steps = 12};
    assert_lr(&hyper, 3, 2);
    assert_lr(&hyper, 4, 2);
    assert_lr(&hyper, 6, 1 + sqrt(0.5));
    assert_lr(&hyper, 8, 1);
    assert_lr(&hyper, 12, 0);
    assert_lr(&hyper, 50, 0);
    hyper.lr_schedule = NPO_LR_LINEAR;
    assert_lr(&hyper, 4, 2);
    assert_lr(&hyper, 10, 0.5);
    assert_lr(&hyper, 13, 0);
}

static void test_lr_warm_up_may_be_longer_than_the_run(void **state)
{
    const npo_train_hyper hyper = {
        .lr = 1, .warmup_steps = 8, .lr_schedule = NPO_LR_COSINE, .steps = 4};
    assert_lr(&hyper, 3, 0.5);
    assert_lr(&hyper, 8, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lr_constant_after_warm_up),
        cmocka_unit_test(test_lr_cosine_and_linear_reach_zero),
        cmocka_unit_test(test_lr_warm_up_may_be_longer_than_the_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
