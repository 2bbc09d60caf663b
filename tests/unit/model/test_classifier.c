#include "tests/unit/model/device.h"

#include "worker/model/networks/classifier.h"

static void check_batch(int64_t batch_max)
{
    npo_classifier *classifier;
    npo_safetensors *file;
    float features[3 * 128], logits[3 * 10];
    assert_ok(npo_classifier_new(backend, GOLDEN("unit/classifier/model.safetensors"), batch_max,
                                 &classifier, &error));
    assert_ok(npo_safetensors_open(GOLDEN("unit/classifier/case.safetensors"), &file, &error));
    float *images = golden_values(file, "images");
    float *expected_features = golden_values(file, "features");
    float *expected_logits = golden_values(file, "logits");
    assert_ok(npo_classifier_eval(classifier, 3, images, features, logits, &error));
    assert_true(relative_error(features, expected_features, 3 * 128) <= 1e-4);
    assert_true(relative_error(logits, expected_logits, 3 * 10) <= 1e-4);
    memset(logits, 0, sizeof logits);
    assert_ok(npo_classifier_eval(classifier, 3, images, NULL, logits, &error));
    assert_true(relative_error(logits, expected_logits, 3 * 10) <= 1e-4);
    free(images);
    free(expected_features);
    free(expected_logits);
    npo_safetensors_close(file);
    npo_classifier_free(classifier);
}

static void test_classifier_computes_the_golden_features(void **state)
{
    check_batch(1);
    check_batch(2); /* the last batch is half full */
    check_batch(3);
    check_batch(8);
}

static void test_classifier_saves_what_it_loaded(void **state)
{
    npo_layout *layout;
    npo_params *params, *again;
    npo_file_map a, b;
    assert_ok(npo_classifier_layout(backend, &layout, &error));
    assert_ok(npo_params_new(layout, &params));
    assert_ok(npo_params_new(layout, &again));
    assert_ok(npo_classifier_load(GOLDEN("unit/classifier/model.safetensors"), params, &error));
    assert_ok(npo_classifier_save(scratch_path("c.safetensors"), params, NPO_TENSOR_F16, &error));
    assert_ok(npo_classifier_load(scratch_path("c.safetensors"), again, &error));
    assert_memory_equal(npo_params_data(params), npo_params_data(again),
                        npo_layout_floats(layout) * sizeof(float));
    /* torch's names and shapes: the data part is the golden's to the byte. */
    assert_ok(npo_file_map_open(GOLDEN("unit/classifier/model.safetensors"), &a, &error));
    assert_ok(npo_file_map_open(scratch_path("c.safetensors"), &b, &error));
    size_t bytes = 2 * (32 * 9 + 32 + 64 * 32 * 9 + 64 + 128 * 3136 + 128 + 1280 + 10);
    assert_memory_equal(a.data + a.size - bytes, b.data + b.size - bytes, bytes);
    npo_file_map_close(&a);
    npo_file_map_close(&b);
    npo_params_free(params);
    npo_params_free(again);
    npo_layout_unref(layout);
}

static void test_classifier_refuses_other_weights(void **state)
{
    npo_classifier *classifier = NULL;
    assert_fails(NPO_E_NOT_FOUND, "'f.0.weight': missing",
                 npo_classifier_new(backend, GOLDEN("unit/safetensors/part-1.safetensors"), 4,
                                    &classifier, &error));
    assert_fails(
        NPO_E_NOT_FOUND, "none.safetensors'",
        npo_classifier_new(backend, scratch_path("none.safetensors"), 4, &classifier, &error));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classifier_computes_the_golden_features),
        cmocka_unit_test(test_classifier_saves_what_it_loaded),
        cmocka_unit_test(test_classifier_refuses_other_weights),
    };
    return cmocka_run_group_tests(tests, device_setup, device_teardown);
}
