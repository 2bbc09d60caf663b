#include "worker/image/grid.h"

#include "tests/unit/cmocka.h"
#include "worker/image/font.h"

static uint8_t at(const npo_image *image, int x, int y)
{
    return image->pixels[y * image->width + x];
}

static void test_grid_places_and_zooms_pictures(void **state)
{
    /* Two columns, one row, pictures of 1x2 pixels. */
    const float pictures[] = {-1, 1, 0, -1};
    npo_grid_options options = {
        .columns = 2, .rows = 1, .width = 1, .height = 2, .channels = 1, .zoom = 2, .gap = 1};
    npo_image image;
    assert_int_equal(npo_grid_draw(&options, pictures, &image), NPO_OK);
    assert_int_equal(image.width, 7);
    assert_int_equal(image.height, 6);
    const uint8_t expected[6][7] = {
        {255, 255, 255, 255, 255, 255, 255}, {255, 0, 0, 255, 128, 128, 255},
        {255, 0, 0, 255, 128, 128, 255},     {255, 255, 255, 255, 0, 0, 255},
        {255, 255, 255, 255, 0, 0, 255},     {255, 255, 255, 255, 255, 255, 255},
    };
    assert_memory_equal(image.pixels, expected, sizeof expected);
    npo_image_fini(&image);
}

static void test_grid_labels_take_room_and_leave_ink(void **state)
{
    float pictures[2 * 2 * 28 * 28] = {0};
    const char *columns[] = {"plain 1.5", ""}, *rows[] = {"bag", "coat"};
    npo_grid_options options = {.columns = 2,
                                .rows = 2,
                                .width = 28,
                                .height = 28,
                                .channels = 1,
                                .zoom = 1,
                                .gap = 2,
                                .column_labels = columns,
                                .row_labels = rows};
    npo_image image;
    assert_int_equal(npo_grid_draw(&options, pictures, &image), NPO_OK);
    assert_int_equal(image.width, 2 + 4 * 8 + 2 * 30);
    /* 3 letters fit over a column: "plain 1.5" breaks into "pla", "in", "1.5". */
    assert_int_equal(image.height, 2 + 3 * 12 + 2 * 30);
    int ink = 0;
    for (int y = 0; y < 2 + 3 * 12; y++)
        for (int x = 0; x < image.width; x++)
            ink += at(&image, x, y) == 0;
    assert_true(ink > 40);
    assert_int_equal(at(&image, 2 + 4 * 8, 2 + 3 * 12), 128);
    npo_image_fini(&image);
}

static void test_grid_refuses_bad_options(void **state)
{
    float x = 0;
    npo_image image;
    npo_grid_options good = {
        .columns = 1, .rows = 1, .width = 1, .height = 1, .channels = 1, .zoom = 1};
    npo_grid_options bad[6];
    for (int i = 0; i < 6; i++)
        bad[i] = good;
    bad[0].columns = 0;
    bad[1].rows = 0;
    bad[2].zoom = 0;
    bad[3].columns = NPO_IMAGE_SIDE_MAX + 1;
    bad[4].gap = -1;
    bad[5].channels = 2;
    for (int i = 0; i < 6; i++)
        assert_int_equal(npo_grid_draw(&bad[i], &x, &image), NPO_E_RANGE);
}

static void test_grid_columns_is_ceil_sqrt(void **state)
{
    const int expected[][2] = {{0, 1}, {1, 1}, {2, 2}, {4, 2}, {5, 3}, {9, 3}, {10, 4}, {100, 10}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        assert_int_equal(npo_grid_columns(expected[i][0]), expected[i][1]);
}

static void test_font_draws_and_clips(void **state)
{
    npo_image image;
    assert_int_equal(npo_image_init(&image, 6, 5, 1, 255), NPO_OK);
    npo_font_draw(&image, 0, 0, 1, 0, "lt", 2);
    const char expected[5][7] = {"#...##", "#....#", "#....#", "#....#", "###..#"};
    for (int y = 0; y < 5; y++)
        for (int x = 0; x < 6; x++)
            assert_int_equal(at(&image, x, y) == 0, expected[y][x] == '#');
    npo_font_draw(&image, -100, -100, 3, 0, "A", 1);
    npo_font_draw(&image, 100, 100, 3, 0, "A", 1);
    npo_image_fini(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grid_places_and_zooms_pictures),
        cmocka_unit_test(test_grid_labels_take_room_and_leave_ink),
        cmocka_unit_test(test_grid_refuses_bad_options),
        cmocka_unit_test(test_grid_columns_is_ceil_sqrt),
        cmocka_unit_test(test_font_draws_and_clips),
    };
    return cmocka_run_group_tests_name("grid", tests, NULL, NULL);
}
