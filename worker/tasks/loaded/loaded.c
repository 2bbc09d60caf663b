#include "worker/tasks/loaded/loaded.h"

#include "common/file.h"
#include "common/memory.h"
#include "kernels/vec.h"
#include "worker/tasks/loaded/identity.h"
#include "worker/train/checkpoint.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct {
    bool is_set;
    npo_hash identity;
} cache_key;

/* Checkpoints fill both sets, folders the first. */
typedef struct {
    cache_key key;
    bool is_checkpoint;
    npo_params *student, *ema;
} cache_weights;

struct npo_task_cache {
    npo_backend *backend;
    size_t memory;
    cache_key model_key;
    npo_model *model;
    cache_weights weights;
    npo_params *blend;
    npo_params *merged; /* a LoRA and its base as one */
    cache_key dataset_key;
    npo_dataset *dataset;
    npo_latents *latents; /* of dataset, by model; NULL: none yet */
    cache_key classifier_key;
    npo_classifier *classifier;
};

npo_err npo_task_cache_new(npo_backend *backend_take, npo_task_cache **ret_cache)
{
    npo_task_cache *cache = calloc(1, sizeof *cache);
    if (!cache) {
        npo_backend_free(backend_take);
        return NPO_E_NOMEM;
    }
    cache->backend = backend_take;
    *ret_cache = cache;
    return NPO_OK;
}

static void drop_weights(npo_task_cache *cache)
{
    npo_params_free(cache->weights.student);
    npo_params_free(cache->weights.ema);
    npo_params_free(cache->blend);
    npo_params_free(cache->merged);
    cache->weights = (cache_weights){0};
    cache->blend = cache->merged = NULL;
}

static void drop_latents(npo_task_cache *cache)
{
    npo_latents_free(cache->latents);
    cache->latents = NULL;
}

static void drop_model(npo_task_cache *cache)
{
    drop_weights(cache);
    drop_latents(cache);
    npo_model_free(cache->model);
    cache->model = NULL;
    cache->model_key.is_set = false;
}

void npo_task_cache_free(npo_task_cache *cache)
{
    if (!cache)
        return;
    drop_model(cache);
    npo_dataset_free(cache->dataset);
    npo_classifier_free(cache->classifier);
    npo_backend_free(cache->backend);
    free(cache);
}

npo_backend *npo_loaded_backend(npo_task_cache *cache)
{
    return cache->backend;
}

void npo_task_cache_set_memory(npo_task_cache *cache, size_t bytes)
{
    cache->memory = bytes;
}

size_t npo_loaded_memory(const npo_task_cache *cache)
{
    return cache->memory;
}

/* What is left of the memory given. Never 0, which would be no limit. */
static size_t memory_left(const npo_task_cache *cache)
{
    npo_memory memory = npo_memory_now(cache->memory, npo_backend_arena_bytes(cache->backend));
    return memory.given > memory.used ? memory.given - memory.used : 1;
}

npo_err npo_loaded_need_vae(npo_task_cache *cache, npo_error *error)
{
    if (cache->model->vae)
        return NPO_OK;
    NPO_TRY(npo_model_need_vae(cache->model, cache->backend, error));
    npo_vae_limit_memory(cache->model->vae, memory_left(cache));
    return NPO_OK;
}

void npo_loaded_trim(npo_task_cache *cache)
{
    drop_weights(cache);
    if (cache->model)
        npo_model_trim(cache->model);
}

static bool is_hit(const cache_key *key, const npo_hash *identity)
{
    return key->is_set && npo_hash_equal(&key->identity, identity);
}

static void set_key(cache_key *key, const npo_hash *identity)
{
    *key = (cache_key){true, *identity};
}

npo_err npo_loaded_model(npo_task_cache *cache, const char *path, npo_model **ret_model,
                         npo_error *error)
{
    npo_hash identity;
    NPO_TRY(npo_identity_of(path, &identity, error));
    if (!is_hit(&cache->model_key, &identity)) {
        drop_model(cache); /* first, so that two models never stand in memory */
        NPO_TRY(npo_model_open(cache->backend, path, &cache->model, error));
        set_key(&cache->model_key, &identity);
    }
    *ret_model = cache->model;
    return NPO_OK;
}

/* ---- weights ---- */

/* A set of the layout, which is the model's or that of a LoRA beside it. */
static npo_err need_set(npo_task_cache *cache, npo_layout *layout, npo_params **set,
                        npo_error *error)
{
    if (*set && npo_params_layout(*set) == layout)
        return NPO_OK;
    npo_params_free(*set);
    *set = NULL;
    npo_err err = npo_params_new(layout, set);
    if (err != NPO_OK)
        return npo_error_set(error, err, "no memory for a set of %zu weights",
                             npo_layout_floats(layout));
    if (npo_layout_base(layout))
        npo_params_set_base(*set, cache->model->base);
    return NPO_OK;
}

static npo_err read_checkpoint(npo_task_cache *cache, const char *path, npo_error *error)
{
    npo_model *model = cache->model;
    npo_checkpoint_meta meta;
    NPO_TRY(npo_checkpoint_read_meta(path, &meta, error));
    if (meta.lora.rank)
        NPO_TRY(npo_model_set_lora(model, &meta.lora, error));
    npo_layout *layout = meta.lora.rank ? model->lora_layout : model->layout;
    NPO_TRY(need_set(cache, layout, &cache->weights.student, error));
    NPO_TRY(need_set(cache, layout, &cache->weights.ema, error));
    npo_checkpoint_sets sets = {.student = cache->weights.student, .ema = cache->weights.ema};
    return npo_checkpoint_load(path, &sets, &meta, error);
}

static npo_err read_folder(npo_task_cache *cache, const char *path, npo_error *error)
{
    npo_folder folder;
    NPO_TRY(need_set(cache, cache->model->layout, &cache->weights.student, error));
    NPO_TRY(npo_folder_open(path, &folder, error));
    npo_err err = npo_folder_load_unet(&folder, cache->weights.student, error);
    npo_folder_fini(&folder);
    return err;
}

npo_err npo_loaded_weights(npo_task_cache *cache, const char *path, npo_loaded_weights_kind kind,
                           const npo_params **ret_params, npo_error *error)
{
    npo_hash identity;
    bool is_checkpoint = kind != NPO_LOADED_FOLDER;
    NPO_TRY(npo_identity_of(path, &identity, error));
    cache_weights *weights = &cache->weights;
    if (!is_hit(&weights->key, &identity) || weights->is_checkpoint != is_checkpoint) {
        weights->key.is_set = false;
        NPO_TRY(is_checkpoint ? read_checkpoint(cache, path, error)
                              : read_folder(cache, path, error));
        set_key(&weights->key, &identity);
        weights->is_checkpoint = is_checkpoint;
    }
    *ret_params = kind == NPO_LOADED_EMA ? weights->ema : weights->student;
    return NPO_OK;
}

npo_err npo_loaded_whole(npo_task_cache *cache, const npo_params *params,
                         const npo_params **ret_params, npo_error *error)
{
    npo_lora lora = {0};
    *ret_params = params;
    if (!npo_params_base(params))
        return NPO_OK;
    NPO_TRY(need_set(cache, cache->model->layout, &cache->merged, error));
    NPO_TRY(npo_lora_of_params(params, &lora, error));
    npo_params_copy(cache->merged, npo_params_base(params));
    npo_lora_apply(&lora, 1, cache->merged);
    npo_lora_fini(&lora);
    *ret_params = cache->merged;
    return NPO_OK;
}

npo_err npo_loaded_blend(npo_task_cache *cache, const npo_params *base, const npo_params *negative,
                         double beta, const npo_params **ret_params, npo_error *error)
{
    NPO_TRY(need_set(cache, cache->model->layout, &cache->blend, error));
    npo_params_copy(cache->blend, base);
    npo_vec_lerp(cache->backend, npo_layout_floats(cache->model->layout), (float)beta,
                 npo_params_data(negative), npo_params_edit(cache->blend));
    *ret_params = cache->blend;
    return NPO_OK;
}

/* ---- data ---- */

/* The prompts are part of a dataset: they name its labels. */
static npo_err dataset_identity(const char *path, const npo_dataset_options *options,
                                npo_hash *ret_identity, npo_error *error)
{
    npo_hasher *hasher = NULL;
    npo_hash files;
    NPO_TRY(npo_identity_of(path, &files, error));
    npo_err err = npo_hasher_new(&hasher);
    if (err != NPO_OK)
        return npo_error_set(error, err, "cannot look at '%s': %s", path, npo_err_text(err));
    npo_hasher_add(hasher, files.bytes, sizeof files.bytes);
    npo_hasher_add(hasher, &options->split, sizeof options->split);
    for (size_t i = 0; options->prompts && i < options->prompt_count; i++)
        npo_hasher_add(hasher, options->prompts[i], strlen(options->prompts[i]) + 1);
    *ret_identity = npo_hasher_digest(hasher);
    npo_hasher_free(hasher);
    return NPO_OK;
}

npo_err npo_loaded_dataset(npo_task_cache *cache, const char *path,
                           const npo_dataset_options *options, const npo_dataset **ret_dataset,
                           npo_error *error)
{
    npo_hash identity;
    NPO_TRY(dataset_identity(path, options, &identity, error));
    if (!is_hit(&cache->dataset_key, &identity)) {
        drop_latents(cache);
        npo_dataset_free(cache->dataset);
        cache->dataset = NULL;
        cache->dataset_key.is_set = false;
        NPO_TRY(npo_dataset_open(path, options, &cache->dataset, error));
        set_key(&cache->dataset_key, &identity);
    }
    *ret_dataset = cache->dataset;
    return NPO_OK;
}

npo_err npo_loaded_latents(npo_task_cache *cache, npo_latents **ret_latents, npo_error *error)
{
    if (!cache->latents) {
        NPO_TRY(npo_loaded_need_vae(cache, error));
        NPO_TRY(npo_latents_new(cache->model->vae, cache->dataset, &cache->latents, error));
    }
    *ret_latents = cache->latents;
    return NPO_OK;
}

static npo_err classifier_file(const char *path, char **ret_file, npo_error *error)
{
    struct stat st;
    bool is_folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    char *file = is_folder ? npo_file_join(path, "model.safetensors") : strdup(path);
    if (!file)
        return npo_error_set(error, NPO_E_NOMEM, "cannot load classifier '%s': out of memory",
                             path);
    *ret_file = file;
    return NPO_OK;
}

npo_err npo_loaded_classifier(npo_task_cache *cache, const char *path,
                              npo_classifier **ret_classifier, npo_error *error)
{
    npo_hash identity;
    char *file = NULL;
    NPO_TRY(classifier_file(path, &file, error));
    npo_err err = npo_identity_of(file, &identity, error);
    if (err == NPO_OK && !is_hit(&cache->classifier_key, &identity)) {
        npo_classifier_free(cache->classifier);
        cache->classifier = NULL;
        cache->classifier_key.is_set = false;
        err = npo_classifier_new(cache->backend, file, NPO_LOADED_CLASSIFIER_BATCH,
                                 &cache->classifier, error);
        if (err == NPO_OK)
            set_key(&cache->classifier_key, &identity);
    }
    free(file);
    if (err == NPO_OK)
        *ret_classifier = cache->classifier;
    return err;
}
