#include "worker/diffusion/sampler.h"

#include "tests/unit/cmocka.h"
#include "tests/unit/diffusion/fake_denoiser.h"

#include <math.h>
#include <string.h>

static const npo_schedule_config sd = {.train_steps = 1000,
                                       .beta_start = 0.00085,
                                       .beta_end = 0.012,
                                       .betas = NPO_BETAS_SCALED_LINEAR,
                                       .prediction = NPO_PREDICT_EPSILON,
                                       .steps_offset = 1};

static npo_schedule *make(npo_schedule_config config)
{
    npo_schedule *schedule = NULL;
    npo_error error = {0};
    assert_int_equal(npo_schedule_new(&config, &schedule, &error), NPO_OK);
    return schedule;
}

static npo_err plan(const npo_schedule *schedule, npo_spacing spacing, int64_t steps,
                    npo_sampler_step *ret_steps, npo_error *error)
{
    const npo_sampler_settings settings = {schedule, NPO_SAMPLER_DDIM, spacing, false, steps};
    float start = 0;
    npo_err err = npo_sampler_plan(&settings, ret_steps, &start, error);
    assert_true(err || start == 1);
    return err;
}

/* DDIMScheduler.set_timesteps of diffusers 0.42, 1000 training steps. */
static void test_sampler_places_steps_as_diffusers(void **state)
{
    static const struct {
        npo_spacing spacing;
        int steps, offset;
        int t[30];
    } rows[] = {
        {NPO_SPACING_LEADING, 7, 1, {853, 711, 569, 427, 285, 143, 1}},
        {NPO_SPACING_LEADING, 30, 0, {957, 924, 891, 858, 825, 792, 759, 726, 693, 660,
                                      627, 594, 561, 528, 495, 462, 429, 396, 363, 330,
                                      297, 264, 231, 198, 165, 132, 99,  66,  33,  0}},
        {NPO_SPACING_TRAILING, 7, 1, {999, 856, 713, 570, 428, 285, 142}},
        {NPO_SPACING_TRAILING, 30, 0, {999, 966, 932, 899, 866, 832, 799, 766, 732, 699,
                                       666, 632, 599, 566, 532, 499, 466, 432, 399, 366,
                                       332, 299, 266, 232, 199, 166, 132, 99,  66,  32}},
        {NPO_SPACING_TRAILING, 3, 0, {999, 666, 332}},
        {NPO_SPACING_LINSPACE, 7, 0, {999, 832, 666, 500, 333, 166, 0}},
        {NPO_SPACING_LINSPACE, 30, 0, {999, 965, 930, 896, 861, 827, 792, 758, 723, 689,
                                       655, 620, 586, 551, 517, 482, 448, 413, 379, 344,
                                       310, 276, 241, 207, 172, 138, 103, 69,  34,  0}},
        {NPO_SPACING_LINSPACE, 2, 0, {999, 0}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        npo_schedule_config config = sd;
        config.steps_offset = rows[i].offset;
        npo_schedule *schedule = make(config);
        npo_sampler_step steps[30];
        npo_error error = {0};
        assert_int_equal(plan(schedule, rows[i].spacing, rows[i].steps, steps, &error), NPO_OK);
        for (int k = 0; k < rows[i].steps; k++)
            assert_true(steps[k].t == (float)rows[i].t[k]);
        npo_schedule_free(schedule);
    }
}

static void test_sampler_method_grid_ends_at_entry_zero(void **state)
{
    npo_schedule *schedule = make(sd);
    npo_sampler_step steps[25];
    npo_error error = {0};
    assert_int_equal(plan(schedule, NPO_SPACING_METHOD, 25, steps, &error), NPO_OK);
    for (int k = 0; k < 25; k++) {
        int next = k < 24 ? (24 - k) * 40 - 1 : 0;
        assert_true(steps[k].t == (float)((25 - k) * 40 - 1));
        assert_true(steps[k].alpha_bar_next == npo_schedule_alpha_bar(schedule, next));
    }
    npo_schedule_free(schedule);
}

/* Ten of 1000 without offset: the step from 100 goes to entry 0, the one from 0 behind the
 * schedule. */
static void test_sampler_last_step_goes_where_the_config_says(void **state)
{
    for (int to_one = 0; to_one < 2; to_one++) {
        npo_schedule_config config = sd;
        config.steps_offset = 0;
        config.set_alpha_to_one = to_one;
        npo_schedule *schedule = make(config);
        npo_sampler_step steps[10];
        npo_error error = {0};
        double first = npo_schedule_alpha_bar(schedule, 0);
        assert_int_equal(plan(schedule, NPO_SPACING_LEADING, 10, steps, &error), NPO_OK);
        assert_true(steps[8].t == 100);
        assert_true(steps[8].alpha_bar_next == first);
        assert_true(steps[9].t == 0);
        assert_true(steps[9].alpha_bar_next == (to_one ? 1 : first));
        npo_schedule_free(schedule);
    }
}

static void test_sampler_refuses_impossible_plans(void **state)
{
    npo_schedule *schedule = make(sd);
    npo_sampler_step steps[1000];
    npo_error error = {0};
    assert_int_equal(plan(schedule, NPO_SPACING_LEADING, 0, steps, &error), NPO_E_RANGE);
    assert_int_equal(plan(schedule, NPO_SPACING_LEADING, 1001, steps, &error), NPO_E_RANGE);
    /* offset 1 leads beyond the last timestep */
    assert_int_equal(plan(schedule, NPO_SPACING_LEADING, 1000, steps, &error), NPO_E_RANGE);
    assert_non_null(strstr(error.text, "steps_offset"));
    npo_schedule_free(schedule);
}

/* DDIMScheduler.step of diffusers 0.42 with the fake denoiser's formula in f64, guidance 3. The
 * library keeps its schedule in f32, hence the tolerance. */
static void test_sampler_trajectories_match_diffusers(void **state)
{
    static const float start[4] = {1.5f, -0.7f, 0.2f, -2.1f};
    static const int32_t prompt[1] = {0};
    npo_schedule_config v = sd, zero_snr = sd, clipped = sd;
    v.prediction = NPO_PREDICT_V;
    zero_snr.prediction = NPO_PREDICT_V;
    zero_snr.zero_terminal_snr = true;
    zero_snr.set_alpha_to_one = true;
    clipped.clip_sample = true;
    clipped.clip_range = 0.8;
    clipped.set_alpha_to_one = true;
    const struct {
        npo_schedule_config config;
        npo_spacing spacing;
        int steps;
        double expected[4];
    } rows[] = {
        {sd, NPO_SPACING_LEADING, 6, {1.017434, -5.064746, -3.03246, -10.5149}},
        {v, NPO_SPACING_LEADING, 6, {-0.3019301, -0.824455, -0.5738465, -2.379198}},
        {zero_snr, NPO_SPACING_TRAILING, 5, {-0.4345524, -0.7978571, -0.6026286, -2.288381}},
        {clipped, NPO_SPACING_LINSPACE, 6, {0.8, -0.1530671, 0.001361542, -0.1128277}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        npo_schedule *schedule = make(rows[i].config);
        fake_denoiser fake;
        npo_error error = {0};
        float x[4];
        memcpy(x, start, sizeof x);
        fake_denoiser_init(&fake, 4);
        const npo_sampler_options options = {
            .settings = {schedule, NPO_SAMPLER_DDIM, rows[i].spacing, false, rows[i].steps},
            .guidance = {&fake.base, &fake.base, 2, 0},
            .interval_end = 1};
        assert_int_equal(npo_sampler_run(&options, 1, x, prompt, NULL, &error), NPO_OK);
        for (int k = 0; k < 4; k++)
            if (fabs(x[k] - rows[i].expected[k]) > 2e-4 * fmax(1, fabs(rows[i].expected[k])))
                fail_msg("row %zu value %d: %.7g, expected %.7g", i, k, (double)x[k],
                         rows[i].expected[k]);
        assert_int_equal(fake.conditional, rows[i].steps);
        assert_int_equal(fake.unconditional, rows[i].steps);
        npo_schedule_free(schedule);
    }
}

/* Scale 1 never asks for the negative prediction; outside the interval neither. */
static void test_sampler_leaves_out_what_has_no_weight(void **state)
{
    npo_schedule *schedule = make(sd);
    const int32_t prompt[1] = {0};
    fake_denoiser fake;
    npo_error error = {0};
    float x[4] = {1, 2, 3, 4};
    fake_denoiser_init(&fake, 4);
    npo_sampler_options options = {
        .settings = {schedule, NPO_SAMPLER_DDIM, NPO_SPACING_METHOD, false, 25},
        .guidance = {&fake.base, &fake.base, 0, 0},
        .interval_end = 1};
    assert_int_equal(npo_sampler_run(&options, 1, x, prompt, NULL, &error), NPO_OK);
    assert_int_equal(fake.conditional, 25);
    assert_int_equal(fake.unconditional, 0);
    fake_denoiser_init(&fake, 4);
    options.guidance.w = 1;
    options.guidance.rescale = 0.5f;
    options.interval_start = 0.2; /* t = 239 ... 799: 15 of the 25 */
    options.interval_end = 0.8;
    assert_int_equal(npo_sampler_run(&options, 1, x, prompt, NULL, &error), NPO_OK);
    assert_int_equal(fake.conditional, 25);
    assert_int_equal(fake.unconditional, 15);
    npo_schedule_free(schedule);
}

static npo_err stop_at_two(void *self, int64_t step, int64_t n, const float *x, npo_error *error)
{
    *(int64_t *)self = step;
    return step == 2 ? npo_error_set(error, NPO_E_CANCELLED, "enough") : NPO_OK;
}

static void test_sampler_ends_on_failures(void **state)
{
    npo_schedule *schedule = make(sd);
    const int32_t prompt[1] = {0};
    fake_denoiser fake;
    npo_error error = {0};
    int64_t last = -1;
    float x[4] = {1, 2, 3, 4};
    fake_denoiser_init(&fake, 4);
    npo_sampler_options options = {
        .settings = {schedule, NPO_SAMPLER_DDIM, NPO_SPACING_METHOD, false, 25},
        .guidance = {&fake.base, &fake.base, 1, 0},
        .interval_end = 1,
        .on_step = stop_at_two,
        .on_step_self = &last};
    assert_int_equal(npo_sampler_run(&options, 1, x, prompt, NULL, &error), NPO_E_CANCELLED);
    assert_int_equal(last, 2);
    options.on_step = NULL;
    fake.calls = 0;
    fake.fail_at = 3;
    assert_int_equal(npo_sampler_run(&options, 1, x, prompt, NULL, &error), NPO_E_LIBRARY);
    fake.fail_at = 0;
    fake.scale = INFINITY;
    assert_int_equal(npo_sampler_run(&options, 1, x, prompt, NULL, &error), NPO_E_DIVERGED);
    assert_non_null(strstr(error.text, "999"));
    options.settings.steps = 0;
    assert_int_equal(npo_sampler_run(&options, 1, x, prompt, NULL, &error), NPO_E_RANGE);
    npo_schedule_free(schedule);
}

static void test_sampler_noise_belongs_to_the_image(void **state)
{
    float a[100], b[100], c[100], longer[200];
    npo_sampler_noise(1, 5, 100, a);
    npo_sampler_noise(1, 6, 100, b);
    npo_sampler_noise(2, 5, 100, c);
    npo_sampler_noise(1, 5, 200, longer);
    assert_memory_not_equal(a, b, sizeof a);
    assert_memory_not_equal(a, c, sizeof a);
    assert_memory_equal(a, longer, sizeof a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sampler_places_steps_as_diffusers),
        cmocka_unit_test(test_sampler_method_grid_ends_at_entry_zero),
        cmocka_unit_test(test_sampler_last_step_goes_where_the_config_says),
        cmocka_unit_test(test_sampler_refuses_impossible_plans),
        cmocka_unit_test(test_sampler_trajectories_match_diffusers),
        cmocka_unit_test(test_sampler_leaves_out_what_has_no_weight),
        cmocka_unit_test(test_sampler_ends_on_failures),
        cmocka_unit_test(test_sampler_noise_belongs_to_the_image),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
