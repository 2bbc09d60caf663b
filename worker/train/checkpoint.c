#include "worker/train/checkpoint.h"

#include "worker/model/files/safetensors.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TENSOR_NAME_MAX (NPO_PARAM_NAME_MAX + 16)

static_assert(NPO_CHECKPOINT_VERSION == 1, "the format below writes version 1");

/* One row a set. */
static const struct {
    const char *prefix;
    size_t offset;     /* in npo_checkpoint_sets */
    bool non_negative; /* every value */
} set_rows[] = {
    {"student.", offsetof(npo_checkpoint_sets, student), false},
    {"ema.", offsetof(npo_checkpoint_sets, ema), false},
    {"exp_avg.", offsetof(npo_checkpoint_sets, exp_avg), false},
    {"exp_avg_sq.", offsetof(npo_checkpoint_sets, exp_avg_sq), true},
};

enum { SETS = sizeof set_rows / sizeof set_rows[0] };

static npo_params *set_at(const npo_checkpoint_sets *sets, size_t set)
{
    return *(npo_params *const *)((const char *)sets + set_rows[set].offset);
}

/* Of the first set that is there. */
static const npo_layout *layout_of(const npo_checkpoint_sets *sets)
{
    for (size_t set = 0; set < SETS; set++)
        if (set_at(sets, set))
            return npo_params_layout(set_at(sets, set));
    return NULL;
}

/* ---- writing ---- */

typedef struct {
    npo_tensor_source *sources;
    char (*names)[TENSOR_NAME_MAX];
    size_t count;
} listing;

static npo_err list_tensors(const npo_checkpoint_sets *sets, listing *ret_list)
{
    const npo_layout *layout = npo_params_layout(sets->student);
    size_t tensors = npo_layout_count(layout);
    ret_list->sources = calloc(SETS * tensors + 1, sizeof *ret_list->sources);
    ret_list->names = calloc(SETS * tensors + 1, sizeof *ret_list->names);
    if (!ret_list->sources || !ret_list->names)
        return NPO_E_NOMEM;
    for (size_t set = 0; set < SETS; set++) {
        const float *data = npo_params_data(set_at(sets, set));
        for (size_t i = 0; i < tensors; i++) {
            const npo_param_info *info = npo_layout_at(layout, i);
            npo_tensor_source *source = &ret_list->sources[ret_list->count];
            char *name = ret_list->names[ret_list->count++];
            snprintf(name, TENSOR_NAME_MAX, "%s%s", set_rows[set].prefix, info->name);
            *source = (npo_tensor_source){.name = name,
                                          .dtype = NPO_TENSOR_F32,
                                          .ndim = info->ndim,
                                          .data = data + info->offset};
            memcpy(source->dims, info->dims, sizeof info->dims);
        }
    }
    return NPO_OK;
}

npo_err npo_checkpoint_save(const char *path, const npo_checkpoint_sets *sets,
                            const npo_checkpoint_meta *meta, npo_error *error)
{
    char step[32], cursor[32], hyper[NPO_HASH_TEXT_SIZE];
    snprintf(step, sizeof step, "%lld", (long long)meta->step);
    snprintf(cursor, sizeof cursor, "%lld", (long long)meta->cursor);
    npo_hash_format(&meta->hyper, hyper);
    const npo_tensor_metadata metadata[] = {
        {"npo", "checkpoint"}, {"version", "1"}, {"step", step},
        {"cursor", cursor},    {"hyper", hyper}, {"numeric_class", meta->numeric_class},
    };
    listing list = {0};
    npo_err err = list_tensors(sets, &list);
    if (err) {
        npo_error_set(error, err, "cannot write '%s': out of memory", path);
        goto out;
    }
    err = npo_safetensors_write(path, list.sources, list.count, metadata,
                                sizeof metadata / sizeof metadata[0], error);
out:
    free(list.sources);
    free(list.names);
    return err;
}

/* ---- reading ---- */

static npo_err read_count(const npo_safetensors *file, const char *key, int64_t *ret_value,
                          npo_error *error)
{
    const char *text = npo_safetensors_metadata(file, key);
    char *end = NULL;
    errno = 0;
    long long value = text ? strtoll(text, &end, 10) : -1;
    if (!text || end == text || *end || errno || value < 0)
        return npo_error_set(error, NPO_E_FORMAT,
                             "cannot load '%s': '%s' is '%s', expected a whole number",
                             npo_safetensors_path(file), key, text ? text : "missing");
    *ret_value = value;
    return NPO_OK;
}

static npo_err read_meta(const npo_safetensors *file, npo_checkpoint_meta *ret_meta,
                         npo_error *error)
{
    const char *path = npo_safetensors_path(file);
    const char *kind = npo_safetensors_metadata(file, "npo");
    const char *version = npo_safetensors_metadata(file, "version");
    const char *hyper = npo_safetensors_metadata(file, "hyper");
    const char *numeric_class = npo_safetensors_metadata(file, "numeric_class");
    if (!kind || strcmp(kind, "checkpoint") != 0)
        return npo_error_set(error, NPO_E_FORMAT,
                             "cannot load '%s': kind '%s', expected 'checkpoint'", path,
                             kind ? kind : "none");
    if (!version || strcmp(version, "1") != 0)
        return npo_error_set(error, NPO_E_VERSION,
                             "cannot load '%s': checkpoint of version '%s', expected '1'", path,
                             version ? version : "none");
    npo_checkpoint_meta meta = {0};
    NPO_TRY(read_count(file, "step", &meta.step, error));
    NPO_TRY(read_count(file, "cursor", &meta.cursor, error));
    if (!hyper || npo_hash_parse(hyper, &meta.hyper))
        return npo_error_set(error, NPO_E_FORMAT,
                             "cannot load '%s': 'hyper' is '%s', expected 32 hex digits", path,
                             hyper ? hyper : "missing");
    if (!numeric_class || strlen(numeric_class) >= sizeof meta.numeric_class)
        return npo_error_set(
            error, NPO_E_FORMAT, "cannot load '%s': 'numeric_class' is %s, expected up to %d bytes",
            path, numeric_class ? "too long" : "missing", NPO_CHECKPOINT_CLASS_MAX - 1);
    strcpy(meta.numeric_class, numeric_class);
    *ret_meta = meta;
    return NPO_OK;
}

npo_err npo_checkpoint_read_meta(const char *path, npo_checkpoint_meta *ret_meta, npo_error *error)
{
    npo_safetensors *file = NULL;
    NPO_TRY(npo_safetensors_open(path, &file, error));
    npo_err err = read_meta(file, ret_meta, error);
    npo_safetensors_close(file);
    return err;
}

static npo_err check_values(const npo_tensor *tensor, bool non_negative, const char *path,
                            npo_error *error)
{
    enum { BLOCK = 4096 };
    float values[BLOCK];
    for (size_t first = 0; first < tensor->count; first += BLOCK) {
        size_t n = tensor->count - first < BLOCK ? tensor->count - first : BLOCK;
        npo_tensor_read_f32(tensor, first, n, values);
        bool is_right = true;
        for (size_t i = 0; i < n; i++)
            is_right &= isfinite(values[i]) && (!non_negative || values[i] >= 0);
        if (!is_right)
            return npo_error_set(
                error, NPO_E_RANGE, "cannot load '%s': '%s' holds a value that is %s", path,
                tensor->name, non_negative ? "not finite or negative" : "not finite");
    }
    return NPO_OK;
}

static npo_err check_tensor(const npo_safetensors *file, size_t set, const npo_param_info *info,
                            npo_error *error)
{
    const char *path = npo_safetensors_path(file);
    char name[TENSOR_NAME_MAX];
    snprintf(name, sizeof name, "%s%s", set_rows[set].prefix, info->name);
    const npo_tensor *tensor = npo_safetensors_find(file, name);
    if (!tensor)
        return npo_error_set(error, NPO_E_NOT_FOUND, "cannot load '%s': no tensor '%s'", path,
                             name);
    if (tensor->dtype != NPO_TENSOR_F32)
        return npo_error_set(error, NPO_E_TYPE, "cannot load '%s': '%s' is %s, expected F32", path,
                             name, npo_tensor_dtype_name(tensor->dtype));
    if (tensor->ndim != info->ndim ||
        memcmp(tensor->dims, info->dims, (size_t)info->ndim * sizeof *info->dims) != 0)
        return npo_error_set(error, NPO_E_SHAPE,
                             "cannot load '%s': '%s' has %zu values in %d dimensions, expected %zu "
                             "in %d of the network's shape",
                             path, name, tensor->count, tensor->ndim, info->count, info->ndim);
    return check_values(tensor, set_rows[set].non_negative, path, error);
}

static npo_err check_tensors(const npo_safetensors *file, const npo_layout *layout,
                             npo_error *error)
{
    size_t tensors = npo_layout_count(layout);
    for (size_t set = 0; set < SETS; set++)
        for (size_t i = 0; i < tensors; i++)
            NPO_TRY(check_tensor(file, set, npo_layout_at(layout, i), error));
    /* Every expected name was found, so a higher count means others beside them. */
    if (npo_safetensors_count(file) != SETS * tensors)
        return npo_error_set(error, NPO_E_FORMAT, "cannot load '%s': %zu tensors, expected %zu",
                             npo_safetensors_path(file), npo_safetensors_count(file),
                             SETS * tensors);
    return NPO_OK;
}

static void read_set(const npo_safetensors *file, size_t set, npo_params *params)
{
    const npo_layout *layout = npo_params_layout(params);
    float *data = npo_params_edit(params);
    for (size_t i = 0; i < npo_layout_count(layout); i++) {
        const npo_param_info *info = npo_layout_at(layout, i);
        char name[TENSOR_NAME_MAX];
        snprintf(name, sizeof name, "%s%s", set_rows[set].prefix, info->name);
        const npo_tensor *tensor = npo_safetensors_find(file, name);
        npo_tensor_read_f32(tensor, 0, tensor->count, data + info->offset);
    }
}

npo_err npo_checkpoint_load(const char *path, const npo_checkpoint_sets *sets,
                            npo_checkpoint_meta *ret_meta, npo_error *error)
{
    npo_safetensors *file = NULL;
    npo_checkpoint_meta meta;
    const npo_layout *layout = layout_of(sets);
    assert(layout);
    npo_err err = npo_safetensors_open(path, &file, error);
    if (!err)
        err = read_meta(file, &meta, error);
    if (!err)
        err = check_tensors(file, layout, error);
    if (err)
        goto out;
    for (size_t set = 0; set < SETS; set++)
        if (set_at(sets, set))
            read_set(file, set, set_at(sets, set));
    *ret_meta = meta;
out:
    npo_safetensors_close(file);
    return err;
}
