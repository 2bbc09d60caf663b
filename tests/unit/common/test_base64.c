#include "common/base64.h"

#include "tests/unit/cmocka.h"

#include <string.h>

/* RFC 4648, section 10, and the two digits that differ between alphabets. */
static const struct {
    const char *bytes, *text;
} cases[] = {
    {"", ""},
    {"f", "Zg=="},
    {"fo", "Zm8="},
    {"foo", "Zm9v"},
    {"foob", "Zm9vYg=="},
    {"fooba", "Zm9vYmE="},
    {"foobar", "Zm9vYmFy"},
    {"\xfb\xff\xbf", "+/+/"},
};

static void test_base64_agrees_with_the_rfc(void **state)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        npo_buf text = NPO_BUF_INIT;
        char bytes[16];
        size_t len;
        npo_base64_encode(cases[i].bytes, strlen(cases[i].bytes), &text);
        assert_string_equal(text.data ? text.data : "", cases[i].text);
        assert_int_equal(npo_base64_decode(cases[i].text, bytes, sizeof bytes, &len), NPO_OK);
        assert_int_equal(len, strlen(cases[i].bytes));
        assert_memory_equal(bytes, cases[i].bytes, len);
        npo_buf_fini(&text);
    }
}

static void test_base64_refuses_what_it_would_not_write(void **state)
{
    static const char *const bad[] = {"Z",    "Zg",     "Zg=",  "Zg==Zg==", "Z===", "====", "Zh==",
                                      "Zm9=", "Zm9v\n", "Zm 9", "Zm-_",     "=Zg=", "Zg=v"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char bytes[16];
        size_t len;
        assert_int_equal(npo_base64_decode(bad[i], bytes, sizeof bytes, &len), NPO_E_FORMAT);
    }
}

static void test_base64_stops_at_the_buffer(void **state)
{
    char bytes[3] = {'x', 'x', 'x'};
    size_t len;
    assert_int_equal(npo_base64_decode("Zm9v", bytes, 2, &len), NPO_E_LIMIT);
    assert_int_equal(npo_base64_decode("Zm8=", bytes, 2, &len), NPO_OK);
    assert_int_equal(bytes[2], 'x');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base64_agrees_with_the_rfc),
        cmocka_unit_test(test_base64_refuses_what_it_would_not_write),
        cmocka_unit_test(test_base64_stops_at_the_buffer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
