/* The tables of unicode_data.c, each sorted by its first member. For unicode.c only. */
#ifndef NPO_WORKER_MODEL_TEXT_UNICODE_DATA_H
#define NPO_WORKER_MODEL_TEXT_UNICODE_DATA_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint32_t first, last;
} npo_unicode_range;

/* Every stride-th code point of first..last moves by delta. */
typedef struct {
    uint32_t first, last;
    uint32_t stride;
    int32_t delta;
} npo_unicode_lower_run;

typedef struct {
    uint32_t first, last;
    uint32_t combining_class;
} npo_unicode_class_run;

/* One step of canonical decomposition; second is 0 for a singleton. */
typedef struct {
    uint32_t cp, first, second;
} npo_unicode_decomposition;

extern const npo_unicode_range npo_unicode_letters[], npo_unicode_numbers[], npo_unicode_spaces[];
extern const size_t npo_unicode_letters_count, npo_unicode_numbers_count, npo_unicode_spaces_count;
extern const npo_unicode_lower_run npo_unicode_lower_runs[];
extern const size_t npo_unicode_lower_runs_count;
extern const npo_unicode_class_run npo_unicode_class_runs[];
extern const size_t npo_unicode_class_runs_count;
extern const npo_unicode_decomposition npo_unicode_decompositions[];
extern const size_t npo_unicode_decompositions_count;
/* Indices into npo_unicode_decompositions of those that compose again, sorted by first, second. */
extern const uint16_t npo_unicode_compositions[];
extern const size_t npo_unicode_compositions_count;

#endif
