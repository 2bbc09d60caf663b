#include "proto/transfer.h"

#include "common/bounds.h"
#include "common/crash.h"
#include "common/file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    TRIES_MAX = 5,     /* openings of one upload, or fetches of one artifact */
    STALLS_MAX = 16,   /* answers in a row that brought no byte forward */
    HASHES_A_CALL = 16384
};
static_assert(HASHES_A_CALL * (2 * NPO_HASH_BYTES + 3) + 64 <= 1048576,
              "the hashes of one artifacts_missing must fit in the message");

static void crash_point(const char *name)
{
    if (name)
        npo_crash_point(name);
}

static void report(const npo_transfer *transfer, const char *path, uint64_t done, uint64_t size)
{
    if (transfer->progress)
        transfer->progress(transfer->self, path, done, size);
}

static npo_err no_memory(const char *path, npo_error *error)
{
    return npo_error_set(error, NPO_E_NOMEM, "cannot transfer '%s': out of memory", path);
}

static cJSON *hash_body(const npo_hash *hash)
{
    char text[NPO_HASH_TEXT_SIZE];
    cJSON *body = cJSON_CreateObject();
    npo_hash_format(hash, text);
    if (cJSON_AddStringToObject(body, "hash", text))
        return body;
    cJSON_Delete(body);
    return NULL;
}

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
    cJSON *body = hash_body(&up->hash);
    bool whole = body && cJSON_AddNumberToObject(body, "size", (double)up->size);
    if (whole && fence->task)
        whole = cJSON_AddNumberToObject(body, "worker", (double)fence->worker) &&
                cJSON_AddNumberToObject(body, "task", (double)fence->task) &&
                cJSON_AddNumberToObject(body, "attempt", fence->attempt) &&
                cJSON_AddNumberToObject(body, "rank", fence->rank);
    npo_err err = whole ? npo_client_call(up->transfer->client, NPO_MESSAGE_UPLOAD_OPEN, body, NULL,
                                          0, &answer, error)
                        : no_memory(up->path, error);
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
    cJSON *body = hash_body(&up->hash);
    err = body && cJSON_AddNumberToObject(body, "offset", (double)up->next)
              ? npo_connection_send(connection, NPO_MESSAGE_UPLOAD_CHUNK, body, up->chunk, len,
                                    NULL, error)
              : no_memory(up->path, error);
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
    report(up->transfer, up->path, received, up->size);
    crash_point(up->transfer->crash_point_chunk);
    if (up->stalls > STALLS_MAX)
        return npo_error_set(error, NPO_E_PEER, "the upload of '%s' stands still at %llu of %llu",
                             up->path, (unsigned long long)received, (unsigned long long)up->size);
    return NPO_OK;
}

/* Two connections may overtake each other, and a restarted npod may hold less than it answered: a chunk
 * that did not follow is refused with what is there. Then the window runs empty and goes on from that. */
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
    cJSON *body = hash_body(&up->hash);
    npo_err err = body ? npo_client_call(up->transfer->client, NPO_MESSAGE_UPLOAD_CLOSE, body, NULL,
                                         0, NULL, error)
                       : no_memory(up->path, error);
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
    crash_point(up->transfer->crash_point_done);
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
        err = no_memory(path, error);
    for (int try = 1; !err; try++) {
        err = upload_once(&up, error);
        /* NOT_FOUND, STATE: a restarted npod forgot the upload; it is opened again. */
        bool again = err == NPO_E_CORRUPT || err == NPO_E_NOT_FOUND || err == NPO_E_STATE;
        if (!again || try == TRIES_MAX)
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

/* A client learns in one request what is there already (and pins it); a task opens every file, since
 * that is what pins it to the task. */
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
        return no_memory(dir, error);
    npo_err err = find_wanted(transfer, manifest, wanted, error);
    for (size_t i = 0; !err && i < manifest->count; i++) {
        if (!wanted[i])
            continue;
        const npo_manifest_file *file = &manifest->files[i];
        char *path = npo_file_join(dir, file->path);
        err = path ? upload_file(transfer, path, &file->hash, file->size, error)
                   : no_memory(dir, error);
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

/* ---- what npod lacks ---- */

static int compare_hashes(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(npo_hash));
}

static npo_err mark_missing(const cJSON *list, const npo_hash *hashes, size_t count,
                            bool *ret_missing, npo_error *error)
{
    size_t missing_count = 0;
    npo_hash *missing = calloc((size_t)cJSON_GetArraySize(list) + 1, sizeof *missing);
    npo_err err = missing ? NPO_OK
                          : npo_error_set(error, NPO_E_NOMEM, "cannot ask for hashes: out of memory");
    for (const cJSON *item = list ? list->child : NULL; !err && item; item = item->next) {
        const char *text = cJSON_GetStringValue(item);
        if (!text || npo_hash_parse(text, &missing[missing_count++]))
            err = npo_error_set(error, NPO_E_FORMAT, "reply to 'artifacts_missing': not a hash");
    }
    if (!err)
        qsort(missing, missing_count, sizeof *missing, compare_hashes);
    for (size_t i = 0; !err && i < count; i++)
        ret_missing[i] =
            bsearch(&hashes[i], missing, missing_count, sizeof *missing, compare_hashes) != NULL;
    free(missing);
    return err;
}

static npo_err ask_missing(const npo_transfer *transfer, const npo_hash *hashes, size_t count,
                           bool *ret_missing, npo_error *error)
{
    npo_answer answer = {0};
    cJSON *body = cJSON_CreateObject(), *list = cJSON_AddArrayToObject(body, "hashes");
    npo_err err = list ? NPO_OK : NPO_E_NOMEM;
    for (size_t i = 0; !err && i < count; i++) {
        char text[NPO_HASH_TEXT_SIZE];
        npo_hash_format(&hashes[i], text);
        if (!cJSON_AddItemToArray(list, cJSON_CreateString(text)))
            err = NPO_E_NOMEM;
    }
    if (err)
        npo_error_set(error, err, "cannot ask for hashes: out of memory");
    else
        err = npo_client_call(transfer->client, NPO_MESSAGE_ARTIFACTS_MISSING, body, NULL, 0,
                              &answer, error);
    if (!err)
        err = mark_missing(cJSON_GetObjectItemCaseSensitive(answer.json, "missing"), hashes, count,
                           ret_missing, error);
    npo_answer_fini(&answer);
    cJSON_Delete(body);
    return err;
}

npo_err npo_transfer_missing(const npo_transfer *transfer, const npo_hash *hashes, size_t count,
                             bool *ret_missing, npo_error *error)
{
    memset(ret_missing, 0, count * sizeof *ret_missing);
    for (size_t at = 0; at < count; at += HASHES_A_CALL) {
        size_t n = count - at < HASHES_A_CALL ? count - at : HASHES_A_CALL;
        NPO_TRY(ask_missing(transfer, hashes + at, n, ret_missing + at, error));
    }
    return NPO_OK;
}

/* ---- download of one artifact ---- */

typedef struct {
    const npo_transfer *transfer;
    const npo_hash *hash;
    const char *path; /* of the part */
    int fd;
    npo_hasher *hasher;
    uint64_t have;  /* bytes written and hashed */
    uint64_t asked; /* offset of the next request */
    uint64_t size;
    bool size_known;
} download;

static npo_err ask_range(download *down, int slot, npo_error *error)
{
    npo_connection *connection;
    NPO_TRY(npo_client_bulk(down->transfer->client, slot, &connection, error));
    cJSON *body = hash_body(down->hash);
    npo_err err = body && cJSON_AddNumberToObject(body, "offset", (double)down->asked) &&
                          cJSON_AddNumberToObject(body, "bytes", NPO_CHUNK_BYTES)
                      ? npo_connection_send(connection, NPO_MESSAGE_DOWNLOAD, body, NULL, 0, NULL,
                                            error)
                      : no_memory(down->path, error);
    cJSON_Delete(body);
    if (!err)
        down->asked += NPO_CHUNK_BYTES;
    return err;
}

static npo_err take_range(download *down, const npo_answer *answer, npo_error *error)
{
    uint64_t offset = (uint64_t)npo_json_int(answer->json, "offset", -1);
    uint64_t size = (uint64_t)npo_json_int(answer->json, "size", -1);
    uint64_t end = down->have + answer->payload_len;
    uint64_t full = down->have + NPO_CHUNK_BYTES < size ? down->have + NPO_CHUNK_BYTES : size;
    if (offset != down->have || size > INT64_MAX || (down->size_known && size != down->size) ||
        end != full)
        return npo_error_set(error, NPO_E_FORMAT,
                             "reply to 'download': %zu bytes at %llu of %llu, asked for those at %llu",
                             answer->payload_len, (unsigned long long)offset,
                             (unsigned long long)size, (unsigned long long)down->have);
    down->size = size;
    down->size_known = true;
    npo_err err = npo_file_pwrite(down->fd, answer->payload, answer->payload_len, offset, error);
    if (err)
        return npo_error_prefix(error, err, "cannot write '%s'", down->path);
    if (answer->payload_len > 0)
        npo_hasher_add(down->hasher, answer->payload, answer->payload_len);
    down->have = end;
    report(down->transfer, down->path, down->have, down->size);
    crash_point(down->transfer->crash_point_chunk);
    return NPO_OK;
}

static npo_err fetch_ranges(download *down, npo_error *error)
{
    int oldest = 0, in_flight = 0;
    down->asked = down->have;
    while (!down->size_known || down->have < down->size || in_flight > 0) {
        /* The size comes with the first answer; until then one request is enough. */
        bool more = down->size_known ? down->asked < down->size : in_flight == 0;
        if (more && in_flight < NPO_UPLOAD_WINDOW) {
            NPO_TRY(ask_range(down, (oldest + in_flight) % NPO_UPLOAD_WINDOW, error));
            in_flight++;
            continue;
        }
        npo_connection *connection;
        npo_answer answer = {0};
        NPO_TRY(npo_client_bulk(down->transfer->client, oldest, &connection, error));
        NPO_TRY(npo_client_wait(down->transfer->client, connection, &answer, error));
        npo_err err = take_range(down, &answer, error);
        npo_answer_fini(&answer);
        if (err)
            return err;
        oldest = (oldest + 1) % NPO_UPLOAD_WINDOW;
        in_flight--;
    }
    return NPO_OK;
}

/* What an earlier, interrupted fetch left counts again from the disk. */
static npo_err hash_part(download *down, npo_error *error)
{
    npo_file_map map = {0};
    NPO_TRY(npo_file_map_open(down->path, &map, error));
    if (map.size > 0)
        npo_hasher_add(down->hasher, map.data, map.size);
    down->have = map.size;
    npo_file_map_close(&map);
    return NPO_OK;
}

static npo_err check_hash(const download *down, npo_error *error)
{
    npo_hash found = npo_hasher_digest(down->hasher);
    char text[NPO_HASH_TEXT_SIZE], expected[NPO_HASH_TEXT_SIZE];
    if (npo_hash_equal(&found, down->hash))
        return NPO_OK;
    npo_hash_format(&found, text);
    npo_hash_format(down->hash, expected);
    return npo_error_set(error, NPO_E_CORRUPT, "artifact %s arrived as %s", expected, text);
}

static npo_err fetch_part(const npo_transfer *transfer, const npo_hash *hash, const char *part,
                          uint64_t *ret_size, npo_error *error)
{
    download down = {.transfer = transfer, .hash = hash, .path = part};
    down.fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (down.fd < 0)
        return npo_error_errno(error, errno, "cannot create '%s'", part);
    npo_err err = npo_hasher_new(&down.hasher);
    if (!err)
        err = hash_part(&down, error);
    if (!err)
        err = fetch_ranges(&down, error);
    if (!err)
        err = check_hash(&down, error);
    if (!err && (fchmod(down.fd, 0444) < 0 || fsync(down.fd) < 0))
        err = npo_error_errno(error, errno, "cannot write '%s'", part);
    npo_hasher_free(down.hasher);
    close(down.fd);
    if (!err)
        *ret_size = down.size;
    return err;
}

static npo_err publish(const char *part, const char *path, npo_error *error)
{
    char *copy = strdup(path);
    npo_err err = copy ? NPO_OK : no_memory(path, error);
    if (!err && rename(part, path) < 0)
        err = npo_error_errno(error, errno, "cannot create '%s'", path);
    if (!err)
        err = npo_file_sync_dir(dirname(copy), error);
    free(copy);
    return err;
}

npo_err npo_download_file(const npo_transfer *transfer, const npo_hash *hash, const char *path,
                          uint64_t *ret_size, npo_error *error)
{
    char *part = NULL;
    uint64_t size = 0;
    if (asprintf(&part, "%s.part", path) < 0)
        return no_memory(path, error);
    npo_err err;
    for (int try = 1;; try++) {
        err = fetch_part(transfer, hash, part, &size, error);
        /* A part that went bad, or is longer than the artifact, is of no use. */
        bool again = err == NPO_E_CORRUPT || err == NPO_E_RANGE || err == NPO_E_FORMAT;
        if (!again)
            break;
        if (unlink(part) < 0 || try == TRIES_MAX)
            break;
    }
    if (!err)
        err = publish(part, path, error);
    free(part);
    if (!err && ret_size)
        *ret_size = size;
    return err;
}

/* ---- download of anything ---- */

static npo_err fetch_file(const npo_transfer *transfer, const npo_manifest_file *file,
                          const char *dir, npo_error *error)
{
    struct stat st;
    uint64_t size = file->size;
    char *path = npo_file_join(dir, file->path), *copy = path ? strdup(path) : NULL;
    npo_err err = copy ? npo_file_make_dirs(dirname(copy), error) : no_memory(dir, error);
    /* There already, from an earlier call: it was verified before it got its name. */
    if (!err && stat(path, &st) < 0)
        err = npo_download_file(transfer, &file->hash, path, &size, error);
    if (!err && size != file->size)
        err = npo_error_set(error, NPO_E_CORRUPT, "'%s' has %llu bytes, its manifest says %llu",
                            path, (unsigned long long)size, (unsigned long long)file->size);
    free(copy);
    free(path);
    return err;
}

static npo_err fetch_folder(const npo_transfer *transfer, const char *manifest_path,
                            const char *path, npo_artifact *artifact, npo_error *error)
{
    npo_buf text = NPO_BUF_INIT;
    npo_manifest manifest = {0};
    char *part = NULL;
    npo_err err = npo_file_read(manifest_path, NPO_MANIFEST_BYTES_MAX, &text, error);
    if (!err)
        err = npo_manifest_parse(text.data, text.len, manifest_path, &manifest, error);
    if (!err && asprintf(&part, "%s.part-folder", path) < 0)
        err = no_memory(path, error);
    if (!err)
        err = npo_file_make_dirs(part, error);
    artifact->is_folder = true;
    artifact->bytes = 0;
    for (size_t i = 0; !err && i < manifest.count; i++) {
        err = fetch_file(transfer, &manifest.files[i], part, error);
        artifact->bytes += manifest.files[i].size;
    }
    if (!err)
        err = publish(part, path, error);
    if (!err && unlink(manifest_path) < 0)
        err = npo_error_errno(error, errno, "cannot remove '%s'", manifest_path);
    free(part);
    npo_manifest_fini(&manifest);
    npo_buf_fini(&text);
    return err;
}

npo_err npo_download(const npo_transfer *transfer, const npo_hash *hash, const char *path,
                     npo_artifact *ret_artifact, npo_error *error)
{
    npo_artifact artifact = {.hash = *hash};
    char *whole = NULL;
    if (npo_file_exists(path))
        return npo_error_set(error, NPO_E_EXISTS, "'%s' exists already", path);
    if (asprintf(&whole, "%s.part-whole", path) < 0)
        return no_memory(path, error);
    npo_err err = npo_download_file(transfer, hash, whole, &artifact.size, error);
    artifact.bytes = artifact.size;
    if (!err && npo_manifest_is_at(whole))
        err = fetch_folder(transfer, whole, path, &artifact, error);
    else if (!err)
        err = publish(whole, path, error);
    free(whole);
    if (!err && ret_artifact)
        *ret_artifact = artifact;
    return err;
}
