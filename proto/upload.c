#include "proto/transfer.h"

#include "common/bounds.h"
#include "common/file.h"
#include "proto/transfer_part.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STALLS_MAX = 16 }; /* answers in a row that brought no byte forward */

/* ---- upload of one file ---- */

typedef struct {
    const npo_transfer *transfer;
    const char *path;
    int fd;
    npo_hash hash;
    uint64_t size;
    uint64_t received; /* what npod holds, by its last answer */
    uint64_t next;     /* offset of the next chunk */
    struct {
        bool busy;
        uint64_t end; /* offset behind the chunk in flight */
    } slots[NPO_UPLOAD_WINDOW];
    int stalls;
    uint8_t *chunk;
} upload;

static npo_err upload_open(upload *up, bool *ret_have, npo_error *error)
{
    const npo_transfer_fence *fence = &up->transfer->fence;
    npo_answer answer = {0};
    cJSON *body = npo_transfer_body(&up->hash);
    bool whole = body && cJSON_AddNumberToObject(body, "size", (double)up->size);
    if (whole && fence->task)
        whole = cJSON_AddNumberToObject(body, "worker", (double)fence->worker) &&
                cJSON_AddNumberToObject(body, "task", (double)fence->task) &&
                cJSON_AddNumberToObject(body, "attempt", fence->attempt) &&
                cJSON_AddNumberToObject(body, "rank", fence->rank);
    npo_err err = whole ? npo_client_call(up->transfer->client, NPO_MESSAGE_UPLOAD_OPEN, body, NULL,
                                          0, &answer, error)
                        : npo_transfer_no_memory(up->path, error);
    cJSON_Delete(body);
    if (err)
        return err;
    *ret_have = npo_json_bool(answer.json, "have", false);
    up->received = (uint64_t)npo_json_int(answer.json, "offset", 0);
    up->next = up->received;
    npo_answer_fini(&answer);
    if (up->received > up->size)
        return npo_error_set(error, NPO_E_FORMAT, "npod holds %llu bytes of '%s', which has %llu",
                             (unsigned long long)up->received, up->path,
                             (unsigned long long)up->size);
    return NPO_OK;
}

/* A short tail would overtake the chunk before it on the other connection, only to be refused. */
static bool may_send(const upload *up, int in_flight)
{
    if (up->next >= up->size || in_flight >= NPO_UPLOAD_WINDOW)
        return false;
    return in_flight == 0 || up->size - up->next >= NPO_CHUNK_BYTES;
}

static npo_err send_chunk(upload *up, int slot, npo_error *error)
{
    npo_connection *connection;
    uint64_t left = up->size - up->next;
    size_t len = left < NPO_CHUNK_BYTES ? (size_t)left : NPO_CHUNK_BYTES;
    NPO_TRY(npo_client_bulk(up->transfer->client, slot, &connection, error));
    npo_err err = npo_file_pread(up->fd, up->chunk, len, up->next, error);
    if (err)
        return npo_error_prefix(error, err, "cannot read '%s'", up->path);
    cJSON *body = npo_transfer_body(&up->hash);
    err = body && cJSON_AddNumberToObject(body, "offset", (double)up->next)
              ? npo_connection_send(connection, NPO_MESSAGE_UPLOAD_CHUNK, body, up->chunk, len,
                                    NULL, error)
              : npo_transfer_no_memory(up->path, error);
    cJSON_Delete(body);
    if (err)
        return err;
    up->next += len;
    up->slots[slot].busy = true;
    up->slots[slot].end = up->next;
    return NPO_OK;
}

static npo_err receive_chunk(upload *up, int slot, npo_error *error)
{
    npo_connection *connection;
    npo_answer answer = {0};
    NPO_TRY(npo_client_bulk(up->transfer->client, slot, &connection, error));
    NPO_TRY(npo_client_wait(up->transfer->client, connection, &answer, error));
    uint64_t received = (uint64_t)npo_json_int(answer.json, "received", 0);
    npo_answer_fini(&answer);
    up->slots[slot].busy = false;
    up->stalls = received > up->received ? 0 : up->stalls + 1;
    up->received = received;
    npo_transfer_report(up->transfer, up->path, received, up->size);
    npo_transfer_crash_point(up->transfer->crash_point_chunk);
    if (up->stalls > STALLS_MAX)
        return npo_error_set(error, NPO_E_PEER, "the upload of '%s' stands still at %llu of %llu",
                             up->path, (unsigned long long)received, (unsigned long long)up->size);
    return NPO_OK;
}

/* Two connections may overtake each other, and a restarted npod may hold less than it answered: a
 * chunk that did not follow is refused with what is there. Then the window runs empty and goes on
 * from that. */
static npo_err send_chunks(upload *up, npo_error *error)
{
    int oldest = 0, in_flight = 0;
    bool rewind = false;
    while (up->received < up->size || in_flight > 0) {
        if (rewind && in_flight == 0) {
            up->next = up->received;
            rewind = false;
        }
        if (!rewind && may_send(up, in_flight)) {
            NPO_TRY(send_chunk(up, (oldest + in_flight) % NPO_UPLOAD_WINDOW, error));
            in_flight++;
            continue;
        }
        if (in_flight == 0) { /* all sent, and still something lacks */
            rewind = true;
            continue;
        }
        uint64_t end = up->slots[oldest].end;
        NPO_TRY(receive_chunk(up, oldest, error));
        rewind = rewind || up->received < end;
        oldest = (oldest + 1) % NPO_UPLOAD_WINDOW;
        in_flight--;
    }
    return NPO_OK;
}

static npo_err close_upload(upload *up, npo_error *error)
{
    cJSON *body = npo_transfer_body(&up->hash);
    npo_err err = body ? npo_client_call(up->transfer->client, NPO_MESSAGE_UPLOAD_CLOSE, body, NULL,
                                         0, NULL, error)
                       : npo_transfer_no_memory(up->path, error);
    cJSON_Delete(body);
    return err;
}

static npo_err upload_once(upload *up, npo_error *error)
{
    bool have = false;
    memset(up->slots, 0, sizeof up->slots);
    up->stalls = 0;
    NPO_TRY(upload_open(up, &have, error));
    if (have)
        return NPO_OK;
    NPO_TRY(send_chunks(up, error));
    NPO_TRY(close_upload(up, error));
    npo_transfer_crash_point(up->transfer->crash_point_done);
    return NPO_OK;
}

/* CORRUPT at the far end: was it the file here that changed? */
static npo_err check_unchanged(const upload *up, npo_error *error)
{
    npo_hash now;
    uint64_t size;
    NPO_TRY(npo_hash_file(up->path, &now, &size, error));
    if (size == up->size && npo_hash_equal(&now, &up->hash))
        return NPO_OK;
    return npo_error_set(error, NPO_E_CORRUPT, "'%s' changed while it was sent", up->path);
}

static npo_err upload_file(const npo_transfer *transfer, const char *path, const npo_hash *hash,
                           uint64_t size, npo_error *error)
{
    upload up = {.transfer = transfer, .path = path, .hash = *hash, .size = size};
    npo_err err = NPO_OK;
    up.fd = open(path, O_RDONLY | O_CLOEXEC);
    if (up.fd < 0)
        return npo_error_errno(error, errno, "cannot open '%s'", path);
    up.chunk = malloc(NPO_CHUNK_BYTES);
    if (!up.chunk)
        err = npo_transfer_no_memory(path, error);
    for (int try = 1; !err; try++) {
        err = upload_once(&up, error);
        /* NOT_FOUND, STATE: a restarted npod forgot the upload; it is opened again. */
        bool again = err == NPO_E_CORRUPT || err == NPO_E_NOT_FOUND || err == NPO_E_STATE;
        if (!again || try == NPO_TRANSFER_TRIES_MAX)
            break;
        err = check_unchanged(&up, error);
    }
    free(up.chunk);
    close(up.fd);
    return err;
}

/* ---- upload of anything ---- */

static npo_err is_folder(const char *path, bool *ret_is, npo_error *error)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return npo_error_errno(error, errno, "cannot read '%s'", path);
    if (!S_ISDIR(st.st_mode) && !S_ISREG(st.st_mode))
        return npo_error_set(error, NPO_E_TYPE, "'%s' is neither a file nor a folder", path);
    *ret_is = S_ISDIR(st.st_mode);
    return NPO_OK;
}

static npo_err describe(const char *path, npo_artifact *ret_artifact, npo_manifest *ret_manifest,
                        npo_buf *ret_text, npo_error *error)
{
    npo_artifact artifact = {0};
    NPO_TRY(is_folder(path, &artifact.is_folder, error));
    if (!artifact.is_folder) {
        NPO_TRY(npo_hash_file(path, &artifact.hash, &artifact.size, error));
        artifact.bytes = artifact.size;
    } else {
        NPO_TRY(npo_manifest_build(path, ret_manifest, error));
        NPO_TRY(npo_manifest_print(ret_manifest, ret_text, &artifact.hash, error));
        artifact.size = ret_text->len;
        for (size_t i = 0; i < ret_manifest->count; i++)
            artifact.bytes += ret_manifest->files[i].size;
    }
    *ret_artifact = artifact;
    return NPO_OK;
}

npo_err npo_upload_describe(const char *path, npo_artifact *ret_artifact, npo_error *error)
{
    npo_manifest manifest = {0};
    npo_buf text = NPO_BUF_INIT;
    npo_err err = describe(path, ret_artifact, &manifest, &text, error);
    npo_manifest_fini(&manifest);
    npo_buf_fini(&text);
    return err;
}

/* A client learns in one request what is there already (and pins it); a task opens every file,
 * since that is what pins it to the task. */
static npo_err find_wanted(const npo_transfer *transfer, const npo_manifest *manifest, bool *wanted,
                           npo_error *error)
{
    if (transfer->fence.task) {
        memset(wanted, 1, manifest->count * sizeof *wanted);
        return NPO_OK;
    }
    npo_hash *hashes = malloc(manifest->count * sizeof *hashes);
    if (!hashes)
        return npo_error_set(error, NPO_E_NOMEM, "cannot ask for hashes: out of memory");
    for (size_t i = 0; i < manifest->count; i++)
        hashes[i] = manifest->files[i].hash;
    npo_err err = npo_transfer_missing(transfer, hashes, manifest->count, wanted, error);
    free(hashes);
    return err;
}

static npo_err upload_files(const npo_transfer *transfer, const char *dir,
                            const npo_manifest *manifest, npo_error *error)
{
    bool *wanted = calloc(manifest->count, sizeof *wanted);
    if (!wanted)
        return npo_transfer_no_memory(dir, error);
    npo_err err = find_wanted(transfer, manifest, wanted, error);
    for (size_t i = 0; !err && i < manifest->count; i++) {
        if (!wanted[i])
            continue;
        const npo_manifest_file *file = &manifest->files[i];
        char *path = npo_file_join(dir, file->path);
        err = path ? upload_file(transfer, path, &file->hash, file->size, error)
                   : npo_transfer_no_memory(dir, error);
        free(path);
    }
    free(wanted);
    return err;
}

/* The manifest's text goes the way of a file, by way of one without a name. */
static npo_err upload_text(const npo_transfer *transfer, const npo_buf *text, const npo_hash *hash,
                           npo_error *error)
{
    char path[64];
    int fd = memfd_create("npo-manifest", MFD_CLOEXEC);
    if (fd < 0)
        return npo_error_errno(error, errno, "cannot hold a manifest");
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    npo_err err = npo_file_pwrite(fd, text->data, text->len, 0, error);
    if (!err)
        err = upload_file(transfer, path, hash, text->len, error);
    close(fd);
    return err;
}

npo_err npo_upload(const npo_transfer *transfer, const char *path, npo_artifact *ret_artifact,
                   npo_error *error)
{
    npo_artifact artifact;
    npo_manifest manifest = {0};
    npo_buf text = NPO_BUF_INIT;
    npo_err err = describe(path, &artifact, &manifest, &text, error);
    if (!err && !artifact.is_folder)
        err = upload_file(transfer, path, &artifact.hash, artifact.size, error);
    if (!err && artifact.is_folder)
        err = upload_files(transfer, path, &manifest, error);
    if (!err && artifact.is_folder)
        err = upload_text(transfer, &text, &artifact.hash, error);
    if (!err)
        *ret_artifact = artifact;
    npo_manifest_fini(&manifest);
    npo_buf_fini(&text);
    return err;
}
