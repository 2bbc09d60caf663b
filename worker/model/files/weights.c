#include "worker/model/files/weights.h"

#include "common/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const npo_weights_map no_map;

/* ---- sentences ---- */

/* Complaints up to the room of a sentence; the rest are counted. */
typedef struct {
    npo_buf text;
    size_t left_out;
    npo_err code; /* of the first */
} complaints;

enum { COMPLAINTS_BYTES = NPO_ERROR_TEXT_MAX - 160 };

static void complain(complaints *all, npo_err code, const char *text)
{
    if (!all->code)
        all->code = code;
    if (all->text.len && all->text.len + strlen(text) > COMPLAINTS_BYTES)
        all->left_out++;
    else
        npo_buf_printf(&all->text, "%s%s", all->text.len ? "; " : "", text);
}

static npo_err finish(complaints *all, const char *path, npo_error *error)
{
    if (all->left_out)
        npo_buf_printf(&all->text, "; and %zu more", all->left_out);
    npo_err err = npo_buf_err(&all->text);
    if (err)
        npo_error_set(error, err, "cannot load '%s': %s", path, npo_err_text(err));
    else if (all->code)
        err = npo_error_set(error, all->code, "cannot load %s in '%s'", all->text.data, path);
    npo_buf_fini(&all->text);
    return err;
}

static void format_shape(int ndim, const int64_t *dims, char *ret_text, size_t size)
{
    size_t at = (size_t)snprintf(ret_text, size, "[");
    for (int i = 0; i < ndim && at < size; i++)
        at +=
            (size_t)snprintf(ret_text + at, size - at, "%s%lld", i ? "," : "", (long long)dims[i]);
    if (at < size)
        snprintf(ret_text + at, size - at, "]");
}

/* ---- names and shapes ---- */

/* The shape a layout tensor has in files. */
static void stored_shape(const npo_param_info *info, const npo_weights_map *map, int *ret_ndim,
                         const int64_t **ret_dims)
{
    bool other = map->reshaped && strcmp(info->name, map->reshaped) == 0;
    *ret_ndim = other ? map->reshaped_ndim : info->ndim;
    *ret_dims = other ? map->reshaped_dims : info->dims;
}

static bool has_prefix(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* Bytes to skip of a layout name to get the file's: the prefix, where no name of the file has it.
 */
static size_t skipped_prefix(const npo_safetensors *file, const npo_weights_map *map)
{
    if (!map->optional_prefix)
        return 0;
    for (size_t i = 0; i < npo_safetensors_count(file); i++)
        if (has_prefix(npo_safetensors_at(file, i)->name, map->optional_prefix))
            return 0;
    return strlen(map->optional_prefix);
}

static const char *stored_name(const npo_param_info *info, const npo_weights_map *map, size_t skip)
{
    return skip && has_prefix(info->name, map->optional_prefix) ? info->name + skip : info->name;
}

/* name with `from` replaced by `to` in ret_name; false where name does not hold it or the result is
 * too long to be a tensor's. */
static bool rename_part(const char *name, const char *from, const char *to,
                        char ret_name[NPO_PARAM_NAME_MAX])
{
    const char *at = strstr(name, from);
    if (!at)
        return false;
    int len = snprintf(ret_name, NPO_PARAM_NAME_MAX, "%.*s%s%s", (int)(at - name), name, to,
                       at + strlen(from));
    return len < NPO_PARAM_NAME_MAX;
}

/* The file's tensor of this name, or of its older one. */
static const npo_tensor *find_tensor(const npo_safetensors *file, const npo_weights_map *map,
                                     const char *name)
{
    char buffer[NPO_PARAM_NAME_MAX];
    const npo_tensor *tensor = npo_safetensors_find(file, name);
    for (const npo_weights_older *o = map->older; !tensor && o && o->part; o++)
        if (rename_part(name, o->part, o->older, buffer))
            tensor = npo_safetensors_find(file, buffer);
    return tensor;
}

static bool has_shape(const npo_tensor *tensor, const char *name, int ndim, const int64_t *dims)
{
    bool pointwise = strcmp(tensor->name, name) != 0 && ndim == 2 && tensor->ndim == 4 &&
                     tensor->dims[2] == 1 && tensor->dims[3] == 1;
    return (tensor->ndim == ndim || pointwise) &&
           memcmp(tensor->dims, dims, (size_t)ndim * sizeof *dims) == 0;
}

static void check_tensor(const npo_safetensors *file, const npo_param_info *info,
                         const npo_weights_map *map, size_t skip, complaints *ret_all)
{
    char text[NPO_PARAM_NAME_MAX + 256], found[96], expected[96];
    const char *name = stored_name(info, map, skip);
    const npo_tensor *tensor = find_tensor(file, map, name);
    const int64_t *dims;
    int ndim;
    stored_shape(info, map, &ndim, &dims);
    if (!tensor) {
        snprintf(text, sizeof text, "'%s': missing", name);
        complain(ret_all, NPO_E_NOT_FOUND, text);
    } else if (!has_shape(tensor, name, ndim, dims)) {
        format_shape(tensor->ndim, tensor->dims, found, sizeof found);
        format_shape(ndim, dims, expected, sizeof expected);
        snprintf(text, sizeof text, "'%s': shape %s, expected %s", name, found, expected);
        complain(ret_all, NPO_E_SHAPE, text);
    } else if (tensor->dtype != NPO_TENSOR_F32 && tensor->dtype != NPO_TENSOR_F16 &&
               tensor->dtype != NPO_TENSOR_BF16) {
        snprintf(text, sizeof text, "'%s': dtype %s, expected F32, F16 or BF16", name,
                 npo_tensor_dtype_name(tensor->dtype));
        complain(ret_all, NPO_E_TYPE, text);
    }
}

static bool is_ignored(const npo_weights_map *map, const char *name)
{
    for (const char *const *ignore = map->ignore; ignore && *ignore; ignore++)
        if (strcmp(*ignore, name) == 0)
            return true;
    return false;
}

/* The layout's tensor for a file's name. */
static const npo_param_info *find_param(const npo_layout *layout, const npo_weights_map *map,
                                        size_t skip, const char *name)
{
    char buffer[NPO_PARAM_NAME_MAX];
    const npo_param_info *info = npo_layout_find(layout, name);
    for (const npo_weights_older *o = map->older; !info && o && o->part; o++)
        if (rename_part(name, o->older, o->part, buffer))
            info = npo_layout_find(layout, buffer);
    if (info || !skip)
        return info;
    int len = snprintf(buffer, sizeof buffer, "%s%s", map->optional_prefix, name);
    return len < (int)sizeof buffer ? npo_layout_find(layout, buffer) : NULL;
}

static void check_unexpected(const npo_safetensors *file, const npo_layout *layout,
                             const npo_weights_map *map, size_t skip, complaints *ret_all)
{
    char text[256];
    for (size_t i = 0; i < npo_safetensors_count(file); i++) {
        const char *name = npo_safetensors_at(file, i)->name;
        if (find_param(layout, map, skip, name) || is_ignored(map, name))
            continue;
        snprintf(text, sizeof text, "'%.200s': unexpected", name);
        complain(ret_all, NPO_E_USAGE, text);
    }
}

/* ---- reading ---- */

npo_err npo_weights_read(const npo_safetensors *file, const npo_weights_map *map,
                         npo_params *params, npo_error *error)
{
    complaints all = {0};
    const npo_layout *layout = npo_params_layout(params);
    map = map ? map : &no_map;
    size_t skip = skipped_prefix(file, map);
    for (size_t i = 0; i < npo_layout_count(layout); i++)
        check_tensor(file, npo_layout_at(layout, i), map, skip, &all);
    check_unexpected(file, layout, map, skip, &all);
    NPO_TRY(finish(&all, npo_safetensors_path(file), error));
    float *data = npo_params_edit(params);
    for (size_t i = 0; i < npo_layout_count(layout); i++) {
        const npo_param_info *info = npo_layout_at(layout, i);
        const npo_tensor *tensor = find_tensor(file, map, stored_name(info, map, skip));
        npo_tensor_read_f32(tensor, 0, info->count, data + info->offset);
    }
    return NPO_OK;
}

npo_err npo_weights_load(const char *path, const npo_weights_map *map, npo_params *params,
                         npo_error *error)
{
    npo_safetensors *file = NULL;
    NPO_TRY(npo_safetensors_open(path, &file, error));
    npo_err err = npo_weights_read(file, map, params, error);
    npo_safetensors_close(file);
    return err;
}

/* ---- writing ---- */

npo_err npo_weights_save(const char *path, const npo_params *params, npo_tensor_dtype dtype,
                         const npo_weights_map *map, npo_error *error)
{
    static const npo_tensor_metadata format = {"format", "pt"};
    const npo_layout *layout = npo_params_layout(params);
    size_t count = npo_layout_count(layout);
    npo_tensor_source *sources = calloc(count ? count : 1, sizeof *sources);
    if (!sources)
        return npo_error_set(error, NPO_E_NOMEM, "cannot write '%s': out of memory", path);
    for (size_t i = 0; i < count; i++) {
        const npo_param_info *info = npo_layout_at(layout, i);
        const int64_t *dims;
        sources[i] = (npo_tensor_source){
            .name = info->name, .dtype = dtype, .data = npo_params_data(params) + info->offset};
        stored_shape(info, map ? map : &no_map, &sources[i].ndim, &dims);
        memcpy(sources[i].dims, dims, (size_t)sources[i].ndim * sizeof *dims);
    }
    npo_err err = npo_safetensors_write(path, sources, count, &format, 1, error);
    free(sources);
    return err;
}
