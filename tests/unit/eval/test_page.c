#include "worker/eval/page/page.h"

#include "tests/unit/cmocka.h"
#include "tests/unit/eval/cells.h"
#include "worker/eval/page/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static size_t count_of(const char *text, const char *part)
{
    size_t count = 0;
    for (const char *at = strstr(text, part); at; at = strstr(at + 1, part))
        count++;
    return count;
}

static void assert_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("the page lacks: %s", part);
}

static void test_page_is_self_contained_and_honest(void **state)
{
    npo_page_picture picture = {"scale 2", "\x89PNG", 4};
    npo_offset_block blocks[] = {{"conv_in", 0.02}, {"zero_block", NAN}};
    npo_results results = {.title = "A & B",
                           .settings = "{\"name\": \"<demo>\"}",
                           .real_samples = 100,
                           .cells = cells,
                           .cell_count = CELL_COUNT,
                           .offset_total = 0.01,
                           .blocks = blocks,
                           .block_count = 2};
    npo_buf buf = NPO_BUF_INIT;
    npo_page_write(&results, &picture, 1, &buf);
    assert_int_equal(npo_buf_err(&buf), NPO_OK);
    assert_has(buf.data, "<title>A &amp; B</title>");
    assert_has(buf.data, "data:image/png;base64,iVBORw==\"");
    assert_has(buf.data, "&lt;demo&gt;");
    assert_has(buf.data, "Scale 3: <span class=\"bad\">plain guidance</span> has the smaller mean "
                         "distance, 12.00 against 13.00");
    assert_has(buf.data, "Scale 2: <span class=\"good\">Self-NPO</span> has the smaller mean "
                         "distance, 8.25 against 9.00");
    assert_has(buf.data, "Seed 1: best distance 7.00 with Self-NPO (scale 2, beta 1) against 8.00 "
                         "with plain guidance (scale 2), 12.5 % less.");
    assert_has(buf.data, "1.000 % of the base");
    assert_has(buf.data, "among 4 settings of Self-NPO and 3 of plain guidance");
    assert_null(strstr(buf.data, "zero_block"));
    assert_int_equal(count_of(buf.data, "<tr><td>"), CELL_COUNT);
    assert_int_equal(count_of(buf.data, "<svg"), 3);
    assert_int_equal(count_of(buf.data, "http"), 0); /* nothing is fetched */
    assert_int_equal(count_of(buf.data, "<script"), 0);
    assert_int_equal(count_of(buf.data, "<td class=\"best\">"), 4);
    npo_buf_fini(&buf);
}

static void test_page_of_nothing_is_still_a_page(void **state)
{
    npo_results results = {.title = "empty", .offset_total = NAN};
    npo_buf buf = NPO_BUF_INIT;
    npo_page_write(&results, NULL, 0, &buf);
    assert_int_equal(npo_buf_err(&buf), NPO_OK);
    assert_has(buf.data, "no values");
    assert_has(buf.data, "</html>");
    npo_buf_fini(&buf);
}

static void test_chart_places_points(void **state)
{
    npo_chart_point points[] = {{0, 0, 0, 0}, {1, NAN, NAN, NAN}, {2, 10, 5, 10}};
    npo_chart_series series = {"a<b", 3, true, points, 3};
    npo_chart chart = {"title", "x", false, NAN, &series, 1};
    npo_buf buf = NPO_BUF_INIT;
    npo_chart_draw(&chart, &buf);
    /* The drawing is 560 x 320 with margins 56, 16, 16, 44. */
    assert_has(buf.data, "points=\"56.0,276.0 544.0,16.0 \"");
    assert_has(buf.data, "points=\"56.0,276.0 544.0,16.0 544.0,146.0 56.0,276.0 \"");
    assert_has(buf.data, "class=\"line series-3 dashed\"");
    assert_has(buf.data, "a&lt;b");
    assert_int_equal(count_of(buf.data, "<circle"), 2);
    assert_null(strstr(buf.data, "nan"));
    npo_buf_fini(&buf);
}

static void test_chart_of_equal_values_has_room(void **state)
{
    npo_chart_point points[] = {{1, 4, 4, 4}};
    npo_chart_series series = {"s", 0, false, points, 1};
    npo_chart chart = {"title", "x", true, 0.5, &series, 1};
    npo_buf buf = NPO_BUF_INIT;
    npo_chart_draw(&chart, &buf);
    assert_has(buf.data, "class=\"mark\"");
    assert_null(strstr(buf.data, "inf"));
    assert_null(strstr(buf.data, "nan"));
    npo_buf_fini(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_page_is_self_contained_and_honest),
        cmocka_unit_test(test_page_of_nothing_is_still_a_page),
        cmocka_unit_test(test_chart_places_points),
        cmocka_unit_test(test_chart_of_equal_values_has_room),
    };
    return cmocka_run_group_tests_name("page", tests, NULL, NULL);
}
