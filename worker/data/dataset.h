/* Images with prompts, in memory as bytes. Two kinds of folder:
 *
 *   IDX    train-images-idx3-ubyte, train-labels-idx1-ubyte (split train), t10k-... (split test),
 * each plain or with ".gz"; the prompt of an image is prompts[label]; PNG    captions.jsonl
 * (worker/data/captions.h) and the files it names, all of one size and number of channels; one
 * sample a line; split train only. Its captions are the prompts.
 *
 * Immutable once open. */
#ifndef NPO_WORKER_DATA_DATASET_H
#define NPO_WORKER_DATA_DATASET_H

#include "common/err.h"
#include <stddef.h>
#include <stdint.h>

#define NPO_DATASET_BYTES_MAX ((size_t)8 << 30) /* of pixels */

typedef enum { NPO_SPLIT_TRAIN, NPO_SPLIT_TEST } npo_split;

typedef struct {
    npo_split split;
    const char *const *prompts; /* IDX: the prompt of each label; NULL: images and labels only */
    size_t prompt_count;
} npo_dataset_options;

typedef struct npo_dataset npo_dataset;

/* Strings are copied. Errors name the file, what was found and what was expected: NPO_E_NOT_FOUND
 * (neither kind of folder, or a part of it missing), NPO_E_FORMAT, NPO_E_SHAPE (images of different
 * sizes, images and labels of different number), NPO_E_RANGE (a label without a prompt),
 * NPO_E_UNSUPPORTED (split test of PNG), NPO_E_LIMIT, NPO_E_NOMEM, NPO_E_IO. */
npo_err npo_dataset_open(const char *path, const npo_dataset_options *options,
                         npo_dataset **ret_dataset, npo_error *error) NPO_MUST_CHECK;
void npo_dataset_free(npo_dataset *dataset);

int64_t npo_dataset_count(const npo_dataset *dataset); /* images, >= 1 */
int npo_dataset_height(const npo_dataset *dataset);
int npo_dataset_width(const npo_dataset *dataset);
int npo_dataset_channels(const npo_dataset *dataset);
size_t npo_dataset_floats(const npo_dataset *dataset); /* height * width * channels */

/* ret_image: [height, width, channels] f32 in [-1, 1]. 0 <= index < count, asserted here and below.
 */
void npo_dataset_image(const npo_dataset *dataset, int64_t index, float *ret_image);
/* IDX: 0 .. 255. PNG: the number of its caption, as npo_dataset_prompt_of. */
int32_t npo_dataset_label(const npo_dataset *dataset, int64_t index);

/* The distinct prompts: IDX those of the options, PNG its captions in order of first appearance. */
size_t npo_dataset_prompt_count(const npo_dataset *dataset);
const char *npo_dataset_prompt(const npo_dataset *dataset, size_t number); /* borrowed */
/* Number of the prompt of an image. Asserts that there are prompts. */
int32_t npo_dataset_prompt_of(const npo_dataset *dataset, int64_t index);

#endif
