/* What one evaluate task found: features and logits of its samples, some of the samples themselves,
 * and the size of the offset. On disk a safetensors file:
 *
 *   cell      I32 [n]        number of the cell in the plan
 *   sample    I64 [n]        number of the sample in the cell
 *   features  F32 [n,D]
 *   logits    F32 [n,K]
 *   picture_cell, picture_sample  I32, I64 [m]
 *   pictures  F32 [m,H,W,C]  in [-1,1]
 *   metadata  "npo": "features", "version": "1", "offset": {"total": x, "blocks": {name: x}} as
 * JSON
 *
 * A reader refuses another version. */
#ifndef NPO_WORKER_TASKS_EVALUATION_FEATURE_SET_H
#define NPO_WORKER_TASKS_EVALUATION_FEATURE_SET_H

#include "worker/diffusion/trajectory/segment.h"
#include "worker/tasks/context.h"

#define NPO_FEATURES_VERSION "1"

enum { NPO_FEATURES_DIMS = NPO_CLASSIFIER_FEATURES, NPO_FEATURES_CLASSES = NPO_CLASSIFIER_CLASSES };

typedef struct {
    int64_t count, picture_count;
    npo_latent_shape shape;
    int32_t *cell;            /* [count] */
    int64_t *sample;          /* [count] */
    float *features, *logits; /* [count, D], [count, K] */
    int32_t *picture_cell;    /* [picture_count] */
    int64_t *picture_sample;  /* [picture_count] */
    float *pictures;          /* [picture_count, H, W, C] */
    char *offset;             /* JSON, owned */
} npo_features;

/* Zeroed rows. Errors: NPO_E_NOMEM. */
npo_err npo_features_init(npo_features *features, npo_latent_shape shape, int64_t count,
                          int64_t picture_count) NPO_MUST_CHECK;
void npo_features_fini(npo_features *features);
npo_err npo_features_save(const npo_features *features, const char *path,
                          npo_error *error) NPO_MUST_CHECK;
/* Errors: NPO_E_FORMAT, NPO_E_VERSION, NPO_E_SHAPE, those of reading. */
npo_err npo_features_load(const char *path, npo_features *ret_features,
                          npo_error *error) NPO_MUST_CHECK;

#endif
