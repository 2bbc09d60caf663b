/* The 256 codes of 8-bit optimizer state: a small float of a decimal exponent and a fraction whose
 * bits trade places, over -1..1 (signed) or 0..1. A block of values is stored as one code each,
 * times the block's largest magnitude.
 * Source: bitsandbytes, functional.create_dynamic_map (max_exponent_bits 7, total_bits 8); "8-Bit
 * Optimizers via Block-wise Quantization", arXiv 2110.02861. */
#ifndef NPO_KERNELS_DYNAMIC_MAP_H
#define NPO_KERNELS_DYNAMIC_MAP_H

#include <stdint.h>

enum {
    NPO_DYNAMIC_CODES = 256,
    NPO_DYNAMIC_BLOCK = 256, /* values that share one largest magnitude */
    /* A magnitude's bucket is its exponent and its first seven bits behind the point, which one
     * boundary between codes at most cuts: 24 binades below 1, and 1 itself. */
    NPO_DYNAMIC_BUCKET_SHIFT = 23 - 7,
    NPO_DYNAMIC_BUCKETS = 24 * 128 + 1,
    NPO_DYNAMIC_BUCKET_FIRST = (127 - 24) * 128, /* of 2^-24; all below is nearest to zero */
};

/* A magnitude's nearest code: first[bucket], and the next where it lies above bound[that]. Of a
 * signed map the negative codes mirror the positive ones around zero, but for 1, which has none. */
typedef struct {
    float code[NPO_DYNAMIC_CODES];  /* rising */
    float bound[NPO_DYNAMIC_CODES]; /* largest float not nearer to the next code */
    int32_t first[NPO_DYNAMIC_BUCKETS];
    int32_t zero;          /* the code of 0 */
    int32_t mirrored_last; /* the largest code that has a negative one */
} npo_dynamic_map;

/* Built at first use; any thread. */
const npo_dynamic_map *npo_dynamic_map_signed(void);
const npo_dynamic_map *npo_dynamic_map_unsigned(void);

#endif
