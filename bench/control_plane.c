/* Load on the control plane: 64 workers that do nothing but take tasks and report them done,
 * against npod or against beanstalkd, as fast as it answers. Prints one number, tasks a second.
 *
 * npod: pull and done, each durable when it is answered, deduplicated and fenced. The tasks are
 * those of 64 training jobs of one worker and one optimizer step a round: a chain a job, where each
 * done publishes a checkpoint and releases the next task.
 *
 * beanstalkd: reserve and delete of jobs put beforehand (with -b -f0 the delete is durable).
 *
 * Both are spoken over plain TCP sockets from one thread, so that the generator takes as little as
 * it can of the processor that it shares with the server: for npod that is nanomsg's wire format
 * (an eight-byte greeting, then eight bytes of length before each message) around our frames, and
 * answers are searched, not parsed. Afterwards npod is asked how many tasks are done: it must be at
 * least what was counted. */
#include "common/bounds.h"
#include "common/clock.h"
#include "common/options.h"
#include "proto/transfer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
    WORKERS_MAX = 512,
    REQUEST_BYTES = 1024,
    REPLY_BYTES = 16384,
    STALL_MS = 10000,
    PUT_BYTES = 160,
    PUTS_AT_ONCE = 100
};

typedef struct {
    int64_t workers, tasks;
    double seconds;
} settings;

/* What a worker waits for. */
typedef enum { PHASE_HELLO, PHASE_TAKE, PHASE_DONE } phase;

typedef struct {
    int fd;
    phase phase;
    char in[REPLY_BYTES + 1];
    size_t in_len;
    uint64_t boot, request;
    long long id, task, attempt;
} worker;

typedef struct bench bench;

/* One kind of server. */
typedef struct {
    const char *name;
    npo_err (*prepare)(bench *b, npo_error *error);
    npo_err (*connected)(bench *b, worker *w, npo_error *error);
    /* Sends what the worker's phase asks for. */
    npo_err (*ask)(bench *b, worker *w, npo_error *error);
    /* Reads in[]: sets ret_bytes to the length of a whole answer (0: not whole yet) and advances.
     */
    npo_err (*answer)(bench *b, worker *w, size_t *ret_bytes, npo_error *error);
    npo_err (*verify)(bench *b, npo_error *error);
} server;

struct bench {
    settings set;
    const server *server;
    struct sockaddr_in peer;
    const char *address;
    worker *workers;
    int epoll;
    long long available;      /* tasks made before */
    long long counted, empty; /* tasks done; asked for a task and got none */
    bool counting;
    npo_identity identity; /* of the client that submits */
    npo_client *client;
    char hash[NPO_HASH_TEXT_SIZE];
    uint64_t size;
    uint64_t epoch;
    long long *jobs;
};

/* ---- sockets ---- */

static npo_err send_all(int fd, const void *bytes, size_t len, npo_error *error)
{
    const char *at = bytes;
    while (len > 0) {
        ssize_t n = write(fd, at, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return npo_error_errno(error, errno, "cannot send to the server");
        at += n;
        len -= (size_t)n;
    }
    return NPO_OK;
}

static npo_err connect_to(const bench *b, int *ret_fd, npo_error *error)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return npo_error_errno(error, errno, "cannot open a socket");
    if (connect(fd, (const struct sockaddr *)&b->peer, sizeof b->peer) < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0) {
        npo_err err = npo_error_errno(error, errno, "cannot connect to '%s'", b->address);
        close(fd);
        return err;
    }
    *ret_fd = fd;
    return NPO_OK;
}

/* "tcp://127.0.0.1:PORT" or "127.0.0.1:PORT". */
static npo_err parse_address(bench *b, npo_error *error)
{
    char host[64];
    int port = 0;
    const char *at = strstr(b->address, "://");
    at = at ? at + 3 : b->address;
    b->peer = (struct sockaddr_in){.sin_family = AF_INET};
    if (sscanf(at, "%63[0-9.]:%d", host, &port) != 2 || port < 1 || port > 65535 ||
        inet_pton(AF_INET, host, &b->peer.sin_addr) != 1)
        return npo_error_set(error, NPO_E_USAGE, "address '%s': expected 127.0.0.1:PORT",
                             b->address);
    b->peer.sin_port = htons((uint16_t)port);
    return NPO_OK;
}

/* ---- npod ---- */

static void put_be64(unsigned char *to, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        to[i] = (unsigned char)(value >> (56 - 8 * i));
}

static uint64_t get_be64(const void *from)
{
    const unsigned char *bytes = from;
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | bytes[i];
    return value;
}

enum { SP_GREETING = 8, SP_LENGTH = 8, SP_REQUEST_ID = 4, SP_TYPE_REQ = 0x30 };

static npo_err npod_connected(bench *b, worker *w, npo_error *error)
{
    const unsigned char greeting[SP_GREETING] = {0, 'S', 'P', 0, 0, SP_TYPE_REQ, 0, 0};
    char theirs[SP_GREETING];
    NPO_TRY(send_all(w->fd, greeting, sizeof greeting, error));
    if (recv(w->fd, theirs, sizeof theirs, MSG_WAITALL) != sizeof theirs ||
        memcmp(theirs, "\0SP\0", 4) != 0)
        return npo_error_set(error, NPO_E_FORMAT, "'%s' does not speak nanomsg", b->address);
    npo_identity identity;
    NPO_TRY(npo_identity_init(&identity, error));
    w->boot = identity.boot;
    return NPO_OK;
}

static npo_err npod_send(bench *b, worker *w, npo_message id, const char *json, npo_error *error)
{
    unsigned char bytes[REQUEST_BYTES];
    const npo_frame frame = {.id = id,
                             .boot = w->boot,
                             .request = ++w->request,
                             .epoch = b->epoch,
                             .json = json,
                             .json_len = strlen(json)};
    size_t len = npo_frame_bytes(&frame), head = SP_LENGTH + SP_REQUEST_ID;
    NPO_TRY(npo_frame_encode(&frame, bytes + head, sizeof bytes - head, error));
    put_be64(bytes, SP_REQUEST_ID + len);
    const uint32_t sp_request = htonl(0x80000000u | (uint32_t)w->request);
    memcpy(bytes + SP_LENGTH, &sp_request, sizeof sp_request);
    return send_all(w->fd, bytes, head + len, error);
}

static npo_err npod_ask(bench *b, worker *w, npo_error *error)
{
    char json[REQUEST_BYTES / 2];
    switch (w->phase) {
    case PHASE_HELLO:
        snprintf(json, sizeof json,
                 "{\"name\":\"bench-%03td\",\"device\":\"cpu\",\"class\":\"bench\",\"threads\":1,"
                 "\"memory_bytes\":1073741824,\"labels\":{},\"build\":\"%s\",\"protocol\":[1,1]}",
                 w - b->workers, NPO_VERSION);
        return npod_send(b, w, NPO_MESSAGE_HELLO, json, error);
    case PHASE_TAKE:
        snprintf(json, sizeof json, "{\"worker\":%lld}", w->id);
        return npod_send(b, w, NPO_MESSAGE_PULL, json, error);
    default:
        snprintf(
            json, sizeof json,
            "{\"worker\":%lld,\"task\":%lld,\"attempt\":%lld,\"rank\":0,\"outputs\":[{\"name\":"
            "\"checkpoint\",\"hash\":\"%s\",\"size\":%llu}],\"result\":{\"loss\":0.5}}",
            w->id, w->task, w->attempt, b->hash, (unsigned long long)b->size);
        return npod_send(b, w, NPO_MESSAGE_DONE, json, error);
    }
}

/* The whole number behind "key": in a NUL-terminated text, or fallback. */
static long long number_of(const char *text, const char *key, long long fallback)
{
    const char *at = strstr(text, key);
    return at ? strtoll(at + strlen(key), NULL, 10) : fallback;
}

static npo_err npod_advance(bench *b, worker *w, const npo_frame *frame, const char *json,
                            npo_error *error)
{
    if (frame->boot != w->boot || frame->request != w->request || !frame->is_reply)
        return npo_error_set(error, NPO_E_FORMAT, "npod answered another request");
    if (strncmp(json, "{\"error\"", 8) == 0)
        return npo_error_set(error, NPO_E_REFUSED, "npod refused: %s", json);
    b->epoch = frame->epoch;
    switch (w->phase) {
    case PHASE_HELLO:
        w->id = number_of(json, "\"worker\":", -1);
        w->phase = PHASE_TAKE;
        break;
    case PHASE_TAKE:
        w->task = number_of(json, "\"task\":", -1);
        w->attempt = number_of(json, "\"attempt\":", -1);
        b->empty += w->task < 0;
        w->phase = w->task < 0 ? PHASE_TAKE : PHASE_DONE;
        break;
    case PHASE_DONE:
        b->counted += b->counting;
        w->phase = PHASE_TAKE;
        break;
    }
    return NPO_OK;
}

static npo_err npod_answer(bench *b, worker *w, size_t *ret_bytes, npo_error *error)
{
    if (w->in_len < SP_LENGTH)
        return NPO_OK;
    const uint64_t len = get_be64(w->in);
    if (len < SP_REQUEST_ID || len > REPLY_BYTES - SP_LENGTH)
        return npo_error_set(error, NPO_E_LIMIT, "npod answered with %llu bytes",
                             (unsigned long long)len);
    const size_t whole = SP_LENGTH + (size_t)len;
    if (w->in_len < whole)
        return NPO_OK;
    npo_frame frame;
    const size_t head = SP_LENGTH + SP_REQUEST_ID;
    NPO_TRY(npo_frame_decode(w->in + head, whole - head, &frame, error));
    /* The answer is the last thing in the buffer, as only one request is out. */
    w->in[whole] = 0;
    *ret_bytes = whole;
    return npod_advance(b, w, &frame, frame.json, error);
}

static npo_err npod_upload(bench *b, npo_error *error)
{
    char path[] = "/tmp/npo-bench-XXXXXX";
    const npo_transfer transfer = {.client = b->client};
    npo_artifact artifact;
    int fd = mkstemp(path);
    if (fd < 0)
        return npo_error_errno(error, errno, "cannot make a temporary file");
    npo_err err = send_all(fd, "npo", 3, error);
    close(fd);
    if (err == NPO_OK)
        err = npo_upload(&transfer, path, &artifact, error);
    unlink(path);
    if (err != NPO_OK)
        return err;
    npo_hash_format(&artifact.hash, b->hash);
    b->size = artifact.size;
    return NPO_OK;
}

static npo_err npod_submit(bench *b, int64_t i, npo_error *error)
{
    char json[REQUEST_BYTES];
    snprintf(
        json, sizeof json,
        "{\"key\":\"bench-%llx-%lld\",\"spec\":{\"name\":\"bench-%lld\",\"recipe\":\"diffusion\","
        "\"workers\":1,\"round_steps\":1,\"model\":{\"artifact\":\"%s\"},\"data\":{\"artifact\":"
        "\"%s\"},\"train\":{\"steps\":%lld,\"batch\":1}}}",
        (unsigned long long)b->identity.boot, (long long)i, (long long)i, b->hash, b->hash,
        (long long)b->set.tasks);
    npo_answer answer = {0};
    cJSON *body = NULL;
    NPO_TRY(npo_json_parse(json, strlen(json), "job", &body, error));
    npo_err err = npo_client_call(b->client, NPO_MESSAGE_SUBMIT, body, NULL, 0, &answer, error);
    cJSON_Delete(body);
    if (err == NPO_OK)
        b->jobs[i] = npo_json_int(answer.json, "job", 0);
    npo_answer_fini(&answer);
    return err;
}

static npo_err npod_prepare(bench *b, npo_error *error)
{
    NPO_TRY(npo_identity_init(&b->identity, error));
    const npo_client_options options = {
        .address = b->address, .identity = &b->identity, .deadline_ms = STALL_MS};
    NPO_TRY(npo_client_open(&options, &b->client, error));
    NPO_TRY(npod_upload(b, error));
    for (int64_t i = 0; i < b->set.workers; i++)
        NPO_TRY(npod_submit(b, i, error));
    b->available = b->set.workers * b->set.tasks;
    return NPO_OK;
}

static npo_err npod_verify(bench *b, npo_error *error)
{
    long long done = 0;
    for (int64_t i = 0; i < b->set.workers; i++) {
        npo_answer answer = {0};
        cJSON *body = cJSON_CreateObject();
        cJSON_AddNumberToObject(body, "job", (double)b->jobs[i]);
        npo_err err = npo_client_call(b->client, NPO_MESSAGE_JOB, body, NULL, 0, &answer, error);
        cJSON_Delete(body);
        if (err != NPO_OK)
            return err;
        const cJSON *job = cJSON_GetObjectItemCaseSensitive(answer.json, "job");
        done += npo_json_int(cJSON_GetObjectItemCaseSensitive(job, "tasks"), "done", 0);
        npo_answer_fini(&answer);
    }
    if (done < b->counted)
        return npo_error_set(error, NPO_E_STATE, "npod has %lld tasks done, but confirmed %lld",
                             done, b->counted);
    return NPO_OK;
}

/* ---- beanstalkd ---- */

static npo_err beanstalkd_put(int fd, const char *puts, size_t len, npo_error *error)
{
    char reply[4096];
    NPO_TRY(send_all(fd, puts, len, error));
    for (int lines = 0; lines < PUTS_AT_ONCE;) {
        ssize_t n = read(fd, reply, sizeof reply);
        if (n <= 0)
            return npo_error_set(error, NPO_E_PEER, "beanstalkd closed the connection");
        for (ssize_t i = 0; i < n; i++)
            lines += reply[i] == '\n';
    }
    return NPO_OK;
}

static npo_err beanstalkd_prepare(bench *b, npo_error *error)
{
    char body[PUT_BYTES + 1], *puts = calloc(PUTS_AT_ONCE, PUT_BYTES + 64);
    size_t len = 0;
    int fd = -1;
    memset(body, 'x', PUT_BYTES);
    body[PUT_BYTES] = 0;
    if (!puts)
        return NPO_E_NOMEM;
    for (int i = 0; i < PUTS_AT_ONCE; i++)
        len += (size_t)sprintf(puts + len, "put 1000 0 600 %d\r\n%s\r\n", PUT_BYTES, body);
    npo_err err = connect_to(b, &fd, error);
    /* A put costs what a delete costs: twice the time to be measured makes more than enough. */
    const int64_t total = b->set.tasks * b->set.workers;
    const int64_t until = npo_clock_ms() + (int64_t)(2000 * b->set.seconds);
    while (b->available < total && npo_clock_ms() < until && err == NPO_OK) {
        err = beanstalkd_put(fd, puts, len, error);
        b->available += PUTS_AT_ONCE;
    }
    if (fd >= 0)
        close(fd);
    free(puts);
    return err;
}

static npo_err beanstalkd_connected(bench *b, worker *w, npo_error *error)
{
    w->phase = PHASE_TAKE;
    return NPO_OK;
}

static npo_err beanstalkd_ask(bench *b, worker *w, npo_error *error)
{
    char line[64];
    int len = w->phase == PHASE_TAKE ? snprintf(line, sizeof line, "reserve\r\n")
                                     : snprintf(line, sizeof line, "delete %lld\r\n", w->task);
    return send_all(w->fd, line, (size_t)len, error);
}

static npo_err beanstalkd_answer(bench *b, worker *w, size_t *ret_bytes, npo_error *error)
{
    w->in[w->in_len] = 0;
    const char *end = strstr(w->in, "\r\n");
    long long id;
    int bytes;
    if (!end)
        return NPO_OK;
    size_t whole = (size_t)(end - w->in) + 2;
    if (w->phase == PHASE_TAKE && sscanf(w->in, "RESERVED %lld %d", &id, &bytes) == 2) {
        whole += (size_t)bytes + 2;
        if (w->in_len < whole)
            return NPO_OK;
        w->task = id;
        w->phase = PHASE_DONE;
    } else if (w->phase == PHASE_DONE && strncmp(w->in, "DELETED", 7) == 0) {
        b->counted += b->counting;
        w->phase = PHASE_TAKE;
    } else {
        return npo_error_set(error, NPO_E_PEER, "beanstalkd answered '%.60s'", w->in);
    }
    *ret_bytes = whole;
    return NPO_OK;
}

static npo_err beanstalkd_verify(bench *b, npo_error *error)
{
    return NPO_OK;
}

static const server servers[] = {
    {"npod", npod_prepare, npod_connected, npod_ask, npod_answer, npod_verify},
    {"beanstalkd", beanstalkd_prepare, beanstalkd_connected, beanstalkd_ask, beanstalkd_answer,
     beanstalkd_verify},
};

static const server *server_find(const char *name)
{
    for (size_t i = 0; i < sizeof servers / sizeof servers[0]; i++)
        if (strcmp(servers[i].name, name) == 0)
            return &servers[i];
    return NULL;
}

/* ---- the loop ---- */

static npo_err open_workers(bench *b, npo_error *error)
{
    b->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (b->epoll < 0)
        return npo_error_errno(error, errno, "cannot wait for sockets");
    for (int64_t i = 0; i < b->set.workers; i++) {
        worker *w = &b->workers[i];
        NPO_TRY(connect_to(b, &w->fd, error));
        NPO_TRY(b->server->connected(b, w, error));
        struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = w}};
        if (epoll_ctl(b->epoll, EPOLL_CTL_ADD, w->fd, &event) < 0)
            return npo_error_errno(error, errno, "cannot wait for a socket");
    }
    return NPO_OK;
}

static npo_err on_readable(bench *b, worker *w, bool *ret_answered, npo_error *error)
{
    size_t whole = 0;
    ssize_t n = read(w->fd, w->in + w->in_len, REPLY_BYTES - w->in_len);
    if (n <= 0)
        return npo_error_set(error, NPO_E_PEER, "'%s' closed a connection", b->address);
    w->in_len += (size_t)n;
    NPO_TRY(b->server->answer(b, w, &whole, error));
    *ret_answered = whole > 0;
    if (whole == 0)
        return NPO_OK;
    if (whole != w->in_len)
        return npo_error_set(error, NPO_E_FORMAT, "'%s' answered more than was asked", b->address);
    w->in_len = 0;
    return NPO_OK;
}

/* Waits once and handles what came. With hold, a worker that has a task stays with it (the start
 * line); else every answer is followed by the next request. */
static npo_err turn(bench *b, bool hold, int *ret_held, npo_error *error)
{
    struct epoll_event events[WORKERS_MAX];
    int n = epoll_wait(b->epoll, events, WORKERS_MAX, STALL_MS);
    if (n < 0 && errno != EINTR)
        return npo_error_errno(error, errno, "cannot wait for sockets");
    if (n == 0)
        return npo_error_set(error, NPO_E_TIMEOUT, "no answer from '%s' for %d ms", b->address,
                             (int)STALL_MS);
    for (int i = 0; i < n; i++) {
        worker *w = events[i].data.ptr;
        bool answered = false;
        NPO_TRY(on_readable(b, w, &answered, error));
        if (!answered)
            continue;
        if (hold && w->phase == PHASE_DONE)
            ++*ret_held;
        else
            NPO_TRY(b->server->ask(b, w, error));
    }
    return NPO_OK;
}

static npo_err ask_all(bench *b, npo_error *error)
{
    for (int64_t i = 0; i < b->set.workers; i++)
        NPO_TRY(b->server->ask(b, &b->workers[i], error));
    return NPO_OK;
}

static npo_err measure(bench *b, double *ret_rate, npo_error *error)
{
    int held = 0;
    const int64_t line_by = npo_clock_ms() + STALL_MS;
    NPO_TRY(ask_all(b, error));
    while (held < b->set.workers) {
        NPO_TRY(turn(b, true, &held, error));
        if (npo_clock_ms() > line_by)
            return npo_error_set(error, NPO_E_TIMEOUT, "only %d of %d workers were given a task",
                                 held, (int)b->set.workers);
    }
    b->counting = true;
    b->empty = 0;
    const int64_t start = npo_clock_ns(), end = start + (int64_t)(b->set.seconds * 1e9);
    const long long enough = b->available - b->set.workers;
    int64_t now = start;
    NPO_TRY(ask_all(b, error));
    while (now < end && b->counted < enough && b->empty == 0) {
        NPO_TRY(turn(b, false, NULL, error));
        now = npo_clock_ns();
    }
    *ret_rate = (double)b->counted / ((double)(now - start) / 1e9);
    return NPO_OK;
}

static npo_err bench_run(bench *b, npo_error *error)
{
    double rate = 0;
    b->workers = calloc((size_t)b->set.workers, sizeof *b->workers);
    b->jobs = calloc((size_t)b->set.workers, sizeof *b->jobs);
    if (!b->workers || !b->jobs)
        return NPO_E_NOMEM;
    for (int64_t i = 0; i < b->set.workers; i++)
        b->workers[i].fd = -1;
    NPO_TRY(parse_address(b, error));
    NPO_TRY(b->server->prepare(b, error));
    NPO_TRY(open_workers(b, error));
    NPO_TRY(measure(b, &rate, error));
    NPO_TRY(b->server->verify(b, error));
    if (b->empty > 0)
        fprintf(stderr, "bench-control-plane: stopped after %lld tasks, when a worker found none\n",
                b->counted);
    printf("%.1f\n", rate);
    return NPO_OK;
}

static void bench_close(bench *b)
{
    for (int64_t i = 0; b->workers && i < b->set.workers; i++)
        if (b->workers[i].fd >= 0)
            close(b->workers[i].fd);
    if (b->epoll > 0)
        close(b->epoll);
    npo_client_close(b->client);
    free(b->workers);
    free(b->jobs);
}

#define ROW(name, type, member, argument, help, min, max)                                          \
    {                                                                                              \
        name, 0, type, NPO_OPTION_FLAG_ONLY, offsetof(settings, member), argument, help, min, max  \
    }
static const npo_option options[] = {
    ROW("workers", NPO_OPTION_INT, workers, "N", "simulated workers", 1, WORKERS_MAX),
    ROW("seconds", NPO_OPTION_NUMBER, seconds, "S", "how long to measure", 0.1, 60),
    ROW("tasks", NPO_OPTION_INT, tasks, "N", "tasks a worker, made before", 2, 100000),
};

static const npo_options_spec spec = {
    .program = "bench-control-plane",
    .usage = "[OPTION...] npod|beanstalkd ADDRESS",
    .text = "Prints tasks a second of a server that runs already and has nothing else to do.",
    .example = "bench-control-plane npod tcp://127.0.0.1:7000",
    .options = options,
    .count = sizeof options / sizeof options[0],
    .rest_max = 2,
};

int main(int argc, char **argv)
{
    bench b = {.set = {.workers = 64, .tasks = 1000, .seconds = 3}};
    npo_options *read = NULL;
    npo_error error = {0};
    char **rest;
    int rest_count = 0;
    npo_err err = npo_options_read(&spec, argc, argv, &b.set, &read, &error);
    if (err != NPO_OK || npo_options_answer(&spec, read, &b.set, stdout))
        goto out;
    rest = npo_options_rest(read, &rest_count);
    b.server = rest_count == 2 ? server_find(rest[0]) : NULL;
    b.address = rest_count == 2 ? rest[1] : NULL;
    err = b.server ? bench_run(&b, &error)
                   : npo_error_set(&error, NPO_E_USAGE,
                                   "expected 'npod' or 'beanstalkd', then its address");
out:
    if (err != NPO_OK)
        fprintf(stderr, "bench-control-plane: %s\n",
                error.text[0] ? error.text : npo_err_text(err));
    bench_close(&b);
    npo_options_free(read);
    return err == NPO_OK ? 0 : err == NPO_E_USAGE ? 2 : 1;
}
