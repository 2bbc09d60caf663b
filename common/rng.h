/* Random numbers by counter, not by state: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel
 * random numbers: as easy as 1, 2, 3", SC 2011). A draw is a function of (seed, purpose, slot, lap,
 * index) alone, so results do not depend on which worker drew it, in which order, or how often it
 * was retried.
 *
 *   key      = (seed low 32 bits, seed high 32 bits)
 *   counter  = (block, lap, slot, purpose), one word each; a block holds four 32-bit words
 *
 * so no two streams of one seed share a block. Gaussians are made with IEEE add, mul and sqrt only,
 * in a fixed order (build with contraction off): every instruction set gives the same bits. */
#ifndef NPO_COMMON_RNG_H
#define NPO_COMMON_RNG_H

#include "common/err.h"
#include <stddef.h>
#include <stdint.h>

/* What a stream is for. The numbers are part of every result: never change or reuse one. lap: the
 * lap of a trajectory, or the optimizer step, or the epoch, as the last column says. */
#define NPO_RNG_PURPOSES(ROW)                                                                      \
    ROW(X_T, 1)           /* slot, lap: starting noise of a trajectory */                          \
    ROW(PROMPT, 2)        /* slot, lap: prompt of a trajectory */                                  \
    ROW(FIRST_SEGMENT, 3) /* slot, lap: steps of a lap's first segment */                          \
    ROW(START_INDEX, 4)   /* slot, lap: grid index where a latent starts */                        \
    ROW(START_LATENT, 5)  /* slot, lap: which latent of the data */                                \
    ROW(TIMESTEP, 6)      /* slot, step: t' of a training sample */                                \
    ROW(NOISE, 7)         /* slot, step: noise of a training sample */                             \
    ROW(EMPTY_PROMPT, 8)  /* slot, step: whether the student sees the empty prompt */              \
    ROW(DATA_ORDER, 9)    /* 0, epoch: order of the data */                                        \
    ROW(DATA_FLIP, 10)    /* slot, step: augmentation of an image */                               \
    ROW(SAMPLE_NOISE, 11) /* image, 0: x_T of a sample that is looked at or evaluated */           \
    ROW(WEIGHTS, 12)      /* tensor, 0: initial weights */                                         \
    ROW(BOOTSTRAP, 13)    /* cell, 0: resampling in the evaluation */                              \
    ROW(SAMPLE_STEP, 14)  /* image, step: noise that an ancestral sampler adds */                  \
    ROW(LOW_RANK, 15)     /* 0, 0: directions that a factoring of a matrix begins with */

typedef enum {
#define NPO_RNG_ENUM(name, id) NPO_RNG_##name = id,
    NPO_RNG_PURPOSES(NPO_RNG_ENUM)
#undef NPO_RNG_ENUM
} npo_rng_purpose;

/* One stream of draws: a value, free to copy. */
typedef struct {
    uint64_t seed;
    uint32_t purpose, slot, lap;
} npo_rng;

npo_rng npo_rng_stream(uint64_t seed, npo_rng_purpose purpose, uint32_t slot, uint32_t lap);

/* The bare generator. */
void npo_rng_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t ret_words[4]);

/* Draw number `index` of a stream. Draws of different kinds share blocks: use one kind (and, for
 * npo_rng_below, one bound an index) in a stream. */
uint32_t npo_rng_u32(const npo_rng *rng, uint32_t index);
uint64_t npo_rng_u64(const npo_rng *rng, uint32_t index);
/* Uniform in [0, 1), a multiple of 2^-53. */
double npo_rng_uniform(const npo_rng *rng, uint32_t index);
/* Uniform in 0 .. bound-1 without bias (multiplication with rejection, Lemire, "Fast random integer
 * generation in an interval", 2019). bound > 0; index < 2^28 (asserted). */
uint64_t npo_rng_below(const npo_rng *rng, uint32_t index, uint64_t bound);
/* Fisher-Yates shuffle of 0 .. n-1 into ret_order [n]; n < 2^28. */
void npo_rng_permutation(const npo_rng *rng, uint32_t n, uint32_t *ret_order);

/* Instruction set of the bulk path. Every one gives the same bits; BEST is the widest of this
 * machine. */
typedef enum {
    NPO_RNG_ISA_BEST,
    NPO_RNG_ISA_PORTABLE,
    NPO_RNG_ISA_AVX2,
    NPO_RNG_ISA_AVX512
} npo_rng_isa;

/* Standard Gaussians 0 .. n-1 of the stream, n <= 2^34: value 4 b + j comes from block b.
 * Box-Muller: |z| <= 6.77; within 4 ulp of
 * the exact function of the two f32 uniforms that a pair of words is rounded to. */
void npo_rng_gaussians(const npo_rng *rng, size_t n, float *ret_values);
/* The same on a given instruction set. Errors: NPO_E_UNSUPPORTED where this machine lacks it. */
npo_err npo_rng_gaussians_isa(npo_rng_isa isa, const npo_rng *rng, size_t n,
                              float *ret_values) NPO_MUST_CHECK;

#endif
