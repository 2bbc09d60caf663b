/* A small evaluation: two seeds; plain guidance wins at scale 3, Self-NPO at scale 2. */
#ifndef NPO_TESTS_UNIT_EVAL_CELLS_H
#define NPO_TESTS_UNIT_EVAL_CELLS_H

#include "worker/eval/results.h"

#define CELL(method_, scale_, beta_, seed_, frechet_, wins_, ties_, losses_)                       \
    {                                                                                              \
        .key = {NPO_METHOD_##method_, scale_, beta_, seed_}, .samples = 10, .frechet = frechet_,   \
        .scores = {0.5, 0.25}, .wins = {wins_, ties_, losses_},                                    \
    }

static const npo_cell cells[] = {
    CELL(NONE, 1, 0, 1, 20, 0, 0, 0),        CELL(PLAIN, 2, 0, 1, 8, 6, 0, 4),
    CELL(SELF_NPO, 2, 0.5, 1, 7.5, 5, 1, 4), CELL(SELF_NPO, 2, 1, 1, 7, 5, 0, 5),
    CELL(PLAIN, 3, 0, 1, 12, 7, 0, 3),       CELL(SELF_NPO, 3, 0.5, 1, 13, 5, 0, 5),
    CELL(SELF_NPO, 3, 1, 1, 15, 5, 0, 5),    CELL(NONE, 1, 0, 2, 22, 0, 0, 0),
    CELL(PLAIN, 2, 0, 2, 10, 6, 0, 4),       CELL(SELF_NPO, 2, 0.5, 2, 9, 5, 1, 4),
    CELL(SELF_NPO, 2, 1, 2, 11, 5, 0, 5),
};

enum { CELL_COUNT = sizeof cells / sizeof *cells };

#endif
