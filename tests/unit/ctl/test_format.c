#include "tests/unit/cmocka.h"

#include "ctl/text/format.h"

#include <math.h>
#include <stdlib.h>

static void test_format_duration_chooses_the_unit(void **state)
{
    static const struct {
        double seconds;
        const char *text;
    } rows[] = {
        {0, "0.0 s"},      {0.44, "0.4 s"},   {9.94, "9.9 s"},    {9.96, "10 s"},
        {59.4, "59 s"},    {59.6, "1m00s"},   {185, "3m05s"},     {3599.6, "1h00m"},
        {7440, "2h04m"},   {86399, "23h59m"}, {86399.7, "1d00h"}, {86400, "1d00h"},
        {273600, "3d04h"}, {-1, "-"},         {NAN, "-"},         {INFINITY, "-"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[NPO_FORMAT_SIZE];
        npo_format_duration(rows[i].seconds, text);
        assert_string_equal(text, rows[i].text);
    }
}

static void test_format_bytes_chooses_the_unit(void **state)
{
    static const struct {
        double bytes;
        const char *text;
    } rows[] = {
        {0, "0 B"},
        {1023, "1023 B"},
        {1024, "1.0 KiB"},
        {1229, "1.2 KiB"},
        {10240, "10 KiB"},
        {1048063, "1023 KiB"},
        {1048575, "1.0 MiB"},
        {35651584, "34 MiB"},
        {1.5e12, "1.4 TiB"},
        {1e18, "888 PiB"},
        {-1, "-"},
        {NAN, "-"},
        {INFINITY, "-"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[NPO_FORMAT_SIZE];
        npo_format_bytes(rows[i].bytes, text);
        assert_string_equal(text, rows[i].text);
    }
}

static void test_format_rate_and_loss(void **state)
{
    char text[NPO_FORMAT_SIZE];
    npo_format_rate(412.3, text);
    assert_string_equal(text, "412/s");
    npo_format_rate(4.12, text);
    assert_string_equal(text, "4.1/s");
    npo_format_rate(0.0321, text);
    assert_string_equal(text, "0.032/s");
    npo_format_rate(0, text);
    assert_string_equal(text, "-");
    npo_format_rate(NAN, text);
    assert_string_equal(text, "-");
    npo_format_loss(0.0123449, text);
    assert_string_equal(text, "0.01234");
    npo_format_loss(1.23449e-5, text);
    assert_string_equal(text, "1.234e-05");
    npo_format_loss(NAN, text);
    assert_string_equal(text, "-");
}

static void test_format_time_is_local(void **state)
{
    char text[NPO_FORMAT_SIZE];
    setenv("TZ", "UTC", 1);
    npo_format_time(1769860805123, text);
    assert_string_equal(text, "2026-01-31 12:00:05");
    npo_format_time(0, text);
    assert_string_equal(text, "-");
}

static void test_text_width_counts_code_points(void **state)
{
    assert_int_equal(npo_text_width(""), 0);
    assert_int_equal(npo_text_width("abc"), 3);
    assert_int_equal(npo_text_width("Größe"), 5);
}

static void test_text_clean_cuts_and_removes_controls(void **state)
{
    static const struct {
        const char *text;
        size_t width;
        const char *clean;
    } rows[] = {
        {"plain", 0, "plain"},
        {"plain", 5, "plain"},
        {"longer text", 8, "longe..."},
        {"a\x1b[2Jb\nc", 0, "a [2Jb c"},
        {"Größen", 5, "Gr..."},
        {"abcdef", 3, "abc"},
        {"", 4, ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        npo_buf buf = NPO_BUF_INIT;
        npo_text_clean(&buf, rows[i].text, rows[i].width);
        assert_string_equal(buf.data ? buf.data : "", rows[i].clean);
        npo_buf_fini(&buf);
    }
}

static void test_text_bar_fills_with_the_share(void **state)
{
    static const struct {
        double done, total;
        size_t width;
        const char *bar;
    } rows[] = {
        {0, 10, 12, "[----------]"},  {5, 10, 12, "[#####-----]"},
        {10, 10, 12, "[##########]"}, {20, 10, 12, "[##########]"},
        {1, 0, 5, "[---]"},           {NAN, 10, 5, "[---]"},
        {-3, 10, 5, "[---]"},         {9.99, 10, 12, "[#########-]"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        npo_buf buf = NPO_BUF_INIT;
        npo_text_bar(&buf, rows[i].done, rows[i].total, rows[i].width);
        assert_string_equal(buf.data, rows[i].bar);
        npo_buf_fini(&buf);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_format_duration_chooses_the_unit),
        cmocka_unit_test(test_format_bytes_chooses_the_unit),
        cmocka_unit_test(test_format_rate_and_loss),
        cmocka_unit_test(test_format_time_is_local),
        cmocka_unit_test(test_text_width_counts_code_points),
        cmocka_unit_test(test_text_clean_cuts_and_removes_controls),
        cmocka_unit_test(test_text_bar_fills_with_the_share),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
