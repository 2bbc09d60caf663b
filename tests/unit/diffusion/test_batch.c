#include "worker/diffusion/trajectory/batch.h"

#include "common/rng.h"
#include "tests/unit/cmocka.h"
#include "worker/diffusion/denoiser.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 4, FLOATS = 6 };
static const npo_latent_shape shape = {2, 3, 1};

static npo_schedule *make_schedule(npo_prediction prediction)
{
    const npo_schedule_config config = {.train_steps = 1000,
                                        .beta_start = 0.00085,
                                        .beta_end = 0.012,
                                        .betas = NPO_BETAS_SCALED_LINEAR,
                                        .prediction = prediction};
    npo_schedule *schedule = NULL;
    assert_int_equal(npo_schedule_new(&config, &schedule, NULL), NPO_OK);
    return schedule;
}

static void fill_segment(npo_segment *segment)
{
    static const int32_t cuts[ROWS] = {0, 39, 499, 998};
    assert_int_equal(npo_segment_init(segment, shape, ROWS), NPO_OK);
    for (int i = 0; i < ROWS; i++) {
        segment->slot[i] = 10 + i;
        segment->prompt[i] = i;
        segment->t_cut[i] = cuts[i];
        for (int k = 0; k < FLOATS; k++) {
            segment->x_cut[i * FLOATS + k] = (float)(i - k) / 4;
            segment->x0_target[i * FLOATS + k] = (float)(i * k) / 8;
        }
    }
}

/* Every value against the formula of METHOD in f64 and the streams that the draws are defined by.
 */
static void test_batch_renoise_follows_the_formula(void **state)
{
    static const int64_t rows[3] = {2, 0, 1};
    npo_schedule *schedule = make_schedule(NPO_PREDICT_EPSILON);
    const npo_batch_draws draws = {schedule, 42, 17, 0};
    npo_segment segment;
    npo_batch batch;
    npo_error error = {0};
    fill_segment(&segment);
    assert_int_equal(npo_batch_init(&batch, 3, FLOATS), NPO_OK);
    assert_int_equal(npo_batch_renoise(&batch, &draws, &segment, rows, &error), NPO_OK);
    for (int i = 0; i < 3; i++) {
        int64_t row = rows[i];
        npo_rng time = npo_rng_stream(42, NPO_RNG_TIMESTEP, (uint32_t)segment.slot[row], 17);
        npo_rng noise = npo_rng_stream(42, NPO_RNG_NOISE, (uint32_t)segment.slot[row], 17);
        float eps[FLOATS];
        npo_rng_gaussians(&noise, FLOATS, eps);
        int64_t cut = segment.t_cut[row];
        int64_t t = cut + 1 + (int64_t)npo_rng_below(&time, 0, (uint64_t)(999 - cut));
        double a = sqrt(npo_schedule_alpha_bar(schedule, t)), s = sqrt(1 - a * a);
        double a_cut = sqrt(npo_schedule_alpha_bar(schedule, cut)), s_cut = sqrt(1 - a_cut * a_cut);
        double r = a / a_cut;
        assert_true(batch.t[i] == (float)t && t > cut && t <= 999);
        assert_int_equal(batch.prompt[i], segment.prompt[row]);
        assert_true(fabs(batch.ca[i] - 1 / a) < 1e-5 / a &&
                    fabs(batch.cb[i] + s / a) < 1e-5 * s / a);
        for (int k = 0; k < FLOATS; k++) {
            double expected = r * (double)segment.x_cut[row * FLOATS + k] +
                              sqrt(s * s - r * r * s_cut * s_cut) * (double)eps[k];
            assert_true(fabs((double)batch.x[i * FLOATS + k] - expected) < 1e-6);
            assert_true(batch.target[i * FLOATS + k] == segment.x0_target[row * FLOATS + k]);
        }
    }
    npo_batch_fini(&batch);
    npo_segment_fini(&segment);
    npo_schedule_free(schedule);
}

/* A sample is the same whichever rows stand beside it, and another at another step. */
static void test_batch_draws_belong_to_slot_and_step(void **state)
{
    static const int64_t all[3] = {0, 1, 2}, one[1] = {1};
    npo_schedule *schedule = make_schedule(NPO_PREDICT_V);
    npo_batch_draws draws = {schedule, 1, 2, 0};
    npo_segment segment;
    npo_batch many, single;
    npo_error error = {0};
    fill_segment(&segment);
    assert_int_equal(npo_batch_init(&many, 3, FLOATS), NPO_OK);
    assert_int_equal(npo_batch_init(&single, 1, FLOATS), NPO_OK);
    assert_int_equal(npo_batch_renoise(&many, &draws, &segment, all, &error), NPO_OK);
    assert_int_equal(npo_batch_renoise(&single, &draws, &segment, one, &error), NPO_OK);
    assert_memory_equal(single.x, many.x + FLOATS, FLOATS * sizeof *many.x);
    assert_true(single.t[0] == many.t[1] && single.ca[0] == many.ca[1]);
    draws.step = 3;
    assert_int_equal(npo_batch_renoise(&single, &draws, &segment, one, &error), NPO_OK);
    assert_memory_not_equal(single.x, many.x + FLOATS, FLOATS * sizeof *many.x);
    npo_batch_fini(&many);
    npo_batch_fini(&single);
    npo_segment_fini(&segment);
    npo_schedule_free(schedule);
}

static void test_batch_timesteps_cover_the_rest_evenly(void **state)
{
    enum { DRAWS = 4000 };
    static const int64_t rows[1] = {2}; /* t_cut 499 */
    npo_schedule *schedule = make_schedule(NPO_PREDICT_EPSILON);
    npo_batch_draws draws = {schedule, 5, 0, 0};
    npo_segment segment;
    npo_batch batch;
    npo_error error = {0};
    int lowest = 1000, highest = 0, lower_half = 0;
    fill_segment(&segment);
    assert_int_equal(npo_batch_init(&batch, 1, FLOATS), NPO_OK);
    for (draws.step = 0; draws.step < DRAWS; draws.step++) {
        assert_int_equal(npo_batch_renoise(&batch, &draws, &segment, rows, &error), NPO_OK);
        int t = (int)batch.t[0];
        lowest = t < lowest ? t : lowest;
        highest = t > highest ? t : highest;
        lower_half += t < 750;
    }
    assert_int_equal(lowest, 500);
    assert_int_equal(highest, 999);
    assert_true(abs(lower_half - DRAWS / 2) < 150);
    npo_batch_fini(&batch);
    npo_segment_fini(&segment);
    npo_schedule_free(schedule);
}

static void test_batch_empty_prompts_have_their_share(void **state)
{
    enum { DRAWS = 3000 };
    static const int64_t rows[1] = {0};
    npo_schedule *schedule = make_schedule(NPO_PREDICT_EPSILON);
    npo_batch_draws draws = {schedule, 5, 0, 0.1};
    npo_segment segment;
    npo_batch batch;
    npo_error error = {0};
    int empty = 0;
    fill_segment(&segment);
    assert_int_equal(npo_batch_init(&batch, 1, FLOATS), NPO_OK);
    for (draws.step = 0; draws.step < DRAWS; draws.step++) {
        assert_int_equal(npo_batch_renoise(&batch, &draws, &segment, rows, &error), NPO_OK);
        empty += batch.prompt[0] == NPO_PROMPT_EMPTY;
    }
    assert_true(abs(empty - DRAWS / 10) < 60);
    draws.empty_prompt_share = 1;
    assert_int_equal(npo_batch_renoise(&batch, &draws, &segment, rows, &error), NPO_OK);
    assert_int_equal(batch.prompt[0], NPO_PROMPT_EMPTY);
    npo_batch_fini(&batch);
    npo_segment_fini(&segment);
    npo_schedule_free(schedule);
}

static void test_batch_refuses_timesteps_that_leave_no_room(void **state)
{
    static const int64_t rows[1] = {0};
    static const int32_t at_cut[1] = {999}, below[1] = {998}, above[1] = {1000}, right[1] = {999};
    const float noise[FLOATS] = {0};
    npo_schedule *schedule = make_schedule(NPO_PREDICT_EPSILON);
    const npo_batch_draws draws = {schedule, 5, 0, 0};
    npo_segment segment;
    npo_batch batch;
    npo_error error = {0};
    fill_segment(&segment);
    assert_int_equal(npo_batch_init(&batch, 1, FLOATS), NPO_OK);
    segment.t_cut[0] = 999;
    assert_int_equal(npo_batch_renoise(&batch, &draws, &segment, rows, &error), NPO_E_RANGE);
    assert_non_null(strstr(error.text, "slot 10"));
    assert_int_equal(
        npo_batch_renoise_given(&batch, schedule, &segment, rows, at_cut, noise, &error),
        NPO_E_RANGE);
    segment.t_cut[0] = 998;
    assert_int_equal(
        npo_batch_renoise_given(&batch, schedule, &segment, rows, below, noise, &error),
        NPO_E_RANGE);
    assert_int_equal(
        npo_batch_renoise_given(&batch, schedule, &segment, rows, above, noise, &error),
        NPO_E_RANGE);
    assert_int_equal(
        npo_batch_renoise_given(&batch, schedule, &segment, rows, right, noise, &error), NPO_OK);
    npo_batch_fini(&batch);
    assert_int_equal(npo_batch_init(&batch, 0, FLOATS), NPO_E_RANGE);
    assert_int_equal(npo_batch_init(&batch, INT64_C(1) << 40, (size_t)1 << 40), NPO_E_RANGE);
    npo_segment_fini(&segment);
    npo_schedule_free(schedule);
}

/* Diffusion loss: x = a x0 + s eps; the target is eps, or v = a eps - s x0. */
static void test_batch_diffusion_follows_the_formula(void **state)
{
    const float x0[FLOATS] = {0.5f, -1, 0.25f, 0.75f, -0.125f, 1};
    for (int prediction = NPO_PREDICT_EPSILON; prediction <= NPO_PREDICT_V; prediction++) {
        npo_schedule *schedule = make_schedule((npo_prediction)prediction);
        const npo_batch_draws draws = {schedule, 6, 9, 0};
        npo_batch batch;
        assert_int_equal(npo_batch_init(&batch, 2, FLOATS), NPO_OK);
        npo_batch_diffusion(&batch, &draws, 1, 33, x0, 4);
        npo_rng time = npo_rng_stream(6, NPO_RNG_TIMESTEP, 33, 9);
        npo_rng noise = npo_rng_stream(6, NPO_RNG_NOISE, 33, 9);
        float eps[FLOATS];
        npo_rng_gaussians(&noise, FLOATS, eps);
        int64_t t = (int64_t)npo_rng_below(&time, 0, 1000);
        double a = sqrt(npo_schedule_alpha_bar(schedule, t)), s = sqrt(1 - a * a);
        assert_true(batch.t[1] == (float)t && batch.ca[1] == 0 && batch.cb[1] == 1);
        assert_int_equal(batch.prompt[1], 4);
        for (int k = 0; k < FLOATS; k++) {
            double v = a * (double)eps[k] - s * (double)x0[k];
            double target = prediction == NPO_PREDICT_V ? v : (double)eps[k];
            assert_true(fabs((double)batch.x[FLOATS + k] -
                             (a * (double)x0[k] + s * (double)eps[k])) < 1e-6);
            assert_true(fabs((double)batch.target[FLOATS + k] - target) < 1e-6);
        }
        npo_batch_fini(&batch);
        npo_schedule_free(schedule);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch_renoise_follows_the_formula),
        cmocka_unit_test(test_batch_draws_belong_to_slot_and_step),
        cmocka_unit_test(test_batch_timesteps_cover_the_rest_evenly),
        cmocka_unit_test(test_batch_empty_prompts_have_their_share),
        cmocka_unit_test(test_batch_refuses_timesteps_that_leave_no_room),
        cmocka_unit_test(test_batch_diffusion_follows_the_formula),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
