#include "proto/manifest.h"

#include "common/bounds.h"
#include "common/file.h"
#include "common/json.h"
#include "proto/pipeline.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FORMAT     "npo-manifest-1"
#define TEXT_FIRST "{\"files\":[{\"hash\":\""
#define TEXT_LAST  "],\"format\":\"" FORMAT "\"}"

void npo_manifest_fini(npo_manifest *manifest)
{
    for (size_t i = 0; i < manifest->count; i++)
        free(manifest->files[i].path);
    free(manifest->files);
    *manifest = (npo_manifest){0};
}

/* ---- from a folder ---- */

static npo_err hash_files(const char *dir, npo_file_list *list, npo_manifest *manifest,
                          npo_error *error)
{
    manifest->files = calloc(list->count, sizeof *manifest->files);
    if (!manifest->files)
        return npo_error_set(error, NPO_E_NOMEM, "cannot list '%s': out of memory", dir);
    for (size_t i = 0; i < list->count; i++) {
        npo_manifest_file *file = &manifest->files[i];
        char *path = npo_file_join(dir, list->paths[i]);
        if (!path)
            return npo_error_set(error, NPO_E_NOMEM, "cannot list '%s': out of memory", dir);
        npo_err err = npo_hash_file(path, &file->hash, &file->size, error);
        free(path);
        if (err)
            return err;
        file->path = list->paths[i];
        list->paths[i] = NULL;
        manifest->count++;
    }
    return NPO_OK;
}

npo_err npo_manifest_build(const char *dir, npo_manifest *ret_manifest, npo_error *error)
{
    npo_file_list list = {0};
    npo_manifest manifest = {0};
    NPO_TRY(npo_file_list_tree(dir, NPO_MANIFEST_FILES_MAX, &list, error));
    npo_err err = npo_pipeline_filter(dir, &list, error);
    if (!err)
        err = list.count > 0
                  ? hash_files(dir, &list, &manifest, error)
                  : npo_error_set(error, NPO_E_NOT_FOUND, "folder '%s' holds no files", dir);
    npo_file_list_fini(&list);
    if (err)
        npo_manifest_fini(&manifest);
    else
        *ret_manifest = manifest;
    return err;
}

/* ---- text ---- */

static cJSON *file_json(const npo_manifest_file *file)
{
    char hash[NPO_HASH_TEXT_SIZE];
    cJSON *json = cJSON_CreateObject();
    npo_hash_format(&file->hash, hash);
    if (cJSON_AddStringToObject(json, "hash", hash) &&
        cJSON_AddStringToObject(json, "path", file->path) &&
        cJSON_AddNumberToObject(json, "size", (double)file->size))
        return json;
    cJSON_Delete(json);
    return NULL;
}

static char *print(const npo_manifest *manifest)
{
    char *text = NULL;
    cJSON *json = cJSON_CreateObject();
    cJSON *files = cJSON_AddArrayToObject(json, "files");
    if (!files || !cJSON_AddStringToObject(json, "format", FORMAT))
        goto out;
    for (size_t i = 0; i < manifest->count; i++) {
        cJSON *file = file_json(&manifest->files[i]);
        if (!file)
            goto out;
        cJSON_AddItemToArray(files, file);
    }
    text = npo_json_canonical(json);
out:
    cJSON_Delete(json);
    return text;
}

npo_err npo_manifest_print(const npo_manifest *manifest, npo_buf *ret_text, npo_hash *ret_hash,
                           npo_error *error)
{
    char *text = print(manifest);
    if (!text)
        return npo_error_set(error, NPO_E_NOMEM, "cannot write a manifest: out of memory");
    size_t len = strlen(text);
    npo_err err = NPO_OK;
    if (len > NPO_MANIFEST_BYTES_MAX)
        err = npo_error_set(error, NPO_E_LIMIT, "a manifest of %zu bytes, at most %d are allowed",
                            len, (int)NPO_MANIFEST_BYTES_MAX);
    if (!err)
        npo_buf_add(ret_text, text, len);
    if (!err && (err = npo_buf_err(ret_text)))
        npo_error_set(error, err, "cannot hold a manifest of %zu bytes", len);
    if (!err && ret_hash)
        *ret_hash = npo_hash_bytes(text, len);
    free(text);
    return err;
}

static bool is_safe_path(const char *path)
{
    if (path[0] == '/' || path[0] == '\0')
        return false;
    for (const char *part = path; part;) {
        const char *slash = strchr(part, '/');
        size_t len = slash ? (size_t)(slash - part) : strlen(part);
        if (len == 0 || (len == 1 && part[0] == '.') || (len == 2 && strncmp(part, "..", 2) == 0))
            return false;
        part = slash ? slash + 1 : NULL;
    }
    return true;
}

static int compare_path(const void *key, const void *file)
{
    return strcmp(key, ((const npo_manifest_file *)file)->path);
}

/* "a" and "a/b" cannot both be files. */
static bool is_below_file(const npo_manifest *manifest, const char *path)
{
    char *copy = strdup(path);
    bool found = copy == NULL;
    for (char *slash = copy; !found && (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = '\0';
        found = bsearch(copy, manifest->files, manifest->count, sizeof *manifest->files,
                        compare_path) != NULL;
    }
    free(copy);
    return found;
}

static npo_err read_file(const cJSON *item, const char *name, npo_manifest_file *ret_file,
                         npo_error *error)
{
    struct {
        const char *hash, *path;
        int64_t size;
    } row = {0};
    static const npo_json_field fields[] = {
        {"hash", NPO_JSON_STRING, 0, true, 0, 0, NULL},
        {"path", NPO_JSON_STRING, sizeof(char *), true, 0, 4096, NULL},
        {"size", NPO_JSON_INT, 2 * sizeof(char *), true, 0, 9007199254740992.0, NULL},
    };
    NPO_TRY(npo_json_read(item, name, fields, 3, false, &row, error));
    if (npo_hash_parse(row.hash, &ret_file->hash))
        return npo_error_set(error, NPO_E_FORMAT, "%s: hash '%.40s', expected 32 hex digits", name,
                             row.hash);
    if (!is_safe_path(row.path))
        return npo_error_set(error, NPO_E_FORMAT, "%s: path '%.200s' leaves the folder", name,
                             row.path);
    ret_file->size = (uint64_t)row.size;
    ret_file->path = strdup(row.path);
    return ret_file->path ? NPO_OK : npo_error_set(error, NPO_E_NOMEM, "%s: out of memory", name);
}

static npo_err check_order(const npo_manifest *manifest, const char *name, npo_error *error)
{
    for (size_t i = 1; i < manifest->count; i++)
        if (strcmp(manifest->files[i - 1].path, manifest->files[i].path) >= 0)
            return npo_error_set(error, NPO_E_FORMAT, "%s: '%.200s' is out of order", name,
                                 manifest->files[i].path);
    for (size_t i = 0; i < manifest->count; i++)
        if (is_below_file(manifest, manifest->files[i].path))
            return npo_error_set(error, NPO_E_FORMAT, "%s: '%.200s' lies below a file", name,
                                 manifest->files[i].path);
    return NPO_OK;
}

static npo_err read_files(const cJSON *files, const char *name, npo_manifest *manifest,
                          npo_error *error)
{
    size_t count = (size_t)cJSON_GetArraySize(files);
    if (count == 0 || count > NPO_MANIFEST_FILES_MAX)
        return npo_error_set(error, NPO_E_LIMIT, "%s: %zu files, expected 1 to %d", name, count,
                             (int)NPO_MANIFEST_FILES_MAX);
    manifest->files = calloc(count, sizeof *manifest->files);
    if (!manifest->files)
        return npo_error_set(error, NPO_E_NOMEM, "%s: out of memory", name);
    for (const cJSON *item = files->child; item; item = item->next) {
        NPO_TRY(read_file(item, name, &manifest->files[manifest->count], error));
        manifest->count++;
    }
    return check_order(manifest, name, error);
}

/* Byte for byte what print would write: so a folder has one manifest and one hash. */
static npo_err check_canonical(const npo_manifest *manifest, const char *text, size_t len,
                               const char *name, npo_error *error)
{
    char *again = print(manifest);
    if (!again)
        return npo_error_set(error, NPO_E_NOMEM, "%s: out of memory", name);
    bool equal = strlen(again) == len && memcmp(again, text, len) == 0;
    free(again);
    return equal ? NPO_OK : npo_error_set(error, NPO_E_FORMAT, "%s: not in canonical form", name);
}

npo_err npo_manifest_parse(const char *text, size_t len, const char *name,
                           npo_manifest *ret_manifest, npo_error *error)
{
    struct {
        const cJSON *files;
        const char *format;
    } top = {0};
    static const npo_json_field fields[] = {
        {"files", NPO_JSON_ARRAY, 0, true, 0, 0, NULL},
        {"format", NPO_JSON_STRING, sizeof(cJSON *), true, 0, 0, NULL},
    };
    cJSON *json = NULL;
    npo_manifest manifest = {0};
    if (len > NPO_MANIFEST_BYTES_MAX)
        return npo_error_set(error, NPO_E_LIMIT, "%s: %zu bytes, at most %d are allowed", name, len,
                             (int)NPO_MANIFEST_BYTES_MAX);
    NPO_TRY(npo_json_parse(text, len, name, &json, error));
    npo_err err = npo_json_read(json, name, fields, 2, false, &top, error);
    if (!err && strcmp(top.format, FORMAT) != 0)
        err = npo_error_set(error, NPO_E_VERSION, "%s: format '%.60s', expected '%s'", name,
                            top.format, FORMAT);
    if (!err)
        err = read_files(top.files, name, &manifest, error);
    if (!err)
        err = check_canonical(&manifest, text, len, name, error);
    cJSON_Delete(json);
    if (err)
        npo_manifest_fini(&manifest);
    else
        *ret_manifest = manifest;
    return err;
}

bool npo_manifest_is_text(const void *bytes, size_t len)
{
    size_t first = strlen(TEXT_FIRST), last = strlen(TEXT_LAST);
    const char *text = bytes;
    return len >= first + last && len <= NPO_MANIFEST_BYTES_MAX &&
           memcmp(text, TEXT_FIRST, first) == 0 && memcmp(text + len - last, TEXT_LAST, last) == 0;
}

bool npo_manifest_is_at(const char *path)
{
    npo_file_map map = {0};
    if (npo_file_map_open(path, &map, NULL))
        return false;
    bool is = npo_manifest_is_text(map.data, map.size);
    npo_file_map_close(&map);
    return is;
}

/* ---- to a folder ---- */

static npo_err make_parent(const char *path, npo_error *error)
{
    char *copy = strdup(path);
    if (!copy)
        return npo_error_set(error, NPO_E_NOMEM, "cannot create '%s': out of memory", path);
    npo_err err = npo_file_make_dirs(dirname(copy), error);
    free(copy);
    return err;
}

static npo_err place(const char *from, const char *to, npo_error *error)
{
    NPO_TRY(make_parent(to, error));
    return npo_file_link_or_copy(from, to, 0444, error);
}

static npo_err place_all(const npo_manifest *manifest, const char *dir,
                         npo_err (*source)(void *self, const npo_hash *hash, char **ret_path,
                                           npo_error *error),
                         void *self, npo_error *error)
{
    npo_err err = npo_file_make_dirs(dir, error);
    for (size_t i = 0; !err && i < manifest->count; i++) {
        char *from = NULL, *to = npo_file_join(dir, manifest->files[i].path);
        err = to ? source(self, &manifest->files[i].hash, &from, error)
                 : npo_error_set(error, NPO_E_NOMEM, "cannot create '%s': out of memory", dir);
        if (!err)
            err = place(from, to, error);
        free(from);
        free(to);
    }
    return err;
}

npo_err npo_manifest_materialise(const npo_manifest *manifest, const char *dir,
                                 npo_err (*source)(void *self, const npo_hash *hash,
                                                   char **ret_path, npo_error *error),
                                 void *self, npo_error *error)
{
    char *part = NULL;
    if (npo_file_exists(dir))
        return NPO_OK;
    if (asprintf(&part, "%s.part-%d", dir, (int)getpid()) < 0)
        return npo_error_set(error, NPO_E_NOMEM, "cannot create '%s': out of memory", dir);
    npo_err err = npo_file_remove(part, error);
    if (!err)
        err = place_all(manifest, part, source, self, error);
    if (!err && rename(part, dir) < 0 && errno != EEXIST && errno != ENOTEMPTY)
        err = npo_error_errno(error, errno, "cannot create folder '%s'", dir);
    if (npo_file_exists(part) && npo_file_remove(part, NULL) && !err)
        err = npo_error_set(error, NPO_E_IO, "cannot remove folder '%s'", part);
    free(part);
    return err;
}
