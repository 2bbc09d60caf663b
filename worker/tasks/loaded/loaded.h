/* What the executor keeps between tasks: the backend, one model, two sets of weights for it,
 * datasets and a classifier, each recognised by the identity of its files. Everything handed out is
 * borrowed until the next call of the same function. Internal to worker/tasks. */
#ifndef NPO_WORKER_TASKS_LOADED_LOADED_H
#define NPO_WORKER_TASKS_LOADED_LOADED_H

#include "worker/data/dataset.h"
#include "worker/model/networks/classifier.h"
#include "worker/tasks/loaded/latents.h"
#include "worker/tasks/loaded/model.h"
#include "worker/tasks/task.h"

npo_backend *npo_loaded_backend(npo_task_cache *cache);
size_t npo_loaded_memory(const npo_task_cache *cache); /* bytes; 0: what the machine has */
/* Gives back sets of weights and planned networks; the model stays open. */
void npo_loaded_trim(npo_task_cache *cache);

npo_err npo_loaded_model(npo_task_cache *cache, const char *path, npo_model **ret_model,
                         npo_error *error) NPO_MUST_CHECK;

/* Weights with the layout of the model that npo_loaded_model gave last; of a checkpoint of a LoRA a
 * set of the LoRA's layout, with the model's weights as its base. */
typedef enum {
    NPO_LOADED_STUDENT, /* of a checkpoint */
    NPO_LOADED_EMA,     /* of a checkpoint */
    NPO_LOADED_FOLDER,  /* the UNet of another model folder */
} npo_loaded_weights_kind;

/* Errors: those of reading; NPO_E_SHAPE and the like where the file is of another network. */
npo_err npo_loaded_weights(npo_task_cache *cache, const char *path, npo_loaded_weights_kind kind,
                           const npo_params **ret_params, npo_error *error) NPO_MUST_CHECK;
/* A set of the model's layout: params itself, or a LoRA merged into its base. */
npo_err npo_loaded_whole(npo_task_cache *cache, const npo_params *params,
                         const npo_params **ret_params, npo_error *error) NPO_MUST_CHECK;
/* base + beta (negative - base): the negative network with a part of its offset. At beta 1 these
 * are negative's bytes, at 0 base's. Both must have the last model's layout. */
npo_err npo_loaded_blend(npo_task_cache *cache, const npo_params *base, const npo_params *negative,
                         double beta, const npo_params **ret_params,
                         npo_error *error) NPO_MUST_CHECK;

npo_err npo_loaded_dataset(npo_task_cache *cache, const char *path,
                           const npo_dataset_options *options, const npo_dataset **ret_dataset,
                           npo_error *error) NPO_MUST_CHECK;

/* Opens the VAE of the model that npo_loaded_model gave last, once; it may take what memory is left
 * then, and works in tiles where a picture needs more. */
npo_err npo_loaded_need_vae(npo_task_cache *cache, npo_error *error) NPO_MUST_CHECK;
/* The latents of the dataset that npo_loaded_dataset gave last, by the VAE of the model that
 * npo_loaded_model gave last. */
npo_err npo_loaded_latents(npo_task_cache *cache, npo_latents **ret_latents,
                           npo_error *error) NPO_MUST_CHECK;

enum { NPO_LOADED_CLASSIFIER_BATCH = 64 }; /* images an evaluation of it takes at most */

/* path: a safetensors file, or a folder that holds model.safetensors. */
npo_err npo_loaded_classifier(npo_task_cache *cache, const char *path,
                              npo_classifier **ret_classifier, npo_error *error) NPO_MUST_CHECK;

#endif
