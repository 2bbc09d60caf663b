#include "worker/diffusion/trajectory/shard.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS_MAX 16
#define ROWS_MAX    ((int64_t)1 << 32)

static void **column_at(const npo_shard_column *column, const void *self)
{
    return (void **)((char *)(uintptr_t)self + column->offset);
}

/* Bytes of a column of n rows; false where they do not fit a size_t. */
static bool column_bytes(const npo_shard_column *column, npo_latent_shape shape, int64_t n,
                         size_t *ret_bytes)
{
    size_t bytes = npo_tensor_dtype_bytes(column->dtype);
    const int64_t dims[] = {shape.height, shape.width, shape.channels};
    bool fits = !__builtin_mul_overflow(bytes, (size_t)n, &bytes);
    for (size_t i = 0; column->dtype == NPO_TENSOR_F32 && i < sizeof dims / sizeof *dims; i++)
        fits = fits && dims[i] > 0 && !__builtin_mul_overflow(bytes, (size_t)dims[i], &bytes);
    *ret_bytes = bytes;
    return fits;
}

npo_err npo_shard_init(const npo_shard_format *format, npo_latent_shape shape, int64_t n,
                       bool with_optional, void *self)
{
    for (size_t i = 0; i < format->count; i++)
        *column_at(&format->columns[i], self) = NULL;
    if (n < 0 || n > ROWS_MAX)
        return NPO_E_RANGE;
    for (size_t i = 0; i < format->count; i++) {
        const npo_shard_column *column = &format->columns[i];
        if (column->optional && !with_optional)
            continue;
        size_t bytes = 0;
        if (!column_bytes(column, shape, n, &bytes))
            return NPO_E_RANGE;
        *column_at(column, self) = calloc(1, bytes ? bytes : 1);
        if (!*column_at(column, self))
            return NPO_E_NOMEM;
    }
    return NPO_OK;
}

void npo_shard_fini(const npo_shard_format *format, void *self)
{
    for (size_t i = 0; i < format->count; i++) {
        free(*column_at(&format->columns[i], self));
        *column_at(&format->columns[i], self) = NULL;
    }
}

static void column_dims(const npo_shard_column *column, npo_latent_shape shape, int64_t n,
                        int *ret_ndim, int64_t *ret_dims)
{
    ret_dims[0] = n;
    ret_dims[1] = shape.height;
    ret_dims[2] = shape.width;
    ret_dims[3] = shape.channels;
    *ret_ndim = column->dtype == NPO_TENSOR_F32 ? 4 : 1;
}

npo_err npo_shard_save(const npo_shard_format *format, npo_latent_shape shape, int64_t n,
                       const void *self, const char *path, npo_error *error)
{
    npo_tensor_source sources[COLUMNS_MAX];
    size_t count = 0;
    for (size_t i = 0; i < format->count; i++) {
        const npo_shard_column *column = &format->columns[i];
        if (!*column_at(column, self))
            continue;
        npo_tensor_source *source = &sources[count++];
        *source = (npo_tensor_source){
            .name = column->name, .dtype = column->dtype, .data = *column_at(column, self)};
        column_dims(column, shape, n, &source->ndim, source->dims);
    }
    const npo_tensor_metadata metadata[] = {{"npo", format->kind}, {"version", format->version}};
    return npo_safetensors_write(path, sources, count, metadata, 2, error);
}

static npo_err check_header(const npo_shard_format *format, const npo_safetensors *file,
                            npo_error *error)
{
    const char *path = npo_safetensors_path(file);
    const char *kind = npo_safetensors_metadata(file, "npo");
    const char *version = npo_safetensors_metadata(file, "version");
    if (!kind || strcmp(kind, format->kind) != 0)
        return npo_error_set(error, NPO_E_FORMAT, "cannot load '%s': kind '%s', expected '%s'",
                             path, kind ? kind : "none", format->kind);
    if (!version || strcmp(version, format->version) != 0)
        return npo_error_set(error, NPO_E_VERSION,
                             "cannot load '%s': %s of version '%s', expected '%s'", path,
                             format->kind, version ? version : "none", format->version);
    for (size_t i = 0; i < npo_safetensors_count(file); i++) {
        const char *name = npo_safetensors_at(file, i)->name;
        bool known = false;
        for (size_t k = 0; k < format->count && !known; k++)
            known = strcmp(name, format->columns[k].name) == 0;
        if (!known)
            return npo_error_set(error, NPO_E_FORMAT, "cannot load '%s': unexpected tensor '%s'",
                                 path, name);
    }
    return NPO_OK;
}

/* "[64,28,28,1]" */
static void format_dims(int ndim, const int64_t *dims, char *ret_text, size_t size)
{
    size_t used = (size_t)snprintf(ret_text, size, "[");
    for (int i = 0; i < ndim && used < size; i++)
        used += (size_t)snprintf(ret_text + used, size - used, i ? ",%lld" : "%lld",
                                 (long long)dims[i]);
    if (used < size)
        snprintf(ret_text + used, size - used, "]");
}

static npo_err check_column(const npo_shard_column *column, npo_latent_shape shape, int64_t n,
                            const npo_tensor *tensor, const char *path, npo_error *error)
{
    int ndim = 0;
    int64_t dims[4];
    column_dims(column, shape, n, &ndim, dims);
    if (tensor->dtype != column->dtype)
        return npo_error_set(error, NPO_E_TYPE, "cannot load '%s': '%s' is %s, expected %s", path,
                             column->name, npo_tensor_dtype_name(tensor->dtype),
                             npo_tensor_dtype_name(column->dtype));
    if (tensor->ndim == ndim && memcmp(tensor->dims, dims, (size_t)ndim * sizeof *dims) == 0)
        return NPO_OK;
    char found[128], expected[128];
    format_dims(tensor->ndim, tensor->dims, found, sizeof found);
    format_dims(ndim, dims, expected, sizeof expected);
    return npo_error_set(error, NPO_E_SHAPE, "cannot load '%s': '%s' has shape %s, expected %s",
                         path, column->name, found, expected);
}

static npo_err check_integer(const npo_shard_column *column, int64_t value, const char *path,
                             npo_error *error)
{
    if (value >= column->min && value <= column->max)
        return NPO_OK;
    return npo_error_set(
        error, NPO_E_RANGE, "cannot load '%s': '%s' holds %lld, expected %lld to %lld", path,
        column->name, (long long)value, (long long)column->min, (long long)column->max);
}

static npo_err check_values(const npo_shard_column *column, size_t elements, const void *data,
                            const char *path, npo_error *error)
{
    const float *floats = data;
    const int32_t *words = data;
    const int64_t *longs = data;
    for (size_t i = 0; i < elements; i++) {
        if (column->dtype == NPO_TENSOR_F32) {
            if (!isfinite(floats[i]))
                return npo_error_set(error, NPO_E_RANGE,
                                     "cannot load '%s': '%s' holds a value that is not finite",
                                     path, column->name);
        } else {
            NPO_TRY(check_integer(column, column->dtype == NPO_TENSOR_I32 ? words[i] : longs[i],
                                  path, error));
        }
    }
    return NPO_OK;
}

static npo_err check_columns(const npo_shard_format *format, npo_latent_shape shape,
                             const npo_safetensors *file, int64_t *ret_count, npo_error *error)
{
    const char *path = npo_safetensors_path(file);
    const npo_tensor *first = npo_safetensors_find(file, format->columns[0].name);
    int64_t n = first && first->ndim > 0 ? first->dims[0] : 0;
    for (size_t i = 0; i < format->count; i++) {
        const npo_shard_column *column = &format->columns[i];
        const npo_tensor *tensor = npo_safetensors_find(file, column->name);
        if (tensor)
            NPO_TRY(check_column(column, shape, n, tensor, path, error));
        else if (!column->optional)
            return npo_error_set(error, NPO_E_NOT_FOUND, "cannot load '%s': no tensor '%s'", path,
                                 column->name);
    }
    *ret_count = n;
    return NPO_OK;
}

static npo_err read_columns(const npo_shard_format *format, const npo_safetensors *file, void *self,
                            npo_error *error)
{
    const char *path = npo_safetensors_path(file);
    for (size_t i = 0; i < format->count; i++) {
        const npo_shard_column *column = &format->columns[i];
        const npo_tensor *tensor = npo_safetensors_find(file, column->name);
        void **data = column_at(column, self);
        if (!tensor) {
            free(*data);
            *data = NULL;
            continue;
        }
        memcpy(*data, tensor->data, tensor->bytes);
        NPO_TRY(check_values(column, tensor->count, *data, path, error));
    }
    return NPO_OK;
}

npo_err npo_shard_load(const npo_shard_format *format, npo_latent_shape shape, const char *path,
                       void *self, int64_t *ret_count, npo_error *error)
{
    npo_safetensors *file = NULL;
    int64_t n = 0;
    npo_err err = npo_safetensors_open(path, &file, error);
    if (!err)
        err = check_header(format, file, error);
    if (!err)
        err = check_columns(format, shape, file, &n, error);
    if (err)
        goto out;
    err = npo_shard_init(format, shape, n, true, self);
    if (err)
        npo_error_set(error, err, "cannot load '%s': %lld rows: %s", path, (long long)n,
                      npo_err_text(err));
    else
        err = read_columns(format, file, self, error);
    if (err) {
        npo_shard_fini(format, self);
        goto out;
    }
    *ret_count = n;
out:
    npo_safetensors_close(file);
    return err;
}
