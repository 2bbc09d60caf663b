#include "worker/eval/scores.h"

#include "tests/unit/cmocka.h"

#include <math.h>

static void test_scores_of_counts_and_averages(void **state)
{
    /* exp(logits): (1, 3), (1, 1), (4, 1). */
    const float logits[] = {0, 1.0986123f, 5, 5, 1.3862944f, 0};
    const int32_t labels[] = {1, 1, 1};
    double confidence[3];
    npo_scores scores;
    assert_int_equal(npo_scores_of(3, 2, logits, labels, confidence, &scores), NPO_OK);
    assert_true(fabs(confidence[0] - 0.75) < 1e-7);
    assert_true(confidence[1] == 0.5);
    assert_true(fabs(confidence[2] - 0.2) < 1e-7);
    /* Of two equal logits the first is the answer, so sample 1 is wrong. */
    assert_true(fabs(scores.accuracy - 1.0 / 3) < 1e-15);
    assert_true(fabs(scores.confidence - (0.75 + 0.5 + 0.2) / 3) < 1e-7);
}

static void test_scores_of_survives_large_logits(void **state)
{
    const float logits[] = {3e38f, -3e38f};
    const int32_t label = 0;
    npo_scores scores;
    assert_int_equal(npo_scores_of(1, 2, logits, &label, NULL, &scores), NPO_OK);
    assert_true(scores.confidence == 1 && scores.accuracy == 1);
}

static void test_scores_of_refuses_bad_input(void **state)
{
    const float logits[] = {0, NAN};
    const int32_t labels[] = {2, -1, 0};
    npo_scores scores;
    assert_int_equal(npo_scores_of(0, 2, logits, labels, NULL, &scores), NPO_E_RANGE);
    assert_int_equal(npo_scores_of(1, 0, logits, labels, NULL, &scores), NPO_E_RANGE);
    assert_int_equal(npo_scores_of(1, 2, logits, labels, NULL, &scores), NPO_E_RANGE);
    assert_int_equal(npo_scores_of(1, 2, logits, labels + 1, NULL, &scores), NPO_E_RANGE);
    assert_int_equal(npo_scores_of(1, 2, logits, labels + 2, NULL, &scores), NPO_E_DIVERGED);
}

static void test_wins_counts_ties_apart(void **state)
{
    const double a[] = {1, 0.5, 0.25, 0.75}, b[] = {0, 0.5, 0.5, 0.5};
    npo_wins wins = npo_wins_count(4, a, b);
    assert_int_equal(wins.wins, 2);
    assert_int_equal(wins.ties, 1);
    assert_int_equal(wins.losses, 1);
    assert_true(npo_wins_rate(wins) == 0.625);
    assert_true(isnan(npo_wins_rate((npo_wins){0})));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scores_of_counts_and_averages),
        cmocka_unit_test(test_scores_of_survives_large_logits),
        cmocka_unit_test(test_scores_of_refuses_bad_input),
        cmocka_unit_test(test_wins_counts_ties_apart),
    };
    return cmocka_run_group_tests_name("scores", tests, NULL, NULL);
}
