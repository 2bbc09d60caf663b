#include "worker/diffusion/trajectory/pool.h"

#include "common/file.h"
#include "tests/unit/cmocka.h"
#include "worker/model/files/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const npo_latent_shape shape = {2, 3, 1};
enum { ROWS = 3, FLOATS = 6 };

static char dir[64], path[128], other[128];

static int make_dir(void **state)
{
    strcpy(dir, "/tmp/npo-shard-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof path, "%s/a.safetensors", dir);
    snprintf(other, sizeof other, "%s/b.safetensors", dir);
    return 0;
}

static int remove_dir(void **state)
{
    return npo_file_remove(dir, NULL) == NPO_OK ? 0 : -1;
}

static void fill_pool(npo_pool *pool, bool with_cut)
{
    static const int64_t slots[ROWS] = {4, 9, (int64_t)UINT32_MAX};
    assert_int_equal(npo_pool_init(pool, shape, ROWS, slots, with_cut), NPO_OK);
    for (int i = 0; i < ROWS; i++) {
        assert_int_equal(pool->index[i], NPO_POOL_FRESH);
        pool->index[i] = i == 0 ? NPO_POOL_ARRIVED : 7 * i;
        pool->lap[i] = i;
        pool->segments[i] = 10 + i;
        pool->prompt[i] = i - 1;
        for (int k = 0; k < FLOATS; k++)
            pool->x[i * FLOATS + k] = (float)(i + k) / 3;
        for (int k = 0; with_cut && k < FLOATS; k++)
            pool->cut[i * FLOATS + k] = (float)(i - k) / 7;
    }
}

static void assert_same_pool(const npo_pool *a, const npo_pool *b)
{
    assert_int_equal(a->count, b->count);
    assert_memory_equal(a->slot, b->slot, (size_t)a->count * sizeof *a->slot);
    assert_memory_equal(a->index, b->index, (size_t)a->count * sizeof *a->index);
    assert_memory_equal(a->lap, b->lap, (size_t)a->count * sizeof *a->lap);
    assert_memory_equal(a->segments, b->segments, (size_t)a->count * sizeof *a->segments);
    assert_memory_equal(a->prompt, b->prompt, (size_t)a->count * sizeof *a->prompt);
    assert_memory_equal(a->x, b->x, (size_t)a->count * FLOATS * sizeof *a->x);
    assert_true(!a->cut == !b->cut);
    if (a->cut)
        assert_memory_equal(a->cut, b->cut, (size_t)a->count * FLOATS * sizeof *a->cut);
}

static void assert_same_file(const char *a, const char *b)
{
    npo_buf x = NPO_BUF_INIT, y = NPO_BUF_INIT;
    assert_int_equal(npo_file_read(a, 1 << 20, &x, NULL), NPO_OK);
    assert_int_equal(npo_file_read(b, 1 << 20, &y, NULL), NPO_OK);
    assert_int_equal(x.len, y.len);
    assert_memory_equal(x.data, y.data, x.len);
    npo_buf_fini(&x);
    npo_buf_fini(&y);
}

static void test_shard_pool_survives_a_round_trip(void **state)
{
    for (int with_cut = 0; with_cut < 2; with_cut++) {
        npo_pool pool, back;
        npo_error error = {0};
        fill_pool(&pool, with_cut);
        assert_int_equal(npo_pool_save(&pool, path, &error), NPO_OK);
        assert_int_equal(npo_pool_load(path, shape, &back, &error), NPO_OK);
        assert_same_pool(&pool, &back);
        assert_int_equal(npo_pool_save(&back, other, &error), NPO_OK);
        assert_same_file(path, other);
        npo_pool_fini(&pool);
        npo_pool_fini(&back);
    }
}

static void test_shard_empty_pool_survives_a_round_trip(void **state)
{
    npo_pool pool, back;
    npo_error error = {0};
    assert_int_equal(npo_pool_init(&pool, shape, 0, NULL, false), NPO_OK);
    assert_int_equal(npo_pool_save(&pool, path, &error), NPO_OK);
    assert_int_equal(npo_pool_load(path, shape, &back, &error), NPO_OK);
    assert_int_equal(back.count, 0);
    npo_pool_fini(&pool);
    npo_pool_fini(&back);
}

static void test_shard_segment_survives_a_round_trip(void **state)
{
    npo_segment segment, back;
    npo_error error = {0};
    assert_int_equal(npo_segment_init(&segment, shape, ROWS), NPO_OK);
    for (int i = 0; i < ROWS; i++) {
        segment.slot[i] = 3 * i;
        segment.lap[i] = i;
        segment.prompt[i] = -1 + i;
        segment.t_cut[i] = 40 * i;
        for (int k = 0; k < FLOATS; k++) {
            segment.x_cut[i * FLOATS + k] = (float)k;
            segment.x0_target[i * FLOATS + k] = (float)-k;
        }
    }
    assert_int_equal(npo_segment_save(&segment, path, &error), NPO_OK);
    assert_int_equal(npo_segment_load(path, shape, &back, &error), NPO_OK);
    assert_int_equal(back.count, ROWS);
    assert_memory_equal(back.slot, segment.slot, ROWS * sizeof *back.slot);
    assert_memory_equal(back.lap, segment.lap, ROWS * sizeof *back.lap);
    assert_memory_equal(back.prompt, segment.prompt, ROWS * sizeof *back.prompt);
    assert_memory_equal(back.t_cut, segment.t_cut, ROWS * sizeof *back.t_cut);
    assert_memory_equal(back.x_cut, segment.x_cut, ROWS * FLOATS * sizeof *back.x_cut);
    assert_memory_equal(back.x0_target, segment.x0_target, ROWS * FLOATS * sizeof *back.x0_target);
    assert_int_equal(npo_segment_find(&back, 6), 2);
    assert_int_equal(npo_segment_find(&back, 7), -1);
    npo_segment_fini(&segment);
    npo_segment_fini(&back);
}

static void test_shard_pool_refuses_wrong_slots(void **state)
{
    static const int64_t rows[][2] = {{1, 1}, {2, 1}, {-1, 3}, {0, (int64_t)UINT32_MAX + 1}};
    npo_pool pool;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(npo_pool_init(&pool, shape, 2, rows[i], false), NPO_E_RANGE);
    const npo_latent_shape huge = {INT64_C(1) << 30, INT64_C(1) << 30, 16};
    static const int64_t slots[2] = {0, 1};
    assert_int_equal(npo_pool_init(&pool, huge, 2, slots, false), NPO_E_RANGE);
}

static void test_shard_gathers_slots_of_several_pools(void **state)
{
    static const int64_t low[2] = {0, 3}, high[2] = {1, 2}, wanted[3] = {1, 2, 3}, absent[1] = {7};
    npo_pool pools[2], all;
    npo_error error = {0};
    assert_int_equal(npo_pool_init(&pools[0], shape, 2, low, false), NPO_OK);
    assert_int_equal(npo_pool_init(&pools[1], shape, 2, high, false), NPO_OK);
    for (int p = 0; p < 2; p++)
        for (int i = 0; i < 2; i++) {
            pools[p].lap[i] = (int32_t)pools[p].slot[i] * 10;
            pools[p].x[i * FLOATS] = (float)pools[p].slot[i];
        }
    assert_int_equal(npo_pool_gather(pools, 2, 3, wanted, &all, &error), NPO_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(all.slot[i], wanted[i]);
        assert_int_equal(all.lap[i], wanted[i] * 10);
        assert_true(all.x[i * FLOATS] == (float)wanted[i]);
    }
    npo_pool_fini(&all);
    assert_int_equal(npo_pool_gather(pools, 2, 1, absent, &all, &error), NPO_E_NOT_FOUND);
    assert_non_null(strstr(error.text, "7"));
    pools[1].shape.width++;
    assert_int_equal(npo_pool_gather(pools, 2, 3, wanted, &all, &error), NPO_E_SHAPE);
    npo_pool_fini(&pools[0]);
    npo_pool_fini(&pools[1]);
}

/* ---- files that are not right ---- */

/* The tensors of a right pool of one row; each case below spoils one thing. */
typedef struct {
    npo_tensor_source tensors[7];
    size_t count;
    npo_tensor_metadata metadata[2];
    int64_t slot[2];
    int32_t index, lap, segments, prompt;
    float x[2 * FLOATS];
} pool_file;

static void fill_file(pool_file *file)
{
    *file = (pool_file){.count = 6, .slot = {5, 6}, .index = 3};
    const int64_t n = 1;
    const npo_tensor_source tensors[] = {
        {"slot", NPO_TENSOR_I64, 1, {n}, file->slot},
        {"index", NPO_TENSOR_I32, 1, {n}, &file->index},
        {"lap", NPO_TENSOR_I32, 1, {n}, &file->lap},
        {"segments", NPO_TENSOR_I32, 1, {n}, &file->segments},
        {"prompt", NPO_TENSOR_I32, 1, {n}, &file->prompt},
        {"x", NPO_TENSOR_F32, 4, {n, shape.height, shape.width, shape.channels}, file->x},
    };
    memcpy(file->tensors, tensors, sizeof tensors);
    file->metadata[0] = (npo_tensor_metadata){"npo", "pool"};
    file->metadata[1] = (npo_tensor_metadata){"version", "1"};
}

static npo_err load_spoilt(const pool_file *file, npo_error *error)
{
    npo_pool pool;
    assert_int_equal(
        npo_safetensors_write(path, file->tensors, file->count, file->metadata, 2, error), NPO_OK);
    npo_err err = npo_pool_load(path, shape, &pool, error);
    if (!err)
        npo_pool_fini(&pool);
    else
        assert_non_null(strstr(error->text, path));
    return err;
}

static void test_shard_load_refuses_spoilt_files(void **state)
{
    npo_error error = {0};
    pool_file file;
    fill_file(&file);
    assert_int_equal(load_spoilt(&file, &error), NPO_OK);
    file.metadata[0].value = "segment";
    assert_int_equal(load_spoilt(&file, &error), NPO_E_FORMAT);
    fill_file(&file);
    file.metadata[1].value = "2";
    assert_int_equal(load_spoilt(&file, &error), NPO_E_VERSION);
    fill_file(&file);
    file.metadata[1].key = "other";
    assert_int_equal(load_spoilt(&file, &error), NPO_E_VERSION);
    fill_file(&file);
    file.count = 5; /* no x */
    assert_int_equal(load_spoilt(&file, &error), NPO_E_NOT_FOUND);
    assert_non_null(strstr(error.text, "'x'"));
    fill_file(&file);
    file.tensors[6] = (npo_tensor_source){"extra", NPO_TENSOR_I32, 1, {1}, &file.lap};
    file.count = 7;
    assert_int_equal(load_spoilt(&file, &error), NPO_E_FORMAT);
    assert_non_null(strstr(error.text, "extra"));
    fill_file(&file);
    file.tensors[5].dims[2]++;
    file.tensors[5].dims[1]--;
    assert_int_equal(load_spoilt(&file, &error), NPO_E_SHAPE);
    assert_non_null(strstr(error.text, "[1,1,4,1], expected [1,2,3,1]"));
    fill_file(&file);
    file.tensors[0].dims[0] = 2;
    assert_int_equal(load_spoilt(&file, &error), NPO_E_SHAPE);
    fill_file(&file);
    file.tensors[1].dtype = NPO_TENSOR_F32;
    assert_int_equal(load_spoilt(&file, &error), NPO_E_TYPE);
}

static void test_shard_load_refuses_values_out_of_range(void **state)
{
    npo_error error = {0};
    pool_file file;
    fill_file(&file);
    file.index = -3;
    assert_int_equal(load_spoilt(&file, &error), NPO_E_RANGE);
    assert_non_null(strstr(error.text, "'index' holds -3, expected -2"));
    fill_file(&file);
    file.slot[0] = (int64_t)1 << 32;
    assert_int_equal(load_spoilt(&file, &error), NPO_E_RANGE);
    fill_file(&file);
    file.lap = -1;
    assert_int_equal(load_spoilt(&file, &error), NPO_E_RANGE);
    fill_file(&file);
    file.x[FLOATS - 1] = NAN;
    assert_int_equal(load_spoilt(&file, &error), NPO_E_RANGE);
    assert_non_null(strstr(error.text, "not finite"));
}

static void test_shard_load_refuses_unordered_slots(void **state)
{
    npo_pool pool;
    npo_error error = {0};
    static const int64_t slots[2] = {1, 2};
    assert_int_equal(npo_pool_init(&pool, shape, 2, slots, false), NPO_OK);
    pool.slot[1] = 0;
    assert_int_equal(npo_pool_save(&pool, path, &error), NPO_OK);
    npo_pool_fini(&pool);
    assert_int_equal(npo_pool_load(path, shape, &pool, &error), NPO_E_FORMAT);
}

static void test_shard_load_refuses_files_that_are_none(void **state)
{
    npo_pool pool;
    npo_segment segment;
    npo_error error = {0};
    assert_int_equal(npo_file_write(path, "garbage", 7, 0600, &error), NPO_OK);
    assert_int_equal(npo_pool_load(path, shape, &pool, &error), NPO_E_FORMAT);
    assert_int_equal(npo_segment_load(path, shape, &segment, &error), NPO_E_FORMAT);
    assert_int_equal(npo_file_remove(path, &error), NPO_OK);
    assert_int_equal(npo_pool_load(path, shape, &pool, &error), NPO_E_NOT_FOUND);
    assert_int_equal(npo_segment_load(path, shape, &segment, &error), NPO_E_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shard_pool_survives_a_round_trip),
        cmocka_unit_test(test_shard_empty_pool_survives_a_round_trip),
        cmocka_unit_test(test_shard_segment_survives_a_round_trip),
        cmocka_unit_test(test_shard_pool_refuses_wrong_slots),
        cmocka_unit_test(test_shard_gathers_slots_of_several_pools),
        cmocka_unit_test(test_shard_load_refuses_spoilt_files),
        cmocka_unit_test(test_shard_load_refuses_values_out_of_range),
        cmocka_unit_test(test_shard_load_refuses_unordered_slots),
        cmocka_unit_test(test_shard_load_refuses_files_that_are_none),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
