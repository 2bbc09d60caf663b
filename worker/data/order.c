#include "worker/data/order.h"
#include "common/rng.h"
#include <assert.h>
#include <stdlib.h>

struct npo_order {
    uint64_t seed;
    int64_t count;
    int64_t epoch;      /* of the permutation; -1: none yet */
    uint32_t *shuffled; /* [count] */
};

npo_err npo_order_new(uint64_t seed, int64_t count, npo_order **ret_order)
{
    if (count < 1 || count >= INT64_C(1) << 28)
        return NPO_E_RANGE;
    npo_order *order = calloc(1, sizeof *order);
    uint32_t *shuffled = calloc((size_t)count, sizeof *shuffled);
    if (!order || !shuffled) {
        free(order);
        free(shuffled);
        return NPO_E_NOMEM;
    }
    *order = (npo_order){seed, count, -1, shuffled};
    *ret_order = order;
    return NPO_OK;
}

void npo_order_free(npo_order *order)
{
    if (!order)
        return;
    free(order->shuffled);
    free(order);
}

int64_t npo_order_at(npo_order *order, int64_t position)
{
    assert(position >= 0);
    int64_t epoch = position / order->count;
    if (epoch != order->epoch) {
        npo_rng rng = npo_rng_stream(order->seed, NPO_RNG_DATA_ORDER, 0, (uint32_t)epoch);
        npo_rng_permutation(&rng, (uint32_t)order->count, order->shuffled);
        order->epoch = epoch;
    }
    return order->shuffled[position % order->count];
}
