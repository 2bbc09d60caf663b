#include "worker/diffusion/guidance.h"

#include "tests/unit/cmocka.h"
#include "tests/unit/diffusion/fake_denoiser.h"

#include <math.h>
#include <string.h>

enum { N = 2, FLOATS = 4 };

static const float samples[N * FLOATS] = {1.5f, -0.7f, 0.2f, -2.1f, 0.1f, 0.9f, -1.1f, 0.3f};
static const float timesteps[N] = {999, 40};
static const int32_t prompts[N] = {3, 5};
static const int32_t empties[N] = {NPO_PROMPT_EMPTY, NPO_PROMPT_EMPTY};

static npo_err predict(fake_denoiser *pos, fake_denoiser *neg, float w, float rescale,
                       float ret_out[N * FLOATS], npo_error *error)
{
    float scratch[N * FLOATS];
    const npo_guidance guidance = {&pos->base, &neg->base, w, rescale};
    const npo_guidance_input input = {N, samples, timesteps, prompts, empties, scratch};
    return npo_guidance_predict(&guidance, &input, ret_out, error);
}

static void test_guidance_skips_branches_without_weight(void **state)
{
    static const struct {
        float w;
        int positive, negative;
    } rows[] = {{-1, 0, N}, {0, N, 0}, {-5, N, N}, {4, N, N}, {-0.5f, N, N}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fake_denoiser pos, neg;
        float out[N * FLOATS];
        npo_error error = {0};
        fake_denoiser_init(&pos, FLOATS);
        fake_denoiser_init(&neg, FLOATS);
        assert_int_equal(predict(&pos, &neg, rows[i].w, 0, out, &error), NPO_OK);
        assert_int_equal(pos.conditional, rows[i].positive);
        assert_int_equal(neg.unconditional, rows[i].negative);
        assert_int_equal(pos.unconditional + neg.conditional, 0);
        for (int k = 0; k < N * FLOATS; k++) {
            double t = timesteps[k / FLOATS];
            double c = fake_denoiser_value(samples[k], t, prompts[k / FLOATS]);
            double u = fake_denoiser_value(samples[k], t, NPO_PROMPT_EMPTY);
            assert_true(fabs(out[k] - ((rows[i].w + 1) * c - rows[i].w * u)) < 1e-5);
        }
    }
}

/* Two networks: the positive one's conditional and the negative one's unconditional prediction. */
static void test_guidance_mixes_two_networks(void **state)
{
    fake_denoiser pos, neg;
    float out[N * FLOATS];
    npo_error error = {0};
    fake_denoiser_init(&pos, FLOATS);
    fake_denoiser_init(&neg, FLOATS);
    neg.scale = 0.5f;
    assert_int_equal(predict(&pos, &neg, 2, 0, out, &error), NPO_OK);
    for (int k = 0; k < N * FLOATS; k++) {
        double t = timesteps[k / FLOATS];
        double c = fake_denoiser_value(samples[k], t, prompts[k / FLOATS]);
        double u = 0.5 * fake_denoiser_value(samples[k], t, NPO_PROMPT_EMPTY);
        assert_true(fabs(out[k] - (3 * c - 2 * u)) < 1e-5);
    }
}

/* A denoiser that returns stored values. */
static npo_err stored(void *self, int64_t n, const float *x, const float *t,
                      const int32_t *prompt, float *ret_out, npo_error *error)
{
    memcpy(ret_out, self, (size_t)n * FLOATS * sizeof *ret_out);
    return NPO_OK;
}

/* rescale_noise_cfg of diffusers 0.42 with guidance_rescale 0.7: w = 1, so neg = 2 pos - cfg. */
static void test_guidance_rescale_matches_diffusers(void **state)
{
    float pos[] = {0.5f, -1, 2, 0.25f, 3, 1, -1, 0};
    const float cfg[] = {1.5f, -4, 5, 1, -2, 2, 4, 8};
    static const float expected[] = {0.7988696098f,  -2.130318880f, 2.662898540f,  0.5325797200f,
                                     -1.1742889881f, 1.1742889881f, 2.3485779762f, 4.6971559525f};
    float neg[N * FLOATS], out[N * FLOATS], scratch[N * FLOATS];
    for (int k = 0; k < N * FLOATS; k++)
        neg[k] = 2 * pos[k] - cfg[k];
    const npo_denoiser positive = {pos, FLOATS, stored}, negative = {neg, FLOATS, stored};
    const npo_guidance guidance = {&positive, &negative, 1, 0.7f};
    const npo_guidance_input input = {N, samples, timesteps, prompts, empties, scratch};
    npo_error error = {0};
    assert_int_equal(npo_guidance_predict(&guidance, &input, out, &error), NPO_OK);
    for (int k = 0; k < N * FLOATS; k++)
        assert_true(fabsf(out[k] - expected[k]) < 1e-5f);
}

/* A mixture without any spread has no standard deviation to bring back. */
static void test_guidance_rescale_leaves_a_flat_mixture(void **state)
{
    float pos[N * FLOATS] = {1, 1, 1, 1, 2, 2, 2, 2}, out[N * FLOATS], scratch[N * FLOATS];
    const npo_denoiser both = {pos, FLOATS, stored};
    const npo_guidance guidance = {&both, &both, 3, 1};
    const npo_guidance_input input = {N, samples, timesteps, prompts, empties, scratch};
    npo_error error = {0};
    assert_int_equal(npo_guidance_predict(&guidance, &input, out, &error), NPO_OK);
    assert_memory_equal(out, pos, sizeof pos);
}

static void test_guidance_passes_errors_on(void **state)
{
    fake_denoiser pos, neg;
    float out[N * FLOATS];
    npo_error error = {0};
    fake_denoiser_init(&pos, FLOATS);
    fake_denoiser_init(&neg, FLOATS);
    assert_int_equal(predict(&pos, &neg, -1, 0.5f, out, &error), NPO_E_RANGE);
    assert_non_null(strstr(error.text, "rescale"));
    pos.fail_at = 1;
    assert_int_equal(predict(&pos, &neg, 2, 0, out, &error), NPO_E_LIBRARY);
    pos.fail_at = 0;
    neg.fail_at = 1;
    assert_int_equal(predict(&pos, &neg, 2, 0, out, &error), NPO_E_LIBRARY);
    neg.calls = 0;
    assert_int_equal(predict(&pos, &neg, -1, 0, out, &error), NPO_E_LIBRARY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_guidance_skips_branches_without_weight),
        cmocka_unit_test(test_guidance_mixes_two_networks),
        cmocka_unit_test(test_guidance_rescale_matches_diffusers),
        cmocka_unit_test(test_guidance_rescale_leaves_a_flat_mixture),
        cmocka_unit_test(test_guidance_passes_errors_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
