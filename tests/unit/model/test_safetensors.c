#include "tests/unit/model/support.h"

#include "common/buf.h"

#include <unistd.h>

/* ---- files of other hands ---- */

/* Writes header text and `data` zero bytes behind it. */
static const char *write_file(const char *header, size_t data)
{
    npo_buf buf = NPO_BUF_INIT;
    uint64_t len = strlen(header);
    npo_buf_add(&buf, &len, 8); /* little endian, as the machines the tests run on */
    npo_buf_str(&buf, header);
    for (size_t i = 0; i < data; i++)
        npo_buf_add(&buf, "", 1);
    assert_int_equal(npo_buf_err(&buf), NPO_OK);
    scratch_write("t.safetensors", buf.data, buf.len);
    npo_buf_fini(&buf);
    return scratch_path("t.safetensors");
}

#define T(dtype, shape, offsets)                                                                   \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static const struct {
    const char *header;
    size_t data;
    npo_err code;
    const char *sentence;
} hostile[] = {
    {"", 0, NPO_E_FORMAT, "header ends at byte 0, expected '{'"},
    {" {}", 0, NPO_E_FORMAT, "header byte 0: found '?', expected '{'"},
    {"[]", 0, NPO_E_FORMAT, "found '[', expected '{'"},
    {"{", 0, NPO_E_FORMAT, "expected a tensor name"},
    {"{\"a", 0, NPO_E_FORMAT, "expected a closing"},
    {"{\"a\"", 0, NPO_E_FORMAT, "expected ':'"},
    {"{\"a\":1}", 0, NPO_E_FORMAT, "expected '{'"},
    {"{\"a\":{}}", 0, NPO_E_FORMAT, "expected dtype, shape or data_offsets"},
    {"{} x", 0, NPO_E_FORMAT, "expected only spaces behind the object"},
    {"{\"a\":" T("F32", "[1]", "[0,4]"), 4, NPO_E_FORMAT, "expected ',' or '}'"},
    {"{\"a\":" T("F32", "[1]", "[0,4]") ",}", 4, NPO_E_FORMAT, "expected a tensor name"},
    {"{\"\\ud800\":1}", 0, NPO_E_FORMAT, "expected printable UTF-8 text"},
    {"{\"a\xff\":1}", 0, NPO_E_FORMAT, "expected printable UTF-8 text"},
    {"{\"a\\n\":1}", 0, NPO_E_FORMAT, "expected printable UTF-8 text"},
    {"{\"a\\u0000\":1}", 0, NPO_E_FORMAT, "expected printable UTF-8 text"},
    {"{\"a\\q\":1}", 0, NPO_E_FORMAT, "expected printable UTF-8 text"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, NPO_E_FORMAT, "'a': expected dtype, shape"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", 4, NPO_E_FORMAT, "'a': second key 'dtype'"},
    {"{\"a\":{\"type\":\"F32\"}}", 4, NPO_E_FORMAT, "'a': unknown key 'type'"},
    {"{\"a\":" T("F8_E4M3", "[1]", "[0,1]") "}", 1, NPO_E_UNSUPPORTED, "'a': dtype 'F8_E4M3'"},
    {"{\"a\":" T("F32", "[-1]", "[0,4]") "}", 4, NPO_E_FORMAT, "expected a whole number"},
    {"{\"a\":" T("F32", "[1.5]", "[0,4]") "}", 4, NPO_E_FORMAT, "found '.', expected ',' or ']'"},
    {"{\"a\":" T("F32", "[99999999999999999999]", "[0,4]") "}", 4, NPO_E_FORMAT, "below 2^63"},
    {"{\"a\":" T("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, NPO_E_LIMIT,
     "'a': shape has more than 8 numbers"},
    {"{\"a\":" T("F32", "[4611686018427387904]", "[0,0]") "}", 0, NPO_E_FORMAT,
     "'a': shape is over 2^64 bytes"},
    {"{\"a\":" T("F32", "[2]", "[0,4]") "}", 4, NPO_E_FORMAT,
     "'a': data_offsets [0,4], expected 8 bytes for F32"},
    {"{\"a\":" T("F32", "[1]", "[4,0]") "}", 4, NPO_E_FORMAT, "'a': data_offsets [4,0]"},
    {"{\"a\":" T("F32", "[1]", "[4]") "}", 4, NPO_E_FORMAT, "'a': data_offsets has 1 numbers"},
    {"{\"a\":" T("F32", "[1]", "[0,4,8]") "}", 4, NPO_E_LIMIT, "more than 2 numbers"},
    {"{\"a\":" T("F32", "[2]", "[0,8]") "}", 7, NPO_E_FORMAT,
     "'a' ends at byte 8, found only 7 bytes of data"},
    {"{\"a\":" T("U8", "[2]", "[0,2]") ",\"b\":" T("F32", "[1]", "[2,6]") "}", 6, NPO_E_FORMAT,
     "'b': data begins at byte 2, expected a multiple of 4"},
    {"{\"a\":" T("F32", "[2]", "[0,8]") ",\"b\":" T("F32", "[1]", "[4,8]") "}", 8, NPO_E_FORMAT,
     "'b' begins at byte 4, inside 'a', which ends at 8"},
    {"{\"a\":" T("F32", "[1]", "[0,4]") ",\"b\":" T("F32", "[1]", "[8,12]") "}", 12, NPO_E_FORMAT,
     "'b' begins at byte 8, expected 4: the bytes between belong to no tensor"},
    {"{\"a\":" T("F32", "[1]", "[4,8]") "}", 8, NPO_E_FORMAT, "'a' begins at byte 4, expected 0"},
    {"{\"a\":" T("F32", "[1]", "[0,4]") "}", 8, NPO_E_FORMAT,
     "found 8 bytes of data, expected 4 by the header"},
    {"{\"a\":" T("F32", "[1]", "[0,4]") ",\"a\":" T("F32", "[1]", "[4,8]") "}", 8, NPO_E_FORMAT,
     "tensor 'a' stands twice"},
    {"{\"__metadata__\":{\"k\":1}}", 0, NPO_E_FORMAT, "expected a metadata string"},
    {"{\"__metadata__\":[]}", 0, NPO_E_FORMAT, "expected '{'"},
    {"{\"__metadata__\":{\"k\":\"v\"},\"__metadata__\":{\"k\":\"v\"}}", 0, NPO_E_FORMAT,
     "'__metadata__' stands twice"},
};

static void test_safetensors_refuses_hostile_headers(void **state)
{
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        npo_safetensors *file = NULL;
        const char *path = write_file(hostile[i].header, hostile[i].data);
        assert_fails(hostile[i].code, hostile[i].sentence,
                     npo_safetensors_open(path, &file, &error));
        assert_fails(hostile[i].code, "t.safetensors'", npo_safetensors_open(path, &file, &error));
    }
}

static void test_safetensors_refuses_every_truncation(void **state)
{
    npo_file_map map;
    assert_ok(npo_file_map_open(GOLDEN("unit/safetensors/mixed.safetensors"), &map, &error));
    for (size_t len = 0; len < map.size; len++) {
        npo_safetensors *file = NULL;
        npo_error error = {0};
        scratch_write("t.safetensors", map.data, len);
        npo_err err = npo_safetensors_open(scratch_path("t.safetensors"), &file, &error);
        assert_int_equal(err, NPO_E_FORMAT);
        assert_non_null(strstr(error.text, "t.safetensors'"));
    }
    npo_file_map_close(&map);
}

/* Every byte of a header changed in turn is either refused or gives tensors within the file. */
static void test_safetensors_survives_changed_bytes(void **state)
{
    npo_file_map map;
    assert_ok(npo_file_map_open(GOLDEN("unit/safetensors/mixed.safetensors"), &map, &error));
    uint8_t *bytes = malloc(map.size);
    uint64_t header;
    memcpy(&header, map.data, 8);
    size_t refused = 0;
    for (size_t i = 0; i < 8 + header; i++) {
        npo_safetensors *file = NULL;
        memcpy(bytes, map.data, map.size);
        bytes[i] ^= (uint8_t)(1 + i % 7);
        scratch_write("t.safetensors", bytes, map.size);
        if (npo_safetensors_open(scratch_path("t.safetensors"), &file, NULL)) {
            refused++;
            continue;
        }
        for (size_t k = 0; k < npo_safetensors_count(file); k++) {
            float values[16];
            const npo_tensor *t = npo_safetensors_at(file, k);
            assert_true(t->count <= 16);
            npo_tensor_read_f32(t, 0, t->count, values);
        }
        npo_safetensors_close(file);
    }
    assert_true(refused > header / 2);
    free(bytes);
    npo_file_map_close(&map);
}

static void test_safetensors_refuses_absurd_header_lengths(void **state)
{
    static const struct {
        uint64_t len;
        npo_err code;
        const char *sentence;
    } lengths[] = {
        {UINT64_MAX, NPO_E_LIMIT, "expected at most 104857600"},
        {(uint64_t)101 << 20, NPO_E_LIMIT, "expected at most 104857600"},
        {5000, NPO_E_FORMAT, "found only 2 bytes behind its length"},
    };
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        uint8_t bytes[10] = {0};
        npo_safetensors *file = NULL;
        memcpy(bytes, &lengths[i].len, 8);
        scratch_write("t.safetensors", bytes, sizeof bytes);
        assert_fails(lengths[i].code, lengths[i].sentence,
                     npo_safetensors_open(scratch_path("t.safetensors"), &file, &error));
    }
}

static void test_safetensors_refuses_missing_files(void **state)
{
    npo_safetensors *file = NULL;
    assert_fails(NPO_E_NOT_FOUND, "none.safetensors'",
                 npo_safetensors_open(scratch_path("none.safetensors"), &file, &error));
    assert_fails(NPO_E_TYPE, "not a regular file",
                 npo_safetensors_open(scratch_dir, &file, &error));
}

/* ---- reading ---- */

static void check_f32(const npo_safetensors *file, const char *name, size_t count,
                      const float *expected)
{
    float values[16];
    const npo_tensor *t = npo_safetensors_find(file, name);
    assert_non_null(t);
    assert_int_equal(t->count, count);
    npo_tensor_read_f32(t, 0, count, values);
    assert_memory_equal(values, expected, count * sizeof *values);
}

static void test_safetensors_reads_every_dtype(void **state)
{
    npo_safetensors *file;
    int64_t whole[2];
    assert_ok(npo_safetensors_open(GOLDEN("unit/safetensors/mixed.safetensors"), &file, &error));
    assert_int_equal(npo_safetensors_count(file), 9);
    assert_string_equal(npo_safetensors_metadata(file, "format"), "pt");
    assert_null(npo_safetensors_metadata(file, "author"));
    check_f32(file, "bytes", 5, (float[]){0, 1, 2, 3, 4});
    check_f32(file, "half", 6, (float[]){1.5f, -2, 65504, 0x1p-24f, 0x1.998p-4f, -0.0f});
    check_f32(file, "brain", 3, (float[]){1, 3.140625f, -0x1.94p99f});
    check_f32(file, "float", 2, (float[]){0.1f, 2.5e-40f});
    check_f32(file, "scalar", 1, (float[]){4.25f});
    check_f32(file, "näme/“q”\\", 1, (float[]){1});
    npo_tensor_read_i64(npo_safetensors_find(file, "int"), 0, 2, whole);
    assert_int_equal(whole[0], -7);
    assert_int_equal(whole[1], INT32_MAX);
    npo_tensor_read_i64(npo_safetensors_find(file, "long"), 0, 2, whole);
    assert_int_equal(whole[0], (int64_t)1 << 40);
    assert_int_equal(whole[1], -1);
    npo_tensor_read_i64(npo_safetensors_find(file, "bytes"), 3, 2, whole);
    assert_int_equal(whole[1], 4);
    assert_int_equal(npo_safetensors_find(file, "none")->count, 0);
    assert_int_equal(npo_safetensors_find(file, "scalar")->ndim, 0);
    assert_null(npo_safetensors_find(file, "nothing"));
    npo_safetensors_close(file);
}

static void test_safetensors_reads_shards(void **state)
{
    npo_safetensors *file;
    assert_ok(npo_safetensors_open(GOLDEN("unit/safetensors/model.safetensors.index.json"), &file,
                                   &error));
    assert_int_equal(npo_safetensors_count(file), 3);
    assert_string_equal(npo_safetensors_at(file, 1)->name, "b");
    assert_string_equal(npo_safetensors_metadata(file, "format"), "pt");
    check_f32(file, "a", 6, (float[]){0, 1, 2, 3, 4, 5});
    check_f32(file, "b", 4, (float[]){2, 2, 2, 2});
    npo_safetensors_close(file);
}

static void test_safetensors_refuses_bad_indices(void **state)
{
    static const struct {
        const char *json, *sentence;
        npo_err code;
    } cases[] = {
        {"{}", "'weight_map' is missing", NPO_E_FORMAT},
        {"{\"weight_map\":{\"a\":1}}", "weight_map 'a': expected a file name", NPO_E_FORMAT},
        {"{\"weight_map\":{\"a\":\"../x\"}}", "shard '../x', expected a file name", NPO_E_FORMAT},
        {"{\"weight_map\":{\"a\":\"gone.safetensors\"}}", "gone.safetensors'", NPO_E_NOT_FOUND},
        {"{\"weight_map\":{\"z\":\"p.safetensors\"}}", "'z' is not in 'p.safetensors'",
         NPO_E_FORMAT},
        {"{\"weight_map\":{\"a\":\"p.safetensors\"}}", "lists 1 tensors, found 2", NPO_E_FORMAT},
        {"{\"weight_map\":{\"a\":\"p.safetensors\",\"c\":\"q.safetensors\"}}",
         "tensor 'a' is in two shards", NPO_E_FORMAT},
    };
    scratch_copy(GOLDEN("unit/safetensors/part-1.safetensors"), "p.safetensors");
    scratch_copy(GOLDEN("unit/safetensors/part-1.safetensors"), "q.safetensors");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        npo_safetensors *file = NULL;
        scratch_text("i.json", cases[i].json);
        assert_fails(cases[i].code, cases[i].sentence,
                     npo_safetensors_open(scratch_path("i.json"), &file, &error));
        assert_fails(cases[i].code, "i.json'",
                     npo_safetensors_open(scratch_path("i.json"), &file, &error));
    }
}

/* ---- writing ---- */

static void assert_same_file(const char *a, const char *b)
{
    npo_file_map x, y;
    assert_ok(npo_file_map_open(a, &x, &error));
    assert_ok(npo_file_map_open(b, &y, &error));
    assert_int_equal(x.size, y.size);
    assert_memory_equal(x.data, y.data, x.size);
    npo_file_map_close(&x);
    npo_file_map_close(&y);
}

/* What was read from the reference's file, written again in another order. */
static void test_safetensors_writes_the_reference_bytes(void **state)
{
    enum { MAX = 16 };
    static const npo_tensor_metadata format = {"format", "pt"};
    npo_safetensors *file;
    npo_tensor_source sources[MAX] = {0};
    float values[MAX][8];
    assert_ok(npo_safetensors_open(GOLDEN("unit/safetensors/mixed.safetensors"), &file, &error));
    size_t count = npo_safetensors_count(file);
    for (size_t i = 0; i < count; i++) {
        const npo_tensor *t = npo_safetensors_at(file, count - 1 - i);
        sources[i] = (npo_tensor_source){.name = t->name, .dtype = t->dtype, .ndim = t->ndim};
        memcpy(sources[i].dims, t->dims, sizeof t->dims);
        npo_tensor_read_f32(t, 0, t->count, values[i]);
        bool half = t->dtype == NPO_TENSOR_F16 || t->dtype == NPO_TENSOR_BF16;
        sources[i].data = half ? (const void *)values[i] : t->data;
    }
    assert_ok(
        npo_safetensors_write(scratch_path("w.safetensors"), sources, count, &format, 1, &error));
    assert_same_file(scratch_path("w.safetensors"), GOLDEN("unit/safetensors/mixed.safetensors"));
    npo_safetensors_close(file);
}

static void test_safetensors_escapes_names(void **state)
{
    float one = 1;
    npo_safetensors *file;
    npo_tensor_source source = {.name = "a\"b\\c", .dtype = NPO_TENSOR_F32, .data = &one};
    npo_tensor_metadata metadata[] = {{"k\n\x01", "v\t\"\b"}, {"k2", ""}};
    assert_ok(
        npo_safetensors_write(scratch_path("w.safetensors"), &source, 1, metadata, 2, &error));
    assert_ok(npo_safetensors_open(scratch_path("w.safetensors"), &file, &error));
    assert_non_null(npo_safetensors_find(file, "a\"b\\c"));
    assert_string_equal(npo_safetensors_metadata(file, "k\n\x01"), "v\t\"\b");
    assert_string_equal(npo_safetensors_metadata(file, "k2"), "");
    npo_safetensors_close(file);
}

static void test_safetensors_writes_an_empty_file(void **state)
{
    npo_safetensors *file;
    assert_ok(npo_safetensors_write(scratch_path("w.safetensors"), NULL, 0, NULL, 0, &error));
    assert_ok(npo_safetensors_open(scratch_path("w.safetensors"), &file, &error));
    assert_int_equal(npo_safetensors_count(file), 0);
    npo_safetensors_close(file);
}

static void test_safetensors_refuses_to_write(void **state)
{
    float values[] = {1, -70000};
    npo_tensor_source twice[] = {{.name = "a", .data = values, .dtype = NPO_TENSOR_F32},
                                 {.name = "a", .data = values, .dtype = NPO_TENSOR_F16}};
    npo_tensor_source large = {
        .name = "big", .dtype = NPO_TENSOR_F16, .ndim = 1, .dims = {2}, .data = values};
    const char *path = scratch_path("refused.safetensors");
    assert_fails(NPO_E_EXISTS, "tensor 'a' stands twice",
                 npo_safetensors_write(path, twice, 2, NULL, 0, &error));
    assert_fails(NPO_E_RANGE, "tensor 'big' holds -70000, expected at most 65504",
                 npo_safetensors_write(path, &large, 1, NULL, 0, &error));
    assert_false(npo_file_exists(path));
    large.dtype = NPO_TENSOR_BF16;
    assert_fails(
        NPO_E_NOT_FOUND, "none/x.safetensors",
        npo_safetensors_write(scratch_path("none/x.safetensors"), &large, 1, NULL, 0, &error));
    values[1] = INFINITY; /* what the network holds is what the file holds */
    large.dtype = NPO_TENSOR_F16;
    assert_ok(npo_safetensors_write(path, &large, 1, NULL, 0, &error));
}

static void test_safetensors_reports_a_full_disk(void **state)
{
    float *values = calloc(1 << 20, sizeof *values);
    npo_tensor_source source = {
        .name = "a", .dtype = NPO_TENSOR_F32, .ndim = 1, .dims = {1 << 20}, .data = values};
    if (!npo_file_exists("/dev/full"))
        skip();
    /* A writer renames its part over the target; a link as the part sends the writes to /dev/full.
     */
    char part[64];
    snprintf(part, sizeof part, "full.safetensors.%d.part", (int)getpid());
    assert_int_equal(symlink("/dev/full", scratch_path(part)), 0);
    assert_fails(
        NPO_E_FULL, "full.safetensors",
        npo_safetensors_write(scratch_path("full.safetensors"), &source, 1, NULL, 0, &error));
    assert_false(npo_file_exists(scratch_path("full.safetensors")));
    free(values);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_safetensors_refuses_hostile_headers),
        cmocka_unit_test(test_safetensors_refuses_every_truncation),
        cmocka_unit_test(test_safetensors_survives_changed_bytes),
        cmocka_unit_test(test_safetensors_refuses_absurd_header_lengths),
        cmocka_unit_test(test_safetensors_refuses_missing_files),
        cmocka_unit_test(test_safetensors_reads_every_dtype),
        cmocka_unit_test(test_safetensors_reads_shards),
        cmocka_unit_test(test_safetensors_refuses_bad_indices),
        cmocka_unit_test(test_safetensors_writes_the_reference_bytes),
        cmocka_unit_test(test_safetensors_escapes_names),
        cmocka_unit_test(test_safetensors_writes_an_empty_file),
        cmocka_unit_test(test_safetensors_refuses_to_write),
        cmocka_unit_test(test_safetensors_reports_a_full_disk),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
