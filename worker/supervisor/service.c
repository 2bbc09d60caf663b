#include "worker/supervisor/service.h"

#include "common/clock.h"
#include "common/file.h"
#include "common/log.h"
#include "proto/address.h"
#include "proto/socket.h"
#include "worker/supervisor/epoch.h"
#include "worker/supervisor/service_state.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <nanomsg/nn.h>
#include <nanomsg/pubsub.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

/* ---- events ---- */

static void pump(npo_service *service);

static void on_timer(uv_timer_t *timer)
{
    npo_supervisor_event event = {.kind = NPO_EVENT_TIMER};
    npo_service_post(timer->data, &event);
}

static void set_timer(npo_service *service)
{
    int64_t at_ms = npo_supervisor_deadline(&service->supervisor);
    int64_t wait_ms = at_ms - npo_clock_ms();
    if (service->is_leaving || at_ms == INT64_MAX) {
        uv_timer_stop(&service->timer);
        return;
    }
    uv_update_time(&service->loop);
    uv_timer_start(&service->timer, on_timer, wait_ms > 0 ? (uint64_t)wait_ms : 0, 0);
}

void npo_service_post(npo_service *service, const npo_supervisor_event *event)
{
    if (service->is_leaving)
        return;
    assert(service->event_count < SERVICE_EVENTS_MAX);
    size_t at = (service->event_first + service->event_count++) % SERVICE_EVENTS_MAX;
    service_event *slot = &service->events[at];
    slot->event = *event;
    slot->text[0] = '\0';
    if (event->text)
        strncat(slot->text, event->text, sizeof slot->text - 1);
    if (!service->is_pumping)
        pump(service);
}

/* Before anything is done that a coordinator of this epoch asks for. */
static void keep_epoch(npo_service *service)
{
    npo_error error = {0};
    uint64_t epoch = atomic_load(&service->identity.epoch);
    if (epoch <= service->epoch)
        return;
    service->epoch = epoch;
    if (npo_epoch_save(service->epoch_path, epoch, &error))
        npo_log_warn("%s: after a restart an npod of before epoch %llu would be obeyed", error.text,
                     (unsigned long long)epoch);
}

static void pump(npo_service *service)
{
    service->is_pumping = true;
    while (service->event_count > 0) {
        service_event current = service->events[service->event_first];
        npo_supervisor_actions actions = {.count = 0};
        service->event_first = (service->event_first + 1) % SERVICE_EVENTS_MAX;
        service->event_count--;
        current.event.text = current.text[0] ? current.text : NULL;
        keep_epoch(service);
        npo_supervisor_handle(&service->supervisor, &current.event, npo_clock_ms(), &actions);
        for (int i = 0; i < actions.count; i++)
            npo_service_act(service, &actions.items[i]);
    }
    service->is_pumping = false;
    set_timer(service);
}

static void on_signal(uv_signal_t *handle, int signum)
{
    npo_supervisor_event event = {.kind = NPO_EVENT_STOP};
    npo_log_info("leaving (signal %d)", signum);
    npo_service_post(handle->data, &event);
}

static void on_hint(uv_poll_t *poll, int status, int events)
{
    npo_service *service = poll->data;
    npo_supervisor_event event = {.kind = NPO_EVENT_HINT};
    char byte[8];
    while (nn_recv(service->hints, byte, sizeof byte, NN_DONTWAIT) >= 0)
        ;
    if (service->rendezvous)
        npo_rendezvous_hint(service->rendezvous);
    npo_service_post(service, &event);
}

/* ---- opening ---- */

static npo_err prepare_folders(npo_service *service, npo_error *error)
{
    const npo_service_options *options = service->options;
    char *lock = npo_file_join(options->state_dir, "supervisor.lock");
    service->tasks_dir = npo_file_join(options->state_dir, "tasks");
    service->epoch_path = npo_file_join(options->state_dir, "epoch");
    npo_err err = NPO_OK;
    if (!lock || !service->tasks_dir || !service->epoch_path) {
        err = npo_error_set(error, NPO_E_NOMEM, "cannot start: out of memory");
        goto out;
    }
    if ((err = npo_file_make_dirs(options->state_dir, error)))
        goto out;
    service->lock_fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (service->lock_fd < 0) {
        err = npo_error_errno(error, errno, "cannot open '%s'", lock);
        goto out;
    }
    if (flock(service->lock_fd, LOCK_EX | LOCK_NB) < 0) {
        err = npo_error_set(error, NPO_E_BUSY, "another worker uses the state folder '%s'",
                            options->state_dir);
        goto out;
    }
    /* What an interrupted supervisor left. */
    if (!(err = npo_file_remove(service->tasks_dir, error)))
        err = npo_file_make_dirs(service->tasks_dir, error);
out:
    free(lock);
    return err;
}

static npo_err open_identity(npo_service *service, npo_error *error)
{
    NPO_TRY(npo_epoch_load(service->epoch_path, &service->epoch, error));
    NPO_TRY(npo_identity_init(&service->identity, error));
    return npo_identity_see_epoch(&service->identity, service->epoch, error);
}

static npo_err open_hints(npo_service *service, npo_error *error)
{
    char address[NPO_ADDRESS_SIZE];
    int fd;
    NPO_TRY(npo_address_derive(service->options->address, NPO_ENDPOINT_HINTS, address, error));
    NPO_TRY(npo_socket_open(AF_SP, NN_SUB, &service->hints, error));
    NPO_TRY(npo_socket_connect(service->hints, address, error));
    NPO_TRY(npo_socket_fd(service->hints, &fd, error));
    if (uv_poll_init(&service->loop, &service->hints_poll, fd) < 0)
        return npo_error_set(error, NPO_E_LIBRARY, "cannot watch '%s'", address);
    service->hints_poll.data = service;
    uv_poll_start(&service->hints_poll, UV_READABLE, on_hint);
    return NPO_OK;
}

static npo_err open_all(npo_service *service, npo_error *error)
{
    const npo_service_options *options = service->options;
    npo_mover_options mover = {.address = options->address,
                               .identity = &service->identity,
                               .cache_dir = options->cache_dir,
                               .cache_bytes_max = (uint64_t)options->cache_bytes,
                               .self = service,
                               .moved = npo_service_on_moved};
    NPO_TRY(prepare_folders(service, error));
    NPO_TRY(open_identity(service, error));
    NPO_TRY(npo_link_open(&service->loop, options->address, &service->identity, &service->control,
                          error));
    NPO_TRY(npo_link_open(&service->loop, options->address, &service->identity, &service->reports,
                          error));
    NPO_TRY(open_hints(service, error));
    return npo_mover_start(&service->loop, &mover, &service->mover, error);
}

static void start_handles(npo_service *service)
{
    static const int signums[] = {SIGTERM, SIGINT};
    uv_timer_init(&service->loop, &service->timer);
    uv_timer_init(&service->loop, &service->patience);
    service->timer.data = service->patience.data = service;
    for (int i = 0; i < 2; i++) {
        uv_signal_init(&service->loop, &service->signals[i]);
        service->signals[i].data = service;
        uv_signal_start(&service->signals[i], on_signal, signums[i]);
    }
}

/* ---- closing ---- */

static void close_handle(uv_handle_t *handle)
{
    if (handle->loop && !uv_is_closing(handle))
        uv_close(handle, NULL);
}

/* The executor is gone when this is called in order; if not, it goes with its socket. */
static void close_all(npo_service *service)
{
    service->is_leaving = true;
    npo_service_drop(service);
    npo_mover_stop(service->mover);
    npo_link_close(service->control);
    npo_link_close(service->reports);
    close_handle((uv_handle_t *)&service->timer);
    close_handle((uv_handle_t *)&service->patience);
    close_handle((uv_handle_t *)&service->signals[0]);
    close_handle((uv_handle_t *)&service->signals[1]);
    close_handle((uv_handle_t *)&service->hints_poll);
    if (service->child)
        npo_child_signal(service->child, SIGKILL);
    uv_run(&service->loop, UV_RUN_DEFAULT);
    npo_socket_close(service->hints);
    if (service->lock_fd >= 0)
        close(service->lock_fd);
    cJSON_Delete(service->pulled);
    free(service->class);
    free(service->tasks_dir);
    free(service->epoch_path);
    uv_loop_close(&service->loop);
}

npo_err npo_service_run(const npo_service_options *options, int *ret_exit_code, npo_error *error)
{
    npo_service *service = calloc(1, sizeof *service);
    if (!service)
        return npo_error_set(error, NPO_E_NOMEM, "cannot start: out of memory");
    service->options = options;
    service->lock_fd = service->hints = -1;
    npo_supervisor_init(&service->supervisor);
    if (uv_loop_init(&service->loop) < 0) {
        free(service);
        return npo_error_set(error, NPO_E_LIBRARY, "cannot start an event loop");
    }
    signal(SIGPIPE, SIG_IGN);
    npo_err err = open_all(service, error);
    if (!err) {
        npo_supervisor_event event = {.kind = NPO_EVENT_START};
        start_handles(service);
        npo_service_post(service, &event);
        uv_run(&service->loop, UV_RUN_DEFAULT);
        *ret_exit_code = service->supervisor.exit_code;
    }
    close_all(service);
    free(service);
    return err;
}
