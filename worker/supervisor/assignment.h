/* The task in hand: what npod assigned, where its files lie, what it has published so far, and the
 * bodies of the messages about it. */
#ifndef NPO_WORKER_SUPERVISOR_ASSIGNMENT_H
#define NPO_WORKER_SUPERVISOR_ASSIGNMENT_H

#include "common/json.h"
#include "worker/supervisor/io/mover.h"
#include "worker/supervisor/supervisor.h"

enum { NPO_ASSIGNMENT_INPUTS_MAX = 4096, NPO_ASSIGNMENT_OUTPUTS_MAX = 1024 };

typedef struct {
    npo_fence fence;
    int64_t job, time_limit_s;
    const char *kind; /* borrowed from json */
    uint64_t ticket;
    char *dir;      /* of the attempt, removed by fini */
    char *out_dir;  /* dir/out */
    cJSON *json;    /* the assignment as it came */
    cJSON *outputs; /* [{"name", "hash", "size"}], published */
    cJSON *result;  /* what the executor's done brought, or NULL */
    /* what it last said about itself */
    int64_t step, steps;
    char phase[64];
    cJSON *loss, *samples_per_s; /* numbers, or NULL */
} npo_assignment;

/* Checks what npod sent (message: the member "assignment") and makes the folder
 * tasks_dir/TICKET/out. Errors: NPO_E_FORMAT and those of the table, for a peer that speaks
 * otherwise. */
npo_err npo_assignment_init(const cJSON *message, uint64_t ticket, const char *tasks_dir,
                            npo_assignment *ret_assignment, npo_error *error) NPO_MUST_CHECK;
void npo_assignment_fini(npo_assignment *assignment); /* a zeroed one is fine */

/* The inputs to be fetched: npo_mover_inputs_free. */
npo_err npo_assignment_inputs(const npo_assignment *assignment, npo_mover_input **ret_inputs,
                              size_t *ret_count, npo_error *error) NPO_MUST_CHECK;
npo_transfer_fence npo_assignment_fence(const npo_assignment *assignment, int64_t worker);
/* The order to the executor, with the paths of the fetched inputs. NULL: out of memory. */
cJSON *npo_assignment_order(const npo_assignment *assignment, const npo_mover_input *inputs,
                            size_t count);
/* Remembers a published output. */
npo_err npo_assignment_add_output(npo_assignment *assignment, const char *name,
                                  const npo_artifact *artifact) NPO_MUST_CHECK;
/* Remembers what the executor said of its progress. */
void npo_assignment_set_progress(npo_assignment *assignment, const cJSON *message);

/* One member of a heartbeat's "tasks". NULL: out of memory. */
cJSON *npo_assignment_status(const npo_assignment *assignment);
cJSON *npo_assignment_done(const npo_assignment *assignment, int64_t worker);
cJSON *npo_assignment_fail(const npo_fence *task, int64_t worker, const npo_task_failure *failure);

#endif
