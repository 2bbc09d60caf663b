/* The small image classifier whose features the evaluation compares: conv 3x3 to 32, relu, max
 * pool, conv 3x3 to 64, relu, max pool, linear to 128, relu (the features), linear to 10 classes.
 * Images [N,28,28,1] in [-1,1]. Stored as PyTorch stores the module {f: Sequential(...), o:
 * Linear}. */
#ifndef NPO_WORKER_MODEL_NETWORKS_CLASSIFIER_H
#define NPO_WORKER_MODEL_NETWORKS_CLASSIFIER_H

#include "kernels/graph.h"
#include "worker/model/files/safetensors.h"

enum {
    NPO_CLASSIFIER_SIDE = 28,
    NPO_CLASSIFIER_FEATURES = 128,
    NPO_CLASSIFIER_CLASSES = 10,
};

typedef struct {
    npo_value features; /* [N,128] */
    npo_value logits;   /* [N,10] */
} npo_classifier_outputs;

/* x [N,28,28,1]. For training, put npo_op_cross_entropy_loss on the logits. */
npo_classifier_outputs npo_classifier_record(npo_graph *graph, npo_value x);
npo_err npo_classifier_layout(npo_backend *backend, npo_layout **ret_layout,
                              npo_error *error) NPO_MUST_CHECK;
npo_err npo_classifier_load(const char *path, npo_params *params, npo_error *error) NPO_MUST_CHECK;
npo_err npo_classifier_save(const char *path, const npo_params *params, npo_tensor_dtype dtype,
                            npo_error *error) NPO_MUST_CHECK;

typedef struct npo_classifier npo_classifier;

/* A loaded classifier that evaluates batches of at most batch_max. backend is borrowed. */
npo_err npo_classifier_new(npo_backend *backend, const char *path, int64_t batch_max,
                           npo_classifier **ret_classifier, npo_error *error) NPO_MUST_CHECK;
void npo_classifier_free(npo_classifier *classifier);
/* images [n,28,28,1] -> ret_features [n,128], ret_logits [n,10]; either may be NULL. */
npo_err npo_classifier_eval(npo_classifier *classifier, size_t n, const float *images,
                            float *ret_features, float *ret_logits,
                            npo_error *error) NPO_MUST_CHECK;

#endif
