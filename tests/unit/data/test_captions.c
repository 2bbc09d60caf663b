#include "worker/data/captions.h"

#include "tests/unit/data/scratch.h"

static npo_err load(const char *text, npo_captions *captions, npo_error *error)
{
    scratch_write("captions.jsonl", text, strlen(text));
    return npo_captions_load(scratch_path("captions.jsonl"), captions, error);
}

static void test_captions_reads_lines(void **state)
{
    npo_captions captions;
    assert_int_equal(load("{\"file\": \"a.png\", \"caption\": \"one\"}\n\n \r\n"
                          "{\"file\": \"b/..c.png\", \"caption\": \"\"}",
                          &captions, NULL),
                     NPO_OK);
    assert_int_equal(captions.count, 2);
    assert_string_equal(captions.files[0], "a.png");
    assert_string_equal(captions.captions[0], "one");
    assert_string_equal(captions.files[1], "b/..c.png");
    assert_string_equal(captions.captions[1], "");
    npo_captions_fini(&captions);
}

static void test_captions_names_the_bad_line(void **state)
{
    static const struct {
        const char *text, *part;
        npo_err err;
    } cases[] = {
        {"", "has no line", NPO_E_FORMAT},
        {"\n\n", "has no line", NPO_E_FORMAT},
        {"{\"file\": \"a\", \"caption\": \"b\"}\n{\"file\": \"a\"}", "line 2", NPO_E_USAGE},
        {"{\"file\": \"a\", \"caption\": 3}", "line 1", NPO_E_TYPE},
        {"{\"file\": \"a\", \"captoin\": \"b\"}", "caption", NPO_E_USAGE},
        {"{\"file\": \"a\"", "line 1", NPO_E_FORMAT},
        {"{\"file\": \"/etc/a\", \"caption\": \"b\"}", "below the folder", NPO_E_REFUSED},
        {"{\"file\": \"../a\", \"caption\": \"b\"}", "below the folder", NPO_E_REFUSED},
        {"{\"file\": \"a/../../b\", \"caption\": \"b\"}", "below the folder", NPO_E_REFUSED},
        {"{\"file\": \"a/..\", \"caption\": \"b\"}", "below the folder", NPO_E_REFUSED},
        {"{\"file\": \"\", \"caption\": \"b\"}", "below the folder", NPO_E_REFUSED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        npo_captions captions;
        npo_error error = {0};
        npo_err err = load(cases[i].text, &captions, &error);
        if (err != cases[i].err || !strstr(error.text, cases[i].part))
            fail_msg("case %zu: %s: %s", i, npo_err_name(err), error.text);
    }
}

static void test_captions_many_lines(void **state)
{
    npo_buf buf = NPO_BUF_INIT;
    for (int i = 0; i < 1000; i++)
        npo_buf_printf(&buf, "{\"file\": \"%d.png\", \"caption\": \"c%d\"}\n", i, i % 7);
    npo_captions captions;
    assert_int_equal(load(buf.data, &captions, NULL), NPO_OK);
    assert_int_equal(captions.count, 1000);
    assert_string_equal(captions.files[999], "999.png");
    npo_captions_fini(&captions);
    npo_buf_fini(&buf);
}

static void test_captions_reports_missing_file(void **state)
{
    npo_captions captions;
    assert_int_equal(npo_captions_load(scratch_path("none.jsonl"), &captions, NULL),
                     NPO_E_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_captions_reads_lines),
        cmocka_unit_test(test_captions_names_the_bad_line),
        cmocka_unit_test(test_captions_many_lines),
        cmocka_unit_test(test_captions_reports_missing_file),
    };
    return cmocka_run_group_tests_name("captions", tests, scratch_setup, scratch_teardown);
}
