/* Map from whole numbers (not 0) to pointers; open addressing. Borrows what it points to. */
#ifndef NPO_SERVER_MAP_H
#define NPO_SERVER_MAP_H

#include "common/err.h"
#include <stddef.h>
#include <stdint.h>

typedef struct {
    struct npo_map_slot {
        int64_t key; /* 0: free */
        void *value;
    } * slots;
    size_t count, cap; /* cap: a power of two, at least twice count; or 0 */
} npo_map;

void *npo_map_get(const npo_map *map, int64_t key); /* NULL: not there */
npo_err npo_map_put(npo_map *map, int64_t key, void *value) NPO_MUST_CHECK;
void npo_map_remove(npo_map *map, int64_t key);
void npo_map_fini(npo_map *map);
/* Walks in no particular order: for (size_t at = 0; (value = npo_map_next(map, &at));). The map
 * must not change meanwhile. */
void *npo_map_next(const npo_map *map, size_t *at);

#endif
