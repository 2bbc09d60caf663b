#include "worker/supervisor/io/mover.h"

#include "worker/supervisor/io/cache.h"

#include <assert.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

typedef struct job {
    struct job *next;
    npo_mover_result result;
    npo_transfer_fence fence;
    npo_mover_input *inputs;
    char *name, *path; /* upload */
} job;

typedef struct {
    job *first, *last;
} job_list;

struct npo_mover {
    uv_async_t async;
    npo_mover_options options;
    npo_client *client;
    npo_cache *cache; /* the thread's */
    pthread_t thread;
    bool has_thread;
    int wake_fd; /* readable: the transfer under way shall end */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    /* under the lock */
    job_list waiting, finished;
    job *current;
    bool is_dropped; /* the current one */
    bool is_stopping;
};

/* ---- jobs ---- */

void npo_mover_inputs_free(npo_mover_input *inputs, size_t count)
{
    for (size_t i = 0; inputs && i < count; i++) {
        free(inputs[i].name);
        free(inputs[i].path);
    }
    free(inputs);
}

static void job_free(job *one)
{
    if (!one)
        return;
    npo_mover_inputs_free(one->inputs, one->result.input_count);
    free(one->name);
    free(one->path);
    free(one);
}

static void push(job_list *list, job *one)
{
    one->next = NULL;
    if (list->last)
        list->last->next = one;
    else
        list->first = one;
    list->last = one;
}

static job *pop(job_list *list)
{
    job *one = list->first;
    if (one) {
        list->first = one->next;
        if (!list->first)
            list->last = NULL;
    }
    return one;
}

static void remove_ticket(job_list *list, uint64_t ticket)
{
    job_list kept = {0};
    for (job *one; (one = pop(list));) {
        if (one->result.ticket == ticket)
            job_free(one);
        else
            push(&kept, one);
    }
    *list = kept;
}

/* ---- the thread ---- */

static npo_err fetch(npo_mover *mover, job *one, const npo_transfer *transfer, npo_error *error)
{
    npo_cache_begin(mover->cache);
    for (size_t i = 0; i < one->result.input_count; i++)
        NPO_TRY(npo_cache_get(mover->cache, transfer, &one->inputs[i].hash, &one->inputs[i].path,
                              error));
    return npo_cache_trim(mover->cache, transfer, error);
}

static npo_err upload(npo_mover *mover, job *one, const npo_transfer *transfer, npo_error *error)
{
    npo_artifact *artifact = &one->result.artifact;
    NPO_TRY(npo_upload(transfer, one->path, artifact, error));
    return npo_cache_add(mover->cache, artifact, one->path, error);
}

static void carry_out(npo_mover *mover, job *one)
{
    npo_transfer transfer = {.client = mover->client,
                             .fence = one->fence,
                             .crash_point_chunk =
                                 one->result.is_upload ? "upload.chunk" : "download.chunk",
                             .crash_point_done = "upload.done"};
    npo_error *error = &one->result.error;
    one->result.err = one->result.is_upload ? upload(mover, one, &transfer, error)
                                            : fetch(mover, one, &transfer, error);
    one->result.inputs = one->inputs;
    one->result.name = one->name;
}

/* A wake that came for an earlier job must not end this one. */
static void clear_wake(npo_mover *mover)
{
    uint64_t count;
    while (read(mover->wake_fd, &count, sizeof count) < 0 && errno == EINTR)
        ;
}

static job *next_job(npo_mover *mover)
{
    pthread_mutex_lock(&mover->lock);
    while (!mover->waiting.first && !mover->is_stopping)
        pthread_cond_wait(&mover->changed, &mover->lock);
    mover->current = mover->is_stopping ? NULL : pop(&mover->waiting);
    mover->is_dropped = false;
    if (!mover->is_stopping)
        clear_wake(mover);
    pthread_mutex_unlock(&mover->lock);
    return mover->current;
}

static void finish(npo_mover *mover, job *one)
{
    pthread_mutex_lock(&mover->lock);
    mover->current = NULL;
    if (mover->is_dropped)
        job_free(one);
    else
        push(&mover->finished, one);
    pthread_mutex_unlock(&mover->lock);
    uv_async_send(&mover->async);
}

static void *thread_main(void *argument)
{
    npo_mover *mover = argument;
    for (job *one; (one = next_job(mover));) {
        carry_out(mover, one);
        finish(mover, one);
    }
    return NULL;
}

/* ---- the loop's side ---- */

static void on_finished(uv_async_t *async)
{
    npo_mover *mover = async->data;
    for (;;) {
        pthread_mutex_lock(&mover->lock);
        job *one = pop(&mover->finished);
        pthread_mutex_unlock(&mover->lock);
        if (!one)
            return;
        mover->options.moved(mover->options.self, &one->result);
        job_free(one);
    }
}

static void mover_free(npo_mover *mover)
{
    for (job *one; (one = pop(&mover->waiting));)
        job_free(one);
    for (job *one; (one = pop(&mover->finished));)
        job_free(one);
    npo_client_close(mover->client);
    npo_cache_close(mover->cache);
    if (mover->wake_fd >= 0)
        close(mover->wake_fd);
    pthread_mutex_destroy(&mover->lock);
    pthread_cond_destroy(&mover->changed);
    free(mover);
}

static npo_err open_parts(npo_mover *mover, npo_error *error)
{
    mover->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (mover->wake_fd < 0)
        return npo_error_errno(error, errno, "cannot start moving files");
    npo_client_options client = {.address = mover->options.address,
                                 .identity = mover->options.identity,
                                 .deadline_ms = -1,
                                 .wake_fd = mover->wake_fd};
    NPO_TRY(npo_client_open(&client, &mover->client, error));
    return npo_cache_open(mover->options.cache_dir, mover->options.cache_bytes_max, &mover->cache,
                          error);
}

/* Chunks are of 4 MiB: without this every one is mapped and unmapped anew (measured: factor 2.4).
 */
static void tune_malloc(void)
{
    mallopt(M_TRIM_THRESHOLD, 512 << 20);
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TOP_PAD, 64 << 20);
}

npo_err npo_mover_start(uv_loop_t *loop, const npo_mover_options *options, npo_mover **ret_mover,
                        npo_error *error)
{
    npo_mover *mover = calloc(1, sizeof *mover);
    if (!mover)
        return npo_error_set(error, NPO_E_NOMEM, "cannot start moving files: out of memory");
    tune_malloc();
    mover->options = *options;
    mover->wake_fd = -1;
    pthread_mutex_init(&mover->lock, NULL);
    pthread_cond_init(&mover->changed, NULL);
    npo_err err = open_parts(mover, error);
    if (err) {
        mover_free(mover);
        return err;
    }
    uv_async_init(loop, &mover->async, on_finished);
    mover->async.data = mover;
    int rc = pthread_create(&mover->thread, NULL, thread_main, mover);
    mover->has_thread = rc == 0;
    if (rc != 0) {
        npo_mover_stop(mover);
        return npo_error_errno(error, rc, "cannot start moving files");
    }
    *ret_mover = mover;
    return NPO_OK;
}

static void wake(npo_mover *mover)
{
    uint64_t one = 1;
    while (write(mover->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

static void on_closed(uv_handle_t *handle)
{
    mover_free(handle->data);
}

void npo_mover_stop(npo_mover *mover)
{
    if (!mover)
        return;
    pthread_mutex_lock(&mover->lock);
    mover->is_stopping = true;
    wake(mover);
    pthread_cond_signal(&mover->changed);
    pthread_mutex_unlock(&mover->lock);
    if (mover->has_thread)
        pthread_join(mover->thread, NULL);
    uv_close((uv_handle_t *)&mover->async, on_closed);
}

static void ask(npo_mover *mover, job *one)
{
    pthread_mutex_lock(&mover->lock);
    push(&mover->waiting, one);
    pthread_cond_signal(&mover->changed);
    pthread_mutex_unlock(&mover->lock);
}

npo_err npo_mover_fetch(npo_mover *mover, uint64_t ticket, const npo_transfer_fence *fence,
                        npo_mover_input *inputs_take, size_t count, npo_error *error)
{
    job *one = calloc(1, sizeof *one);
    if (!one) {
        npo_mover_inputs_free(inputs_take, count);
        return npo_error_set(error, NPO_E_NOMEM, "cannot fetch inputs: out of memory");
    }
    one->result.ticket = ticket;
    one->result.input_count = count;
    one->fence = *fence;
    one->inputs = inputs_take;
    ask(mover, one);
    return NPO_OK;
}

npo_err npo_mover_upload(npo_mover *mover, uint64_t ticket, const npo_transfer_fence *fence,
                         const char *name, const char *path, npo_error *error)
{
    job *one = calloc(1, sizeof *one);
    if (one) {
        one->name = strdup(name);
        one->path = strdup(path);
    }
    if (!one || !one->name || !one->path) {
        job_free(one);
        return npo_error_set(error, NPO_E_NOMEM, "cannot publish '%s': out of memory", name);
    }
    one->result.ticket = ticket;
    one->result.is_upload = true;
    one->fence = *fence;
    ask(mover, one);
    return NPO_OK;
}

void npo_mover_drop(npo_mover *mover, uint64_t ticket)
{
    pthread_mutex_lock(&mover->lock);
    remove_ticket(&mover->waiting, ticket);
    remove_ticket(&mover->finished, ticket);
    if (mover->current && mover->current->result.ticket == ticket) {
        mover->is_dropped = true;
        wake(mover);
    }
    pthread_mutex_unlock(&mover->lock);
}
