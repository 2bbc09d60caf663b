/* The endless shuffled order in which training goes through a dataset: epoch after epoch, each in
 * an order of its own that depends on (seed, epoch, count) alone. */
#ifndef NPO_WORKER_DATA_ORDER_H
#define NPO_WORKER_DATA_ORDER_H

#include "common/err.h"
#include <stdint.h>

typedef struct npo_order npo_order;

/* count: images, 1 .. 2^28 - 1. Errors: NPO_E_RANGE, NPO_E_NOMEM. */
npo_err npo_order_new(uint64_t seed, int64_t count, npo_order **ret_order) NPO_MUST_CHECK;
void npo_order_free(npo_order *order);
/* The image at position 0, 1, ... of the order; each epoch of `count` positions has every image
 * once. Positions of one epoch together are cheap, a change of epoch shuffles anew. */
int64_t npo_order_at(npo_order *order, int64_t position);

#endif
