#include "server/map.h"

#include <assert.h>
#include <stdlib.h>

static size_t home(const npo_map *map, int64_t key)
{
    uint64_t mixed = (uint64_t)key * 0x9e3779b97f4a7c15u;
    return (size_t)(mixed >> 32) & (map->cap - 1);
}

/* The slot of key, or the free slot where it belongs. cap > 0. */
static struct npo_map_slot *find(const npo_map *map, int64_t key)
{
    size_t at = home(map, key);
    while (map->slots[at].key != 0 && map->slots[at].key != key)
        at = (at + 1) & (map->cap - 1);
    return &map->slots[at];
}

void *npo_map_get(const npo_map *map, int64_t key)
{
    return map->cap > 0 && key != 0 ? find(map, key)->value : NULL;
}

static npo_err grow(npo_map *map)
{
    npo_map bigger = {.cap = map->cap ? map->cap * 2 : 16, .count = map->count};
    bigger.slots = calloc(bigger.cap, sizeof *bigger.slots);
    if (!bigger.slots)
        return NPO_E_NOMEM;
    for (size_t i = 0; i < map->cap; i++)
        if (map->slots[i].key != 0)
            *find(&bigger, map->slots[i].key) = map->slots[i];
    free(map->slots);
    *map = bigger;
    return NPO_OK;
}

npo_err npo_map_put(npo_map *map, int64_t key, void *value)
{
    assert(key != 0 && value);
    if ((map->count + 1) * 2 > map->cap)
        NPO_TRY(grow(map));
    struct npo_map_slot *slot = find(map, key);
    map->count += slot->key == 0;
    *slot = (struct npo_map_slot){key, value};
    return NPO_OK;
}

void npo_map_remove(npo_map *map, int64_t key)
{
    if (map->cap == 0)
        return;
    size_t hole = (size_t)(find(map, key) - map->slots), mask = map->cap - 1;
    if (map->slots[hole].key == 0)
        return;
    map->count--;
    /* Later ones of the same run move up where that brings them nearer to their home. */
    for (size_t at = (hole + 1) & mask; map->slots[at].key != 0; at = (at + 1) & mask) {
        size_t distance = (at - home(map, map->slots[at].key)) & mask;
        if (distance >= ((at - hole) & mask)) {
            map->slots[hole] = map->slots[at];
            hole = at;
        }
    }
    map->slots[hole] = (struct npo_map_slot){0};
}

void npo_map_fini(npo_map *map)
{
    free(map->slots);
    *map = (npo_map){0};
}

void *npo_map_next(const npo_map *map, size_t *at)
{
    while (*at < map->cap) {
        struct npo_map_slot *slot = &map->slots[(*at)++];
        if (slot->key != 0)
            return slot->value;
    }
    return NULL;
}
