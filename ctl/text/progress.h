/* How far a job is, as text: what watch, submit --wait and status show. Pure functions of npod's
 * replies, tested without npod. */
#ifndef NPO_CTL_TEXT_PROGRESS_H
#define NPO_CTL_TEXT_PROGRESS_H

#include "common/buf.h"
#include "common/json.h"
#include "ctl/exit.h"
#include <stdbool.h>
#include <stdint.h>

/* JOB of docs/protocol.md; texts borrow from the JSON, "" where missing; numbers that are unknown
 * are NaN or -1. */
typedef struct {
    int64_t id, priority, workers, step, steps, round, rounds;
    const char *name, *recipe, *state, *reason, *phase, *error;
    double loss, samples_per_s, eta_s;
    int64_t submitted_ms, started_ms, ended_ms; /* wall; 0: not yet */
    int64_t tasks_done, tasks_all, tasks_running, tasks_failed;
} npo_job_view;

void npo_job_view_read(const cJSON *job, npo_job_view *ret_view);
/* True for done, failed and cancelled. */
bool npo_job_view_is_over(const npo_job_view *view);
/* Exit code of a job that is over. */
npo_exit npo_job_view_exit(const npo_job_view *view);
/* Seconds it has run, or ran; NaN before the start. */
double npo_job_view_seconds(const npo_job_view *view, int64_t now_ms);

/* One line without the newline, for output that is no terminal:
 * "job 3 running: round 2/6, train, step 40/150, loss 0.01234, 412/s, 1m20s left" */
void npo_progress_line(const npo_job_view *view, npo_buf *ret_buf);
/* The block that watch paints, every line with its newline and at most width columns. workers: the
 * reply to `workers`, or NULL. now_ms: wall time. */
void npo_progress_block(const npo_job_view *view, const cJSON *workers, size_t width,
                        int64_t now_ms, npo_buf *ret_buf);
/* "40/150" of steps, or of tasks where there are none, or none left. */
void npo_progress_short(const npo_job_view *view, npo_buf *ret_buf);

#endif
