#include "tests/unit/model/support.h"

#include "worker/model/text/unicode.h"
#include "common/utf8.h"

/* Code points, 0 behind the last. Expected values: Unicode's NormalizationTest and chapter 3. */
static const struct {
    uint32_t from[8], to[8];
} normal_forms[] = {
    {{'a', 'b'}, {'a', 'b'}},
    {{'e', 0x301}, {0xE9}},
    {{0xE9}, {0xE9}},
    {{0x1E0A, 0x323}, {0x1E0C, 0x307}}, /* marks change places */
    {{'D', 0x307, 0x323}, {0x1E0C, 0x307}},
    {{'a', 0x315, 0x300, 0x5AE, 'b'}, {0xE0, 0x5AE, 0x315, 'b'}},
    {{0x212B}, {0xC5}},        /* a singleton does not come back */
    {{0x958}, {0x915, 0x93C}}, /* nor an excluded composition */
    {{0x1100, 0x1161}, {0xAC00}},
    {{0x1100, 0x1161, 0x11A8}, {0xAC01}},
    {{0xAC00, 0x11A8}, {0xAC01}},
    {{0xAC00, 0x11A7}, {0xAC00, 0x11A7}}, /* not a trailing consonant */
    {{0xAC01, 0x11A8}, {0xAC01, 0x11A8}},
    {{0x1FB3, 0x301}, {0x1FB4}},
    {{0x391, 0x313, 0x301, 0x345}, {0x1F8C}},
    {{0x301, 'e'}, {0x301, 'e'}}, /* nothing to compose with */
    {{'e', 0x327, 0x301}, {0x229, 0x301}},
    {{0x1E1D}, {0x1E1D}},
    {{'q', 0x307, 0x323}, {'q', 0x323, 0x307}},
    {{0x1D15E}, {0x1D157, 0x1D165}},
};

static void test_unicode_normalises_to_nfc(void **state)
{
    for (size_t i = 0; i < sizeof normal_forms / sizeof *normal_forms; i++) {
        npo_codepoints text = {0};
        size_t count = 0;
        for (const uint32_t *cp = normal_forms[i].from; *cp; cp++)
            assert_int_equal(npo_codepoints_add(&text, *cp), NPO_OK);
        assert_int_equal(npo_unicode_nfc(&text), NPO_OK);
        while (normal_forms[i].to[count])
            count++;
        assert_int_equal(text.count, count);
        assert_memory_equal(text.at, normal_forms[i].to, count * sizeof *text.at);
        npo_codepoints_fini(&text);
    }
}

static void test_unicode_lowers(void **state)
{
    static const uint32_t pairs[][2] = {
        {'A', 'a'},       {'a', 'a'},       {'[', '['},       {0x178, 0xFF},      {0x100, 0x101},
        {0x101, 0x101},   {0x3A3, 0x3C3},   {0x1E9E, 0xDF},   {0x10400, 0x10428}, {0x212A, 'k'},
        {0x13A0, 0xAB70}, {0x1C89, 0x1C8A}, {0x4E00, 0x4E00},
    };
    uint32_t lower[2];
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        assert_int_equal(npo_unicode_lower(pairs[i][0], lower), 1);
        assert_int_equal(lower[0], pairs[i][1]);
    }
    assert_int_equal(npo_unicode_lower(0x130, lower), 2);
    assert_int_equal(lower[0], 'i');
    assert_int_equal(lower[1], 0x307);
}

static void test_unicode_knows_classes(void **state)
{
    static const uint32_t letters[] = {'a', 'Z', 0xAA, 0xB5, 0x3B1, 0x4E00, 0x1D400, 0x323AF};
    static const uint32_t numbers[] = {'0', '9', 0xB2, 0xBD, 0x660, 0x2460, 0x3007, 0x1FBF9};
    static const uint32_t spaces[] = {' ', '\t', '\n', 0x85, 0xA0, 0x2003, 0x3000};
    static const uint32_t others[] = {'!', '_', 0x1C, 0x300, 0x200B, 0x1F600, 0xE000, 0x10FFFF};
    for (size_t i = 0; i < 8; i++) {
        assert_true(npo_unicode_is_letter(letters[i]) && !npo_unicode_is_number(letters[i]));
        assert_true(npo_unicode_is_number(numbers[i]) && !npo_unicode_is_letter(numbers[i]));
        assert_false(npo_unicode_is_letter(others[i]) || npo_unicode_is_number(others[i]) ||
                     npo_unicode_is_space(others[i]));
    }
    for (size_t i = 0; i < 7; i++)
        assert_true(npo_unicode_is_space(spaces[i]));
}

static void test_utf8_round_trips_every_scalar(void **state)
{
    for (uint32_t cp = 0; cp < 0x110000; cp++) {
        char bytes[4];
        if (cp >= 0xD800 && cp <= 0xDFFF)
            continue;
        const char *at = bytes, *end = bytes + npo_utf8_encode(cp, bytes);
        assert_int_equal(npo_utf8_decode(&at, end), cp);
        assert_ptr_equal(at, end);
    }
}

/* Each with the number of bytes that one replacement character stands for. */
static void test_utf8_refuses_malformed_bytes(void **state)
{
    static const struct {
        const char *bytes;
        size_t len, skipped;
    } cases[] = {
        {"\x80", 1, 1},
        {"\xC0\x80", 2, 1},
        {"\xC1\xBF", 2, 1},
        {"\xE0\x80\x80", 3, 1},
        {"\xED\xA0\x80", 3, 1},
        {"\xF0\x80\x80\x80", 4, 1},
        {"\xF4\x90\x80\x80", 4, 1},
        {"\xF5\x80", 2, 1},
        {"\xFF", 1, 1},
        {"\xC3", 1, 1},
        {"\xE2\x82", 2, 2},
        {"\xE2\x82"
         "a",
         3, 2},
        {"\xF0\x9F\x98", 3, 3},
        {"\xF0\x9F"
         "a",
         3, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *at = cases[i].bytes;
        assert_int_equal(npo_utf8_decode(&at, at + cases[i].len), NPO_UTF8_INVALID);
        assert_int_equal(at - cases[i].bytes, cases[i].skipped);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unicode_normalises_to_nfc),
        cmocka_unit_test(test_unicode_lowers),
        cmocka_unit_test(test_unicode_knows_classes),
        cmocka_unit_test(test_utf8_round_trips_every_scalar),
        cmocka_unit_test(test_utf8_refuses_malformed_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
