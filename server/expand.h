/* From a job to its tasks: which there are, in which order, what each reads and what it waits for.
 * Pure. docs/architecture.md has the table of kinds, inputs and outputs; worker/tasks reads what is
 * written here.
 *
 * A task waits for exactly those tasks whose outputs it reads. Tasks stand in the order in which a
 * worker should prefer them; a task never reads from a later one. */
#ifndef NPO_SERVER_EXPAND_H
#define NPO_SERVER_EXPAND_H

#include "common/err.h"
#include "proto/job.h"
#include <stddef.h>
#include <stdint.h>

enum { NPO_EXPAND_NAME_SIZE = 32, NPO_EXPAND_PARAMS_SIZE = 128 };

typedef struct {
    char name[NPO_EXPAND_NAME_SIZE];   /* as the task sees it: "segment.3" */
    char output[NPO_EXPAND_NAME_SIZE]; /* of the source */
    const char *hash;                  /* borrowed from the job file; NULL: an output of source */
    int64_t source;                    /* index of an earlier task, -1 with a hash */
    int rank;                          /* the only rank that reads it, -1: all */
} npo_expand_input;

typedef struct {
    const char
        *kind; /* "generate", "truncate", "train", "sample", "evaluate", "report", "export" */
    int64_t round;
    int shard, shards;                   /* which part of the slots or cells */
    int world;                           /* ranks, all or nothing */
    int64_t step_end;                    /* optimizer steps done after it, 0: trains nothing */
    char params[NPO_EXPAND_PARAMS_SIZE]; /* JSON object */
    npo_expand_input *inputs;            /* owned */
    size_t input_count, input_cap;
} npo_expand_task;

typedef struct {
    npo_expand_task *tasks;
    size_t count, cap;
    int64_t rounds; /* up to the last one, those of the job it continues included */
    int64_t step;   /* optimizer steps that `from` has done */
    int workers;    /* that the job needs at a time */
} npo_expansion;

/* job borrows from its JSON, which must outlive the expansion. Errors: NPO_E_USAGE (nothing left to
 * train), NPO_E_LIMIT (too many tasks), NPO_E_NOMEM. */
npo_err npo_expand(const npo_job *job, npo_expansion *ret_expansion,
                   npo_error *error) NPO_MUST_CHECK;
void npo_expansion_fini(npo_expansion *expansion);

#endif
