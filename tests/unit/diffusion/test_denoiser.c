#include "worker/diffusion/denoiser.h"

#include "common/rng.h"
#include "tests/unit/cmocka.h"
#include "tests/unit/diffusion/small_unet.h"

#include <string.h>

enum { N = 7, FLOATS = SMALL_SIDE * SMALL_SIDE * SMALL_CHANNELS, MICRO = 3 };

static small_unet unet;
static npo_network *network;

static int setup(void **state)
{
    npo_error error = {0};
    small_unet_init(&unet, 1);
    return npo_network_new(unet.backend, unet.layout, &unet.config, &unet.shape, &network, &error);
}

static int teardown(void **state)
{
    npo_network_free(network);
    small_unet_fini(&unet);
    return 0;
}

static float x[N * FLOATS], out[N * FLOATS], expected[N * FLOATS];
static float t[N];
static int32_t prompt[N];

static void fill_inputs(void)
{
    npo_rng rng = npo_rng_stream(2, NPO_RNG_SAMPLE_NOISE, 0, 0);
    npo_rng_gaussians(&rng, N * FLOATS, x);
    for (int i = 0; i < N; i++) {
        t[i] = 140.25f * (float)i; /* Euler's timesteps lie between whole ones */
        prompt[i] = i % (SMALL_PROMPTS + 1) - 1;
    }
}

static void predict(npo_network_denoiser *denoiser, int64_t n, const float *from,
                    const float *times, const int32_t *prompts, float *to)
{
    npo_error error = {0};
    const npo_denoiser *d = npo_network_denoiser_get(denoiser);
    assert_int_equal(d->sample_floats, FLOATS);
    assert_int_equal(d->predict(d->self, n, from, times, prompts, to, &error), NPO_OK);
}

static npo_network_denoiser *make_on(small_unet *on, npo_network *of, int64_t micro_batch)
{
    npo_network_denoiser *denoiser = NULL;
    npo_error error = {0};
    assert_int_equal(
        npo_network_denoiser_new(of, on->params, &on->prompts, micro_batch, &denoiser, &error),
        NPO_OK);
    return denoiser;
}

/* What the network itself says of each sample's x, t and prompt. */
static void check_feeding(small_unet *on, npo_network *of)
{
    npo_network_denoiser *denoiser = make_on(on, of, MICRO);
    npo_error error = {0};
    fill_inputs();
    predict(denoiser, N, x, t, prompt, out);
    for (int i = 0; i < N; i++) {
        float one_x[MICRO * FLOATS], one_out[MICRO * FLOATS], times[MICRO];
        float context[MICRO * SMALL_TOKENS * SMALL_CONTEXT], added[MICRO * SMALL_ADDED] = {0};
        const float *row = npo_prompts_row(&on->prompts, prompt[i]);
        for (int k = 0; k < MICRO; k++) {
            memcpy(one_x + k * FLOATS, x + i * FLOATS, FLOATS * sizeof *x);
            times[k] = t[i];
            memcpy(context + k * SMALL_TOKENS * SMALL_CONTEXT, row,
                   SMALL_TOKENS * SMALL_CONTEXT * sizeof *context);
            memcpy(added + k * SMALL_ADDED, row + SMALL_TOKENS * SMALL_CONTEXT,
                   npo_network_added_floats(of) * sizeof *added);
        }
        assert_int_equal(
            npo_network_eval(of, on->params, MICRO, one_x, times, context, added, one_out, &error),
            NPO_OK);
        assert_memory_equal(out + i * FLOATS, one_out, FLOATS * sizeof *out);
    }
    npo_network_denoiser_free(denoiser);
}

static void test_denoiser_feeds_the_network(void **state)
{
    check_feeding(&unet, network);
}

static void test_denoiser_feeds_added_conditioning(void **state)
{
    small_unet with_added;
    npo_network *of;
    npo_error error = {0};
    small_unet_init_added(&with_added, 1);
    assert_int_equal(npo_network_new(with_added.backend, with_added.layout, &with_added.config,
                                     &with_added.shape, &of, &error),
                     NPO_OK);
    assert_int_equal(npo_network_added_floats(of), SMALL_ADDED);
    assert_int_equal(npo_network_added_floats(network), 0);
    check_feeding(&with_added, of);
    npo_network_free(of);
    small_unet_fini(&with_added);
}

/* A sample has the same bits alone, last, first, or among others. */
static void test_denoiser_results_do_not_depend_on_company(void **state)
{
    npo_network_denoiser *denoiser = make_on(&unet, network, MICRO);
    fill_inputs();
    predict(denoiser, N, x, t, prompt, expected);
    for (int first = 0; first < N; first++)
        for (int n = 1; first + n <= N; n++) {
            predict(denoiser, n, x + first * FLOATS, t + first, prompt + first, out);
            assert_memory_equal(out, expected + first * FLOATS, (size_t)n * FLOATS * sizeof *out);
        }
    predict(denoiser, 0, x, t, prompt, out);
    npo_network_denoiser_free(denoiser);
}

static void test_denoiser_uses_other_weights_when_told(void **state)
{
    npo_network_denoiser *denoiser = make_on(&unet, network, MICRO);
    npo_params *other = NULL;
    fill_inputs();
    predict(denoiser, N, x, t, prompt, expected);
    assert_int_equal(npo_params_new(unet.layout, &other), NPO_OK);
    npo_params_copy(other, unet.params);
    npo_params_edit(other)[npo_layout_find(unet.layout, "conv_out.bias")->offset] += 1;
    npo_network_denoiser_use(denoiser, other);
    predict(denoiser, N, x, t, prompt, out);
    assert_memory_not_equal(out, expected, sizeof out);
    npo_network_denoiser_use(denoiser, unet.params);
    predict(denoiser, N, x, t, prompt, out);
    assert_memory_equal(out, expected, sizeof out);
    npo_network_denoiser_free(denoiser);
    npo_params_free(other);
}

static void test_denoiser_refuses_what_does_not_fit(void **state)
{
    npo_network_denoiser *denoiser = NULL;
    npo_error error = {0};
    npo_prompts prompts = unet.prompts;
    prompts.floats--;
    assert_int_equal(
        npo_network_denoiser_new(network, unet.params, &prompts, MICRO, &denoiser, &error),
        NPO_E_SHAPE);
    assert_int_equal(
        npo_network_denoiser_new(network, unet.params, &unet.prompts, 0, &denoiser, &error),
        NPO_E_RANGE);
    assert_null(denoiser);
    npo_network_denoiser_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_denoiser_feeds_the_network),
        cmocka_unit_test(test_denoiser_feeds_added_conditioning),
        cmocka_unit_test(test_denoiser_results_do_not_depend_on_company),
        cmocka_unit_test(test_denoiser_uses_other_weights_when_told),
        cmocka_unit_test(test_denoiser_refuses_what_does_not_fit),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
