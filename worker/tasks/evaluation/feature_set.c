#include "worker/tasks/evaluation/feature_set.h"

#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 7, ROWS = -1, PICTURES = -2, HEIGHT = -3, WIDTH = -4, CHANNELS = -5 };

/* One tensor; a negative dimension stands for a size of the struct. */
typedef struct {
    const char *name;
    npo_tensor_dtype dtype;
    size_t offset;
    int ndim;
    int dims[4];
} column;

static const column columns[COLUMNS] = {
    {"cell", NPO_TENSOR_I32, offsetof(npo_features, cell), 1, {ROWS}},
    {"sample", NPO_TENSOR_I64, offsetof(npo_features, sample), 1, {ROWS}},
    {"features", NPO_TENSOR_F32, offsetof(npo_features, features), 2, {ROWS, NPO_FEATURES_DIMS}},
    {"logits", NPO_TENSOR_F32, offsetof(npo_features, logits), 2, {ROWS, NPO_FEATURES_CLASSES}},
    {"picture_cell", NPO_TENSOR_I32, offsetof(npo_features, picture_cell), 1, {PICTURES}},
    {"picture_sample", NPO_TENSOR_I64, offsetof(npo_features, picture_sample), 1, {PICTURES}},
    {"pictures",
     NPO_TENSOR_F32,
     offsetof(npo_features, pictures),
     4,
     {PICTURES, HEIGHT, WIDTH, CHANNELS}},
};

static int64_t dim_of(const npo_features *features, int dim)
{
    switch (dim) {
    case ROWS:
        return features->count;
    case PICTURES:
        return features->picture_count;
    case HEIGHT:
        return features->shape.height;
    case WIDTH:
        return features->shape.width;
    case CHANNELS:
        return features->shape.channels;
    default:
        return dim;
    }
}

static void **member(npo_features *features, const column *c)
{
    return (void **)((char *)features + c->offset);
}

static size_t elements(const npo_features *features, const column *c)
{
    size_t count = 1;
    for (int d = 0; d < c->ndim; d++)
        count *= (size_t)dim_of(features, c->dims[d]);
    return count;
}

npo_err npo_features_init(npo_features *features, npo_latent_shape shape, int64_t count,
                          int64_t picture_count)
{
    *features = (npo_features){.count = count, .picture_count = picture_count, .shape = shape};
    for (int i = 0; i < COLUMNS; i++) {
        size_t n = elements(features, &columns[i]);
        void *data = calloc(n ? n : 1, npo_tensor_dtype_bytes(columns[i].dtype));
        if (!data) {
            npo_features_fini(features);
            return NPO_E_NOMEM;
        }
        *member(features, &columns[i]) = data;
    }
    return NPO_OK;
}

void npo_features_fini(npo_features *features)
{
    for (int i = 0; i < COLUMNS; i++)
        free(*member(features, &columns[i]));
    free(features->offset);
    *features = (npo_features){0};
}

npo_err npo_features_save(const npo_features *features, const char *path, npo_error *error)
{
    npo_tensor_source tensors[COLUMNS];
    npo_tensor_metadata metadata[] = {
        {"npo", "features"},
        {"version", NPO_FEATURES_VERSION},
        {"offset", features->offset ? features->offset : "{}"},
    };
    for (int i = 0; i < COLUMNS; i++) {
        const column *c = &columns[i];
        tensors[i] = (npo_tensor_source){.name = c->name,
                                         .dtype = c->dtype,
                                         .ndim = c->ndim,
                                         .data = *member((npo_features *)features, c)};
        for (int d = 0; d < c->ndim; d++)
            tensors[i].dims[d] = dim_of(features, c->dims[d]);
    }
    return npo_safetensors_write(path, tensors, COLUMNS, metadata, 3, error);
}

/* ---- reading ---- */

static npo_err check_kind(const npo_safetensors *file, npo_error *error)
{
    const char *kind = npo_safetensors_metadata(file, "npo");
    const char *version = npo_safetensors_metadata(file, "version");
    if (!kind || strcmp(kind, "features") != 0)
        return npo_error_set(error, NPO_E_FORMAT, "'%s' is no file of features",
                             npo_safetensors_path(file));
    if (!version || strcmp(version, NPO_FEATURES_VERSION) != 0)
        return npo_error_set(error, NPO_E_VERSION, "'%s' has version %.20s, expected %s",
                             npo_safetensors_path(file), version ? version : "none",
                             NPO_FEATURES_VERSION);
    return NPO_OK;
}

static npo_err read_sizes(const npo_safetensors *file, npo_latent_shape *ret_shape,
                          int64_t *ret_count, int64_t *ret_pictures, npo_error *error)
{
    const npo_tensor *cell = npo_safetensors_find(file, "cell");
    const npo_tensor *pictures = npo_safetensors_find(file, "pictures");
    if (!cell || cell->ndim != 1 || !pictures || pictures->ndim != 4)
        return npo_error_set(error, NPO_E_FORMAT, "'%s' lacks 'cell' [n] or 'pictures' [m,H,W,C]",
                             npo_safetensors_path(file));
    *ret_count = cell->dims[0];
    *ret_pictures = pictures->dims[0];
    *ret_shape = (npo_latent_shape){pictures->dims[1], pictures->dims[2], pictures->dims[3]};
    return NPO_OK;
}

static npo_err read_column(const npo_safetensors *file, const column *c, npo_features *features,
                           npo_error *error)
{
    const npo_tensor *tensor = npo_safetensors_find(file, c->name);
    bool fits = tensor && tensor->dtype == c->dtype && tensor->ndim == c->ndim;
    for (int d = 0; fits && d < c->ndim; d++)
        fits = tensor->dims[d] == dim_of(features, c->dims[d]);
    if (!fits)
        return npo_error_set(error, NPO_E_SHAPE,
                             "'%s': tensor '%s' is missing or has another type or shape than the "
                             "others ask for",
                             npo_safetensors_path(file), c->name);
    memcpy(*member(features, c), tensor->data, tensor->bytes);
    return NPO_OK;
}

static npo_err read_all(const npo_safetensors *file, npo_features *features, npo_error *error)
{
    const char *offset = npo_safetensors_metadata(file, "offset");
    for (int i = 0; i < COLUMNS; i++)
        NPO_TRY(read_column(file, &columns[i], features, error));
    features->offset = strdup(offset ? offset : "{}");
    return features->offset ? NPO_OK : npo_error_set(error, NPO_E_NOMEM, "no memory for features");
}

npo_err npo_features_load(const char *path, npo_features *ret_features, npo_error *error)
{
    npo_safetensors *file = NULL;
    npo_features features = {0};
    npo_latent_shape shape;
    int64_t count = 0, pictures = 0;
    NPO_TRY(npo_safetensors_open(path, &file, error));
    npo_err err = check_kind(file, error);
    if (err == NPO_OK)
        err = read_sizes(file, &shape, &count, &pictures, error);
    if (err == NPO_OK && npo_features_init(&features, shape, count, pictures) != NPO_OK)
        err = npo_error_set(error, NPO_E_NOMEM, "no memory for the features of '%s'", path);
    if (err == NPO_OK)
        err = read_all(file, &features, error);
    npo_safetensors_close(file);
    if (err != NPO_OK) {
        npo_features_fini(&features);
        return err;
    }
    *ret_features = features;
    return NPO_OK;
}
