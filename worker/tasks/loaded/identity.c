#include "worker/tasks/loaded/identity.h"

#include "common/bounds.h"
#include "common/file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void add_file(npo_hasher *hasher, const char *path, const struct stat *st)
{
    int64_t values[] = {
        (int64_t)st->st_dev,         (int64_t)st->st_ino,          (int64_t)st->st_size,
        (int64_t)st->st_mtim.tv_sec, (int64_t)st->st_mtim.tv_nsec,
    };
    npo_hasher_add(hasher, path, strlen(path) + 1);
    npo_hasher_add(hasher, values, sizeof values);
}

static npo_err add_path(npo_hasher *hasher, const char *full, const char *name, npo_error *error)
{
    struct stat st;
    if (stat(full, &st) != 0)
        return npo_error_errno(error, errno, "cannot look at '%s'", full);
    add_file(hasher, name, &st);
    return NPO_OK;
}

static npo_err add_folder(npo_hasher *hasher, const char *path, npo_error *error)
{
    npo_file_list list;
    NPO_TRY(npo_file_list_tree(path, NPO_MANIFEST_FILES_MAX, &list, error));
    npo_err err = NPO_OK;
    for (size_t i = 0; err == NPO_OK && i < list.count; i++) {
        char *full = npo_file_join(path, list.paths[i]);
        err = full ? add_path(hasher, full, list.paths[i], error)
                   : npo_error_set(error, NPO_E_NOMEM, "cannot look at '%s': out of memory", path);
        free(full);
    }
    npo_file_list_fini(&list);
    return err;
}

npo_err npo_identity_of(const char *path, npo_hash *ret_identity, npo_error *error)
{
    struct stat st;
    npo_hasher *hasher = NULL;
    if (stat(path, &st) != 0)
        return npo_error_errno(error, errno, "cannot look at '%s'", path);
    npo_err err = npo_hasher_new(&hasher);
    if (err != NPO_OK)
        return npo_error_set(error, err, "cannot look at '%s': %s", path, npo_err_text(err));
    add_file(hasher, "", &st);
    if (S_ISDIR(st.st_mode))
        err = add_folder(hasher, path, error);
    if (err == NPO_OK)
        *ret_identity = npo_hasher_digest(hasher);
    npo_hasher_free(hasher);
    return err;
}
