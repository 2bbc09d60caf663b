/* Where the time of a graph goes: sums over equal ops of the runs that are kept, and what the
 * machine's multiply-adds reach, measured between them. Belongs to one thread. */
#ifndef NPO_BENCH_OP_PROFILE_H
#define NPO_BENCH_OP_PROFILE_H

#include "kernels/graph.h"

#include <stdio.h>

typedef struct npo_op_profile npo_op_profile;

npo_err npo_op_profile_new(const char *isa, int threads,
                           npo_op_profile **ret_profile) NPO_MUST_CHECK;
void npo_op_profile_free(npo_op_profile *profile);
/* Before each run; keep: whether it counts. Measures the peak. */
void npo_op_profile_begin(npo_op_profile *profile, bool keep);
/* The observer (npo_graph_observe), its context the profile. */
void npo_op_profile_add(void *profile, const npo_op_time *time);
/* The 25 most expensive kinds of forward ops and the 10 of backward ones, milliseconds a run. */
void npo_op_profile_print(npo_op_profile *profile, FILE *to);

#endif
