#include "kernels/dynamic_map.h"

#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { EXPONENT_BITS = 7, FRACTIONS_MAX = 128 };

static npo_dynamic_map maps[2]; /* unsigned, signed */
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Point i of torch.linspace(0.1, 1, count + 1): counted from the nearer end, rounded once. */
static float fraction_bound(int count, int i)
{
    float step = (1.0f - 0.1f) / (float)count;
    return (float)(i < (count + 1) / 2 ? (double)0.1f + (double)step * i
                                       : 1 - (double)step * (count - i));
}

static int compare_floats(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void fill_codes(npo_dynamic_map *map, bool is_signed)
{
    int n = 0;
    for (int exponent = 0; exponent < EXPONENT_BITS; exponent++) {
        int fractions = 1 << (is_signed ? exponent : exponent + 1);
        float scale = (float)pow(10, exponent - (EXPONENT_BITS - 1));
        for (int i = 0; i < fractions; i++) {
            float mean = (fraction_bound(fractions, i) + fraction_bound(fractions, i + 1)) / 2;
            map->code[n++] = scale * mean;
            if (is_signed)
                map->code[n++] = -scale * mean;
        }
    }
    map->code[n++] = 0;
    map->code[n++] = 1;
    qsort(map->code, (size_t)n, sizeof *map->code, compare_floats);
}

static void fill_bounds(npo_dynamic_map *map)
{
    for (int i = 0; i + 1 < NPO_DYNAMIC_CODES; i++) {
        double middle = ((double)map->code[i] + (double)map->code[i + 1]) / 2;
        float bound = (float)middle;
        map->bound[i] = (double)bound > middle ? nextafterf(bound, -2) : bound;
    }
    map->bound[NPO_DYNAMIC_CODES - 1] = INFINITY;
}

static void fill_buckets(npo_dynamic_map *map)
{
    int32_t code = map->zero;
    for (int32_t i = 0; i < NPO_DYNAMIC_BUCKETS; i++) {
        uint32_t bits = (uint32_t)(i + NPO_DYNAMIC_BUCKET_FIRST) << NPO_DYNAMIC_BUCKET_SHIFT;
        float least;
        memcpy(&least, &bits, sizeof least);
        while (least > map->bound[code])
            code++;
        map->first[i] = code;
    }
    map->first[0] = map->zero; /* holds everything below 2^-24 too */
}

static void build(void)
{
    for (int is_signed = 0; is_signed < 2; is_signed++) {
        npo_dynamic_map *map = &maps[is_signed];
        fill_codes(map, is_signed);
        for (map->zero = 0; map->code[map->zero] < 0;)
            map->zero++;
        map->mirrored_last = NPO_DYNAMIC_CODES - (is_signed ? 2 : 1);
        fill_bounds(map);
        fill_buckets(map);
    }
}

const npo_dynamic_map *npo_dynamic_map_signed(void)
{
    pthread_once(&once, build);
    return &maps[1];
}

const npo_dynamic_map *npo_dynamic_map_unsigned(void)
{
    pthread_once(&once, build);
    return &maps[0];
}
