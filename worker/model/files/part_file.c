#include "worker/model/files/part_file.h"

#include "common/file.h"
#include "worker/model/files/built_in.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What stands behind NPO_BUILT_IN, or NULL. */
static const char *built_in_name(const char *path)
{
    size_t len = strlen(NPO_BUILT_IN);
    return strncmp(path, NPO_BUILT_IN, len) == 0 ? path + len : NULL;
}

static int compare_names(const void *name, const void *file)
{
    return strcmp(name, ((const npo_built_in *)file)->name);
}

static const npo_built_in *find(const char *name)
{
    return bsearch(name, npo_built_ins, npo_built_in_count, sizeof *npo_built_ins, compare_names);
}

static npo_err find_built_in(const char *path, size_t limit, const npo_built_in **ret_file,
                             npo_error *error)
{
    const npo_built_in *file = find(built_in_name(path));
    if (!file)
        return npo_error_set(error, NPO_E_NOT_FOUND, "there is no file '%s'", path);
    if (file->bytes > limit)
        return npo_error_set(error, NPO_E_LIMIT, "'%s' has %zu bytes, expected at most %zu", path,
                             file->bytes, limit);
    *ret_file = file;
    return NPO_OK;
}

bool npo_part_file_exists(const char *path)
{
    const char *name = built_in_name(path);
    return name ? find(name) != NULL : npo_file_exists(path);
}

npo_err npo_part_file_read(const char *path, size_t limit, npo_buf *ret_buf, npo_error *error)
{
    const npo_built_in *file = NULL;
    if (!built_in_name(path))
        return npo_file_read(path, limit, ret_buf, error);
    NPO_TRY(find_built_in(path, limit, &file, error));
    npo_buf_add(ret_buf, file->data, file->bytes);
    npo_err err = npo_buf_err(ret_buf);
    return err ? npo_error_set(error, err, "cannot read '%s': %s", path, npo_err_text(err))
               : NPO_OK;
}

npo_err npo_part_file_json(const char *path, size_t limit, cJSON **ret_json, npo_error *error)
{
    char name[NPO_ERROR_TEXT_MAX / 2];
    const npo_built_in *file = NULL;
    if (!built_in_name(path))
        return npo_json_load(path, limit, ret_json, error);
    NPO_TRY(find_built_in(path, limit, &file, error));
    snprintf(name, sizeof name, "'%s'", path);
    return npo_json_parse(file->data, file->bytes, name, ret_json, error);
}

npo_err npo_part_file_copy(const char *from, const char *to, npo_error *error)
{
    const npo_built_in *file = NULL;
    if (!built_in_name(from))
        return npo_file_copy(from, to, 0666, error);
    NPO_TRY(find_built_in(from, SIZE_MAX, &file, error));
    return npo_file_write(to, file->data, file->bytes, 0666, error);
}
