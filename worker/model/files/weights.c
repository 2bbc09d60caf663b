#include "worker/model/files/weights.h"

#include "worker/model/files/complaints.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRANSPOSE_BLOCK = 1024 };

static const npo_weights_map no_map;

/* ---- names and shapes ---- */

/* A reading: the file, how it differs from the layout, and what of it was found to be wanted. */
typedef struct {
    const npo_safetensors *file;
    const npo_weights_map *map;
    size_t skip; /* bytes of the optional prefix to leave out of names */
    bool *used;  /* [tensors of the file] */
    npo_complaints complaints;
} reading;

/* Where a layout tensor stands in the file and the shape it has to have there. */
typedef struct {
    npo_single_place place;
    const npo_tensor *tensor; /* NULL: not there */
    int ndim;
    int64_t dims[NPO_PARAM_DIMS_MAX];
} stored;

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

/* What every name of the part begins with in the file. */
static const char *part_prefix(const npo_weights_map *map)
{
    return map->single ? npo_single_prefix(map->single->part) : "";
}

/* Bytes to skip of a layout name to get the file's: the prefix, where no name of the file has it.
 */
static size_t skipped_prefix(const npo_safetensors *file, const npo_weights_map *map)
{
    const char *part = part_prefix(map);
    if (!map->optional_prefix)
        return 0;
    for (size_t i = 0; i < npo_safetensors_count(file); i++) {
        const char *name = npo_safetensors_at(file, i)->name;
        if (has_prefix(name, part) && has_prefix(name + strlen(part), map->optional_prefix))
            return 0;
    }
    return strlen(map->optional_prefix);
}

static void place_of(const reading *r, const npo_param_info *info, npo_single_place *ret_place)
{
    const char *prefix = part_prefix(r->map);
    bool skips = r->skip && has_prefix(info->name, r->map->optional_prefix);
    *ret_place = (npo_single_place){0};
    if (r->map->single && npo_single_place_of(r->map->single, info->name, ret_place) &&
        (!skips || !has_prefix(ret_place->name + strlen(prefix), r->map->optional_prefix)))
        return;
    snprintf(ret_place->name, sizeof ret_place->name, "%s%s", prefix,
             info->name + (skips ? r->skip : 0));
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
static const npo_tensor *find_tensor(const reading *r, const char *name)
{
    char buffer[NPO_PARAM_NAME_MAX];
    const npo_tensor *tensor = npo_safetensors_find(r->file, name);
    for (const npo_weights_older *o = r->map->older; !tensor && o && o->part; o++)
        if (rename_part(name, o->part, o->older, buffer))
            tensor = npo_safetensors_find(r->file, buffer);
    return tensor;
}

static stored find_stored(const reading *r, const npo_param_info *info)
{
    const int64_t *dims;
    stored s;
    place_of(r, info, &s.place);
    s.tensor = find_tensor(r, s.place.name);
    stored_shape(info, r->map, &s.ndim, &dims);
    memcpy(s.dims, dims, (size_t)s.ndim * sizeof *dims);
    if (s.place.third)
        s.dims[0] *= 3;
    if (s.place.transposed) {
        s.dims[0] = dims[1];
        s.dims[1] = dims[0];
    }
    return s;
}

/* Dimensions without the ones at the end. */
static int significant(int ndim, const int64_t *dims)
{
    while (ndim > 1 && dims[ndim - 1] == 1)
        ndim--;
    return ndim;
}

static bool has_shape(const reading *r, const stored *s)
{
    int found = s->tensor->ndim, expected = s->ndim;
    if (r->map->single || strcmp(s->tensor->name, s->place.name) != 0) {
        found = significant(found, s->tensor->dims);
        expected = significant(expected, s->dims);
    }
    return found == expected &&
           memcmp(s->tensor->dims, s->dims, (size_t)expected * sizeof *s->dims) == 0;
}

static void check_tensor(reading *r, const npo_param_info *info)
{
    stored s = find_stored(r, info);
    if (s.tensor)
        r->used[s.tensor - npo_safetensors_at(r->file, 0)] = true;
    npo_complain_tensor(&r->complaints, s.place.name, s.tensor, s.tensor && has_shape(r, &s),
                        s.ndim, s.dims);
}

static bool is_ignored(const npo_weights_map *map, const char *name)
{
    const char *prefix = part_prefix(map);
    if (!has_prefix(name, prefix)) /* of another part */
        return true;
    for (const char *const *ignore = map->ignore; ignore && *ignore; ignore++)
        if (strcmp(*ignore, name + strlen(prefix)) == 0)
            return true;
    return false;
}

static void check_unexpected(reading *r)
{
    for (size_t i = 0; i < npo_safetensors_count(r->file); i++) {
        const char *name = npo_safetensors_at(r->file, i)->name;
        if (!r->used[i] && !is_ignored(r->map, name))
            npo_complain(&r->complaints, NPO_E_USAGE, "'%.200s': unexpected", name);
    }
}

/* ---- reading ---- */

/* to: [rows,cols], stored as [cols,rows]. */
static npo_err read_transposed(const npo_tensor *tensor, const int64_t *dims, float *to,
                               npo_error *error)
{
    float block[TRANSPOSE_BLOCK];
    size_t stored_cols = (size_t)dims[1], cols = (size_t)dims[0];
    for (size_t at = 0, n; at < tensor->count; at += n) {
        n = tensor->count - at < TRANSPOSE_BLOCK ? tensor->count - at : TRANSPOSE_BLOCK;
        NPO_TRY(npo_tensor_read_finite(tensor, at, n, block, error));
        for (size_t i = 0; i < n; i++)
            to[(at + i) % stored_cols * cols + (at + i) / stored_cols] = block[i];
    }
    return NPO_OK;
}

static npo_err read_tensor(const reading *r, const npo_param_info *info, float *to,
                           npo_error *error)
{
    stored s = find_stored(r, info);
    size_t first = s.place.third ? (size_t)(s.place.third - 1) * info->count : 0;
    NPO_TRY(s.place.transposed ? read_transposed(s.tensor, s.dims, to, error)
                               : npo_tensor_read_finite(s.tensor, first, info->count, to, error));
    npo_tensor_release(s.tensor);
    return NPO_OK;
}

/* Begins a reading: everything but the values is checked. */
static npo_err check_file(const npo_safetensors *file, const npo_weights_map *map,
                          const npo_layout *layout, reading *ret_reading, npo_error *error)
{
    const char *path = npo_safetensors_path(file);
    size_t count = npo_safetensors_count(file);
    reading r = {.file = file, .map = map ? map : &no_map};
    r.skip = skipped_prefix(file, r.map);
    r.used = calloc(count ? count : 1, sizeof *r.used);
    if (!r.used)
        return npo_error_set(error, NPO_E_NOMEM, "cannot load '%s': out of memory", path);
    for (size_t i = 0; i < npo_layout_count(layout); i++)
        check_tensor(&r, npo_layout_at(layout, i));
    check_unexpected(&r);
    free(r.used);
    r.used = NULL;
    NPO_TRY(npo_complaints_finish(&r.complaints, path, error));
    *ret_reading = r;
    return NPO_OK;
}

npo_err npo_weights_find(const npo_safetensors *file, const npo_weights_map *map,
                         const npo_layout *layout, const npo_tensor **ret_tensors, npo_error *error)
{
    reading r;
    NPO_TRY(check_file(file, map, layout, &r, error));
    for (size_t i = 0; i < npo_layout_count(layout); i++) {
        stored s = find_stored(&r, npo_layout_at(layout, i));
        assert(!s.place.third && !s.place.transposed);
        ret_tensors[i] = s.tensor;
    }
    return NPO_OK;
}

npo_err npo_weights_read(const npo_safetensors *file, const npo_weights_map *map,
                         npo_params *params, npo_error *error)
{
    const npo_layout *layout = npo_params_layout(params);
    const char *path = npo_safetensors_path(file);
    reading r;
    NPO_TRY(check_file(file, map, layout, &r, error));
    float *data = npo_params_edit(params);
    for (size_t i = 0; i < npo_layout_count(layout); i++) {
        const npo_param_info *info = npo_layout_at(layout, i);
        npo_err err = read_tensor(&r, info, data + info->offset, error);
        if (err)
            return npo_error_prefix(error, err, "cannot load '%s'", path);
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

npo_err npo_weights_fill(void *user, size_t first, size_t n, float *ret_values, npo_error *error)
{
    const npo_weights_made_tensor *made = user;
    return made->weights->fill(made->weights->user, made->tensor, first, n, ret_values, error);
}

npo_err npo_weights_write(const char *path, const npo_weights_made *weights, npo_tensor_dtype dtype,
                          const npo_weights_map *map, npo_error *error)
{
    static const npo_tensor_metadata format = {"format", "pt"};
    size_t count = npo_layout_count(weights->layout);
    npo_tensor_source *sources = calloc(count + 1, sizeof *sources);
    npo_weights_made_tensor *made = calloc(count + 1, sizeof *made);
    npo_err err = sources && made ? NPO_OK : NPO_E_NOMEM;
    if (err)
        npo_error_set(error, err, "cannot write '%s': out of memory", path);
    for (size_t i = 0; !err && i < count; i++) {
        const npo_param_info *info = npo_layout_at(weights->layout, i);
        const int64_t *dims;
        made[i] = (npo_weights_made_tensor){weights, i};
        sources[i] = (npo_tensor_source){
            .name = info->name, .dtype = dtype, .fill = npo_weights_fill, .user = &made[i]};
        stored_shape(info, map ? map : &no_map, &sources[i].ndim, &dims);
        memcpy(sources[i].dims, dims, (size_t)sources[i].ndim * sizeof *dims);
    }
    if (!err)
        err = npo_safetensors_write_shards(path, sources, count, &format, 1,
                                           NPO_WEIGHTS_SHARD_BYTES, error);
    free(sources);
    free(made);
    return err;
}

static npo_err fill_from_set(void *user, size_t tensor, size_t first, size_t n, float *ret_values,
                             npo_error *error)
{
    const npo_params *params = user;
    const npo_param_info *info = npo_layout_at(npo_params_layout(params), tensor);
    memcpy(ret_values, npo_params_data(params) + info->offset + first, n * sizeof *ret_values);
    return NPO_OK;
}

npo_weights_made npo_weights_of(const npo_params *params)
{
    return (npo_weights_made){npo_params_layout(params), fill_from_set, (void *)params};
}

npo_err npo_weights_save(const char *path, const npo_params *params, npo_tensor_dtype dtype,
                         const npo_weights_map *map, npo_error *error)
{
    npo_weights_made weights = npo_weights_of(params);
    return npo_weights_write(path, &weights, dtype, map, error);
}
