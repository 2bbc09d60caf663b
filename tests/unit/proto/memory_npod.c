#include "tests/unit/proto/memory_npod.h"

#include "proto/address.h"
#include "proto/server_channel.h"
#include "tests/unit/cmocka.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ARTIFACTS_MAX = 64 };

typedef struct {
    npo_hash hash;
    size_t size, received;
    char *bytes;
    bool published, open;
} artifact;

struct memory_npod {
    memory_npod_faults faults;
    pthread_t thread;
    pthread_mutex_t lock;
    artifact artifacts[ARTIFACTS_MAX];
    size_t count;
    char address[NPO_ADDRESS_SIZE];
    uv_loop_t loop;
    uv_async_t stop;
    npo_server_channel *control, *bulk;
    uv_sem_t ready;
};

static artifact *find(memory_npod *npod, const npo_hash *hash)
{
    for (size_t i = 0; i < npod->count; i++)
        if (npo_hash_equal(&npod->artifacts[i].hash, hash))
            return &npod->artifacts[i];
    return NULL;
}

static artifact *add(memory_npod *npod, const npo_hash *hash, size_t size)
{
    assert_true(npod->count < ARTIFACTS_MAX);
    artifact *one = &npod->artifacts[npod->count++];
    *one = (artifact){.hash = *hash, .size = size, .bytes = calloc(1, size + 1)};
    assert_non_null(one->bytes);
    return one;
}

/* A count that is about to reach 0 with this event. */
static bool happens(atomic_int *countdown)
{
    int left = atomic_load(countdown);
    if (left > 0)
        atomic_store(countdown, left - 1);
    return left == 1;
}

static bool takes_one(atomic_int *count)
{
    int left = atomic_load(count);
    if (left > 0)
        atomic_store(count, left - 1);
    return left > 0;
}

static void reply_json(memory_npod *npod, npo_reply_to *to, cJSON *json_take, const void *payload,
                       size_t payload_len)
{
    char *text = cJSON_PrintUnformatted(json_take);
    npo_reply_send(to, (uint64_t)atomic_load(&npod->faults.epoch), text, strlen(text), payload,
                   payload_len);
    cJSON_free(text);
    cJSON_Delete(json_take);
}

static void reply_error(memory_npod *npod, npo_reply_to *to, npo_err code)
{
    reply_json(npod, to, npo_reply_error_new(code, NULL), NULL, 0);
}

static cJSON *number(const char *key, double value)
{
    cJSON *json = cJSON_CreateObject();
    cJSON_AddNumberToObject(json, key, value);
    return json;
}

static void on_open(memory_npod *npod, const cJSON *body, const npo_hash *hash, npo_reply_to *to)
{
    artifact *one = find(npod, hash);
    atomic_fetch_add(&npod->faults.opens, 1);
    atomic_store(&npod->faults.last_task, (int)npo_json_int(body, "task", 0));
    if (!one)
        one = add(npod, hash, (size_t)npo_json_int(body, "size", 0));
    one->open = true;
    cJSON *reply = number("offset", (double)one->received);
    cJSON_AddBoolToObject(reply, "have", one->published);
    reply_json(npod, to, reply, NULL, 0);
}

static void on_chunk(memory_npod *npod, const cJSON *body, const npo_hash *hash,
                     const npo_frame *frame, npo_reply_to *to)
{
    artifact *one = find(npod, hash);
    size_t offset = (size_t)npo_json_int(body, "offset", 0);
    atomic_fetch_add(&npod->faults.chunks, 1);
    if (one && happens(&npod->faults.forget_at_chunk)) {
        one->received = 0;
        one->open = false;
    }
    if (!one || !one->open) {
        reply_error(npod, to, NPO_E_NOT_FOUND);
        return;
    }
    if (offset == one->received && offset + frame->payload_len <= one->size &&
        !takes_one(&npod->faults.refuse_chunks)) {
        memcpy(one->bytes + offset, frame->payload, frame->payload_len);
        one->received += frame->payload_len;
        atomic_fetch_add(&npod->faults.taken_bytes, frame->payload_len);
    }
    reply_json(npod, to, number("received", (double)one->received), NULL, 0);
}

static void on_close(memory_npod *npod, const npo_hash *hash, npo_reply_to *to)
{
    artifact *one = find(npod, hash);
    atomic_fetch_add(&npod->faults.closes, 1);
    if (!one || !one->open) {
        reply_error(npod, to, NPO_E_NOT_FOUND);
        return;
    }
    npo_hash found = npo_hash_bytes(one->bytes, one->received);
    if (takes_one(&npod->faults.corrupt_closes) || !npo_hash_equal(&found, hash)) {
        one->received = 0;
        reply_error(npod, to, NPO_E_CORRUPT);
        return;
    }
    one->published = true;
    one->open = false;
    cJSON *reply = cJSON_CreateObject();
    cJSON_AddBoolToObject(reply, "ok", true);
    reply_json(npod, to, reply, NULL, 0);
}

static void on_download(memory_npod *npod, const cJSON *body, const npo_hash *hash,
                        npo_reply_to *to)
{
    artifact *one = find(npod, hash);
    size_t offset = (size_t)npo_json_int(body, "offset", 0);
    size_t bytes = (size_t)npo_json_int(body, "bytes", 0);
    atomic_fetch_add(&npod->faults.downloads, 1);
    if (!one || !one->published || offset > one->size) {
        reply_error(npod, to, one && one->published ? NPO_E_RANGE : NPO_E_NOT_FOUND);
        return;
    }
    size_t len = one->size - offset < bytes ? one->size - offset : bytes;
    char *part = malloc(len + 1);
    memcpy(part, one->bytes + offset, len);
    if (len > 0 && takes_one(&npod->faults.corrupt_downloads))
        part[len / 2] ^= 4;
    cJSON *reply = number("size", (double)one->size);
    cJSON_AddNumberToObject(reply, "offset", (double)offset);
    reply_json(npod, to, reply, part, len);
    free(part);
}

static void on_missing(memory_npod *npod, const cJSON *body, npo_reply_to *to)
{
    cJSON *reply = cJSON_CreateObject(), *missing = cJSON_AddArrayToObject(reply, "missing");
    const cJSON *item;
    atomic_fetch_add(&npod->faults.missings, 1);
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(body, "hashes"))
    {
        npo_hash hash;
        assert_int_equal(npo_hash_parse(cJSON_GetStringValue(item), &hash), NPO_OK);
        artifact *one = find(npod, &hash);
        if (!one || !one->published)
            cJSON_AddItemToArray(missing, cJSON_CreateString(cJSON_GetStringValue(item)));
    }
    reply_json(npod, to, reply, NULL, 0);
}

static void fall_silent(memory_npod *npod, npo_reply_to *to)
{
    uint64_t one = 1;
    int fd = atomic_exchange(&npod->faults.silent_fd, 0);
    npo_reply_drop(to);
    if (fd > 0)
        assert_int_equal(write(fd, &one, sizeof one), sizeof one);
}

static void on_frame(void *self, const npo_frame *frame, npo_reply_to *to)
{
    memory_npod *npod = self;
    cJSON *body = NULL;
    npo_hash hash = {{0}};
    assert_int_equal(npo_frame_parse(frame, &body, NULL), NPO_OK);
    const char *text = npo_json_string(body, "hash", NULL);
    if (text)
        assert_int_equal(npo_hash_parse(text, &hash), NPO_OK);
    bool is_bulk = frame->id == NPO_MESSAGE_UPLOAD_CHUNK || frame->id == NPO_MESSAGE_DOWNLOAD;
    int silent = atomic_load(&npod->faults.silent_at_chunk);
    if (is_bulk && silent > 1)
        atomic_store(&npod->faults.silent_at_chunk, silent - 1);
    pthread_mutex_lock(&npod->lock);
    if (silent == 1)
        fall_silent(npod, to);
    else if (frame->id == NPO_MESSAGE_UPLOAD_OPEN)
        on_open(npod, body, &hash, to);
    else if (frame->id == NPO_MESSAGE_UPLOAD_CHUNK)
        on_chunk(npod, body, &hash, frame, to);
    else if (frame->id == NPO_MESSAGE_UPLOAD_CLOSE)
        on_close(npod, &hash, to);
    else if (frame->id == NPO_MESSAGE_DOWNLOAD)
        on_download(npod, body, &hash, to);
    else if (frame->id == NPO_MESSAGE_ARTIFACTS_MISSING)
        on_missing(npod, body, to);
    else
        reply_error(npod, to, NPO_E_UNSUPPORTED);
    pthread_mutex_unlock(&npod->lock);
    cJSON_Delete(body);
}

static void on_batch_end(void *self)
{
}

static void on_stop(uv_async_t *async)
{
    memory_npod *npod = async->data;
    npo_server_channel_close(npod->control, NULL);
    npo_server_channel_close(npod->bulk, NULL);
    uv_close((uv_handle_t *)async, NULL);
}

static void *thread_main(void *argument)
{
    memory_npod *npod = argument;
    npo_server_handler handler = {npod, on_frame, on_batch_end};
    char bulk[NPO_ADDRESS_SIZE];
    npo_error error = {0};
    assert_int_equal(uv_loop_init(&npod->loop), 0);
    uv_async_init(&npod->loop, &npod->stop, on_stop);
    npod->stop.data = npod;
    assert_int_equal(npo_address_derive(npod->address, NPO_ENDPOINT_BULK, bulk, &error), NPO_OK);
    assert_int_equal(npo_server_channel_open(&npod->loop, npod->address, NPO_CHANNEL_CONTROL,
                                             &handler, &npod->control, &error),
                     NPO_OK);
    assert_int_equal(
        npo_server_channel_open(&npod->loop, bulk, NPO_CHANNEL_BULK, &handler, &npod->bulk, &error),
        NPO_OK);
    uv_sem_post(&npod->ready);
    uv_run(&npod->loop, UV_RUN_DEFAULT);
    uv_loop_close(&npod->loop);
    return NULL;
}

memory_npod *memory_npod_start(const char *address)
{
    memory_npod *npod = calloc(1, sizeof *npod);
    assert_non_null(npod);
    snprintf(npod->address, sizeof npod->address, "%s", address);
    atomic_store(&npod->faults.epoch, 1);
    pthread_mutex_init(&npod->lock, NULL);
    uv_sem_init(&npod->ready, 0);
    assert_int_equal(pthread_create(&npod->thread, NULL, thread_main, npod), 0);
    uv_sem_wait(&npod->ready);
    return npod;
}

void memory_npod_stop(memory_npod *npod)
{
    uv_async_send(&npod->stop);
    pthread_join(npod->thread, NULL);
    for (size_t i = 0; i < npod->count; i++)
        free(npod->artifacts[i].bytes);
    uv_sem_destroy(&npod->ready);
    pthread_mutex_destroy(&npod->lock);
    free(npod);
}

memory_npod_faults *memory_npod_faults_of(memory_npod *npod)
{
    return &npod->faults;
}

const void *memory_npod_find(memory_npod *npod, const npo_hash *hash, size_t *ret_len)
{
    pthread_mutex_lock(&npod->lock);
    artifact *one = find(npod, hash);
    pthread_mutex_unlock(&npod->lock);
    if (!one || !one->published)
        return NULL;
    *ret_len = one->size;
    return one->bytes;
}

size_t memory_npod_received(memory_npod *npod, const npo_hash *hash)
{
    pthread_mutex_lock(&npod->lock);
    artifact *one = find(npod, hash);
    size_t received = one ? one->received : 0;
    pthread_mutex_unlock(&npod->lock);
    return received;
}

npo_hash memory_npod_put(memory_npod *npod, const void *bytes, size_t len)
{
    npo_hash hash = npo_hash_bytes(bytes, len);
    pthread_mutex_lock(&npod->lock);
    artifact *one = find(npod, &hash);
    if (!one)
        one = add(npod, &hash, len);
    memcpy(one->bytes, bytes, len);
    one->received = len;
    one->published = true;
    pthread_mutex_unlock(&npod->lock);
    return hash;
}
