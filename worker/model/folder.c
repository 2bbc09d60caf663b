#include "worker/model/folder.h"

#include "common/file.h"
#include "worker/model/files/part_file.h"
#include "worker/model/files/single_file.h"
#include "worker/model/networks/autoencoder.h"
#include "worker/model/networks/unet.h"

#include <dirent.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    CONFIG_BYTES_MAX = 1 << 20,
    FILES_MAX = 1000,
};

static const char diffusion_file[] = "diffusion_pytorch_model.safetensors";
static const char single_name[] = "model.safetensors"; /* of a checkpoint that was a file alone */

/* Names that a component's weights may have, the preferred first. */
static const char *const diffusion_names[] = {
    /* of unet/ and vae/ */
    diffusion_file,
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    NULL,
};
static const char *const text_names[] = {
    "model.safetensors",
    "model.safetensors.index.json",
    "model.fp16.safetensors",
    "model.safetensors.index.fp16.json",
    NULL,
};

/* A buffer that older checkpoints stored, and newer ones without the class's prefix. */
static const char *const text_ignored[] = {
    "text_model.embeddings.position_ids",
    "embeddings.position_ids",
    "logit_scale", /* of OpenCLIP in single files */
    NULL,
};
static const npo_weights_map text_map = {
    .ignore = text_ignored,
    .optional_prefix = "text_model.",
};

/* The VAE's attention before diffusers 0.12. */
static const npo_weights_older vae_older[] = {
    {".to_q.", ".query."},         {".to_k.", ".key."}, {".to_v.", ".value."},
    {".to_out.0.", ".proj_attn."}, {NULL, NULL},
};
static const npo_weights_map vae_map = {.older = vae_older};

/* ---- locating ---- */

/* root/part/name as a new string in *ret_path when it is there and *ret_path is NULL, which it
 * stays otherwise. */
static npo_err locate(const char *root, const char *part, const char *name, char **ret_path)
{
    char *path = NULL;
    if (*ret_path)
        return NPO_OK;
    if (asprintf(&path, "%s/%s/%s", root, part, name) < 0)
        return NPO_E_NOMEM;
    if (npo_part_file_exists(path)) {
        *ret_path = path;
        return NPO_OK;
    }
    free(path);
    return NPO_OK;
}

static npo_err locate_any(const char *root, const char *part, const char *const *names,
                          char **ret_path)
{
    for (; *names && !*ret_path; names++)
        NPO_TRY(locate(root, part, *names, ret_path));
    return NPO_OK;
}

/* The folder of a tokenizer as a new string, NULL where its vocabulary is not there. */
static npo_err locate_tokenizer(const char *root, const char *part, char **ret_path)
{
    char *vocab = NULL;
    if (*ret_path)
        return NPO_OK;
    NPO_TRY(locate(root, part, "vocab.json", &vocab));
    if (vocab)
        *ret_path = npo_file_join(root, part);
    bool failed = vocab && !*ret_path;
    free(vocab);
    return failed ? NPO_E_NOMEM : NPO_OK;
}

/* What is not found yet. */
static npo_err locate_parts(npo_folder *folder, const char *root)
{
    NPO_TRY(locate(root, "unet", "config.json", &folder->unet_config));
    NPO_TRY(locate_any(root, "unet", diffusion_names, &folder->unet_weights));
    NPO_TRY(locate(root, "text_encoder", "config.json", &folder->text_config));
    NPO_TRY(locate_any(root, "text_encoder", text_names, &folder->text_weights));
    NPO_TRY(locate(root, "scheduler", "scheduler_config.json", &folder->scheduler_config));
    NPO_TRY(locate_tokenizer(root, "tokenizer", &folder->tokenizer));
    NPO_TRY(locate(root, "text_encoder_2", "config.json", &folder->text_config_2));
    NPO_TRY(locate_any(root, "text_encoder_2", text_names, &folder->text_weights_2));
    NPO_TRY(locate_tokenizer(root, "tokenizer_2", &folder->tokenizer_2));
    NPO_TRY(locate(root, "vae", "config.json", &folder->vae_config));
    return locate_any(root, "vae", diffusion_names, &folder->vae_weights);
}

static npo_err check_parts(const npo_folder *folder, npo_error *error)
{
    const struct {
        const char *path, *expected;
    } parts[] = {
        {folder->unet_config, "unet/config.json"},
        {folder->text_config, "text_encoder/config.json"},
        {folder->text_weights, "text_encoder/model.safetensors"},
        {folder->tokenizer, "tokenizer/vocab.json"},
        {folder->scheduler_config, "scheduler/scheduler_config.json"},
        {folder->text_config_2, "text_encoder_2/config.json"},
        {folder->text_weights_2, "text_encoder_2/model.safetensors"},
        {folder->tokenizer_2, "tokenizer_2/vocab.json"},
    };
    size_t count = sizeof parts / sizeof *parts - (folder->is_xl ? 0 : 3);
    for (size_t i = 0; i < count; i++)
        if (!parts[i].path)
            return npo_error_set(error, NPO_E_NOT_FOUND, "model folder '%s' has no %s",
                                 folder->root, parts[i].expected);
    return NPO_OK;
}

/* The class of model_index.json; without that file, a second text encoder makes it XL. */
static npo_err read_index(npo_folder *folder, npo_error *error)
{
    static const char plain[] = "StableDiffusionPipeline", xl[] = "StableDiffusionXLPipeline";
    cJSON *json = NULL;
    npo_err err = NPO_E_NOMEM;
    char *path = npo_file_join(folder->root, "model_index.json");
    if (!path)
        return npo_error_set(error, err, "cannot open '%s': out of memory", folder->root);
    err = NPO_OK;
    if (npo_file_exists(path))
        err = npo_json_load(path, CONFIG_BYTES_MAX, &json, error);
    const char *class = npo_json_string(json, "_class_name", folder->text_config_2 ? xl : plain);
    bool is_xl = strcmp(class, xl) == 0;
    if (!err && !is_xl && strcmp(class, plain) != 0)
        err = npo_error_set(error, NPO_E_UNSUPPORTED,
                            "'%s': found pipeline '%.80s', expected %s or %s", path, class, plain,
                            xl);
    folder->zero_empty_prompt = is_xl && npo_json_bool(json, "force_zeros_for_empty_prompt", true);
    folder->is_xl = is_xl;
    cJSON_Delete(json);
    free(path);
    return err;
}

/* ---- single files ---- */

static bool is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static int is_weights(const struct dirent *entry)
{
    return entry->d_name[0] != '.' && fnmatch("*.safetensors", entry->d_name, 0) == 0;
}

/* The one checkpoint at the folder's root, if there is one. */
static npo_err find_single(npo_folder *folder, npo_error *error)
{
    struct dirent **entries = NULL;
    int count = scandir(folder->root, &entries, is_weights, alphasort);
    npo_err err = NPO_OK;
    if (count == 1)
        folder->single_file = npo_file_join(folder->root, entries[0]->d_name);
    if (count == 1 && !folder->single_file)
        err = npo_error_set(error, NPO_E_NOMEM, "cannot open '%s': out of memory", folder->root);
    if (count > 1)
        err = npo_error_set(error, NPO_E_USAGE,
                            "model folder '%s': found '%s' and '%s', expected one checkpoint",
                            folder->root, entries[0]->d_name, entries[1]->d_name);
    for (int i = 0; i < count; i++)
        free(entries[i]);
    free(entries);
    return err;
}

/* The weights of every part that the file has are the file, and what else is missing is built in.
 */
static npo_err complete_single(npo_folder *folder, const npo_safetensors *file,
                               npo_single_family family)
{
    const struct {
        npo_single_part part;
        char **weights;
    } parts[] = {
        {NPO_SINGLE_UNET, &folder->unet_weights},    {NPO_SINGLE_TEXT, &folder->text_weights},
        {NPO_SINGLE_TEXT_XL, &folder->text_weights}, {NPO_SINGLE_TEXT_2, &folder->text_weights_2},
        {NPO_SINGLE_VAE, &folder->vae_weights},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (!npo_single_file_has(file, parts[i].part))
            continue;
        free(*parts[i].weights);
        *parts[i].weights = strdup(folder->single_file);
        if (!*parts[i].weights)
            return NPO_E_NOMEM;
    }
    NPO_TRY(locate_parts(folder, npo_single_file_parts(family)));
    if (!folder->vae_weights) { /* a built-in configuration makes no VAE */
        free(folder->vae_config);
        folder->vae_config = NULL;
    }
    return NPO_OK;
}

static npo_err open_single(npo_folder *folder, npo_error *error)
{
    npo_safetensors *file = NULL;
    npo_single_family family;
    bool published = !folder->unet_config || !folder->scheduler_config;
    NPO_TRY(npo_safetensors_open(folder->single_file, &file, error));
    npo_err err = npo_single_file_family(file, published, &family, error);
    if (!err && complete_single(folder, file, family))
        err = npo_error_set(error, NPO_E_NOMEM, "cannot open '%s': out of memory", folder->root);
    npo_safetensors_close(file);
    return err;
}

/* ---- opening ---- */

static npo_err locate_all(npo_folder *folder, npo_error *error)
{
    if (!is_folder(folder->root)) {
        folder->single_file = strdup(folder->root);
        return folder->single_file ? NPO_OK : NPO_E_NOMEM;
    }
    NPO_TRY(locate_parts(folder, folder->root));
    return folder->unet_weights ? NPO_OK : find_single(folder, error);
}

npo_err npo_folder_open(const char *root, npo_folder *ret_folder, npo_error *error)
{
    npo_folder folder = {.root = strdup(root)};
    if (!npo_file_exists(root)) {
        free(folder.root);
        return npo_error_set(error, NPO_E_NOT_FOUND, "there is no model folder '%s'", root);
    }
    npo_err err = folder.root ? locate_all(&folder, error) : NPO_E_NOMEM;
    if (err == NPO_E_NOMEM)
        npo_error_set(error, err, "cannot open '%s': out of memory", root);
    if (!err && folder.single_file)
        err = open_single(&folder, error);
    if (!err)
        err = read_index(&folder, error);
    if (!err)
        err = check_parts(&folder, error);
    if (err)
        npo_folder_fini(&folder);
    else
        *ret_folder = folder;
    return err;
}

void npo_folder_fini(npo_folder *folder)
{
    free(folder->root);
    free(folder->single_file);
    free(folder->unet_config);
    free(folder->unet_weights);
    free(folder->text_config);
    free(folder->text_weights);
    free(folder->tokenizer);
    free(folder->text_config_2);
    free(folder->text_weights_2);
    free(folder->tokenizer_2);
    free(folder->scheduler_config);
    free(folder->vae_config);
    free(folder->vae_weights);
    *folder = (npo_folder){0};
}

/* ---- loading ---- */

npo_err npo_folder_unet(const npo_folder *folder, npo_backend *backend, npo_unet_config *ret_config,
                        npo_layout **ret_layout, npo_error *error)
{
    npo_unet_config config;
    NPO_TRY(npo_unet_config_load(folder->unet_config, &config, error));
    NPO_TRY(npo_unet_layout(backend, &config, ret_layout, error));
    *ret_config = config;
    return NPO_OK;
}

static npo_err need_unet(const npo_folder *folder, npo_error *error)
{
    if (folder->unet_weights)
        return NPO_OK;
    return npo_error_set(error, NPO_E_NOT_FOUND, "model folder '%s' has no unet/%s", folder->root,
                         diffusion_file);
}

npo_err npo_folder_load_unet(const npo_folder *folder, npo_params *params, npo_error *error)
{
    npo_single_names names;
    NPO_TRY(need_unet(folder, error));
    npo_weights_map map = npo_folder_unet_map(folder, npo_params_layout(params), &names);
    return npo_weights_load(folder->unet_weights, &map, params, error);
}

/* The map of a part, with the part's names where the weights stand in the single file. */
static npo_weights_map map_of(const npo_folder *folder, npo_single_part part, const char *path,
                              const npo_weights_map *base, const npo_layout *layout,
                              npo_single_names *ret_names)
{
    npo_weights_map map = *base;
    *ret_names = npo_single_names_of(part, layout);
    if (folder->single_file && path && strcmp(path, folder->single_file) == 0)
        map.single = ret_names;
    return map;
}

npo_weights_map npo_folder_unet_map(const npo_folder *folder, const npo_layout *layout,
                                    npo_single_names *ret_names)
{
    return map_of(folder, NPO_SINGLE_UNET, folder->unet_weights, &(npo_weights_map){0}, layout,
                  ret_names);
}

npo_err npo_folder_view_unet(const npo_folder *folder, const npo_layout *layout,
                             npo_weight_view **ret_view, npo_error *error)
{
    npo_single_names names;
    NPO_TRY(need_unet(folder, error));
    npo_weights_map map = npo_folder_unet_map(folder, layout, &names);
    return npo_weight_view_open(folder->unet_weights, &map, layout, ret_view, error);
}

/* A set of the layout, filled from path. */
static npo_err load_params(const npo_folder *folder, npo_single_part part, const char *path,
                           const npo_weights_map *base, npo_layout *layout, npo_params **ret_params,
                           npo_error *error)
{
    npo_params *params = NULL;
    npo_single_names names;
    npo_weights_map map = map_of(folder, part, path, base, layout, &names);
    npo_err err = npo_params_new(layout, &params);
    if (err)
        return npo_error_set(error, err, "cannot load '%s': %s", path, npo_err_text(err));
    err = npo_weights_load(path, &map, params, error);
    if (err)
        npo_params_free(params);
    else
        *ret_params = params;
    return err;
}

/* part: NPO_SINGLE_TEXT, or NPO_SINGLE_TEXT_2 for the second encoder. */
static npo_err load_text(const npo_folder *folder, npo_single_part part, npo_backend *backend,
                         npo_clip_text_config *ret_config, npo_layout **ret_layout,
                         npo_params **ret_params, npo_error *error)
{
    bool second = part == NPO_SINGLE_TEXT_2;
    npo_clip_text_config config;
    npo_layout *layout = NULL;
    if (folder->is_xl && !second)
        part = NPO_SINGLE_TEXT_XL;
    NPO_TRY(npo_clip_text_config_load(second ? folder->text_config_2 : folder->text_config, &config,
                                      error));
    config.with_projection = second;
    NPO_TRY(npo_clip_text_layout(backend, &config, &layout, error));
    npo_err err = load_params(folder, part, second ? folder->text_weights_2 : folder->text_weights,
                              &text_map, layout, ret_params, error);
    if (err) {
        npo_layout_unref(layout);
        return err;
    }
    *ret_config = config;
    *ret_layout = layout;
    return NPO_OK;
}

npo_err npo_folder_load_text(const npo_folder *folder, npo_backend *backend,
                             npo_clip_text_config *ret_config, npo_layout **ret_layout,
                             npo_params **ret_params, npo_error *error)
{
    return load_text(folder, NPO_SINGLE_TEXT, backend, ret_config, ret_layout, ret_params, error);
}

npo_err npo_folder_load_text_2(const npo_folder *folder, npo_backend *backend,
                               npo_clip_text_config *ret_config, npo_layout **ret_layout,
                               npo_params **ret_params, npo_error *error)
{
    return load_text(folder, NPO_SINGLE_TEXT_2, backend, ret_config, ret_layout, ret_params, error);
}

npo_err npo_folder_load_vae(const npo_folder *folder, npo_backend *backend,
                            npo_autoencoder_config *ret_config, npo_layout **ret_layout,
                            npo_params **ret_params, npo_error *error)
{
    npo_autoencoder_config config;
    npo_layout *layout = NULL;
    if (!folder->vae_config || !folder->vae_weights)
        return npo_error_set(error, NPO_E_NOT_FOUND, "model folder '%s' has no vae/%s",
                             folder->root, folder->vae_config ? diffusion_file : "config.json");
    NPO_TRY(npo_autoencoder_config_load(folder->vae_config, &config, error));
    NPO_TRY(npo_autoencoder_layout(backend, &config, &layout, error));
    npo_err err = load_params(folder, NPO_SINGLE_VAE, folder->vae_weights, &vae_map, layout,
                              ret_params, error);
    if (err) {
        npo_layout_unref(layout);
        return err;
    }
    *ret_config = config;
    *ret_layout = layout;
    return NPO_OK;
}

/* ---- saving ---- */

npo_err npo_folder_save_unet(const npo_folder *folder, const npo_weights_made *weights,
                             npo_tensor_dtype dtype, const char *dir, npo_error *error)
{
    npo_err err = NPO_E_NOMEM;
    char *config = npo_file_join(dir, "config.json"), *path = npo_file_join(dir, diffusion_file);
    if (!config || !path) {
        npo_error_set(error, err, "cannot write '%s': out of memory", dir);
        goto out;
    }
    err = npo_file_make_dirs(dir, error);
    if (!err)
        err = npo_weights_write(path, weights, dtype, NULL, error);
    if (!err)
        err = npo_part_file_copy(folder->unet_config, config, error);
out:
    free(config);
    free(path);
    return err;
}

/* Copies a file of the folder to the same place below root. */
static npo_err copy_part(const npo_folder *folder, const char *path, const char *root,
                         npo_error *error)
{
    npo_err err = NPO_E_NOMEM;
    char *from = npo_file_join(folder->root, path), *to = npo_file_join(root, path);
    char *dir = to ? strndup(to, (size_t)(strrchr(to, '/') - to)) : NULL;
    if (!from || !to || !dir) {
        npo_error_set(error, err, "cannot write '%s': out of memory", root);
        goto out;
    }
    err = npo_file_make_dirs(dir, error);
    if (!err)
        err = npo_file_copy(from, to, 0666, error);
out:
    free(from);
    free(to);
    free(dir);
    return err;
}

/* The checkpoint under its name with this UNet, and the files beside it. */
static npo_err save_single(const npo_folder *folder, const npo_weights_made *weights,
                           npo_tensor_dtype dtype, const char *root, npo_error *error)
{
    npo_file_list files = {0};
    bool alone = !is_folder(folder->root);
    const char *name = alone ? single_name : strrchr(folder->single_file, '/') + 1;
    char *path = npo_file_join(root, name);
    if (!path)
        return npo_error_set(error, NPO_E_NOMEM, "cannot write '%s': out of memory", root);
    npo_err err = npo_file_make_dirs(root, error);
    if (!err && !alone)
        err = npo_file_list_tree(folder->root, FILES_MAX, &files, error);
    for (size_t i = 0; !err && i < files.count; i++)
        if (strcmp(files.paths[i], name) != 0)
            err = copy_part(folder, files.paths[i], root, error);
    if (!err)
        err = npo_single_file_write(folder->single_file, weights, dtype, path, error);
    npo_file_list_fini(&files);
    free(path);
    return err;
}

npo_err npo_folder_save(const npo_folder *folder, const npo_weights_made *weights,
                        npo_tensor_dtype dtype, const char *root, npo_error *error)
{
    if (folder->single_file)
        return save_single(folder, weights, dtype, root, error);
    npo_file_list files = {0};
    char *dir = npo_file_join(root, "unet");
    if (!dir)
        return npo_error_set(error, NPO_E_NOMEM, "cannot write '%s': out of memory", root);
    npo_err err = npo_folder_save_unet(folder, weights, dtype, dir, error);
    if (!err)
        err = npo_file_list_tree(folder->root, FILES_MAX, &files, error);
    for (size_t i = 0; !err && i < files.count; i++)
        if (strncmp(files.paths[i], "unet/", 5) != 0)
            err = copy_part(folder, files.paths[i], root, error);
    npo_file_list_fini(&files);
    free(dir);
    return err;
}
