/* Runs tasks and whole jobs without a coordinator: outputs go to folders, a gang is forked. For
 * tests and for the developer's tool npo-job. */
#ifndef NPO_TESTS_UNIT_TASKS_LOCAL_H
#define NPO_TESTS_UNIT_TASKS_LOCAL_H

#include "common/buf.h"
#include "worker/tasks/task.h"

/* The process around one rank. */
typedef struct {
    const char *folder; /* outputs are published here by name, as links */
    const char *out_dir;
    npo_buf metrics, log; /* lines */
    int64_t checks;       /* times is_cancelled was asked */
    int64_t cancel_at;    /* the check that says yes; 0: never */
    bool print;           /* progress and log to stderr */
    bool fail_output;     /* output() fails */
    void *store;          /* npo_comm_store of a gang */
    int64_t printed_ms;
} local_process;

npo_task_services local_services(local_process *process);

typedef struct {
    int threads; /* of one rank */
    bool print;
    bool fresh_cache; /* every task starts cold */
    bool fork_all;    /* also tasks of one rank run in a process of their own */
    const char *const
        *artifacts;     /* hash, path, hash, path .. NULL: what hashes in the job stand for */
    int64_t only_tasks; /* stop after so many; 0: all */
} local_options;

/* Expands and runs a job whose references are paths. Output NAME of task i of the expansion is
 * dir/task-i/NAME, rank k's metrics and log dir/task-i/metrics.k and log.k; dir/last-NAME is the
 * output of the last task that has it. */
npo_err local_job_run(cJSON *spec, const char *dir, const local_options *options,
                      npo_error *error) NPO_MUST_CHECK;

#endif
