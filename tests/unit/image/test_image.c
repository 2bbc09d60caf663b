#include "worker/image/image.h"

#include "tests/unit/cmocka.h"

#include <math.h>

static void test_image_byte_of_rounds_and_clamps(void **state)
{
    assert_int_equal(npo_image_byte_of(-1.0f), 0);
    assert_int_equal(npo_image_byte_of(1.0f), 255);
    assert_int_equal(npo_image_byte_of(-7.0f), 0);
    assert_int_equal(npo_image_byte_of(INFINITY), 255);
    assert_int_equal(npo_image_byte_of(-INFINITY), 0);
    assert_int_equal(npo_image_byte_of(NAN), 0);
    assert_int_equal(npo_image_byte_of(-0.9967f), 0); /* 0.42 of a step */
    assert_int_equal(npo_image_byte_of(-0.9953f), 1); /* 0.60 of a step */
    assert_int_equal(npo_image_byte_of(0.004f), 128);
}

static void test_image_byte_of_inverts_value_of(void **state)
{
    for (int b = 0; b < 256; b++)
        assert_int_equal(npo_image_byte_of(npo_image_value_of((uint8_t)b)), b);
    assert_true(npo_image_value_of(0) == -1.0f);
    assert_true(npo_image_value_of(255) == 1.0f);
}

static void test_image_init_refuses_bad_sizes(void **state)
{
    npo_image image;
    assert_int_equal(npo_image_init(&image, 0, 1, 1, 0), NPO_E_RANGE);
    assert_int_equal(npo_image_init(&image, 1, -1, 1, 0), NPO_E_RANGE);
    assert_int_equal(npo_image_init(&image, NPO_IMAGE_SIDE_MAX + 1, 1, 1, 0), NPO_E_RANGE);
    assert_int_equal(npo_image_init(&image, 1, 1, 2, 0), NPO_E_RANGE);
    assert_int_equal(npo_image_init(&image, 1, 1, 4, 0), NPO_E_RANGE);
}

static void test_image_from_values_keeps_layout(void **state)
{
    const float x[] = {-1, 0, 1, 1, 0, -1};
    npo_image image;
    assert_int_equal(npo_image_from_values(&image, x, 1, 2, 3), NPO_OK);
    const uint8_t expected[] = {0, 128, 255, 255, 128, 0};
    assert_int_equal(npo_image_bytes(&image), 6);
    assert_memory_equal(image.pixels, expected, 6);
    npo_image_fini(&image);
    assert_null(image.pixels);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_image_byte_of_rounds_and_clamps),
        cmocka_unit_test(test_image_byte_of_inverts_value_of),
        cmocka_unit_test(test_image_init_refuses_bad_sizes),
        cmocka_unit_test(test_image_from_values_keeps_layout),
    };
    return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
