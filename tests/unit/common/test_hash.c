#include "common/hash.h"

#include "common/file.h"
#include "tests/unit/cmocka.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* From xxHash's own implementation, by its Python binding. */
static void test_hash_matches_the_reference(void **state)
{
    char text[NPO_HASH_TEXT_SIZE];
    npo_hash hash = npo_hash_bytes("", 0);
    npo_hash_format(&hash, text);
    assert_string_equal(text, "99aa06d3014798d86001c324468d497f");
    hash = npo_hash_bytes("npo", 3);
    npo_hash_format(&hash, text);
    assert_string_equal(text, "fd52c68eef2080df79768aa32cceb805");
}

static void test_hash_parse_inverts_format(void **state)
{
    char text[NPO_HASH_TEXT_SIZE];
    npo_hash hash = npo_hash_bytes("x", 1), back;
    npo_hash_format(&hash, text);
    assert_int_equal(npo_hash_parse(text, &back), NPO_OK);
    assert_true(npo_hash_equal(&hash, &back));
}

static void test_hash_parse_refuses(void **state)
{
    npo_hash hash;
    static const char *const bad[] = {"", "00", "zz000000000000000000000000000000",
                                      "0000000000000000000000000000000000",
                                      "ABCDEF00000000000000000000000000"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(npo_hash_parse(bad[i], &hash), NPO_E_FORMAT);
}

static void test_hash_file_streams_like_bytes(void **state)
{
    char path[] = "/tmp/npo-test-XXXXXX";
    close(mkstemp(path));
    size_t len = (1 << 20) + 77;
    char *data = malloc(len);
    for (size_t i = 0; i < len; i++)
        data[i] = (char)(i * 31 + i / 257);
    assert_int_equal(npo_file_write(path, data, len, 0600, NULL), NPO_OK);
    npo_hash from_file, from_bytes = npo_hash_bytes(data, len);
    uint64_t size;
    assert_int_equal(npo_hash_file(path, &from_file, &size, NULL), NPO_OK);
    assert_int_equal(size, len);
    assert_true(npo_hash_equal(&from_file, &from_bytes));
    unlink(path);
    npo_error error = {0};
    assert_int_equal(npo_hash_file(path, &from_file, &size, &error), NPO_E_NOT_FOUND);
    assert_non_null(strstr(error.text, path));
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hash_matches_the_reference),
        cmocka_unit_test(test_hash_parse_inverts_format),
        cmocka_unit_test(test_hash_parse_refuses),
        cmocka_unit_test(test_hash_file_streams_like_bytes),
    };
    return cmocka_run_group_tests_name("hash", tests, NULL, NULL);
}
