#include "server/state.h"

#include <stdio.h>

void npo_lease_renew(npo_server *server, npo_worker_record *worker)
{
    worker->lease_end_ms = server->now.mono_ms + server->options.lease_ms;
}

void npo_worker_lose(npo_server *server, npo_worker_record *worker, bool counts, const char *why)
{
    npo_job_record *job = worker->job;
    if (worker->task > 0 && job)
        npo_task_lose(server, job, worker->task, counts, why);
    /* Ending the task may have ended the job, and with it this worker's place. */
    worker->task = 0;
    if (worker->job)
        npo_allocation_leave(server, worker);
    worker->progress = (npo_progress){0};
    worker->dirty = true;
    server->needs_schedule = true;
}

static void expire(npo_server *server, npo_worker_record *worker)
{
    char why[NPO_NAME_MAX + 64];
    snprintf(why, sizeof why, "worker '%s' was lost: no word for %lld ms", worker->name,
             (long long)server->options.lease_ms);
    npo_event_add(server, worker->job ? worker->job->id : 0, worker->task, "worker.lost", why);
    npo_worker_lose(server, worker, true, why);
    worker->boot = 0;
}

void npo_lease_tick(npo_server *server)
{
    /* When npod itself was stopped (suspended, a slow disk), heartbeats wait unread: the time is
     * the workers' again. */
    int64_t gap_ms = server->tick_ms ? server->now.mono_ms - server->tick_ms : 0;
    bool was_away = gap_ms > server->options.lease_ms / 4 + NPO_SERVER_TICK_MS;
    for (size_t i = 0; i < server->worker_count; i++) {
        npo_worker_record *worker = server->workers[i];
        if (!npo_worker_is_alive(worker))
            continue;
        if (was_away)
            worker->lease_end_ms += gap_ms;
        if (worker->lease_end_ms < server->now.mono_ms)
            expire(server, worker);
    }
}
