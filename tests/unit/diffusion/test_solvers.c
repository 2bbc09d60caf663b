/* Every sampler against diffusers: tests/golden/unit/samplers.json, made by make_samplers.py. */
#include "common/json.h"
#include "tests/unit/cmocka.h"
#include "tests/unit/diffusion/fake_denoiser.h"
#include "worker/diffusion/sampler.h"

#include <math.h>
#include <string.h>

enum { FLOATS = 4, STEPS_MAX = 32, GOLDEN_BYTES_MAX = 1 << 20 };

#define TOLERANCE 1e-4 /* of a state's largest value */
#define W         2.0f

static cJSON *golden;

static int load_golden(void **state)
{
    npo_error error = {0};
    return npo_json_load(NPO_GOLDEN_DIR "/unit/samplers.json", GOLDEN_BYTES_MAX, &golden, &error);
}

static int free_golden(void **state)
{
    cJSON_Delete(golden);
    return 0;
}

static const char *const kinds[] = {
    [NPO_SAMPLER_DDIM] = "ddim",   [NPO_SAMPLER_DPMPP_2M] = "dpmpp-2m",
    [NPO_SAMPLER_EULER] = "euler", [NPO_SAMPLER_EULER_ANCESTRAL] = "euler-ancestral",
    [NPO_SAMPLER_COUNT] = NULL,
};
static const char *const spacings[] = {"leading", "trailing", "linspace", NULL};
static const char *const predictions[] = {"epsilon", "v_prediction", NULL};

typedef struct {
    int kind, spacing, prediction;
    bool karras, zero_snr;
    int64_t steps;
    double rescale, negative; /* negative: scale of the second network */
    const cJSON *timesteps, *states;
} golden_row;

static const npo_json_field row_fields[] = {
    {"sampler", NPO_JSON_ENUM, offsetof(golden_row, kind), .choices = kinds},
    {"spacing", NPO_JSON_ENUM, offsetof(golden_row, spacing), .choices = spacings},
    {"prediction", NPO_JSON_ENUM, offsetof(golden_row, prediction), .choices = predictions},
    {"karras", NPO_JSON_BOOL, offsetof(golden_row, karras)},
    {"zero_snr", NPO_JSON_BOOL, offsetof(golden_row, zero_snr)},
    {"steps", NPO_JSON_INT, offsetof(golden_row, steps), .min = 1, .max = STEPS_MAX},
    {"rescale", NPO_JSON_NUMBER, offsetof(golden_row, rescale)},
    {"negative", NPO_JSON_NUMBER, offsetof(golden_row, negative)},
    {"timesteps", NPO_JSON_ARRAY, offsetof(golden_row, timesteps)},
    {"states", NPO_JSON_ARRAY, offsetof(golden_row, states)},
};

static double value_at(const cJSON *list, int64_t i)
{
    return cJSON_GetNumberValue(cJSON_GetArrayItem(list, (int)i));
}

static npo_schedule *schedule_of(const golden_row *row)
{
    const npo_schedule_config config = {
        .train_steps = 1000,
        .beta_start = 0.00085,
        .beta_end = 0.012,
        .betas = NPO_BETAS_SCALED_LINEAR,
        .prediction = row->prediction,
        .steps_offset = 1,
        .zero_terminal_snr = row->zero_snr,
    };
    npo_schedule *schedule = NULL;
    npo_error error = {0};
    assert_int_equal(npo_schedule_new(&config, &schedule, &error), NPO_OK);
    return schedule;
}

static void given_noise(void *self, int64_t step, int64_t i, size_t sample_floats, float *ret_noise)
{
    const cJSON *noise = cJSON_GetObjectItemCaseSensitive(golden, "noise");
    assert_int_equal(sample_floats, FLOATS);
    for (int64_t k = 0; k < FLOATS; k++)
        ret_noise[k] = (float)value_at(cJSON_GetArrayItem(noise, (int)step), k);
}

static npo_err compare_state(void *self, int64_t step, int64_t n, const float *x, npo_error *error)
{
    const golden_row *row = self;
    const cJSON *expected = cJSON_GetArrayItem(row->states, (int)step);
    double largest = 0;
    for (int64_t k = 0; k < FLOATS; k++)
        largest = fmax(largest, fabs(value_at(expected, k)));
    for (int64_t k = 0; k < FLOATS; k++)
        if (!(fabs(x[k] - value_at(expected, k)) <= TOLERANCE * largest))
            return npo_error_set(
                error, NPO_E_RANGE, "%s %s%s%s%s: step %lld value %lld is %.7g, expected %.7g",
                kinds[row->kind], spacings[row->spacing], row->karras ? " karras" : "",
                row->zero_snr ? " zero snr" : "", row->prediction ? " v" : "", (long long)step,
                (long long)k, (double)x[k], value_at(expected, k));
    return NPO_OK;
}

static void check_timesteps(const golden_row *row, const npo_sampler_settings *settings)
{
    npo_sampler_step steps[STEPS_MAX];
    npo_error error = {0};
    float start = 0;
    assert_int_equal(npo_sampler_plan(settings, steps, &start, &error), NPO_OK);
    assert_int_equal(cJSON_GetArraySize(row->timesteps), row->steps);
    for (int64_t k = 0; k < row->steps; k++)
        if (fabs(steps[k].t - value_at(row->timesteps, k)) > 2e-3)
            fail_msg("%s %s: timestep %lld is %g, expected %g", kinds[row->kind],
                     spacings[row->spacing], (long long)k, (double)steps[k].t,
                     value_at(row->timesteps, k));
    assert_true(steps[row->steps - 1].alpha_bar_next > 0.99);
}

static void run_row(const golden_row *row)
{
    static const int32_t prompt[1] = {0};
    const cJSON *from = cJSON_GetObjectItemCaseSensitive(golden, "start");
    npo_schedule *schedule = schedule_of(row);
    fake_denoiser fake, second;
    npo_error error = {0};
    float x[FLOATS];
    for (int64_t k = 0; k < FLOATS; k++)
        x[k] = (float)value_at(from, k);
    fake_denoiser_init(&fake, FLOATS);
    fake_denoiser_init(&second, FLOATS);
    second.scale = (float)row->negative;
    const npo_sampler_options options = {
        .settings = {schedule, (npo_sampler_kind)row->kind, (npo_spacing)row->spacing, row->karras,
                     row->steps},
        .guidance = {&fake.base, &second.base, W, (float)row->rescale},
        .interval_end = 1,
        .noise = given_noise,
        .on_step = compare_state,
        .on_step_self = (void *)row,
    };
    check_timesteps(row, &options.settings);
    if (npo_sampler_run(&options, 1, x, prompt, NULL, &error) != NPO_OK)
        fail_msg("%s", error.text);
    npo_schedule_free(schedule);
}

static void test_solvers_match_diffusers(void **state)
{
    const cJSON *item = NULL;
    int seen[NPO_SAMPLER_COUNT] = {0};
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(golden, "rows"))
    {
        golden_row row = {0};
        npo_error error = {0};
        assert_int_equal(npo_json_read(item, "", row_fields, sizeof row_fields / sizeof *row_fields,
                                       false, &row, &error),
                         NPO_OK);
        run_row(&row);
        seen[row.kind]++;
    }
    for (int kind = 0; kind < NPO_SAMPLER_COUNT; kind++)
        assert_true(seen[kind] >= 10);
}

/* The defaults of diffusers' classes. */
static void test_solvers_have_their_own_spacing(void **state)
{
    static const npo_spacing spacing_of[] = {
        [NPO_SAMPLER_DDIM] = NPO_SPACING_LEADING,
        [NPO_SAMPLER_DPMPP_2M] = NPO_SPACING_LINSPACE,
        [NPO_SAMPLER_EULER] = NPO_SPACING_LINSPACE,
        [NPO_SAMPLER_EULER_ANCESTRAL] = NPO_SPACING_LINSPACE,
    };
    const golden_row row = {0};
    npo_schedule *schedule = schedule_of(&row);
    for (int kind = 0; kind < NPO_SAMPLER_COUNT; kind++) {
        npo_sampler_settings settings = {schedule, (npo_sampler_kind)kind, NPO_SPACING_DEFAULT,
                                         false, 8};
        npo_sampler_step own[8], named[8];
        npo_error error = {0};
        float start[2];
        assert_int_equal(npo_sampler_plan(&settings, own, &start[0], &error), NPO_OK);
        settings.spacing = spacing_of[kind];
        assert_int_equal(npo_sampler_plan(&settings, named, &start[1], &error), NPO_OK);
        for (int k = 0; k < 8; k++)
            assert_true(own[k].t == named[k].t);
        assert_true(start[0] == start[1]);
    }
    npo_schedule_free(schedule);
}

/* One step, as many steps as there are timesteps, and everything between gives finite mixtures. */
static void test_solvers_plan_any_number_of_steps(void **state)
{
    static npo_sampler_step steps[1000];
    golden_row row = {.prediction = NPO_PREDICT_V, .zero_snr = true};
    npo_schedule *schedule = schedule_of(&row);
    for (int kind = 0; kind < NPO_SAMPLER_COUNT; kind++)
        for (int karras = 0; karras < (kind == NPO_SAMPLER_DDIM ? 1 : 2); karras++)
            for (int64_t n = 1; n <= 1000; n += n < 20 ? 1 : 98) {
                npo_sampler_settings settings = {schedule, (npo_sampler_kind)kind,
                                                 NPO_SPACING_LINSPACE, karras, n};
                npo_error error = {0};
                float start = 0;
                assert_int_equal(npo_sampler_plan(&settings, steps, &start, &error), NPO_OK);
                for (int64_t k = 0; k < n; k++)
                    assert_true(isfinite(steps[k].next.cx) && isfinite(steps[k].next.co) &&
                                isfinite(steps[k].previous) && isfinite(steps[k].noise));
                assert_true(start > 0 && isfinite(start));
            }
    npo_schedule_free(schedule);
}

static void test_solvers_refuse_what_they_do_not_have(void **state)
{
    const golden_row row = {0};
    const int32_t prompt[1] = {0};
    npo_schedule *schedule = schedule_of(&row);
    npo_sampler_step steps[4];
    npo_error error = {0};
    float start = 0, x[FLOATS] = {0};
    fake_denoiser fake;
    npo_sampler_settings settings = {schedule, NPO_SAMPLER_DDIM, NPO_SPACING_LEADING, true, 4};
    assert_int_equal(npo_sampler_plan(&settings, steps, &start, &error), NPO_E_UNSUPPORTED);
    assert_non_null(strstr(error.text, "Karras"));
    settings = (npo_sampler_settings){schedule, NPO_SAMPLER_EULER, NPO_SPACING_METHOD, false, 4};
    assert_int_equal(npo_sampler_plan(&settings, steps, &start, &error), NPO_E_UNSUPPORTED);
    assert_non_null(strstr(error.text, "'euler'"));
    settings.kind = NPO_SAMPLER_EULER_ANCESTRAL;
    settings.spacing = NPO_SPACING_DEFAULT;
    fake_denoiser_init(&fake, FLOATS);
    const npo_sampler_options silent = {
        .settings = settings, .guidance = {&fake.base, &fake.base, W, 0}, .interval_end = 1};
    assert_true(npo_sampler_draws_noise(settings.kind));
    assert_int_equal(npo_sampler_run(&silent, 1, x, prompt, NULL, &error), NPO_E_USAGE);
    npo_schedule_free(schedule);
}

static void test_solvers_noise_belongs_to_image_and_step(void **state)
{
    float a[64], b[64], c[64], start[64];
    npo_sampler_step_noise(1, 5, 0, 64, a);
    npo_sampler_step_noise(1, 6, 0, 64, b);
    npo_sampler_step_noise(1, 5, 1, 64, c);
    npo_sampler_noise(1, 5, 64, start);
    assert_memory_not_equal(a, b, sizeof a);
    assert_memory_not_equal(a, c, sizeof a);
    assert_memory_not_equal(a, start, sizeof a);
}

static void test_solvers_have_the_names_of_other_programs(void **state)
{
    assert_string_equal(npo_sampler_label(NPO_SAMPLER_DPMPP_2M, true), "DPM++ 2M Karras");
    assert_string_equal(npo_sampler_label(NPO_SAMPLER_DPMPP_2M, false), "DPM++ 2M");
    assert_string_equal(npo_sampler_label(NPO_SAMPLER_EULER_ANCESTRAL, false), "Euler a");
    assert_string_equal(npo_sampler_label(NPO_SAMPLER_DDIM, true), "DDIM");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_solvers_match_diffusers),
        cmocka_unit_test(test_solvers_have_their_own_spacing),
        cmocka_unit_test(test_solvers_plan_any_number_of_steps),
        cmocka_unit_test(test_solvers_refuse_what_they_do_not_have),
        cmocka_unit_test(test_solvers_noise_belongs_to_image_and_step),
        cmocka_unit_test(test_solvers_have_the_names_of_other_programs),
    };
    return cmocka_run_group_tests(tests, load_golden, free_golden);
}
