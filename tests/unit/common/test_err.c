#include "common/err.h"

#include "tests/unit/cmocka.h"

#include <errno.h>
#include <string.h>

static void test_err_names_round_trip(void **state)
{
    for (int i = 0; i < NPO_E_COUNT; i++)
        assert_int_equal(npo_err_from_name(npo_err_name((npo_err)i)), i);
}

static void test_err_unknown_name_is_library(void **state)
{
    assert_int_equal(npo_err_from_name("NO_SUCH"), NPO_E_LIBRARY);
    assert_string_equal(npo_err_name((npo_err)999), "UNKNOWN");
}

static void test_err_errno_maps_disk_full(void **state)
{
    assert_int_equal(npo_err_from_errno(ENOSPC), NPO_E_FULL);
    assert_int_equal(npo_err_from_errno(EADDRINUSE), NPO_E_BUSY);
    assert_int_equal(npo_err_from_errno(EPIPE), NPO_E_IO);
}

static void test_err_set_accepts_null(void **state)
{
    assert_int_equal(npo_error_set(NULL, NPO_E_SHAPE, "x"), NPO_E_SHAPE);
    assert_int_equal(npo_error_prefix(NULL, NPO_E_SHAPE, "x"), NPO_E_SHAPE);
}

static void test_err_prefix_keeps_code_and_sentence(void **state)
{
    npo_error error = {0};
    npo_error_set(&error, NPO_E_SHAPE, "shape [%d]", 3);
    assert_int_equal(npo_error_prefix(&error, NPO_E_IO, "cannot load '%s'", "w"), NPO_E_SHAPE);
    assert_string_equal(error.text, "cannot load 'w': shape [3]");
}

static void test_err_prefix_of_empty_uses_code(void **state)
{
    npo_error error = {0};
    assert_int_equal(npo_error_prefix(&error, NPO_E_IO, "disk"), NPO_E_IO);
    assert_string_equal(error.text, "disk: input/output error");
}

static void test_err_long_sentences_are_cut(void **state)
{
    npo_error error = {0};
    char text[2 * NPO_ERROR_TEXT_MAX];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\0';
    npo_error_set(&error, NPO_E_IO, "%s", text);
    npo_error_prefix(&error, NPO_E_IO, "%s", text);
    npo_error_errno(&error, ENOSPC, "%s", text);
    assert_int_equal(strlen(error.text), NPO_ERROR_TEXT_MAX - 1);
    assert_int_equal(error.code, NPO_E_FULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_err_names_round_trip),
        cmocka_unit_test(test_err_unknown_name_is_library),
        cmocka_unit_test(test_err_errno_maps_disk_full),
        cmocka_unit_test(test_err_set_accepts_null),
        cmocka_unit_test(test_err_prefix_keeps_code_and_sentence),
        cmocka_unit_test(test_err_prefix_of_empty_uses_code),
        cmocka_unit_test(test_err_long_sentences_are_cut),
    };
    return cmocka_run_group_tests_name("err", tests, NULL, NULL);
}
