#include "proto/server_channel.h"

#include "common/bounds.h"
#include "proto/socket.h"

#include <assert.h>
#include <errno.h>
#include <nanomsg/nn.h>
#include <nanomsg/pubsub.h>
#include <nanomsg/reqrep.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* nn_close drops what its I/O thread has not yet written; this long is given to the last answers.
 */
enum { FLUSH_MS = 100 };

/* Between this many answers the thread looks for requests, so that the loop is not left waiting. */
enum { SENDS_AT_ONCE = 16 };

typedef struct {
    npo_reply_to *first, **end; /* end: where the next one is hung in */
    size_t count;
} reply_queue;

struct npo_server_channel {
    uv_async_t arrived; /* by the thread: there are requests */
    uv_timer_t flush;
    npo_channel channel;
    npo_server_handler handler;
    void (*closed)(void *self);
    int handles_open;   /* of libuv, until both are closed */
    size_t last_batch;  /* requests in it */
    reply_queue posted; /* answers of the batch, until its end */
    bool is_in_batch;
    bool has_answered; /* under the lock */

    pthread_t thread;
    int socket, readable_fd; /* nanomsg's; the thread's while it runs */
    int wake_fd;             /* eventfd, written when the thread sleeps */
    _Atomic uint64_t epoch, refused;

    pthread_mutex_t lock; /* of what follows */
    reply_queue requests; /* for the loop, at most NPO_DRAIN_MAX */
    reply_queue answers;  /* for the thread: no more than requests handed to the loop */
    bool is_asleep, is_stopping;
};

struct npo_reply_to {
    npo_reply_to *next; /* in a queue */
    npo_server_channel *channel;
    void *control; /* nanomsg's route back; owned */
    void *message; /* the request; owned */
    void *answer;  /* nanomsg's message, owned; NULL: not answered yet */
    npo_frame request;
};

/* ---- queues ---- */

static void queue_init(reply_queue *queue)
{
    queue->first = NULL;
    queue->end = &queue->first;
    queue->count = 0;
}

static void queue_add(reply_queue *queue, npo_reply_to *to)
{
    to->next = NULL;
    *queue->end = to;
    queue->end = &to->next;
    queue->count++;
}

static npo_reply_to *queue_take(reply_queue *queue)
{
    npo_reply_to *to = queue->first;
    if (!to)
        return NULL;
    queue->first = to->next;
    if (--queue->count == 0)
        queue->end = &queue->first;
    return to;
}

/* Moves all of `from` behind what is in `to`. */
static void queue_move(reply_queue *from, reply_queue *to)
{
    if (!from->first)
        return;
    *to->end = from->first;
    to->end = from->end;
    to->count += from->count;
    queue_init(from);
}

/* Without the lock, for which the thread would wait at once. */
static void wake(npo_server_channel *channel)
{
    /* Fails only when the counter is full, and then the thread is about to wake. */
    (void)!write(channel->wake_fd, &(uint64_t){1}, sizeof(uint64_t));
}

/* ---- answers ---- */

static void reply_free(npo_reply_to *to)
{
    if (to->message)
        nn_freemsg(to->message);
    if (to->answer)
        nn_freemsg(to->answer);
    free(to);
}

void npo_reply_drop(npo_reply_to *to_take)
{
    nn_freemsg(to_take->control);
    reply_free(to_take);
}

/* Hands answers to the thread. */
static void hand_over(npo_server_channel *channel, reply_queue *answers)
{
    if (answers->count == 0)
        return;
    pthread_mutex_lock(&channel->lock);
    queue_move(answers, &channel->answers);
    channel->has_answered = true;
    bool was_asleep = channel->is_asleep;
    channel->is_asleep = false;
    pthread_mutex_unlock(&channel->lock);
    if (was_asleep)
        wake(channel);
}

/* Those of a batch leave together. */
static void post(npo_reply_to *to_take)
{
    npo_server_channel *channel = to_take->channel;
    queue_add(&channel->posted, to_take);
    if (!channel->is_in_batch)
        hand_over(channel, &channel->posted);
}

static npo_err set_answer(npo_reply_to *to, const npo_frame *frame, npo_error *error)
{
    size_t size = npo_frame_bytes(frame);
    void *bytes = nn_allocmsg(size, 0);
    if (!bytes)
        return npo_error_set(error, NPO_E_NOMEM, "cannot hold an answer of %zu bytes", size);
    npo_err err = npo_frame_encode(frame, bytes, size, error);
    if (err)
        nn_freemsg(bytes);
    else
        to->answer = bytes;
    return err;
}

static npo_err set_error(npo_reply_to *to, uint64_t epoch, npo_err code, const char *text)
{
    cJSON *body = npo_reply_error_new(code, text);
    char *json = cJSON_PrintUnformatted(body);
    npo_frame frame = to->request;
    frame.is_reply = true;
    frame.epoch = epoch;
    frame.json = json;
    frame.json_len = json ? strlen(json) : 0;
    frame.payload = NULL;
    frame.payload_len = 0;
    npo_err err = json ? set_answer(to, &frame, NULL) : NPO_E_NOMEM;
    free(json);
    cJSON_Delete(body);
    return err;
}

void npo_reply_send(npo_reply_to *to_take, uint64_t epoch, const char *json, size_t json_len,
                    const void *payload, size_t payload_len)
{
    npo_frame frame = {.id = to_take->request.id,
                       .is_reply = true,
                       .boot = to_take->request.boot,
                       .request = to_take->request.request,
                       .epoch = epoch,
                       .json = json,
                       .json_len = json_len,
                       .payload = payload,
                       .payload_len = payload_len};
    npo_error error = {0};
    npo_err err = set_answer(to_take, &frame, &error);
    if (err)
        err = set_error(to_take, epoch, err, error.text);
    if (err)
        npo_reply_drop(to_take);
    else
        post(to_take);
}

const npo_frame *npo_reply_request(const npo_reply_to *to)
{
    return &to->request;
}

/* ---- the thread: requests ---- */

static npo_err check(const npo_server_channel *channel, const void *message, size_t len,
                     npo_frame *ret_frame, npo_error *error)
{
    NPO_TRY(npo_frame_decode(message, len, ret_frame, error));
    const npo_message_info *info = npo_message_find(ret_frame->id);
    if (ret_frame->is_reply)
        return npo_error_set(error, NPO_E_FORMAT, "a reply to '%s' came as a request", info->name);
    if (info->channel != channel->channel)
        return npo_error_set(error, NPO_E_REFUSED, "message '%s' belongs to the other address",
                             info->name);
    if (ret_frame->boot == 0 || ret_frame->request == 0)
        return npo_error_set(error, NPO_E_FORMAT, "message '%s' has no boot or request id",
                             info->name);
    return NPO_OK;
}

/* An id of no message cannot stand in a frame of ours; the refusal says `info` instead, the client
 * goes by the request id. */
static void refuse(npo_server_channel *channel, npo_reply_to *to_take, size_t len, npo_err code,
                   const npo_error *error)
{
    atomic_fetch_add(&channel->refused, 1);
    reply_queue answers;
    queue_init(&answers);
    if (!npo_message_find(to_take->request.id))
        to_take->request.id = NPO_MESSAGE_INFO;
    if (!npo_frame_is_answerable(to_take->message, len) ||
        set_error(to_take, atomic_load(&channel->epoch), code, error->text) != NPO_OK)
        npo_reply_drop(to_take);
    else
        queue_add(&answers, to_take);
    hand_over(channel, &answers);
}

static void take_request(npo_server_channel *channel, void *message_take, size_t len,
                         void *control_take, reply_queue *ret_requests)
{
    npo_reply_to *to = calloc(1, sizeof *to);
    if (!to) {
        nn_freemsg(message_take);
        nn_freemsg(control_take);
        return;
    }
    *to = (npo_reply_to){.channel = channel, .control = control_take, .message = message_take};
    npo_error error = {0};
    npo_err err = check(channel, message_take, len, &to->request, &error);
    if (err)
        refuse(channel, to, len, err, &error);
    else
        queue_add(ret_requests, to);
}

static bool receive_one(npo_server_channel *channel, reply_queue *ret_requests)
{
    void *message = NULL, *control = NULL;
    struct nn_iovec iov = {.iov_base = &message, .iov_len = NN_MSG};
    struct nn_msghdr header = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = NN_MSG};
    int len = nn_recvmsg(channel->socket, &header, NN_DONTWAIT);
    if (len < 0)
        return false;
    take_request(channel, message, (size_t)len, control, ret_requests);
    return true;
}

/* What has come, as far as there is room for it. */
static void receive(npo_server_channel *channel)
{
    reply_queue requests;
    queue_init(&requests);
    pthread_mutex_lock(&channel->lock);
    size_t room = channel->is_stopping ? 0 : NPO_DRAIN_MAX - channel->requests.count;
    pthread_mutex_unlock(&channel->lock);
    for (size_t i = 0; i < room && receive_one(channel, &requests); i++)
        ;
    if (requests.count == 0)
        return;
    pthread_mutex_lock(&channel->lock);
    bool is_first = channel->requests.count == 0;
    queue_move(&requests, &channel->requests);
    pthread_mutex_unlock(&channel->lock);
    if (is_first)
        uv_async_send(&channel->arrived);
}

/* ---- the thread: answers ---- */

static void send_one(npo_server_channel *channel, npo_reply_to *to_take)
{
    struct nn_iovec iov = {.iov_base = &to_take->answer, .iov_len = NN_MSG};
    struct nn_msghdr header = {.msg_iov = &iov,
                               .msg_iovlen = 1,
                               .msg_control = &to_take->control,
                               .msg_controllen = NN_MSG};
    /* nanomsg frees the control part, also when it fails, and the answer when it does not. A
     * failure is a lost answer: the client resends. */
    if (nn_sendmsg(channel->socket, &header, NN_DONTWAIT) >= 0)
        to_take->answer = NULL;
    reply_free(to_take);
}

static void send_all(npo_server_channel *channel, reply_queue *answers)
{
    npo_reply_to *to;
    for (int count = 1; (to = queue_take(answers)); count++) {
        send_one(channel, to);
        if (count % SENDS_AT_ONCE == 0)
            receive(channel);
    }
}

/* ---- the thread: waiting ---- */

/* Sleeps until there is something to do. Returns false at the end. */
static bool await(npo_server_channel *channel, reply_queue *ret_answers)
{
    struct pollfd fds[] = {{.fd = channel->wake_fd, .events = POLLIN},
                           {.fd = channel->readable_fd, .events = POLLIN}};
    uint64_t wakes;
    pthread_mutex_lock(&channel->lock);
    channel->is_asleep = channel->answers.count == 0 && !channel->is_stopping;
    bool is_full = channel->requests.count >= NPO_DRAIN_MAX, is_asleep = channel->is_asleep;
    pthread_mutex_unlock(&channel->lock);
    if (is_asleep) {
        (void)poll(fds, is_full ? 1 : 2, -1);
        if (fds[0].revents)
            (void)!read(channel->wake_fd, &wakes, sizeof wakes);
    }
    pthread_mutex_lock(&channel->lock);
    channel->is_asleep = false;
    queue_move(&channel->answers, ret_answers);
    bool goes_on = !channel->is_stopping || ret_answers->count > 0;
    pthread_mutex_unlock(&channel->lock);
    return goes_on;
}

static void *run(void *self)
{
    npo_server_channel *channel = self;
    reply_queue answers;
    queue_init(&answers);
    while (await(channel, &answers)) {
        send_all(channel, &answers);
        receive(channel);
    }
    return NULL;
}

/* ---- the loop ---- */

/* Half of the requests on their way, which are those of the last batch and those that wait: while
 * they are committed the thread sends the other half's answers and receives what follows on them.
 * All that wait at once would leave the thread idle during the commit, and the loop after it. */
static size_t batch_size(const npo_server_channel *channel)
{
    size_t waiting = channel->requests.count, half = (waiting + channel->last_batch + 1) / 2;
    return waiting < half ? waiting : half;
}

/* Returns whether some were left. */
static bool take_batch(npo_server_channel *channel, reply_queue *ret_requests)
{
    queue_init(ret_requests);
    pthread_mutex_lock(&channel->lock);
    bool may_read_again = channel->requests.count >= NPO_DRAIN_MAX;
    for (size_t left = batch_size(channel); left > 0; left--)
        queue_add(ret_requests, queue_take(&channel->requests));
    bool are_left = channel->requests.count > 0;
    pthread_mutex_unlock(&channel->lock);
    channel->last_batch = ret_requests->count;
    if (may_read_again)
        wake(channel);
    return are_left;
}

static void on_arrived(uv_async_t *arrived)
{
    npo_server_channel *channel = arrived->data;
    npo_reply_to *to;
    reply_queue requests;
    if (take_batch(channel, &requests))
        uv_async_send(&channel->arrived); /* after other events */
    if (requests.count == 0)
        return;
    channel->is_in_batch = true;
    while ((to = queue_take(&requests)))
        channel->handler.frame(channel->handler.self, &to->request, to);
    channel->handler.batch_end(channel->handler.self);
    channel->is_in_batch = false;
    hand_over(channel, &channel->posted);
}

/* ---- opening and closing ---- */

static void channel_free(npo_server_channel *channel)
{
    npo_socket_close(channel->socket);
    if (channel->wake_fd >= 0)
        close(channel->wake_fd);
    pthread_mutex_destroy(&channel->lock);
    free(channel);
}

static npo_err open_socket(npo_server_channel *channel, const char *address, npo_error *error)
{
    NPO_TRY(npo_socket_open(AF_SP_RAW, NN_REP, &channel->socket, error));
    NPO_TRY(npo_socket_bind(channel->socket, address, error));
    NPO_TRY(npo_socket_fd(channel->socket, &channel->readable_fd, error));
    channel->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (channel->wake_fd < 0)
        return npo_error_errno(error, errno, "cannot listen on '%s'", address);
    return NPO_OK;
}

static void on_closed(uv_handle_t *handle)
{
    npo_server_channel *channel = handle->data;
    if (--channel->handles_open > 0)
        return;
    if (channel->closed)
        channel->closed(channel->handler.self);
    channel_free(channel);
}

static void on_flushed(uv_timer_t *flush)
{
    npo_server_channel *channel = flush->data;
    uv_close((uv_handle_t *)&channel->arrived, on_closed);
    uv_close((uv_handle_t *)&channel->flush, on_closed);
}

/* Frees the channel when it fails. */
static npo_err start(npo_server_channel *channel, uv_loop_t *loop, const char *address,
                     npo_error *error)
{
    if (uv_async_init(loop, &channel->arrived, on_arrived) < 0) {
        channel_free(channel);
        return npo_error_set(error, NPO_E_LIBRARY, "cannot watch '%s'", address);
    }
    uv_timer_init(loop, &channel->flush);
    channel->arrived.data = channel->flush.data = channel;
    int code = pthread_create(&channel->thread, NULL, run, channel);
    if (code == 0)
        return NPO_OK;
    channel->handles_open = 2;
    on_flushed(&channel->flush);
    return npo_error_errno(error, code, "cannot serve '%s'", address);
}

npo_err npo_server_channel_open(uv_loop_t *loop, const char *address, npo_channel which,
                                const npo_server_handler *handler, npo_server_channel **ret_channel,
                                npo_error *error)
{
    npo_server_channel *channel = calloc(1, sizeof *channel);
    if (!channel)
        return npo_error_set(error, NPO_E_NOMEM, "cannot listen on '%s'", address);
    channel->socket = channel->wake_fd = -1;
    channel->channel = which;
    channel->handler = *handler;
    pthread_mutex_init(&channel->lock, NULL);
    queue_init(&channel->requests);
    queue_init(&channel->answers);
    queue_init(&channel->posted);
    npo_err err = open_socket(channel, address, error);
    if (err) {
        channel_free(channel);
        return err;
    }
    NPO_TRY(start(channel, loop, address, error));
    *ret_channel = channel;
    return NPO_OK;
}

/* The thread sends what it has been given and ends. */
static void stop(npo_server_channel *channel)
{
    npo_reply_to *to;
    hand_over(channel, &channel->posted);
    pthread_mutex_lock(&channel->lock);
    channel->is_stopping = true;
    pthread_mutex_unlock(&channel->lock);
    wake(channel);
    pthread_join(channel->thread, NULL);
    while ((to = queue_take(&channel->requests)))
        npo_reply_drop(to);
}

void npo_server_channel_close(npo_server_channel *channel, void (*closed)(void *self))
{
    assert(channel->handles_open == 0);
    channel->closed = closed;
    channel->handles_open = 2;
    stop(channel);
    uv_timer_start(&channel->flush, on_flushed, channel->has_answered ? FLUSH_MS : 0, 0);
}

void npo_server_channel_set_epoch(npo_server_channel *channel, uint64_t epoch)
{
    atomic_store(&channel->epoch, epoch);
}

uint64_t npo_server_channel_refused(const npo_server_channel *channel)
{
    return atomic_load(&channel->refused);
}

/* ---- hints ---- */

struct npo_server_hints {
    int socket;
};

npo_err npo_server_hints_open(const char *address, npo_server_hints **ret_hints, npo_error *error)
{
    npo_server_hints *hints = calloc(1, sizeof *hints);
    if (!hints)
        return npo_error_set(error, NPO_E_NOMEM, "cannot listen on '%s'", address);
    hints->socket = -1;
    npo_err err = npo_socket_open(AF_SP, NN_PUB, &hints->socket, error);
    if (!err)
        err = npo_socket_bind(hints->socket, address, error);
    if (err) {
        npo_server_hints_close(hints);
        return err;
    }
    *ret_hints = hints;
    return NPO_OK;
}

void npo_server_hints_close(npo_server_hints *hints)
{
    if (!hints)
        return;
    npo_socket_close(hints->socket);
    free(hints);
}

void npo_server_hints_send(npo_server_hints *hints)
{
    static const char hint[1] = {1};
    /* Nothing depends on its arrival. */
    (void)nn_send(hints->socket, hint, sizeof hint, NN_DONTWAIT);
}
