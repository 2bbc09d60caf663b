#include "worker/data/dataset.h"
#include "common/file.h"
#include "common/hash.h"
#include "worker/data/captions.h"
#include "worker/data/idx.h"
#include "worker/image/png.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct npo_dataset {
    int64_t count;
    int height, width, channels;
    uint8_t *pixels; /* [count, height, width, channels] */
    int32_t *labels; /* [count] */
    char **prompts;  /* [prompt_count] */
    size_t prompt_count;
};

static const char *const split_prefix[] = {"train", "t10k"};

static npo_err no_memory(const char *path, npo_error *error)
{
    return npo_error_set(error, NPO_E_NOMEM, "cannot load images of '%s': out of memory", path);
}

/* "<folder>/<split>-<what>" or the same with ".gz"; *ret_path NULL when neither is there. */
static npo_err find_idx(const char *folder, npo_split split, const char *what, char **ret_path,
                        npo_error *error)
{
    static const char *const endings[] = {"", ".gz"};
    *ret_path = NULL;
    for (size_t i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s-%s%s", split_prefix[split], what, endings[i]);
        char *path = npo_file_join(folder, name);
        if (!path)
            return no_memory(folder, error);
        if (npo_file_exists(path)) {
            *ret_path = path;
            return NPO_OK;
        }
        free(path);
    }
    return NPO_OK;
}

/* ---- prompts ---- */

static npo_err set_prompts(npo_dataset *ds, const char *const *prompts, size_t count)
{
    ds->prompts = calloc(count ? count : 1, sizeof *ds->prompts);
    if (!ds->prompts)
        return NPO_E_NOMEM;
    for (size_t i = 0; i < count; i++) {
        ds->prompts[i] = strdup(prompts[i]);
        if (!ds->prompts[i])
            return NPO_E_NOMEM;
        ds->prompt_count = i + 1;
    }
    return NPO_OK;
}

/* Open-addressed table from a caption to its number; twice as many places as captions. */
typedef struct {
    size_t *places; /* number + 1, 0: free */
    size_t size;
} caption_table;

static size_t *find_place(const caption_table *table, char *const *known, const char *caption)
{
    npo_hash hash = npo_hash_bytes(caption, strlen(caption));
    size_t at;
    memcpy(&at, hash.bytes, sizeof at);
    for (at %= table->size;; at = (at + 1) % table->size)
        if (table->places[at] == 0 || strcmp(known[table->places[at] - 1], caption) == 0)
            return &table->places[at];
}

/* Numbers the captions in order of first appearance. */
static npo_err number_captions(npo_dataset *ds, const npo_captions *captions)
{
    caption_table table = {calloc(captions->count * 2, sizeof *table.places), captions->count * 2};
    ds->prompts = calloc(captions->count, sizeof *ds->prompts);
    npo_err err = table.places && ds->prompts ? NPO_OK : NPO_E_NOMEM;
    for (size_t i = 0; err == NPO_OK && i < captions->count; i++) {
        size_t *place = find_place(&table, ds->prompts, captions->captions[i]);
        if (*place == 0) {
            char *copy = strdup(captions->captions[i]);
            if (!copy) {
                err = NPO_E_NOMEM;
                break;
            }
            ds->prompts[ds->prompt_count++] = copy;
            *place = ds->prompt_count;
        }
        ds->labels[i] = (int32_t)(*place - 1);
    }
    free(table.places);
    return err;
}

/* ---- IDX ---- */

static npo_err check_labels(const char *path, const npo_idx *labels, const npo_dataset_options *o,
                            npo_error *error)
{
    for (size_t i = 0; o->prompts && i < labels->count; i++)
        if (labels->data[i] >= o->prompt_count)
            return npo_error_set(error, NPO_E_RANGE,
                                 "image %zu of '%s' has label %d, expected one of the %zu prompts "
                                 "(labels 0 to %zu)",
                                 i, path, labels->data[i], o->prompt_count, o->prompt_count - 1);
    return NPO_OK;
}

static npo_err take_idx(npo_dataset *ds, const char *path, npo_idx *images, const npo_idx *labels,
                        const npo_dataset_options *o, npo_error *error)
{
    if (images->dims[0] != labels->dims[0])
        return npo_error_set(
            error, NPO_E_SHAPE, "'%s' has %lld %s images and %lld labels, expected as many of each",
            path, (long long)images->dims[0], split_prefix[o->split], (long long)labels->dims[0]);
    if (images->dims[1] > NPO_IMAGE_SIDE_MAX || images->dims[2] > NPO_IMAGE_SIDE_MAX)
        return npo_error_set(error, NPO_E_LIMIT,
                             "'%s' has images of %lld x %lld, expected sides of "
                             "at most %d",
                             path, (long long)images->dims[1], (long long)images->dims[2],
                             NPO_IMAGE_SIDE_MAX);
    NPO_TRY(check_labels(path, labels, o, error));
    ds->labels = calloc(labels->count, sizeof *ds->labels);
    if (!ds->labels)
        return no_memory(path, error);
    for (size_t i = 0; i < labels->count; i++)
        ds->labels[i] = labels->data[i];
    ds->count = images->dims[0];
    ds->height = (int)images->dims[1];
    ds->width = (int)images->dims[2];
    ds->channels = 1;
    ds->pixels = images->data;
    images->data = NULL;
    if (o->prompts && set_prompts(ds, o->prompts, o->prompt_count) != NPO_OK)
        return no_memory(path, error);
    return NPO_OK;
}

static npo_err open_idx(npo_dataset *ds, const char *path, const char *images_path,
                        const char *labels_path, const npo_dataset_options *o, npo_error *error)
{
    npo_idx images = {0}, labels = {0};
    npo_err err = npo_idx_load(images_path, 3, &images, error);
    if (err == NPO_OK)
        err = npo_idx_load(labels_path, 1, &labels, error);
    if (err == NPO_OK)
        err = take_idx(ds, path, &images, &labels, o, error);
    npo_idx_fini(&images);
    npo_idx_fini(&labels);
    return err;
}

/* ---- PNG ---- */

/* The first image says what all must be. */
static npo_err adopt_shape(npo_dataset *ds, const char *path, const npo_image *first, size_t count,
                           npo_error *error)
{
    size_t bytes = npo_image_bytes(first);
    if (count > NPO_DATASET_BYTES_MAX / bytes)
        return npo_error_set(error, NPO_E_LIMIT,
                             "'%s' has %zu images of %zu bytes, expected at most %zu bytes in all",
                             path, count, bytes, NPO_DATASET_BYTES_MAX);
    ds->height = first->height;
    ds->width = first->width;
    ds->channels = first->channels;
    ds->pixels = malloc(count * bytes);
    ds->labels = calloc(count, sizeof *ds->labels);
    return ds->pixels && ds->labels ? NPO_OK : no_memory(path, error);
}

static npo_err add_png(npo_dataset *ds, const char *path, const char *file, size_t count,
                       npo_error *error)
{
    npo_image image = {0};
    char *full = npo_file_join(path, file);
    npo_err err = full ? npo_png_read(full, &image, error) : no_memory(path, error);
    if (err == NPO_OK && ds->count == 0)
        err = adopt_shape(ds, path, &image, count, error);
    if (err == NPO_OK &&
        (image.height != ds->height || image.width != ds->width || image.channels != ds->channels))
        err = npo_error_set(error, NPO_E_SHAPE,
                            "'%s' is %d x %d with %d channels, expected %d x %d with %d as the "
                            "first image",
                            full, image.width, image.height, image.channels, ds->width, ds->height,
                            ds->channels);
    if (err == NPO_OK) {
        size_t bytes = npo_image_bytes(&image);
        memcpy(ds->pixels + (size_t)ds->count * bytes, image.pixels, bytes);
        ds->count++;
    }
    npo_image_fini(&image);
    free(full);
    return err;
}

static npo_err open_png(npo_dataset *ds, const char *path, const char *captions_path,
                        npo_error *error)
{
    npo_captions captions = {0};
    NPO_TRY(npo_captions_load(captions_path, &captions, error));
    npo_err err = NPO_OK;
    for (size_t i = 0; err == NPO_OK && i < captions.count; i++)
        err = add_png(ds, path, captions.files[i], captions.count, error);
    if (err == NPO_OK && number_captions(ds, &captions) != NPO_OK)
        err = no_memory(path, error);
    npo_captions_fini(&captions);
    return err;
}

/* ---- both ---- */

static npo_err open_kind(npo_dataset *ds, const char *path, const npo_dataset_options *o,
                         npo_error *error)
{
    char *images = NULL, *labels = NULL, *captions = npo_file_join(path, NPO_CAPTIONS_FILE);
    npo_err err = captions ? NPO_OK : no_memory(path, error);
    if (err == NPO_OK)
        err = find_idx(path, o->split, "images-idx3-ubyte", &images, error);
    if (err == NPO_OK)
        err = find_idx(path, o->split, "labels-idx1-ubyte", &labels, error);
    if (err != NPO_OK)
        goto out;
    if (images && labels)
        err = open_idx(ds, path, images, labels, o, error);
    else if (images || labels)
        err = npo_error_set(error, NPO_E_NOT_FOUND, "'%s' has no '%s-%s-ubyte[.gz]' beside '%s'",
                            path, split_prefix[o->split], images ? "labels-idx1" : "images-idx3",
                            images ? images : labels);
    else if (!npo_file_exists(captions))
        err = npo_error_set(error, NPO_E_NOT_FOUND,
                            "cannot load images of '%s': found neither '%s-images-idx3-ubyte[.gz]' "
                            "nor '" NPO_CAPTIONS_FILE "'",
                            path, split_prefix[o->split]);
    else if (o->split != NPO_SPLIT_TRAIN)
        err = npo_error_set(error, NPO_E_UNSUPPORTED,
                            "'%s' is a folder of PNG images, which has no test split", path);
    else
        err = open_png(ds, path, captions, error);
out:
    free(images);
    free(labels);
    free(captions);
    return err;
}

npo_err npo_dataset_open(const char *path, const npo_dataset_options *options,
                         npo_dataset **ret_dataset, npo_error *error)
{
    npo_dataset *ds = calloc(1, sizeof *ds);
    if (!ds)
        return no_memory(path, error);
    npo_err err = open_kind(ds, path, options, error);
    if (err != NPO_OK) {
        npo_dataset_free(ds);
        return err;
    }
    *ret_dataset = ds;
    return NPO_OK;
}

void npo_dataset_free(npo_dataset *dataset)
{
    if (!dataset)
        return;
    for (size_t i = 0; i < dataset->prompt_count; i++)
        free(dataset->prompts[i]);
    free(dataset->prompts);
    free(dataset->labels);
    free(dataset->pixels);
    free(dataset);
}

int64_t npo_dataset_count(const npo_dataset *dataset)
{
    return dataset->count;
}

int npo_dataset_height(const npo_dataset *dataset)
{
    return dataset->height;
}

int npo_dataset_width(const npo_dataset *dataset)
{
    return dataset->width;
}

int npo_dataset_channels(const npo_dataset *dataset)
{
    return dataset->channels;
}

size_t npo_dataset_floats(const npo_dataset *dataset)
{
    return (size_t)dataset->height * (size_t)dataset->width * (size_t)dataset->channels;
}

void npo_dataset_image(const npo_dataset *dataset, int64_t index, float *ret_image)
{
    assert(index >= 0 && index < dataset->count);
    size_t floats = npo_dataset_floats(dataset);
    const uint8_t *from = dataset->pixels + (size_t)index * floats;
    for (size_t i = 0; i < floats; i++)
        ret_image[i] = npo_image_value_of(from[i]);
}

int32_t npo_dataset_label(const npo_dataset *dataset, int64_t index)
{
    assert(index >= 0 && index < dataset->count);
    return dataset->labels[index];
}

size_t npo_dataset_prompt_count(const npo_dataset *dataset)
{
    return dataset->prompt_count;
}

const char *npo_dataset_prompt(const npo_dataset *dataset, size_t number)
{
    assert(number < dataset->prompt_count);
    return dataset->prompts[number];
}

int32_t npo_dataset_prompt_of(const npo_dataset *dataset, int64_t index)
{
    assert(dataset->prompt_count > 0);
    return npo_dataset_label(dataset, index);
}
