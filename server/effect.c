#include "server/effect.h"

#include "common/bounds.h"
#include "common/crash.h"
#include "common/file.h"
#include "proto/manifest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PART_SUFFIX ".part"

void npo_effect_free(npo_effect *effect)
{
    if (!effect)
        return;
    npo_buf_fini(&effect->bytes);
    free(effect->children);
    free(effect);
}

/* ---- names ---- */

typedef struct {
    char text[PATH_MAX];
} path;

static path artifact_dir(const char *state_dir, const char *hash)
{
    path to;
    snprintf(to.text, sizeof to.text, "%s/artifacts/%.2s", state_dir, hash);
    return to;
}

static path artifact_path(const char *state_dir, const npo_hash *hash)
{
    path to;
    char text[NPO_HASH_TEXT_SIZE];
    npo_hash_format(hash, text);
    snprintf(to.text, sizeof to.text, "%s/artifacts/%.2s/%s", state_dir, text, text);
    return to;
}

static path upload_path(const char *state_dir, const npo_hash *hash)
{
    path to;
    char text[NPO_HASH_TEXT_SIZE];
    npo_hash_format(hash, text);
    snprintf(to.text, sizeof to.text, "%s/uploads/%s" PART_SUFFIX, state_dir, text);
    return to;
}

static path streams_dir(const char *state_dir, int64_t job)
{
    path to;
    snprintf(to.text, sizeof to.text, "%s/streams/%lld", state_dir, (long long)job);
    return to;
}

static path stream_path(const char *state_dir, const npo_effect *effect)
{
    path to;
    snprintf(to.text, sizeof to.text, "%s/streams/%lld/%lld.%lld.%lld.%s", state_dir,
             (long long)effect->job, (long long)effect->task, (long long)effect->attempt,
             (long long)effect->rank, effect->stream);
    return to;
}

npo_err npo_effect_prepare(const char *state_dir, npo_error *error)
{
    static const char *const folders[] = {"artifacts", "uploads", "streams"};
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        path dir;
        snprintf(dir.text, sizeof dir.text, "%s/%s", state_dir, folders[i]);
        NPO_TRY(npo_file_make_dirs(dir.text, error));
    }
    return NPO_OK;
}

/* ---- artifacts ---- */

static npo_err run_write(const char *state_dir, npo_effect *effect, npo_error *error)
{
    path part = upload_path(state_dir, &effect->hash);
    int fd = open(part.text, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        return npo_error_errno(error, errno, "cannot create '%s'", part.text);
    npo_err err = npo_file_pwrite(fd, effect->data, effect->size, effect->offset, error);
    if (err)
        err = npo_error_prefix(error, err, "npod cannot store '%s'", part.text);
    if (!err)
        npo_crash_point("artifact.write");
    if (close(fd) < 0 && !err)
        err = npo_error_errno(error, errno, "cannot write '%s'", part.text);
    /* What does not fit must not keep the database from its last blocks. */
    if (err == NPO_E_FULL)
        unlink(part.text);
    return err;
}

/* Puts the bytes on the disk and compares them with their name. */
static npo_err verify(const char *part, npo_effect *effect, npo_error *error)
{
    npo_hash found;
    char wanted[NPO_HASH_TEXT_SIZE], text[NPO_HASH_TEXT_SIZE];
    int fd = open(part, O_RDWR | O_CLOEXEC | (effect->size == 0 ? O_CREAT : 0), 0666);
    if (fd < 0 && errno == ENOENT)
        return npo_error_set(error, NPO_E_NOT_FOUND, "no upload of this artifact has been opened");
    if (fd < 0)
        return npo_error_errno(error, errno, "cannot open '%s'", part);
    npo_err err = NPO_OK;
    if (fsync(fd) < 0)
        err = npo_error_errno(error, errno, "cannot sync '%s'", part);
    close(fd);
    if (err)
        return err;
    npo_crash_point("artifact.sync");
    NPO_TRY(npo_hash_file(part, &found, &effect->result_size, error));
    if (npo_hash_equal(&found, &effect->hash))
        return NPO_OK;
    npo_hash_format(&effect->hash, wanted);
    npo_hash_format(&found, text);
    unlink(part);
    return npo_error_set(error, NPO_E_CORRUPT, "the bytes received have hash %s, expected %s", text,
                         wanted);
}

static npo_err read_children(const char *file, npo_effect *effect, npo_error *error)
{
    npo_manifest manifest = {0};
    npo_buf text = NPO_BUF_INIT;
    if (!npo_manifest_is_at(file))
        return NPO_OK;
    npo_err err = npo_file_read(file, NPO_MANIFEST_BYTES_MAX, &text, error);
    if (!err)
        err = npo_manifest_parse(text.data, text.len, "manifest", &manifest, error);
    npo_buf_fini(&text);
    if (err)
        return err;
    effect->is_folder = true;
    effect->children = calloc(manifest.count + 1, sizeof *effect->children);
    for (size_t i = 0; effect->children && i < manifest.count; i++)
        effect->children[effect->child_count++] = manifest.files[i].hash;
    npo_manifest_fini(&manifest);
    return effect->children ? NPO_OK
                            : npo_error_set(error, NPO_E_NOMEM, "cannot read the manifest");
}

static npo_err run_publish(const char *state_dir, npo_effect *effect, npo_error *error)
{
    char text[NPO_HASH_TEXT_SIZE];
    npo_hash_format(&effect->hash, text);
    path part = upload_path(state_dir, &effect->hash);
    path dir = artifact_dir(state_dir, text);
    path file = artifact_path(state_dir, &effect->hash);
    /* Renamed already, by an earlier close of the same upload or before a crash. */
    if (!npo_file_exists(part.text) && npo_file_exists(file.text)) {
        NPO_TRY(npo_file_size(file.text, &effect->result_size, error));
        return read_children(file.text, effect, error);
    }
    NPO_TRY(verify(part.text, effect, error));
    NPO_TRY(read_children(part.text, effect, error));
    bool is_new_dir = !npo_file_exists(dir.text);
    NPO_TRY(npo_file_make_dirs(dir.text, error));
    if (rename(part.text, file.text) < 0)
        return npo_error_errno(error, errno, "cannot publish '%s'", file.text);
    NPO_TRY(npo_file_sync_dir(dir.text, error));
    if (is_new_dir) {
        snprintf(dir.text, sizeof dir.text, "%s/artifacts", state_dir);
        NPO_TRY(npo_file_sync_dir(dir.text, error));
    }
    npo_crash_point("artifact.publish");
    return NPO_OK;
}

/* Reads at most effect->size bytes from effect->offset on into effect->bytes. */
static npo_err read_part(int fd, npo_effect *effect, npo_error *error)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return npo_error_errno(error, errno, "cannot read");
    effect->result_size = (uint64_t)st.st_size;
    uint64_t left = effect->offset < effect->result_size ? effect->result_size - effect->offset : 0;
    size_t len = (size_t)(left < effect->size ? left : effect->size);
    if (len == 0)
        return NPO_OK;
    void *to = npo_buf_reserve(&effect->bytes, len);
    if (!to)
        return npo_error_set(error, NPO_E_NOMEM, "cannot read %zu bytes", len);
    NPO_TRY(npo_file_pread(fd, to, len, effect->offset, error));
    effect->bytes.len += len;
    return NPO_OK;
}

static npo_err run_read(const char *state_dir, npo_effect *effect, npo_error *error)
{
    path file = artifact_path(state_dir, &effect->hash);
    int fd = open(file.text, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return npo_error_errno(error, errno, "cannot open artifact '%s'", file.text);
    npo_err err = read_part(fd, effect, error);
    close(fd);
    return err;
}

static npo_err run_unlink(const char *state_dir, npo_effect *effect, npo_error *error)
{
    path file = artifact_path(state_dir, &effect->hash);
    return npo_file_remove(file.text, error);
}

static npo_err run_discard(const char *state_dir, npo_effect *effect, npo_error *error)
{
    path part = upload_path(state_dir, &effect->hash);
    return npo_file_remove(part.text, error);
}

/* ---- streams ---- */

static npo_err append(int fd, npo_effect *effect, npo_error *error)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return npo_error_errno(error, errno, "cannot read the stream");
    uint64_t size = (uint64_t)st.st_size, skip = size - effect->offset;
    effect->result_size = size;
    if (effect->offset > size)
        return npo_error_set(error, NPO_E_RANGE, "the stream has %llu bytes, nothing at %llu",
                             (unsigned long long)size, (unsigned long long)effect->offset);
    if (skip >= effect->size)
        return NPO_OK; /* sent before */
    NPO_TRY(
        npo_file_pwrite(fd, (const char *)effect->data + skip, effect->size - skip, size, error));
    effect->result_size = effect->offset + effect->size;
    if (fdatasync(fd) < 0)
        return npo_error_errno(error, errno, "cannot sync the stream");
    return NPO_OK;
}

static npo_err run_append(const char *state_dir, npo_effect *effect, npo_error *error)
{
    path dir = streams_dir(state_dir, effect->job), file = stream_path(state_dir, effect);
    NPO_TRY(npo_file_make_dirs(dir.text, error));
    int fd = open(file.text, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        return npo_error_errno(error, errno, "cannot create '%s'", file.text);
    npo_err err = append(fd, effect, error);
    close(fd);
    return err;
}

static npo_err run_stream_read(const char *state_dir, npo_effect *effect, npo_error *error)
{
    path file = stream_path(state_dir, effect);
    int fd = open(file.text, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return NPO_OK; /* nothing yet */
    if (fd < 0)
        return npo_error_errno(error, errno, "cannot open '%s'", file.text);
    npo_err err = read_part(fd, effect, error);
    close(fd);
    return err;
}

static npo_err run_streams_remove(const char *state_dir, npo_effect *effect, npo_error *error)
{
    path dir = streams_dir(state_dir, effect->job);
    return npo_file_remove(dir.text, error);
}

void npo_effect_run(const char *state_dir, npo_effect *effect)
{
    static npo_err (*const table[NPO_EFFECT_COUNT])(const char *, npo_effect *, npo_error *) = {
        [NPO_EFFECT_WRITE] = run_write,
        [NPO_EFFECT_PUBLISH] = run_publish,
        [NPO_EFFECT_READ] = run_read,
        [NPO_EFFECT_UNLINK] = run_unlink,
        [NPO_EFFECT_DISCARD] = run_discard,
        [NPO_EFFECT_STREAM_APPEND] = run_append,
        [NPO_EFFECT_STREAM_READ] = run_stream_read,
        [NPO_EFFECT_STREAMS_REMOVE] = run_streams_remove,
    };
    effect->error = (npo_error){0};
    npo_err err = table[effect->kind](state_dir, effect, &effect->error);
    effect->error.code = err;
}

/* ---- at start ---- */

npo_err npo_effect_list_uploads(const char *state_dir,
                                void (*found)(void *self, const npo_hash *hash, uint64_t size),
                                void *self, npo_error *error)
{
    path dir;
    npo_file_list list = {0};
    snprintf(dir.text, sizeof dir.text, "%s/uploads", state_dir);
    NPO_TRY(npo_file_list_tree(dir.text, NPO_MANIFEST_FILES_MAX, &list, error));
    for (size_t i = 0; i < list.count; i++) {
        char text[NPO_HASH_TEXT_SIZE], *file = npo_file_join(dir.text, list.paths[i]);
        npo_hash hash;
        uint64_t size;
        snprintf(text, sizeof text, "%s", list.paths[i]);
        bool is_upload = strlen(list.paths[i]) == NPO_HASH_TEXT_SIZE - 1 + strlen(PART_SUFFIX) &&
                         npo_hash_parse(text, &hash) == NPO_OK;
        if (file && is_upload && npo_file_size(file, &size, NULL) == NPO_OK)
            found(self, &hash, size);
        else if (file)
            (void)!unlink(file);
        free(file);
    }
    npo_file_list_fini(&list);
    return NPO_OK;
}

npo_err npo_effect_sweep(const char *state_dir, bool (*is_known)(void *self, const char *hash),
                         void *self, npo_error *error)
{
    path dir;
    npo_file_list list = {0};
    snprintf(dir.text, sizeof dir.text, "%s/artifacts", state_dir);
    NPO_TRY(npo_file_list_tree(dir.text, SIZE_MAX, &list, error));
    for (size_t i = 0; i < list.count; i++) {
        const char *slash = strrchr(list.paths[i], '/');
        char *file = npo_file_join(dir.text, list.paths[i]);
        if (file && !is_known(self, slash ? slash + 1 : list.paths[i]))
            (void)!unlink(file);
        free(file);
    }
    npo_file_list_fini(&list);
    return NPO_OK;
}

npo_err npo_effect_sweep_streams(const char *state_dir, bool (*is_job)(void *self, int64_t job),
                                 void *self, npo_error *error)
{
    path dir, gone;
    snprintf(dir.text, sizeof dir.text, "%s/streams", state_dir);
    DIR *folder = opendir(dir.text);
    if (!folder)
        return npo_error_errno(error, errno, "cannot read '%s'", dir.text);
    npo_err err = NPO_OK;
    for (struct dirent *entry; !err && (entry = readdir(folder));) {
        char *end;
        int64_t job = strtoll(entry->d_name, &end, 10);
        if (*end != '\0' || job <= 0 || is_job(self, job))
            continue;
        gone = streams_dir(state_dir, job);
        err = npo_file_remove(gone.text, error);
    }
    closedir(folder);
    return err;
}
