#include "common/buf.h"

#include "tests/unit/cmocka.h"

#include <stdlib.h>
#include <string.h>

static void test_buf_grows_and_stays_terminated(void **state)
{
    npo_buf buf = NPO_BUF_INIT;
    for (int i = 0; i < 1000; i++)
        npo_buf_printf(&buf, "%d,", i);
    assert_int_equal(npo_buf_err(&buf), NPO_OK);
    assert_int_equal(strlen(buf.data), buf.len);
    assert_memory_equal(buf.data, "0,1,2,", 6);
    npo_buf_fini(&buf);
}

static void test_buf_limit_is_sticky(void **state)
{
    npo_buf buf;
    npo_buf_init(&buf, 4);
    npo_buf_str(&buf, "abcd");
    assert_int_equal(npo_buf_err(&buf), NPO_OK);
    npo_buf_str(&buf, "e");
    assert_int_equal(npo_buf_err(&buf), NPO_E_LIMIT);
    npo_buf_str(&buf, "");
    assert_string_equal(buf.data, "abcd");
    assert_null(npo_buf_take(&buf));
    npo_buf_clear(&buf);
    assert_int_equal(npo_buf_err(&buf), NPO_OK);
    npo_buf_fini(&buf);
}

static void test_buf_huge_request_is_refused(void **state)
{
    npo_buf buf = NPO_BUF_INIT;
    assert_null(npo_buf_reserve(&buf, SIZE_MAX));
    assert_int_equal(npo_buf_err(&buf), NPO_E_LIMIT);
    npo_buf_clear(&buf);
    assert_null(npo_buf_reserve(&buf, SIZE_MAX / 4));
    assert_int_equal(npo_buf_err(&buf), NPO_E_NOMEM);
    npo_buf_fini(&buf);
}

static void test_buf_take_hands_over(void **state)
{
    npo_buf buf = NPO_BUF_INIT;
    npo_buf_add(&buf, "a\0b", 3);
    char *data = npo_buf_take(&buf);
    assert_memory_equal(data, "a\0b", 4);
    assert_null(buf.data);
    free(data);
    npo_buf_fini(&buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_buf_grows_and_stays_terminated),
        cmocka_unit_test(test_buf_limit_is_sticky),
        cmocka_unit_test(test_buf_huge_request_is_refused),
        cmocka_unit_test(test_buf_take_hands_over),
    };
    return cmocka_run_group_tests_name("buf", tests, NULL, NULL);
}
