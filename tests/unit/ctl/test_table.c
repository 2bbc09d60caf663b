#include "tests/unit/cmocka.h"

#include "ctl/text/table.h"

static const npo_table_column columns[] = {
    {"JOB", true}, {"NAME", false}, {"LOSS", true}, {"REASON", false}};

#define ADD(table, ...) npo_table_add(table, (const char *const[]){__VA_ARGS__})

static void expect(npo_table *table, size_t width, const char *text)
{
    npo_buf buf = NPO_BUF_INIT;
    assert_int_equal(npo_table_print(table, width, &buf), NPO_OK);
    assert_string_equal(buf.data, text);
    npo_buf_fini(&buf);
    npo_table_free(table);
}

static void test_table_aligns_columns(void **state)
{
    npo_table *table = npo_table_new(columns, 4);
    ADD(table, "1", "first", "0.5", "because");
    ADD(table, "12", "Größe", "0.25", NULL);
    assert_int_equal(npo_table_rows(table), 2);
    expect(table, 0,
           "JOB  NAME   LOSS  REASON\n"
           "  1  first   0.5  because\n"
           " 12  Größe  0.25\n");
}

static void test_table_leaves_out_empty_columns(void **state)
{
    npo_table *table = npo_table_new(columns, 4);
    ADD(table, "1", "a", "", "");
    ADD(table, "2", "b", NULL, "");
    expect(table, 0, "JOB  NAME\n  1  a\n  2  b\n");
}

static void test_table_cuts_the_last_column(void **state)
{
    npo_table *table = npo_table_new(columns, 4);
    ADD(table, "1", "name", "0.5", "a long reason that does not fit");
    expect(table, 30, "JOB  NAME  LOSS  REASON\n  1  name   0.5  a long rea...\n");
    table = npo_table_new(columns, 4);
    ADD(table, "1", "name", "0.5", "a long reason that does not fit");
    expect(table, 5, "JOB  NAME  LOSS  REASON\n  1  name   0.5  a lon...\n");
}

static void test_table_cuts_the_widest_text_next(void **state)
{
    npo_table *table = npo_table_new(columns, 4);
    ADD(table, "1", "a name that is much too long", "0.5", "a long reason");
    expect(table, 32, "JOB  NAME         LOSS  REASON\n  1  a name t...   0.5  a lon...\n");
}

static void test_table_removes_control_characters(void **state)
{
    npo_table *table = npo_table_new(columns, 4);
    ADD(table, "1", "a\x1b[31m\nb", "x", "y");
    expect(table, 0, "JOB  NAME      LOSS  REASON\n  1  a [31m b     x  y\n");
}

static void test_table_grows(void **state)
{
    npo_table *table = npo_table_new(columns, 1);
    npo_buf buf = NPO_BUF_INIT;
    for (int i = 0; i < 100; i++)
        ADD(table, "7");
    assert_int_equal(npo_table_print(table, 0, &buf), NPO_OK);
    assert_int_equal(buf.len, 101 * 4);
    npo_buf_fini(&buf);
    npo_table_free(table);
    npo_table_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_aligns_columns),
        cmocka_unit_test(test_table_leaves_out_empty_columns),
        cmocka_unit_test(test_table_cuts_the_last_column),
        cmocka_unit_test(test_table_cuts_the_widest_text_next),
        cmocka_unit_test(test_table_removes_control_characters),
        cmocka_unit_test(test_table_grows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
