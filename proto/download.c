#include "proto/transfer.h"

#include "common/bounds.h"
#include "common/file.h"
#include "proto/transfer_part.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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
    cJSON *body = npo_transfer_body(down->hash);
    npo_err err =
        body && cJSON_AddNumberToObject(body, "offset", (double)down->asked) &&
                cJSON_AddNumberToObject(body, "bytes", NPO_CHUNK_BYTES)
            ? npo_connection_send(connection, NPO_MESSAGE_DOWNLOAD, body, NULL, 0, NULL, error)
            : npo_transfer_no_memory(down->path, error);
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
        return npo_error_set(
            error, NPO_E_FORMAT,
            "reply to 'download': %zu bytes at %llu of %llu, asked for those at %llu",
            answer->payload_len, (unsigned long long)offset, (unsigned long long)size,
            (unsigned long long)down->have);
    down->size = size;
    down->size_known = true;
    npo_err err = npo_file_pwrite(down->fd, answer->payload, answer->payload_len, offset, error);
    if (err)
        return npo_error_prefix(error, err, "cannot write '%s'", down->path);
    if (answer->payload_len > 0)
        npo_hasher_add(down->hasher, answer->payload, answer->payload_len);
    down->have = end;
    npo_transfer_report(down->transfer, down->path, down->have, down->size);
    npo_transfer_crash_point(down->transfer->crash_point_chunk);
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
    npo_err err = copy ? NPO_OK : npo_transfer_no_memory(path, error);
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
        return npo_transfer_no_memory(path, error);
    npo_err err;
    for (int try = 1;; try++) {
        err = fetch_part(transfer, hash, part, &size, error);
        /* A part that went bad, or is longer than the artifact, is of no use. */
        bool again = err == NPO_E_CORRUPT || err == NPO_E_RANGE || err == NPO_E_FORMAT;
        if (!again)
            break;
        if (unlink(part) < 0 || try == NPO_TRANSFER_TRIES_MAX)
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
    npo_err err =
        copy ? npo_file_make_dirs(dirname(copy), error) : npo_transfer_no_memory(dir, error);
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
        err = npo_transfer_no_memory(path, error);
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
        return npo_transfer_no_memory(path, error);
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
