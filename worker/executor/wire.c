#include "worker/executor/wire.h"

#include "common/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

struct npo_wire {
    int fd;
    pthread_t thread;
    pthread_mutex_t send_lock; /* lines of several threads never mix */
    npo_buf line;              /* the reader's */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under the lock */
    cJSON *task;               /* an order not yet taken */
    cJSON *store;              /* the last answer not yet taken */
    int64_t ticket, cancelled; /* of the current task; the last one cancelled */
};

/* ---- sending ---- */

static void send_all(npo_wire *wire, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = send(wire->fd, bytes, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            _exit(0); /* the supervisor is gone */
        bytes += n;
        len -= (size_t)n;
    }
}

void npo_wire_send(npo_wire *wire, const char *event, cJSON *body_take)
{
    cJSON *body = body_take ? body_take : cJSON_CreateObject();
    cJSON_AddStringToObject(body, "event", event);
    char *text = cJSON_PrintUnformatted(body);
    cJSON_Delete(body);
    if (!text)
        _exit(1); /* out of memory: a message left out, "done" perhaps, would be waited for */
    size_t len = strlen(text);
    text[len] = '\n'; /* in place of the NUL */
    pthread_mutex_lock(&wire->send_lock);
    send_all(wire, text, len + 1);
    pthread_mutex_unlock(&wire->send_lock);
    cJSON_free(text);
}

/* ---- receiving ---- */

static void take_order(npo_wire *wire, cJSON *order_take)
{
    const char *name = npo_json_string(order_take, "order", "");
    pthread_mutex_lock(&wire->lock);
    if (strcmp(name, "task") == 0) {
        cJSON_Delete(wire->task);
        wire->task = order_take;
        order_take = NULL;
    } else if (strcmp(name, "store") == 0) {
        cJSON_Delete(wire->store);
        wire->store = order_take;
        order_take = NULL;
    } else if (strcmp(name, "cancel") == 0) {
        wire->cancelled = npo_json_int(order_take, "ticket", 0);
    }
    pthread_cond_broadcast(&wire->changed);
    pthread_mutex_unlock(&wire->lock);
    cJSON_Delete(order_take);
}

static void take_bytes(npo_wire *wire, const char *bytes, size_t len)
{
    while (len > 0) {
        const char *newline = memchr(bytes, '\n', len);
        size_t part = newline ? (size_t)(newline - bytes) : len;
        npo_buf_add(&wire->line, bytes, part);
        if (!newline)
            return;
        cJSON *order = NULL;
        if (npo_buf_err(&wire->line) == NPO_OK &&
            npo_json_parse(wire->line.data, wire->line.len, "an order", &order, NULL) == NPO_OK)
            take_order(wire, order);
        npo_buf_clear(&wire->line);
        bytes += part + 1;
        len -= part + 1;
    }
}

static void *thread_main(void *argument)
{
    npo_wire *wire = argument;
    static char bytes[1 << 16];
    for (;;) {
        struct pollfd ready = {.fd = wire->fd, .events = POLLIN};
        int count = poll(&ready, 1, NPO_WIRE_ALIVE_MS);
        if (count == 0)
            npo_wire_send(wire, "alive", NULL);
        if (count <= 0)
            continue;
        ssize_t n = recv(wire->fd, bytes, sizeof bytes, 0);
        if (n < 0 && errno == EINTR)
            continue;
        /* Not exit(): kernels may be running, and nobody is left to wait for them. */
        if (n <= 0)
            _exit(0);
        take_bytes(wire, bytes, (size_t)n);
    }
    return NULL;
}

npo_err npo_wire_open(int fd, npo_wire **ret_wire, npo_error *error)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode))
        return npo_error_set(
            error, NPO_E_STATE,
            "an executor is started by npoworker, not by hand: descriptor %d is no "
            "socket",
            fd);
    npo_wire *wire = calloc(1, sizeof *wire);
    if (!wire)
        return npo_error_set(error, NPO_E_NOMEM, "cannot start: out of memory");
    wire->fd = fd;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    npo_buf_init(&wire->line, NPO_WIRE_LINE_MAX);
    pthread_mutex_init(&wire->send_lock, NULL);
    pthread_mutex_init(&wire->lock, NULL);
    pthread_cond_init(&wire->changed, NULL);
    int rc = pthread_create(&wire->thread, NULL, thread_main, wire);
    if (rc != 0) {
        free(wire);
        return npo_error_errno(error, rc, "cannot start the executor's thread");
    }
    *ret_wire = wire;
    return NPO_OK;
}

cJSON *npo_wire_wait_task(npo_wire *wire)
{
    pthread_mutex_lock(&wire->lock);
    while (!wire->task)
        pthread_cond_wait(&wire->changed, &wire->lock);
    cJSON *task = wire->task;
    wire->task = NULL;
    wire->ticket = npo_json_int(task, "ticket", 0);
    pthread_mutex_unlock(&wire->lock);
    return task;
}

bool npo_wire_is_cancelled(npo_wire *wire)
{
    pthread_mutex_lock(&wire->lock);
    bool is = wire->cancelled == wire->ticket;
    pthread_mutex_unlock(&wire->lock);
    return is;
}

npo_err npo_wire_wait_store(npo_wire *wire, int64_t id, char **ret_value)
{
    pthread_mutex_lock(&wire->lock);
    while (npo_json_int(wire->store, "id", 0) != id && wire->cancelled != wire->ticket)
        pthread_cond_wait(&wire->changed, &wire->lock);
    cJSON *answer = wire->store;
    wire->store = NULL;
    pthread_mutex_unlock(&wire->lock);
    /* An answer to an earlier request means that the wait was ended by a cancel. */
    if (npo_json_int(answer, "id", 0) != id) {
        cJSON_Delete(answer);
        return NPO_E_CANCELLED;
    }
    const char *value = npo_json_string(answer, "value", NULL);
    npo_err err = npo_err_from_name(npo_json_string(answer, "code", "LIBRARY"));
    char *copy = value ? strdup(value) : NULL;
    if (!err && value && !copy)
        err = NPO_E_NOMEM;
    cJSON_Delete(answer);
    *ret_value = copy;
    return err;
}
