#include "tests/unit/model/support.h"

#include "common/json.h"

#include <unistd.h>

enum { FLOATS = 1000, TENSORS = 4, SHARD_BYTES = 8500 };

static float values[TENSORS][FLOATS];

/* Tensors of 4000, 4000, 2000 and 4000 bytes: two shards of SHARD_BYTES, or four of a byte. */
static void make_sources(npo_tensor_source *ret_sources)
{
    static const char *const names[TENSORS] = {"d", "c", "b", "a"};
    for (int i = 0; i < TENSORS; i++) {
        for (int k = 0; k < FLOATS; k++)
            values[i][k] = (float)(i * FLOATS + k);
        ret_sources[i] = (npo_tensor_source){.name = names[i],
                                             .dtype = i == 2 ? NPO_TENSOR_F16 : NPO_TENSOR_F32,
                                             .ndim = 1,
                                             .dims = {FLOATS},
                                             .data = values[i]};
    }
}

static npo_err write_shards(const char *name, uint64_t shard_bytes, npo_error *ret_error)
{
    static const npo_tensor_metadata format = {"format", "pt"};
    npo_tensor_source sources[TENSORS];
    make_sources(sources);
    return npo_safetensors_write_shards(scratch_path(name), sources, TENSORS, &format, 1,
                                        shard_bytes, ret_error);
}

static void check_index(const char *name, const char *const *shards)
{
    cJSON *json;
    npo_safetensors *file;
    assert_ok(npo_json_load(scratch_path(name), 10000, &json, &error));
    const cJSON *metadata = cJSON_GetObjectItem(json, "metadata");
    const cJSON *map = cJSON_GetObjectItem(json, "weight_map");
    assert_float_equal(npo_json_number(metadata, "total_size", 0), 14000, 0);
    assert_int_equal(cJSON_GetArraySize(map), TENSORS);
    for (int i = 0; i < TENSORS; i++)
        assert_string_equal(npo_json_string(map, (const char *[]){"d", "c", "b", "a"}[i], ""),
                            shards[i]);
    cJSON_Delete(json);
    assert_ok(npo_safetensors_open(scratch_path(name), &file, &error));
    assert_string_equal(npo_safetensors_metadata(file, "format"), "pt");
    const npo_tensor *a = npo_safetensors_find(file, "a");
    assert_memory_equal(a->data, values[3], a->bytes);
    npo_safetensors_close(file);
}

static void test_shards_are_cut_and_named_as_diffusers_does(void **state)
{
    static const char *const two[] = {
        "w-00001-of-00002.safetensors", "w-00001-of-00002.safetensors",
        "w-00002-of-00002.safetensors", "w-00002-of-00002.safetensors"};
    static const char *const four[] = {
        "w.fp16-00001-of-00004.safetensors", "w.fp16-00002-of-00004.safetensors",
        "w.fp16-00003-of-00004.safetensors", "w.fp16-00004-of-00004.safetensors"};
    scratch_text("w.safetensors", "an older file");
    assert_ok(write_shards("w.safetensors", SHARD_BYTES, &error));
    check_index("w.safetensors.index.json", two);
    assert_false(npo_file_exists(scratch_path("w.safetensors")));
    assert_ok(write_shards("w.fp16.safetensors", 1, &error)); /* a tensor a shard at least */
    check_index("w.safetensors.index.fp16.json", four);
}

static void test_shards_are_one_file_where_that_is_enough(void **state)
{
    npo_safetensors *file;
    assert_ok(write_shards("one.safetensors", 14000, &error));
    assert_false(npo_file_exists(scratch_path("one.safetensors.index.json")));
    assert_ok(npo_safetensors_open(scratch_path("one.safetensors"), &file, &error));
    assert_int_equal(npo_safetensors_count(file), TENSORS);
    npo_safetensors_close(file);
}

/* The second shard's writes go to a full disk: neither shard nor index stays. */
static void test_shards_of_a_failed_write_are_removed(void **state)
{
    char part[80];
    if (!npo_file_exists("/dev/full"))
        skip();
    snprintf(part, sizeof part, "f-00002-of-00002.safetensors.%d.part", (int)getpid());
    assert_int_equal(symlink("/dev/full", scratch_path(part)), 0);
    assert_fails(NPO_E_FULL, "f-00002-of-00002.safetensors",
                 write_shards("f.safetensors", SHARD_BYTES, &error));
    assert_false(npo_file_exists(scratch_path("f-00001-of-00002.safetensors")));
    assert_false(npo_file_exists(scratch_path("f-00002-of-00002.safetensors")));
    assert_false(npo_file_exists(scratch_path("f.safetensors.index.json")));
    assert_fails(NPO_E_NOT_FOUND, "none/f-00001-of-00002.safetensors",
                 write_shards("none/f.safetensors", SHARD_BYTES, &error));
}

/* ---- values that are made, and copied, while they are written ---- */

static npo_err count_up(void *user, size_t first, size_t n, float *ret_values, npo_error *error)
{
    size_t *next = user;
    assert_int_equal(first, *next);
    *next += n;
    for (size_t i = 0; i < n; i++)
        ret_values[i] = (float)((first + i) % 2000);
    return NPO_OK;
}

static npo_err run_dry(void *user, size_t first, size_t n, float *ret_values, npo_error *error)
{
    return npo_error_set(error, NPO_E_REFUSED, "no values");
}

static void test_shards_of_made_values(void **state)
{
    enum { COUNT = 100000 };
    for (int dtype = NPO_TENSOR_F16; dtype <= NPO_TENSOR_F32; dtype++) {
        size_t next = 0;
        npo_safetensors *file;
        npo_tensor_source source = {.name = "made",
                                    .dtype = (npo_tensor_dtype)dtype,
                                    .ndim = 2,
                                    .dims = {2, COUNT / 2},
                                    .fill = count_up,
                                    .user = &next};
        if (dtype == NPO_TENSOR_I32)
            continue;
        assert_ok(
            npo_safetensors_write(scratch_path("made.safetensors"), &source, 1, NULL, 0, &error));
        assert_int_equal(next, COUNT);
        assert_ok(npo_safetensors_open(scratch_path("made.safetensors"), &file, &error));
        float *read = malloc(COUNT * sizeof *read);
        npo_tensor_read_f32(npo_safetensors_at(file, 0), 0, COUNT, read);
        for (int i = 0; i < COUNT; i++)
            assert_float_equal(read[i], (float)(i % 2000), dtype == NPO_TENSOR_BF16 ? 4 : 0);
        free(read);
        npo_safetensors_close(file);
        source.fill = run_dry;
        assert_fails(
            NPO_E_REFUSED, "no values",
            npo_safetensors_write(scratch_path("dry.safetensors"), &source, 1, NULL, 0, &error));
        assert_false(npo_file_exists(scratch_path("dry.safetensors")));
    }
}

static void test_shards_of_copied_tensors(void **state)
{
    npo_safetensors *file, *copy;
    npo_tensor_source sources[16] = {0};
    assert_ok(npo_safetensors_open(GOLDEN("unit/safetensors/mixed.safetensors"), &file, &error));
    size_t count = npo_safetensors_count(file);
    for (size_t i = 0; i < count; i++) {
        const npo_tensor *t = npo_safetensors_at(file, i);
        sources[i] = (npo_tensor_source){.name = t->name, .dtype = t->dtype, .ndim = t->ndim};
        memcpy(sources[i].dims, t->dims, sizeof t->dims);
        sources[i].from = t;
    }
    assert_ok(
        npo_safetensors_write(scratch_path("copy.safetensors"), sources, count, NULL, 0, &error));
    assert_ok(npo_safetensors_open(scratch_path("copy.safetensors"), &copy, &error));
    for (size_t i = 0; i < count; i++) {
        const npo_tensor *a = npo_safetensors_at(file, i), *b = npo_safetensors_at(copy, i);
        assert_string_equal(a->name, b->name);
        assert_int_equal(a->bytes, b->bytes);
        assert_memory_equal(a->data, b->data, a->bytes);
    }
    npo_safetensors_close(copy);
    npo_safetensors_close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shards_are_cut_and_named_as_diffusers_does),
        cmocka_unit_test(test_shards_are_one_file_where_that_is_enough),
        cmocka_unit_test(test_shards_of_a_failed_write_are_removed),
        cmocka_unit_test(test_shards_of_made_values),
        cmocka_unit_test(test_shards_of_copied_tensors),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
