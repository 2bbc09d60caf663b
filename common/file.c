#include "common/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

char *npo_file_join(const char *dir, const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s", dir, name) < 0)
        return NULL;
    return path;
}

int npo_file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

npo_err npo_file_size(const char *path, uint64_t *ret_size, npo_error *error)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return npo_error_errno(error, errno, "cannot read '%s'", path);
    *ret_size = (uint64_t)st.st_size;
    return NPO_OK;
}

npo_err npo_file_pwrite(int fd, const void *data, size_t len, uint64_t offset, npo_error *error)
{
    const char *from = data;
    while (len > 0) {
        ssize_t n = pwrite(fd, from, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return npo_error_errno(error, errno, "cannot write %zu bytes", len);
        from += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return NPO_OK;
}

npo_err npo_file_pread(int fd, void *ret_data, size_t len, uint64_t offset, npo_error *error)
{
    char *to = ret_data;
    while (len > 0) {
        ssize_t n = pread(fd, to, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return npo_error_errno(error, errno, "cannot read %zu bytes", len);
        if (n == 0)
            return npo_error_set(error, NPO_E_FORMAT, "file ends %zu bytes early", len);
        to += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return NPO_OK;
}

npo_err npo_file_read(const char *path, size_t limit, npo_buf *ret_buf, npo_error *error)
{
    npo_err err = NPO_OK;
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return npo_error_errno(error, errno, "cannot open '%s'", path);
    if (fstat(fd, &st) < 0) {
        err = npo_error_errno(error, errno, "cannot read '%s'", path);
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        err = npo_error_set(error, NPO_E_TYPE, "cannot read '%s': not a regular file", path);
        goto out;
    }
    if ((uint64_t)st.st_size > limit) {
        err = npo_error_set(error, NPO_E_LIMIT, "'%s' has %lld bytes, at most %zu are allowed",
                            path, (long long)st.st_size, limit);
        goto out;
    }
    size_t size = (size_t)st.st_size;
    char *to = npo_buf_reserve(ret_buf, size);
    if (!to) {
        err = npo_error_set(error, NPO_E_NOMEM, "cannot read '%s': out of memory", path);
        goto out;
    }
    err = npo_file_pread(fd, to, size, 0, error);
    if (err) {
        npo_error_prefix(error, err, "cannot read '%s'", path);
        goto out;
    }
    ret_buf->len += size;
    ret_buf->data[ret_buf->len] = '\0';
out:
    close(fd);
    return err;
}

npo_err npo_file_sync_dir(const char *path, npo_error *error)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return npo_error_errno(error, errno, "cannot open folder '%s'", path);
    npo_err err = NPO_OK;
    if (fsync(fd) < 0)
        err = npo_error_errno(error, errno, "cannot sync folder '%s'", path);
    close(fd);
    return err;
}

static npo_err sync_parent(const char *path, npo_error *error)
{
    char *copy = strdup(path);
    if (!copy)
        return npo_error_set(error, NPO_E_NOMEM, "cannot sync the folder of '%s'", path);
    npo_err err = npo_file_sync_dir(dirname(copy), error);
    free(copy);
    return err;
}

struct npo_file_writer {
    char *path, *part;
    int fd;
    uint64_t size; /* bytes written so far */
};

npo_err npo_file_writer_new(const char *path, mode_t mode, npo_file_writer **ret_writer,
                            npo_error *error)
{
    npo_err err = NPO_E_NOMEM;
    npo_file_writer *writer = calloc(1, sizeof *writer);
    if (writer) {
        writer->fd = -1;
        writer->path = strdup(path);
        if (asprintf(&writer->part, "%s.%d.part", path, (int)getpid()) < 0)
            writer->part = NULL;
    }
    if (!writer || !writer->path || !writer->part) {
        npo_error_set(error, err, "cannot write '%s': out of memory", path);
        goto out;
    }
    writer->fd = open(writer->part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    if (writer->fd < 0) {
        err = npo_error_errno(error, errno, "cannot create '%s'", writer->part);
        goto out;
    }
    *ret_writer = writer;
    return NPO_OK;
out:
    npo_file_writer_abort(writer);
    return err;
}

npo_err npo_file_writer_add(npo_file_writer *writer, const void *data, size_t len, npo_error *error)
{
    npo_err err = npo_file_pwrite(writer->fd, data, len, writer->size, error);
    if (err)
        return npo_error_prefix(error, err, "cannot write '%s'", writer->path);
    writer->size += len;
    return NPO_OK;
}

npo_err npo_file_writer_commit(npo_file_writer *writer, npo_error *error)
{
    npo_err err = NPO_OK;
    if (fsync(writer->fd) < 0 || rename(writer->part, writer->path) < 0)
        err = npo_error_errno(error, errno, "cannot write '%s'", writer->path);
    else
        err = sync_parent(writer->path, error);
    npo_file_writer_abort(writer); /* after the rename there is no part left to remove */
    return err;
}

void npo_file_writer_abort(npo_file_writer *writer)
{
    if (!writer)
        return;
    if (writer->fd >= 0) {
        close(writer->fd);
        unlink(writer->part);
    }
    free(writer->part);
    free(writer->path);
    free(writer);
}

npo_err npo_file_write(const char *path, const void *data, size_t len, mode_t mode,
                       npo_error *error)
{
    npo_file_writer *writer = NULL;
    NPO_TRY(npo_file_writer_new(path, mode, &writer, error));
    npo_err err = npo_file_writer_add(writer, data, len, error);
    if (err) {
        npo_file_writer_abort(writer);
        return err;
    }
    return npo_file_writer_commit(writer, error);
}

npo_err npo_file_make_dirs(const char *path, npo_error *error)
{
    char *copy = strdup(path);
    if (!copy)
        return npo_error_set(error, NPO_E_NOMEM, "cannot create folder '%s'", path);
    npo_err err = NPO_OK;
    for (char *slash = copy + 1;; slash++) {
        int at_end = *slash == '\0';
        if (*slash != '/' && !at_end)
            continue;
        *slash = '\0';
        if (mkdir(copy, 0777) < 0 && errno != EEXIST) {
            err = npo_error_errno(error, errno, "cannot create folder '%s'", copy);
            break;
        }
        if (at_end)
            break;
        *slash = '/';
    }
    struct stat st;
    if (!err && (stat(path, &st) < 0 || !S_ISDIR(st.st_mode)))
        err =
            npo_error_set(error, NPO_E_EXISTS, "cannot create folder '%s': a file is there", path);
    free(copy);
    return err;
}

static npo_err remove_dir(const char *path, npo_error *error)
{
    DIR *dir = opendir(path);
    if (!dir)
        return npo_error_errno(error, errno, "cannot open folder '%s'", path);
    npo_err err = NPO_OK;
    for (struct dirent *entry; !err && (entry = readdir(dir));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        char *child = npo_file_join(path, entry->d_name);
        err = child ? npo_file_remove(child, error) : NPO_E_NOMEM;
        free(child);
    }
    closedir(dir);
    if (!err && rmdir(path) < 0 && errno != ENOENT)
        err = npo_error_errno(error, errno, "cannot remove folder '%s'", path);
    return err;
}

npo_err npo_file_remove(const char *path, npo_error *error)
{
    struct stat st;
    if (lstat(path, &st) < 0) {
        if (errno == ENOENT)
            return NPO_OK;
        return npo_error_errno(error, errno, "cannot remove '%s'", path);
    }
    if (S_ISDIR(st.st_mode))
        return remove_dir(path, error);
    if (unlink(path) < 0 && errno != ENOENT)
        return npo_error_errno(error, errno, "cannot remove '%s'", path);
    return NPO_OK;
}

npo_err npo_file_map_open(const char *path, npo_file_map *ret_map, npo_error *error)
{
    npo_err err = NPO_OK;
    npo_file_map map = {0};
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return npo_error_errno(error, errno, "cannot open '%s'", path);
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        err = npo_error_set(error, NPO_E_TYPE, "cannot map '%s': not a regular file", path);
        goto out;
    }
    map.size = (size_t)st.st_size;
    if (map.size > 0) {
        void *data = mmap(NULL, map.size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            err = npo_error_errno(error, errno, "cannot map '%s'", path);
            goto out;
        }
        map.data = data;
    }
    *ret_map = map;
out:
    close(fd);
    return err;
}

void npo_file_map_close(npo_file_map *map)
{
    if (map->data)
        munmap((void *)map->data, map->size);
    *map = (npo_file_map){0};
}

npo_err npo_file_copy(const char *from, const char *to, mode_t mode, npo_error *error)
{
    npo_file_map map = {0};
    NPO_TRY(npo_file_map_open(from, &map, error));
    npo_err err = npo_file_write(to, map.data, map.size, mode, error);
    npo_file_map_close(&map);
    return err;
}

npo_err npo_file_link_or_copy(const char *from, const char *to, mode_t mode, npo_error *error)
{
    if (link(from, to) == 0)
        return NPO_OK;
    if (errno == EXDEV || errno == EMLINK || errno == EPERM)
        return npo_file_copy(from, to, mode, error);
    return npo_error_errno(error, errno, "cannot link '%s' to '%s'", from, to);
}

static npo_err list_add(npo_file_list *list, char *path_take)
{
    char **paths = realloc(list->paths, (list->count + 1) * sizeof *paths);
    if (!paths || !path_take) {
        free(path_take);
        if (paths)
            list->paths = paths;
        return NPO_E_NOMEM;
    }
    list->paths = paths;
    list->paths[list->count++] = path_take;
    return NPO_OK;
}

static npo_err walk(const char *root, const char *below, size_t limit, npo_file_list *list,
                    npo_error *error)
{
    npo_err err = NPO_OK;
    char *path = *below ? npo_file_join(root, below) : strdup(root);
    DIR *dir = path ? opendir(path) : NULL;
    if (!dir) {
        err = path ? npo_error_errno(error, errno, "cannot open folder '%s'", path) : NPO_E_NOMEM;
        goto out;
    }
    for (struct dirent *entry; !err && (entry = readdir(dir));) {
        if (entry->d_name[0] == '.')
            continue;
        struct stat st;
        char *child = *below ? npo_file_join(below, entry->d_name) : strdup(entry->d_name);
        if (!child || fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
            err = child ? npo_error_errno(error, errno, "cannot read '%s'", child) : NPO_E_NOMEM;
            free(child);
            break;
        }
        if (S_ISDIR(st.st_mode)) {
            err = walk(root, child, limit, list, error);
            free(child);
        } else if (S_ISREG(st.st_mode)) {
            err = list_add(list, child);
            if (!err && list->count > limit)
                err = npo_error_set(error, NPO_E_LIMIT, "'%s' holds more than %zu files", root,
                                    limit);
        } else {
            free(child);
        }
    }
out:
    if (dir)
        closedir(dir);
    free(path);
    return err;
}

static int compare_paths(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

npo_err npo_file_list_tree(const char *dir, size_t limit, npo_file_list *ret_list, npo_error *error)
{
    npo_file_list list = {0};
    npo_err err = walk(dir, "", limit, &list, error);
    if (err) {
        npo_file_list_fini(&list);
        return err;
    }
    if (list.count)
        qsort(list.paths, list.count, sizeof *list.paths, compare_paths);
    *ret_list = list;
    return NPO_OK;
}

void npo_file_list_fini(npo_file_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->paths[i]);
    free(list->paths);
    *list = (npo_file_list){0};
}
