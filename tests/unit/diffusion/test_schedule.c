#include "worker/diffusion/schedule.h"

#include "common/file.h"
#include "tests/unit/cmocka.h"

#include <math.h>
#include <stdlib.h>
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

static void assert_near(double value, double expected, double relative)
{
    if (fabs(value - expected) <= relative * fabs(expected))
        return;
    fail_msg("found %.9g, expected %.9g", value, expected);
}

/* Entries as torch and diffusers have them (f64, and f32 where diffusers keeps no other). */
static void test_schedule_alpha_bar_matches_diffusers(void **state)
{
    static const int t[] = {0, 1, 250, 500, 750, 998, 999};
    static const double linear[] = {0.99989998,   0.99978006,    0.52142298,   0.077796653,
                                    0.0033001585, 4.1181942e-05, 4.0358304e-05};
    npo_schedule_config config = sd;
    config.betas = NPO_BETAS_LINEAR;
    config.beta_start = 1e-4;
    config.beta_end = 0.02;
    npo_schedule *schedule = make(config);
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        assert_near(npo_schedule_alpha_bar(schedule, t[i]), linear[i], 1e-5);
    npo_schedule_free(schedule);
    schedule = make(sd);
    assert_near(npo_schedule_alpha_bar(schedule, 0), 0.99915, 1e-12);
    assert_near(npo_schedule_alpha_bar(schedule, 499), 0.27766965045646763, 1e-12);
    assert_near(npo_schedule_alpha_bar(schedule, 999), 0.004660098513077238, 1e-12);
    assert_near(npo_schedule_a(schedule, 499), sqrt(0.27766965045646763), 1e-7);
    assert_near(npo_schedule_s(schedule, 499), sqrt(1 - 0.27766965045646763), 1e-7);
    npo_schedule_free(schedule);
}

static void test_schedule_zero_terminal_snr_matches_diffusers(void **state)
{
    static const int t[] = {0, 1, 250, 500, 750};
    static const double expected[] = {0.99914998, 0.9982335, 0.6524567, 0.24101855, 0.032799095};
    npo_schedule_config config = sd;
    config.zero_terminal_snr = true;
    config.prediction = NPO_PREDICT_V;
    npo_schedule *schedule = make(config);
    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        assert_near(npo_schedule_alpha_bar(schedule, t[i]), expected[i], 2e-5);
    assert_near(npo_schedule_alpha_bar(schedule, 998), 1.9679629e-07, 0.01);
    assert_true(npo_schedule_alpha_bar(schedule, 999) == 0);
    assert_true(npo_schedule_s(schedule, 999) == 1);
    /* Re-noising to pure noise and predicting there stay finite. */
    npo_mix renoise = npo_schedule_renoise_mix(schedule, 500, 999);
    assert_true(renoise.cx == 0 && renoise.co == 1);
    npo_mix x0 = npo_schedule_x0_mix(schedule, 999);
    assert_true(x0.cx == 0 && x0.co == -1);
    npo_schedule_free(schedule);
}

static void test_schedule_grid_is_the_methods(void **state)
{
    npo_schedule *schedule = make(sd);
    npo_error error = {0};
    int32_t t[1000];
    assert_int_equal(npo_schedule_grid(schedule, 25, t, &error), NPO_OK);
    for (int i = 0; i < 25; i++)
        assert_int_equal(t[i], (i + 1) * 40 - 1);
    assert_int_equal(npo_schedule_grid(schedule, 7, t, &error), NPO_OK);
    assert_int_equal(t[0], 141);
    assert_int_equal(t[6], 999);
    assert_int_equal(npo_schedule_grid(schedule, 1000, t, &error), NPO_OK);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(t[i], i);
    assert_int_equal(npo_schedule_grid(schedule, 0, t, &error), NPO_E_RANGE);
    assert_int_equal(npo_schedule_grid(schedule, 1001, t, &error), NPO_E_RANGE);
    npo_schedule_free(schedule);
}

/* With x = a x0 + s eps and the network's true output, every mixture gives back what it is named
 * for. */
static void test_schedule_mixtures_invert_the_forward_process(void **state)
{
    static const int64_t points[] = {0, 39, 499, 998, 999};
    static const struct {
        npo_prediction prediction;
        bool zero_snr;
    } models[] = {{NPO_PREDICT_EPSILON, false}, {NPO_PREDICT_V, false}, {NPO_PREDICT_V, true}};
    const double x0 = 0.7, eps = -1.3;
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        npo_schedule_config config = sd;
        npo_prediction prediction = models[m].prediction;
        config.prediction = prediction;
        config.zero_terminal_snr = models[m].zero_snr;
        npo_schedule *schedule = make(config);
        for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
            int64_t t = points[i];
            double a = sqrt(npo_schedule_alpha_bar(schedule, t)), s = sqrt(1 - a * a);
            double x = a * x0 + s * eps, out = prediction == NPO_PREDICT_V ? a * eps - s * x0 : eps;
            npo_mix to_out = npo_schedule_output_mix(schedule, t);
            npo_mix to_x0 = npo_schedule_x0_mix(schedule, t);
            npo_mix to_eps = npo_schedule_eps_mix(schedule, t);
            npo_mix step = npo_schedule_step_mix(schedule, t, 0.9);
            assert_near(x0 * to_out.cx + eps * to_out.co, out, 1e-6);
            assert_near(x * to_x0.cx + out * to_x0.co, x0, 2e-5);
            assert_near(x * to_eps.cx + out * to_eps.co, eps, 1e-6);
            assert_near(x * step.cx + out * step.co, sqrt(0.9) * x0 + sqrt(0.1) * eps, 2e-5);
        }
        npo_schedule_free(schedule);
    }
}

/* The published form, a[t] (x / a[t_cut] + sqrt(nsr[t]^2 - nsr[t_cut]^2) eps). */
static void test_schedule_renoise_is_the_published_formula(void **state)
{
    static const int64_t pairs[][2] = {{0, 1}, {0, 999}, {239, 240}, {499, 700}, {959, 999}};
    npo_schedule *schedule = make(sd);
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        double cut = npo_schedule_alpha_bar(schedule, pairs[i][0]);
        double to = npo_schedule_alpha_bar(schedule, pairs[i][1]);
        npo_mix mix = npo_schedule_renoise_mix(schedule, pairs[i][0], pairs[i][1]);
        assert_near(mix.cx, sqrt(to) / sqrt(cut), 1e-6);
        assert_near(mix.co, sqrt(to) * sqrt((1 - to) / to - (1 - cut) / cut), 1e-6);
    }
    npo_mix none = npo_schedule_renoise_mix(schedule, 499, 499);
    assert_true(none.cx == 1 && none.co == 0);
    npo_schedule_free(schedule);
}

static npo_err read_text(const char *text, npo_schedule_config *ret_config, npo_error *error)
{
    cJSON *json = cJSON_Parse(text);
    assert_non_null(json);
    npo_err err = npo_schedule_config_read(json, "'x'", ret_config, error);
    cJSON_Delete(json);
    return err;
}

static void test_schedule_config_reads_what_diffusers_writes(void **state)
{
    npo_schedule_config config;
    npo_error error = {0};
    assert_int_equal(
        read_text("{\"_class_name\": \"DDIMScheduler\", \"num_train_timesteps\": 500,"
                  "\"beta_start\": 0.001, \"beta_end\": 0.01, \"beta_schedule\": \"scaled_linear\","
                  "\"prediction_type\": \"v_prediction\", \"timestep_spacing\": \"trailing\","
                  "\"steps_offset\": 1, \"set_alpha_to_one\": false, \"clip_sample\": true,"
                  "\"clip_sample_range\": 2.0, \"rescale_betas_zero_snr\": true,"
                  "\"trained_betas\": null, \"thresholding\": false, \"solver_order\": 2}",
                  &config, &error),
        NPO_OK);
    assert_int_equal(config.train_steps, 500);
    assert_true(config.beta_start == 0.001 && config.beta_end == 0.01);
    assert_int_equal(config.betas, NPO_BETAS_SCALED_LINEAR);
    assert_int_equal(config.prediction, NPO_PREDICT_V);
    assert_int_equal(config.spacing, NPO_SPACING_TRAILING);
    assert_int_equal(config.steps_offset, 1);
    assert_false(config.set_alpha_to_one);
    assert_true(config.clip_sample && config.clip_range == 2 && config.zero_terminal_snr);
    /* DDIMScheduler's own defaults */
    assert_int_equal(read_text("{}", &config, &error), NPO_OK);
    assert_int_equal(config.train_steps, 1000);
    assert_true(config.beta_start == 1e-4 && config.beta_end == 0.02 && config.set_alpha_to_one);
    assert_int_equal(config.betas, NPO_BETAS_LINEAR);
    assert_int_equal(config.spacing, NPO_SPACING_DEFAULT);
    assert_false(config.clip_sample);
}

static void test_schedule_config_refuses_what_is_not_computed(void **state)
{
    static const struct {
        const char *text;
        const char *named;
    } rows[] = {
        {"{\"beta_schedule\": \"squaredcos_cap_v2\"}", "beta_schedule"},
        {"{\"prediction_type\": \"sample\"}", "prediction_type"},
        {"{\"timestep_spacing\": \"even\"}", "timestep_spacing"},
        {"{\"trained_betas\": [0.1]}", "trained_betas"},
        {"{\"thresholding\": true}", "thresholding"},
        {"{\"num_train_timesteps\": 0}", "num_train_timesteps"},
        {"{\"num_train_timesteps\": 1e9}", "num_train_timesteps"},
        {"{\"beta_start\": \"small\"}", "beta_start"},
        {"{\"steps_offset\": -1}", "steps_offset"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        npo_schedule_config config = {.train_steps = 77};
        npo_error error = {0};
        assert_int_not_equal(read_text(rows[i].text, &config, &error), NPO_OK);
        assert_non_null(strstr(error.text, rows[i].named));
        assert_non_null(strstr(error.text, "'x'"));
        assert_int_equal(config.train_steps, 77);
    }
}

static void test_schedule_refuses_impossible_settings(void **state)
{
    npo_schedule_config rows[] = {sd, sd, sd, sd, sd, sd, sd};
    rows[0].train_steps = 0;
    rows[1].beta_start = 0;
    rows[2].beta_end = 1;
    rows[3].beta_end = NAN;
    rows[4].zero_terminal_snr = true; /* with epsilon prediction */
    rows[5].clip_sample = true;       /* to a range of 0 */
    rows[6].train_steps = NPO_SCHEDULE_STEPS_MAX + 1;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        npo_schedule *schedule = NULL;
        npo_error error = {0};
        npo_err expected = i == 4 ? NPO_E_UNSUPPORTED : NPO_E_RANGE;
        assert_int_equal(npo_schedule_new(&rows[i], &schedule, &error), expected);
        assert_null(schedule);
        assert_true(strlen(error.text) > 10);
    }
}

static void test_schedule_config_loads_from_files(void **state)
{
    static const char text[] =
        "{\"lambda_min_clipped\": -Infinity, \"name\": \"a \\\"-Infinity\\\"\","
        "\"max\": Infinity, \"beta_start\": 0.5}";
    char path[] = "/tmp/npo-schedule-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    npo_schedule_config config;
    npo_error error = {0};
    cJSON *json = NULL;
    assert_int_equal(npo_file_write(path, text, sizeof text - 1, 0600, &error), NPO_OK);
    assert_int_equal(npo_schedule_config_load(path, &config, &error), NPO_OK);
    assert_true(config.beta_start == 0.5);
    assert_int_equal(npo_schedule_json_load(path, &json, &error), NPO_OK);
    assert_true(cJSON_IsNull(cJSON_GetObjectItem(json, "lambda_min_clipped")));
    assert_string_equal(cJSON_GetObjectItem(json, "name")->valuestring, "a \"-Infinity\"");
    cJSON_Delete(json);
    assert_int_equal(npo_file_write(path, "", 0, 0600, &error), NPO_OK);
    assert_int_equal(npo_schedule_config_load(path, &config, &error), NPO_E_FORMAT);
    assert_int_equal(npo_file_write(path, "{", 1, 0600, &error), NPO_OK);
    assert_int_equal(npo_schedule_config_load(path, &config, &error), NPO_E_FORMAT);
    assert_int_equal(npo_file_remove(path, &error), NPO_OK);
    assert_int_equal(npo_schedule_config_load(path, &config, &error), NPO_E_NOT_FOUND);
}

static void test_schedule_refuses_betas_that_round_away(void **state)
{
    npo_schedule_config high = sd, flat = sd;
    npo_error error = {0};
    npo_schedule *schedule = NULL;
    high.beta_start = high.beta_end = 0.999;
    assert_int_equal(npo_schedule_new(&high, &schedule, &error), NPO_E_RANGE);
    assert_non_null(strstr(error.text, "alpha_bar 0 at timestep"));
    flat.beta_start = flat.beta_end = 1e-300;
    flat.prediction = NPO_PREDICT_V;
    flat.zero_terminal_snr = true;
    assert_int_equal(npo_schedule_new(&flat, &schedule, &error), NPO_E_RANGE);
    assert_null(schedule);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schedule_alpha_bar_matches_diffusers),
        cmocka_unit_test(test_schedule_zero_terminal_snr_matches_diffusers),
        cmocka_unit_test(test_schedule_grid_is_the_methods),
        cmocka_unit_test(test_schedule_mixtures_invert_the_forward_process),
        cmocka_unit_test(test_schedule_renoise_is_the_published_formula),
        cmocka_unit_test(test_schedule_config_reads_what_diffusers_writes),
        cmocka_unit_test(test_schedule_config_refuses_what_is_not_computed),
        cmocka_unit_test(test_schedule_refuses_impossible_settings),
        cmocka_unit_test(test_schedule_refuses_betas_that_round_away),
        cmocka_unit_test(test_schedule_config_loads_from_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
