#include "worker/image/png.h"

#include "common/file.h"
#include "tests/unit/cmocka.h"
#include "tests/unit/image/png_cases.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static npo_image pattern(int channels)
{
    npo_image image;
    assert_int_equal(npo_image_init(&image, 5, 3, channels, 0), NPO_OK);
    for (size_t i = 0; i < npo_image_bytes(&image); i++)
        image.pixels[i] = (uint8_t)(i * 37 + 11);
    return image;
}

static void check_round_trip(int channels)
{
    npo_image image = pattern(channels), again = {0};
    char path[] = "/tmp/npo-png-XXXXXX";
    close(mkstemp(path));
    npo_png_text text = {"npo.settings", "{\"guidance_scale\":2}"};
    assert_int_equal(npo_png_write(path, &image, &text, 1, NULL), NPO_OK);
    assert_int_equal(npo_png_read(path, &again, NULL), NPO_OK);
    assert_int_equal(again.width, 5);
    assert_int_equal(again.height, 3);
    assert_int_equal(again.channels, channels);
    assert_memory_equal(again.pixels, image.pixels, npo_image_bytes(&image));
    npo_image_fini(&image);
    npo_image_fini(&again);
    unlink(path);
}

static void test_png_round_trip_grey_and_rgb(void **state)
{
    check_round_trip(1);
    check_round_trip(3);
}

static void test_png_encode_carries_text_and_is_repeatable(void **state)
{
    npo_image image = pattern(1);
    npo_png_text texts[] = {{"npo.settings", "{\"seed\":7}"}, {"npo.prompt", "a photo of a bag"}};
    npo_buf a = NPO_BUF_INIT, b = NPO_BUF_INIT;
    assert_int_equal(npo_png_encode(&image, texts, 2, &a, NULL), NPO_OK);
    assert_int_equal(npo_png_encode(&image, texts, 2, &b, NULL), NPO_OK);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
    assert_non_null(memmem(a.data, a.len, "tEXtnpo.settings\0{\"seed\":7}", 27));
    assert_non_null(memmem(a.data, a.len, "tEXtnpo.prompt\0a photo of a bag", 31));
    npo_png_text utf8 = {"npo.prompt", "caf\xc3\xa9"};
    npo_buf_clear(&b);
    b.len = 0;
    assert_int_equal(npo_png_encode(&image, &utf8, 1, &b, NULL), NPO_OK);
    assert_non_null(memmem(b.data, b.len, "iTXtnpo.prompt\0\0\0\0\0caf\xc3\xa9", 24));
    npo_buf_fini(&a);
    npo_buf_fini(&b);
    npo_image_fini(&image);
}

static void check_pixels(const uint8_t *file, size_t len, int width, int channels,
                         const uint8_t *expected)
{
    npo_image image;
    assert_int_equal(npo_png_decode(file, len, "case", &image, NULL), NPO_OK);
    assert_int_equal(image.width, width);
    assert_int_equal(image.height, 1);
    assert_int_equal(image.channels, channels);
    assert_memory_equal(image.pixels, expected, npo_image_bytes(&image));
    npo_image_fini(&image);
}

static void test_png_decode_converts_other_kinds(void **state)
{
    check_pixels(palette_2x1, sizeof palette_2x1, 2, 3, (uint8_t[]){200, 210, 220, 10, 20, 30});
    check_pixels(grey16_2x1, sizeof grey16_2x1, 2, 1, (uint8_t[]){0, 255});
    check_pixels(grey1_8x1, sizeof grey1_8x1, 8, 1, (uint8_t[]){255, 0, 255, 255, 0, 0, 0, 255});
    check_pixels(rgba_1x1, sizeof rgba_1x1, 1, 3, (uint8_t[]){1, 2, 3});
}

static void test_png_decode_refuses_every_prefix(void **state)
{
    for (size_t len = 0; len < sizeof palette_2x1 - 12; len++) {
        npo_image image;
        npo_error error = {0};
        assert_int_equal(npo_png_decode(palette_2x1, len, "cut.png", &image, &error), NPO_E_FORMAT);
        assert_non_null(strstr(error.text, "'cut.png'"));
    }
}

static void test_png_decode_refuses_damage_and_excess(void **state)
{
    npo_image image;
    npo_error error = {0};
    uint8_t damaged[sizeof palette_2x1];
    memcpy(damaged, palette_2x1, sizeof damaged);
    damaged[20] ^= 1; /* in the header: its checksum no longer fits */
    assert_int_equal(npo_png_decode(damaged, sizeof damaged, "d", &image, &error), NPO_E_FORMAT);
    assert_int_equal(npo_png_decode(wide_20000x1, sizeof wide_20000x1, "w", &image, &error),
                     NPO_E_FORMAT);
    assert_int_equal(npo_png_decode("GIF89a..", 8, "g", &image, &error), NPO_E_FORMAT);
    assert_non_null(strstr(error.text, "expected a PNG file"));
}

static void test_png_read_reports_missing_file(void **state)
{
    npo_image image;
    npo_error error = {0};
    assert_int_equal(npo_png_read("/nonexistent/a.png", &image, &error), NPO_E_NOT_FOUND);
    assert_non_null(strstr(error.text, "/nonexistent/a.png"));
}

static void test_png_encode_reports_a_full_buffer(void **state)
{
    npo_image image = pattern(3);
    npo_buf buf;
    npo_error error = {0};
    npo_buf_init(&buf, 20);
    assert_int_equal(npo_png_encode(&image, NULL, 0, &buf, &error), NPO_E_LIMIT);
    npo_png_text bad = {"", "text"};
    npo_buf open = NPO_BUF_INIT;
    assert_int_equal(npo_png_encode(&image, &bad, 1, &open, &error), NPO_E_LIBRARY);
    npo_buf_fini(&open);
    npo_buf_fini(&buf);
    npo_image_fini(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_png_round_trip_grey_and_rgb),
        cmocka_unit_test(test_png_encode_carries_text_and_is_repeatable),
        cmocka_unit_test(test_png_decode_converts_other_kinds),
        cmocka_unit_test(test_png_decode_refuses_every_prefix),
        cmocka_unit_test(test_png_decode_refuses_damage_and_excess),
        cmocka_unit_test(test_png_read_reports_missing_file),
        cmocka_unit_test(test_png_encode_reports_a_full_buffer),
    };
    return cmocka_run_group_tests_name("png", tests, NULL, NULL);
}
