#include "worker/supervisor/io/cache.h"

#include "common/bounds.h"
#include "common/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct npo_cache {
    char *files, *folders; /* paths */
    int lock_fd;
    uint64_t bytes_max;
    uint64_t bytes; /* of all files, by our own account: counted anew when it passes the bound */
    struct timespec begun;
};

typedef struct {
    npo_hash hash;
    struct timespec used;
    uint64_t bytes;
    bool is_folder;
    bool is_linked; /* a file that a folder holds too: evicting it frees nothing */
} entry;

typedef struct {
    entry *items;
    size_t count, cap;
} entry_list;

static npo_err no_memory(npo_error *error)
{
    return npo_error_set(error, NPO_E_NOMEM, "cannot keep the artifact cache: out of memory");
}

static char *path_of(const char *dir, const npo_hash *hash)
{
    char text[NPO_HASH_TEXT_SIZE];
    npo_hash_format(hash, text);
    return npo_file_join(dir, text);
}

/* ---- opening ---- */

/* Parts of downloads stay: a later one goes on with them. Half-made folders go. */
static npo_err clear_folders(const char *dir, npo_error *error)
{
    DIR *stream = opendir(dir);
    if (!stream)
        return npo_error_errno(error, errno, "cannot open folder '%s'", dir);
    npo_err err = NPO_OK;
    for (struct dirent *item; !err && (item = readdir(stream));) {
        npo_hash hash;
        if (item->d_name[0] == '.' || npo_hash_parse(item->d_name, &hash) == NPO_OK)
            continue;
        char *path = npo_file_join(dir, item->d_name);
        err = path ? npo_file_remove(path, error) : no_memory(error);
        free(path);
    }
    closedir(stream);
    return err;
}

/* Two would evict each other's inputs and write to the same parts. */
static npo_err lock(npo_cache *cache, const char *dir, npo_error *error)
{
    char *path = npo_file_join(dir, "lock");
    if (!path)
        return no_memory(error);
    npo_err err = NPO_OK;
    cache->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (cache->lock_fd < 0)
        err = npo_error_errno(error, errno, "cannot open '%s'", path);
    else if (flock(cache->lock_fd, LOCK_EX | LOCK_NB) < 0)
        err = npo_error_set(error, NPO_E_BUSY, "another worker uses the cache folder '%s'", dir);
    free(path);
    return err;
}

npo_err npo_cache_open(const char *dir, uint64_t bytes_max, npo_cache **ret_cache, npo_error *error)
{
    npo_cache *cache = calloc(1, sizeof *cache);
    if (!cache)
        return no_memory(error);
    cache->bytes_max = bytes_max;
    cache->lock_fd = -1;
    cache->files = npo_file_join(dir, "files");
    cache->folders = npo_file_join(dir, "folders");
    npo_err err = cache->files && cache->folders ? NPO_OK : no_memory(error);
    if (!err)
        err = npo_file_make_dirs(cache->files, error);
    if (!err)
        err = npo_file_make_dirs(cache->folders, error);
    if (!err)
        err = lock(cache, dir, error);
    if (!err)
        err = clear_folders(cache->folders, error);
    if (!err)
        err = npo_cache_bytes(cache, &cache->bytes, error);
    npo_cache_begin(cache);
    if (err) {
        npo_cache_close(cache);
        return err;
    }
    *ret_cache = cache;
    return NPO_OK;
}

void npo_cache_close(npo_cache *cache)
{
    if (!cache)
        return;
    if (cache->lock_fd >= 0)
        close(cache->lock_fd);
    free(cache->files);
    free(cache->folders);
    free(cache);
}

void npo_cache_begin(npo_cache *cache)
{
    /* File times come from this coarser clock; a finer one would lie ahead of them. */
    clock_gettime(CLOCK_REALTIME_COARSE, &cache->begun);
}

/* ---- getting ---- */

static bool touch(const char *path)
{
    static const struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_OMIT}};
    return utimensat(AT_FDCWD, path, times, 0) == 0;
}

static npo_err get_file(npo_cache *cache, const npo_transfer *transfer, const npo_hash *hash,
                        char **ret_path, npo_error *error)
{
    char *path = path_of(cache->files, hash);
    npo_err err = path ? NPO_OK : no_memory(error);
    uint64_t size = 0;
    if (!err && !touch(path))
        err = npo_download_file(transfer, hash, path, &size, error);
    cache->bytes += size;
    if (err)
        free(path);
    else
        *ret_path = path;
    return err;
}

typedef struct {
    npo_cache *cache;
    const npo_transfer *transfer;
} folder_source;

static npo_err get_part(void *self, const npo_hash *hash, char **ret_path, npo_error *error)
{
    const folder_source *source = self;
    return get_file(source->cache, source->transfer, hash, ret_path, error);
}

static npo_err make_folder(npo_cache *cache, const npo_transfer *transfer,
                           const char *manifest_path, const char *path, npo_error *error)
{
    npo_buf text = NPO_BUF_INIT;
    npo_manifest manifest = {0};
    folder_source source = {cache, transfer};
    npo_err err = npo_file_read(manifest_path, NPO_MANIFEST_BYTES_MAX, &text, error);
    if (!err)
        err = npo_manifest_parse(text.data, text.len, manifest_path, &manifest, error);
    if (!err)
        err = npo_manifest_materialise(&manifest, path, get_part, &source, error);
    npo_manifest_fini(&manifest);
    npo_buf_fini(&text);
    return err;
}

npo_err npo_cache_get(npo_cache *cache, const npo_transfer *transfer, const npo_hash *hash,
                      char **ret_path, npo_error *error)
{
    char *file = NULL, *folder = path_of(cache->folders, hash);
    npo_err err = folder ? NPO_OK : no_memory(error);
    if (!err && touch(folder)) {
        *ret_path = folder;
        return NPO_OK;
    }
    if (!err)
        err = get_file(cache, transfer, hash, &file, error);
    if (!err && !npo_manifest_is_at(file)) {
        *ret_path = file;
        free(folder);
        return NPO_OK;
    }
    if (!err)
        err = make_folder(cache, transfer, file, folder, error);
    free(file);
    if (err)
        free(folder);
    else
        *ret_path = folder;
    return err;
}

/* ---- adding ---- */

static npo_err add_file(npo_cache *cache, const npo_hash *hash, const char *from, char **ret_path,
                        npo_error *error)
{
    uint64_t size = 0;
    char *to = path_of(cache->files, hash);
    npo_err err = to ? npo_file_size(from, &size, error) : no_memory(error);
    if (!err && !npo_file_exists(to)) {
        err = npo_file_link_or_copy(from, to, 0444, error);
        cache->bytes += err ? 0 : size;
    }
    if (!err && (chmod(to, 0444) < 0 || !touch(to)))
        err = npo_error_errno(error, errno, "cannot keep '%s'", to);
    if (err)
        free(to);
    else
        *ret_path = to;
    return err;
}

typedef struct {
    npo_cache *cache;
    const npo_manifest *manifest;
    const char *dir;
    size_t next; /* files are asked for in the manifest's order */
} folder_parts;

static npo_err add_part(void *self, const npo_hash *hash, char **ret_path, npo_error *error)
{
    folder_parts *parts = self;
    const npo_manifest *manifest = parts->manifest;
    while (!npo_hash_equal(&manifest->files[parts->next].hash, hash))
        parts->next = (parts->next + 1) % manifest->count;
    char *from = npo_file_join(parts->dir, manifest->files[parts->next].path);
    npo_err err = from ? add_file(parts->cache, hash, from, ret_path, error) : no_memory(error);
    parts->next = (parts->next + 1) % manifest->count;
    free(from);
    return err;
}

static npo_err check_folder(const npo_manifest *manifest, const npo_hash *hash, const char *dir,
                            npo_error *error)
{
    npo_buf text = NPO_BUF_INIT;
    npo_hash found;
    npo_err err = npo_manifest_print(manifest, &text, &found, error);
    if (!err && !npo_hash_equal(&found, hash))
        err = npo_error_set(error, NPO_E_CORRUPT, "'%s' has changed since it was published", dir);
    npo_buf_fini(&text);
    return err;
}

static npo_err add_folder(npo_cache *cache, const npo_hash *hash, const char *dir, npo_error *error)
{
    npo_manifest manifest = {0};
    folder_parts parts = {.cache = cache, .manifest = &manifest, .dir = dir};
    char *to = path_of(cache->folders, hash);
    npo_err err = to ? npo_manifest_build(dir, &manifest, error) : no_memory(error);
    if (!err)
        err = check_folder(&manifest, hash, dir, error);
    if (!err)
        err = npo_manifest_materialise(&manifest, to, add_part, &parts, error);
    if (!err && !touch(to))
        err = npo_error_errno(error, errno, "cannot keep '%s'", to);
    npo_manifest_fini(&manifest);
    free(to);
    return err;
}

npo_err npo_cache_add(npo_cache *cache, const npo_artifact *artifact, const char *path,
                      npo_error *error)
{
    char *kept = NULL;
    if (artifact->is_folder)
        return add_folder(cache, &artifact->hash, path, error);
    npo_err err = add_file(cache, &artifact->hash, path, &kept, error);
    free(kept);
    return err;
}

/* ---- evicting ---- */

static npo_err list_add(entry_list *list, const entry *item, npo_error *error)
{
    if (list->count == list->cap) {
        size_t cap = list->cap ? list->cap * 2 : 64;
        entry *items = realloc(list->items, cap * sizeof *items);
        if (!items)
            return no_memory(error);
        list->items = items;
        list->cap = cap;
    }
    list->items[list->count++] = *item;
    return NPO_OK;
}

static npo_err list_dir(const char *dir, bool is_folder, entry_list *list, npo_error *error)
{
    DIR *stream = opendir(dir);
    if (!stream)
        return npo_error_errno(error, errno, "cannot open folder '%s'", dir);
    npo_err err = NPO_OK;
    for (struct dirent *name; !err && (name = readdir(stream));) {
        struct stat st;
        entry item = {.is_folder = is_folder};
        if (npo_hash_parse(name->d_name, &item.hash) ||
            fstatat(dirfd(stream), name->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        item.used = st.st_atim;
        item.bytes = is_folder ? 0 : (uint64_t)st.st_size;
        item.is_linked = !is_folder && st.st_nlink > 1;
        err = list_add(list, &item, error);
    }
    closedir(stream);
    return err;
}

static int compare_times(const struct timespec *a, const struct timespec *b)
{
    if (a->tv_sec != b->tv_sec)
        return a->tv_sec < b->tv_sec ? -1 : 1;
    return (a->tv_nsec > b->tv_nsec) - (a->tv_nsec < b->tv_nsec);
}

/* Oldest first, folders before files: their files become free only then. */
static int compare_entries(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->is_folder != y->is_folder)
        return x->is_folder ? -1 : 1;
    return compare_times(&x->used, &y->used);
}

static npo_err list_all(npo_cache *cache, entry_list *list, uint64_t *ret_bytes, npo_error *error)
{
    NPO_TRY(list_dir(cache->folders, true, list, error));
    NPO_TRY(list_dir(cache->files, false, list, error));
    *ret_bytes = 0;
    for (size_t i = 0; i < list->count; i++)
        *ret_bytes += list->items[i].bytes;
    if (list->count > 0)
        qsort(list->items, list->count, sizeof *list->items, compare_entries);
    return NPO_OK;
}

npo_err npo_cache_bytes(npo_cache *cache, uint64_t *ret_bytes, npo_error *error)
{
    entry_list list = {0};
    npo_err err = list_all(cache, &list, ret_bytes, error);
    free(list.items);
    return err;
}

/* Asks npod about all candidates at once; what it lacks stays. */
static npo_err keep_what_npod_lacks(const npo_transfer *transfer, entry_list *list,
                                    npo_error *error)
{
    npo_hash *hashes = calloc(list->count + 1, sizeof *hashes);
    bool *missing = calloc(list->count + 1, sizeof *missing);
    npo_err err = hashes && missing ? NPO_OK : no_memory(error);
    for (size_t i = 0; !err && i < list->count; i++)
        hashes[i] = list->items[i].hash;
    if (!err)
        err = npo_transfer_missing(transfer, hashes, list->count, missing, error);
    size_t kept = 0;
    for (size_t i = 0; !err && i < list->count; i++)
        if (!missing[i])
            list->items[kept++] = list->items[i];
    if (!err)
        list->count = kept;
    free(hashes);
    free(missing);
    return err;
}

static void keep_in_use(const npo_cache *cache, entry_list *list)
{
    size_t kept = 0;
    for (size_t i = 0; i < list->count; i++)
        if (compare_times(&list->items[i].used, &cache->begun) < 0)
            list->items[kept++] = list->items[i];
    list->count = kept;
}

static npo_err evict(npo_cache *cache, const entry *item, npo_error *error)
{
    char *path = path_of(item->is_folder ? cache->folders : cache->files, &item->hash);
    npo_err err = path ? npo_file_remove(path, error) : no_memory(error);
    free(path);
    return err;
}

static npo_err trim_once(npo_cache *cache, const npo_transfer *transfer, bool folders,
                         npo_error *error)
{
    entry_list list = {0};
    uint64_t bytes = 0;
    npo_err err = list_all(cache, &list, &bytes, error);
    if (!err && bytes > cache->bytes_max) {
        keep_in_use(cache, &list);
        err = list.count > 0 ? keep_what_npod_lacks(transfer, &list, error) : NPO_OK;
    }
    for (size_t i = 0; !err && i < list.count && bytes > cache->bytes_max; i++) {
        const entry *item = &list.items[i];
        if (item->is_folder != folders || item->is_linked)
            continue;
        err = evict(cache, item, error);
        bytes -= item->bytes;
    }
    free(list.items);
    return err;
}

/* Loose files first. When these do not suffice, idle folders go, which sets their files loose. */
npo_err npo_cache_trim(npo_cache *cache, const npo_transfer *transfer, npo_error *error)
{
    if (cache->bytes <= cache->bytes_max)
        return NPO_OK;
    NPO_TRY(trim_once(cache, transfer, false, error));
    NPO_TRY(trim_once(cache, transfer, true, error));
    NPO_TRY(trim_once(cache, transfer, false, error));
    return npo_cache_bytes(cache, &cache->bytes, error);
}
