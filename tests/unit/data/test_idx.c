#include "worker/data/idx.h"

#include "tests/unit/data/scratch.h"

static const uint8_t small[] = {0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6};

static void check_small(const char *name)
{
    npo_idx idx;
    assert_int_equal(npo_idx_load(scratch_path(name), 2, &idx, NULL), NPO_OK);
    assert_int_equal(idx.ndim, 2);
    assert_int_equal(idx.dims[0], 2);
    assert_int_equal(idx.dims[1], 3);
    assert_int_equal(idx.count, 6);
    assert_memory_equal(idx.data, small + 12, 6);
    npo_idx_fini(&idx);
}

static void test_idx_reads_plain_and_gzip(void **state)
{
    scratch_write("plain", small, sizeof small);
    scratch_write_gz("packed.gz", small, sizeof small);
    check_small("plain");
    check_small("packed.gz");
}

static void expect(const void *data, size_t len, npo_err err, const char *part)
{
    npo_idx idx;
    npo_error error = {0};
    scratch_write("bad", data, len);
    assert_int_equal(npo_idx_load(scratch_path("bad"), 2, &idx, &error), err);
    if (!strstr(error.text, part))
        fail_msg("'%s' lacks '%s'", error.text, part);
}

static void test_idx_refuses_every_prefix(void **state)
{
    for (size_t len = 0; len < sizeof small; len++)
        expect(small, len, NPO_E_FORMAT, "ends early");
}

static void test_idx_refuses_other_files(void **state)
{
    uint8_t bytes[sizeof small + 1] = {0};
    memcpy(bytes, small, sizeof small);
    expect(bytes, sizeof bytes, NPO_E_FORMAT, "bytes behind the 6");
    bytes[2] = 0x0d;
    expect(bytes, sizeof small, NPO_E_FORMAT, "found header 00 00 0d 02, expected");
    bytes[2] = 8;
    bytes[3] = 3;
    expect(bytes, sizeof small, NPO_E_FORMAT, "2 dimensions");
    bytes[3] = 2;
    bytes[7] = 0;
    expect(bytes, sizeof small, NPO_E_FORMAT, "dimension 0 is 0");
    memset(bytes + 4, 0xff, 8);
    expect(bytes, sizeof small, NPO_E_LIMIT, "asks for more");
    static const char gzip[] = "\x1f\x8b\x08\0\0\0\0\0\0\3garbage, not deflate";
    expect(gzip, sizeof gzip, NPO_E_FORMAT, "cannot read");
}

static void test_idx_refuses_a_damaged_gzip(void **state)
{
    scratch_write_gz("whole.gz", small, sizeof small);
    npo_buf buf = NPO_BUF_INIT;
    assert_int_equal(npo_file_read(scratch_path("whole.gz"), 1000, &buf, NULL), NPO_OK);
    buf.data[buf.len - 6] ^= 1; /* its checksum */
    expect(buf.data, buf.len, NPO_E_FORMAT, "cannot read");
    npo_buf_fini(&buf);
}

static void test_idx_reports_missing_file(void **state)
{
    npo_idx idx;
    npo_error error = {0};
    assert_int_equal(npo_idx_load(scratch_path("none"), 2, &idx, &error), NPO_E_NOT_FOUND);
    assert_non_null(strstr(error.text, "none"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_idx_reads_plain_and_gzip),
        cmocka_unit_test(test_idx_refuses_every_prefix),
        cmocka_unit_test(test_idx_refuses_other_files),
        cmocka_unit_test(test_idx_refuses_a_damaged_gzip),
        cmocka_unit_test(test_idx_reports_missing_file),
    };
    return cmocka_run_group_tests_name("idx", tests, scratch_setup, scratch_teardown);
}
