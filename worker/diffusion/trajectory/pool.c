#include "worker/diffusion/trajectory/pool.h"

#include "worker/diffusion/trajectory/shard.h"

#include <assert.h>
#include <string.h>

#define COLUMN(member, type, ...)                                                                  \
    {                                                                                              \
        .name = #member, .dtype = NPO_TENSOR_##type, .offset = offsetof(npo_pool, member),         \
        __VA_ARGS__                                                                                \
    }

static const npo_shard_column columns[] = {
    COLUMN(slot, I64, .max = UINT32_MAX),
    COLUMN(index, I32, .min = NPO_POOL_FRESH, .max = INT32_MAX),
    COLUMN(lap, I32, .max = INT32_MAX - 1),
    COLUMN(segments, I32, .max = INT32_MAX - 1),
    COLUMN(prompt, I32, .min = -1, .max = INT32_MAX),
    COLUMN(x, F32),
    COLUMN(cut, F32, .optional = true),
};

static_assert(NPO_POOL_VERSION == 1, "the format below writes version 1");
static const npo_shard_format format = {"pool", "1", columns, sizeof columns / sizeof columns[0]};

static bool is_ascending(const int64_t *slots, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (slots[i] < 0 || slots[i] > UINT32_MAX || (i > 0 && slots[i] <= slots[i - 1]))
            return false;
    return true;
}

npo_err npo_pool_init(npo_pool *pool, npo_latent_shape shape, int64_t count, const int64_t *slots,
                      bool with_cut)
{
    *pool = (npo_pool){.shape = shape, .count = count};
    npo_err err = is_ascending(slots, count) ? NPO_OK : NPO_E_RANGE;
    if (!err)
        err = npo_shard_init(&format, shape, count, with_cut, pool);
    if (err) {
        npo_pool_fini(pool);
        return err;
    }
    for (int64_t i = 0; i < count; i++) {
        pool->slot[i] = slots[i];
        pool->index[i] = NPO_POOL_FRESH;
    }
    return NPO_OK;
}

void npo_pool_fini(npo_pool *pool)
{
    npo_shard_fini(&format, pool);
    pool->count = 0;
}

npo_err npo_pool_save(const npo_pool *pool, const char *path, npo_error *error)
{
    return npo_shard_save(&format, pool->shape, pool->count, pool, path, error);
}

npo_err npo_pool_load(const char *path, npo_latent_shape shape, npo_pool *ret_pool,
                      npo_error *error)
{
    npo_pool pool = {.shape = shape};
    NPO_TRY(npo_shard_load(&format, shape, path, &pool, &pool.count, error));
    if (!is_ascending(pool.slot, pool.count)) {
        npo_pool_fini(&pool);
        return npo_error_set(error, NPO_E_FORMAT, "cannot load '%s': slots are not ascending",
                             path);
    }
    *ret_pool = pool;
    return NPO_OK;
}

static void copy_row(npo_pool *to, int64_t row, const npo_pool *from, int64_t from_row)
{
    size_t floats = npo_latent_floats(to->shape);
    to->index[row] = from->index[from_row];
    to->lap[row] = from->lap[from_row];
    to->segments[row] = from->segments[from_row];
    to->prompt[row] = from->prompt[from_row];
    memcpy(to->x + (size_t)row * floats, from->x + (size_t)from_row * floats,
           floats * sizeof *to->x);
    if (to->cut)
        memcpy(to->cut + (size_t)row * floats, from->cut + (size_t)from_row * floats,
               floats * sizeof *to->cut);
}

static int64_t find_slot(const npo_pool *pool, int64_t slot)
{
    int64_t low = 0, high = pool->count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (pool->slot[middle] < slot)
            low = middle + 1;
        else
            high = middle;
    }
    return low < pool->count && pool->slot[low] == slot ? low : -1;
}

static npo_err gather_slot(const npo_pool *pools, int64_t pool_count, npo_pool *to, int64_t row,
                           npo_error *error)
{
    for (int64_t p = 0; p < pool_count; p++) {
        int64_t found = find_slot(&pools[p], to->slot[row]);
        if (found < 0)
            continue;
        copy_row(to, row, &pools[p], found);
        return NPO_OK;
    }
    return npo_error_set(error, NPO_E_NOT_FOUND,
                         "trajectory pool: slot %lld is in none of %lld shards",
                         (long long)to->slot[row], (long long)pool_count);
}

npo_err npo_pool_gather(const npo_pool *pools, int64_t pool_count, int64_t count,
                        const int64_t *slots, npo_pool *ret_pool, npo_error *error)
{
    assert(pool_count > 0);
    for (int64_t p = 1; p < pool_count; p++)
        if (memcmp(&pools[p].shape, &pools[0].shape, sizeof pools[0].shape) != 0 ||
            !pools[p].cut != !pools[0].cut)
            return npo_error_set(error, NPO_E_SHAPE,
                                 "trajectory pool: shards 0 and %lld differ in shape",
                                 (long long)p);
    npo_pool pool;
    npo_err err = npo_pool_init(&pool, pools[0].shape, count, slots, pools[0].cut != NULL);
    if (err)
        return npo_error_set(error, err, "trajectory pool: cannot gather %lld slots: %s",
                             (long long)count, npo_err_text(err));
    for (int64_t i = 0; !err && i < count; i++)
        err = gather_slot(pools, pool_count, &pool, i, error);
    if (err) {
        npo_pool_fini(&pool);
        return err;
    }
    *ret_pool = pool;
    return NPO_OK;
}
