/* How fast a job does optimizer steps, and when it will be done.
 *
 * Measured from one moment (rate_mono_ms 0: there is none yet) to the last one at which steps were
 * seen: by heartbeats until a round has been measured as a whole, with the phases that do no steps;
 * from checkpoint to checkpoint from then on. After a start of npod it begins at the first steps
 * seen: how far the round in hand was, nobody knows. */
#include "server/state.h"

#include <math.h>

void npo_job_rate_start(const npo_server *server, npo_job_record *job)
{
    job->rate_mono_ms = job->mark_mono_ms = server->now.mono_ms;
    job->rate_step = job->mark_step = job->checkpoint_step = job->step;
    job->mark_is_checkpoint = false;
}

static void mark(const npo_server *server, npo_job_record *job, int64_t step)
{
    job->mark_mono_ms = server->now.mono_ms;
    job->mark_step = step;
    if (job->rate_mono_ms == 0) {
        job->rate_mono_ms = job->mark_mono_ms;
        job->rate_step = step;
    }
}

void npo_job_advance(const npo_server *server, npo_job_record *job, int64_t step)
{
    if (!job->mark_is_checkpoint && step > job->mark_step)
        mark(server, job, step);
}

void npo_job_rate_tick(const npo_server *server, npo_job_record *job)
{
    if (job->step == job->checkpoint_step)
        return;
    job->checkpoint_step = job->step;
    job->mark_is_checkpoint = job->rate_mono_ms != 0 && job->rate_step < job->step;
    mark(server, job, job->step);
}

double npo_job_eta_s(const npo_server *server, const npo_job_record *job)
{
    int64_t done = job->mark_step - job->rate_step, left = job->steps - job->mark_step;
    if (job->state != NPO_JOB_RUNNING || job->rate_mono_ms == 0 || done <= 0 || left <= 0)
        return -1;
    double step_s = (double)(job->mark_mono_ms - job->rate_mono_ms) / 1000 / (double)done;
    double since_s = (double)(server->now.mono_ms - job->mark_mono_ms) / 1000;
    double round_steps = job->rounds > 0 ? (double)job->steps / (double)job->rounds : 0;
    double eta_s = step_s * (double)left - since_s;
    double later_s = step_s * ((double)left - round_steps); /* the rounds behind the one in hand */
    return fmax(0, fmax(eta_s, later_s));
}
