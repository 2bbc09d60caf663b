/* Inside of service*.c. Everything belongs to the loop's thread. */
#ifndef NPO_WORKER_SUPERVISOR_SERVICE_STATE_H
#define NPO_WORKER_SUPERVISOR_SERVICE_STATE_H

#include "proto/connection.h"
#include "worker/supervisor/assignment.h"
#include "worker/supervisor/io/child.h"
#include "worker/supervisor/io/link.h"
#include "worker/supervisor/io/mover.h"
#include "worker/supervisor/io/rendezvous.h"
#include "worker/supervisor/io/stream.h"
#include "worker/supervisor/service.h"
#include "worker/supervisor/supervisor.h"

enum { SERVICE_EVENTS_MAX = 64 };

typedef enum { SERVICE_LOG, SERVICE_METRICS, SERVICE_STREAM_COUNT } service_stream;

typedef struct {
    npo_supervisor_event event; /* its text points to the next member */
    char text[NPO_ERROR_TEXT_MAX];
} service_event;

typedef struct npo_service {
    const npo_service_options *options;
    npo_identity identity;
    npo_supervisor supervisor;
    char *epoch_path;
    uint64_t epoch; /* the highest seen that was written down, or could not be */
    char *tasks_dir;
    char *class; /* numeric class, as the executor said; NULL until then */
    int lock_fd;

    uv_loop_t loop;
    uv_timer_t timer;
    uv_timer_t patience; /* runs while hello is unanswered */
    uv_signal_t signals[2];
    uv_poll_t hints_poll;
    int hints;         /* nanomsg socket */
    npo_link *control; /* hello to goodbye, done, fail */
    npo_link *reports; /* streams and rendezvous: never in the way of a heartbeat */
    npo_mover *mover;
    npo_child *child;

    service_event events[SERVICE_EVENTS_MAX]; /* ring */
    size_t event_first, event_count;
    bool is_pumping, is_leaving;

    cJSON *pulled;             /* the assignment of the last PULL_DONE */
    npo_assignment assignment; /* valid while has_assignment */
    bool has_assignment;
    npo_mover_input *inputs; /* fetched */
    size_t input_count;
    npo_stream *streams[SERVICE_STREAM_COUNT];
    int streams_open; /* not yet ended */
    npo_rendezvous *rendezvous;
    char *output_name, *output_path; /* of the TASK_OUTPUT being handled */
} npo_service;

/* Handles an event and whatever follows from it. May be called while another is being handled: it
 * is handled after that. event's text is copied. */
void npo_service_post(npo_service *service, const npo_supervisor_event *event);
/* Carries out one action. */
void npo_service_act(npo_service *service, const npo_supervisor_action *action);
/* One message, one line of text, the end of the executor. */
void npo_service_on_message(void *self, const cJSON *message);
void npo_service_on_text(void *self, const char *line);
void npo_service_on_exited(void *self, const char *how);
void npo_service_on_moved(void *self, const npo_mover_result *result);
/* Drops the task in hand and what is open for it. */
void npo_service_drop(npo_service *service);

#endif
