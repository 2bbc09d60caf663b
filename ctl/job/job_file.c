#include "ctl/job/job_file.h"

#include "common/bounds.h"
#include "common/file.h"
#include "ctl/job/prompt_file.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KEY_SIZE = 64 };

static const char weights_ending[] = ".safetensors";

#define DATA_FILES                                                                                 \
    {                                                                                              \
        "train-images-idx3-ubyte.gz", "train-images-idx3-ubyte", "captions.jsonl"                  \
    }
#define MODEL_EXPECTED                                                                             \
    "a pipeline in diffusers layout with unet/config.json, or a checkpoint in one .safetensors "   \
    "file"
#define DATA_EXPECTED "a folder with train-images-idx3-ubyte[.gz] or captions.jsonl"

static npo_err no_memory(npo_error *error)
{
    return npo_error_set(error, NPO_E_NOMEM, "cannot read the job file: out of memory");
}

/* ---- members by dotted key ---- */

typedef struct {
    cJSON *parent; /* object that holds the member */
    cJSON *item;   /* NULL where there is none */
    char key[KEY_SIZE];
} place;

/* False where a section on the way is missing or is no object. */
static bool find_place(cJSON *json, const char *dotted, place *ret_place)
{
    const char *dot = strchr(dotted, '.');
    cJSON *parent = json;
    if (dot) {
        char section[KEY_SIZE];
        snprintf(section, sizeof section, "%.*s", (int)(dot - dotted), dotted);
        parent = cJSON_GetObjectItemCaseSensitive(json, section);
    }
    if (!cJSON_IsObject(parent))
        return false;
    ret_place->parent = parent;
    snprintf(ret_place->key, sizeof ret_place->key, "%s", dot ? dot + 1 : dotted);
    ret_place->item = cJSON_GetObjectItemCaseSensitive(parent, ret_place->key);
    return true;
}

/* The path a member names ("p" or {"path": "p"}), or NULL. */
static const char *path_at(cJSON *json, const char *dotted)
{
    place at;
    if (!find_place(json, dotted, &at))
        return NULL;
    return cJSON_IsObject(at.item) ? npo_json_string(at.item, "path", NULL)
                                   : cJSON_GetStringValue(at.item);
}

static npo_err replace(cJSON *json, const char *dotted, cJSON *item_take, npo_error *error)
{
    place at;
    if (!item_take || !find_place(json, dotted, &at) ||
        !cJSON_ReplaceItemInObjectCaseSensitive(at.parent, at.key, item_take)) {
        cJSON_Delete(item_take);
        return no_memory(error);
    }
    return NPO_OK;
}

/* ---- paths ---- */

static npo_err make_absolute(cJSON *json, const char *dotted, const char *dir, npo_error *error)
{
    const char *path = path_at(json, dotted);
    if (!path || !*path || path[0] == '/')
        return NPO_OK;
    char *absolute = npo_file_join(dir, path);
    cJSON *item = absolute ? cJSON_CreateString(absolute) : NULL;
    free(absolute);
    return replace(json, dotted, item, error);
}

/* Puts a list into sample.KEY, which the job must not name itself. Takes the list. */
static npo_err set_in_sample(cJSON *json, const char *key, const char *path, cJSON *list_take,
                             npo_error *error)
{
    cJSON *sample = cJSON_GetObjectItemCaseSensitive(json, "sample");
    if (cJSON_GetObjectItemCaseSensitive(sample, key)) {
        cJSON_Delete(list_take);
        return npo_error_set(error, NPO_E_USAGE,
                             "sample.%s: '%s' has one for each prompt, and the job names it as "
                             "well: leave one of them out",
                             key, path);
    }
    if (!sample)
        sample = cJSON_AddObjectToObject(json, "sample");
    if (!cJSON_AddItemToObject(sample, key, list_take)) {
        cJSON_Delete(list_take);
        return no_memory(error);
    }
    return NPO_OK;
}

/* A line without a seed has the job's, counted on by lines, so that no two are alike. */
static npo_err fill_seeds(const cJSON *json, cJSON *seeds, npo_error *error)
{
    const cJSON *sample = cJSON_GetObjectItemCaseSensitive(json, "sample");
    double seed = npo_json_number(sample, "seed", 0);
    int i = 0;
    for (const cJSON *item = seeds->child; item; item = item->next, i++) {
        if (!cJSON_IsNull(item))
            continue;
        cJSON *own = cJSON_CreateNumber(seed + i);
        if (!own || !cJSON_ReplaceItemInArray(seeds, i, own)) {
            cJSON_Delete(own);
            return no_memory(error);
        }
        item = own;
    }
    return NPO_OK;
}

static npo_err adopt_prompts(cJSON *json, const char *path, npo_prompt_file *file, npo_error *error)
{
    if (file->seeds)
        NPO_TRY(fill_seeds(json, file->seeds, error));
    cJSON *lists[] = {file->negatives, file->seeds};
    static const char *const keys[] = {"negative_prompt", "seeds"};
    file->negatives = file->seeds = NULL;
    npo_err err = NPO_OK;
    for (int i = 0; i < 2; i++) {
        if (lists[i] && !err)
            err = set_in_sample(json, keys[i], path, lists[i], error);
        else
            cJSON_Delete(lists[i]);
    }
    if (!err) {
        cJSON *prompts = file->prompts;
        file->prompts = NULL;
        err = replace(json, "prompts", prompts, error);
    }
    return err;
}

static npo_err read_prompts(cJSON *json, const char *dir, npo_error *error)
{
    npo_prompt_file file = {0};
    NPO_TRY(make_absolute(json, "prompts", dir, error));
    const char *path = path_at(json, "prompts");
    if (!path)
        return NPO_OK;
    NPO_TRY(npo_prompt_file_read(path, &file, error));
    npo_err err = adopt_prompts(json, path, &file, error);
    npo_prompt_file_fini(&file);
    return err;
}

npo_err npo_job_file_settle(cJSON *json, const char *dir, npo_error *error)
{
    for (const char *const *key = npo_job_path_keys(); *key; key++)
        NPO_TRY(make_absolute(json, *key, dir, error));
    return read_prompts(json, dir, error);
}

/* ---- --set ---- */

static bool is_path_key(const char *key)
{
    if (strcmp(key, "prompts") == 0)
        return true;
    for (const char *const *known = npo_job_path_keys(); *known; known++)
        if (strcmp(*known, key) == 0)
            return true;
    return false;
}

static npo_err apply_set(cJSON *json, const char *set, const char *cwd, npo_error *error)
{
    char key[KEY_SIZE];
    const char *equals = strchr(set, '=');
    if (!equals || equals == set || (size_t)(equals - set) >= sizeof key)
        return npo_error_set(error, NPO_E_USAGE, "--set '%.80s': expected KEY=VALUE", set);
    snprintf(key, sizeof key, "%.*s", (int)(equals - set), set);
    npo_err err = npo_json_set_path(json, key, equals + 1, error);
    if (err)
        return npo_error_prefix(error, err, "--set '%.80s'", set);
    return is_path_key(key) ? make_absolute(json, key, cwd, error) : NPO_OK;
}

static npo_err apply_sets(cJSON *json, const npo_option_list *sets, npo_error *error)
{
    char *cwd = getcwd(NULL, 0);
    if (!cwd)
        return npo_error_errno(error, errno, "cannot find the current folder");
    npo_err err = NPO_OK;
    for (size_t i = 0; !err && i < sets->count; i++)
        err = apply_set(json, sets->items[i], cwd, error);
    free(cwd);
    return err;
}

/* ---- loading ---- */

static npo_err load_json(const char *path, cJSON **ret_json, npo_error *error)
{
    cJSON *json = NULL;
    bool is_stdin = strcmp(path, "-") == 0;
    NPO_TRY(npo_json_load(is_stdin ? "/dev/stdin" : path, NPO_JOB_FILE_BYTES_MAX, &json, error));
    if (!cJSON_IsObject(json)) {
        cJSON_Delete(json);
        return npo_error_set(error, NPO_E_TYPE, "'%s': expected an object", path);
    }
    *ret_json = json;
    return NPO_OK;
}

static npo_err folder_of(const char *path, char **ret_dir, npo_error *error)
{
    char *real = strcmp(path, "-") == 0 ? getcwd(NULL, 0) : realpath(path, NULL);
    if (!real)
        return npo_error_errno(error, errno, "cannot find the folder of '%s'", path);
    if (strcmp(path, "-") != 0) {
        char *slash = strrchr(real, '/');
        slash[slash == real] = '\0';
    }
    *ret_dir = real;
    return NPO_OK;
}

npo_err npo_job_file_load(const char *path, const npo_option_list *sets, cJSON **ret_json,
                          npo_error *error)
{
    cJSON *json = NULL;
    char *dir = NULL;
    npo_err err = load_json(path, &json, error);
    if (!err)
        err = folder_of(path, &dir, error);
    if (!err)
        err = apply_sets(json, sets, error);
    if (!err)
        err = npo_job_file_settle(json, dir, error);
    free(dir);
    if (err)
        cJSON_Delete(json);
    else
        *ret_json = json;
    return err;
}

/* ---- checking and importing ---- */

static npo_err check_size(const cJSON *json, npo_error *error)
{
    char *text = cJSON_PrintUnformatted(json);
    size_t size = text ? strlen(text) : 0;
    bool printed = text != NULL;
    cJSON_free(text);
    if (!printed)
        return no_memory(error);
    if (size > NPO_JOB_FILE_BYTES_MAX)
        return npo_error_set(error, NPO_E_LIMIT,
                             "the job has %zu bytes with its prompts, expected at most %d", size,
                             NPO_JOB_FILE_BYTES_MAX);
    return NPO_OK;
}

/* What a folder is known by: enough to refuse a wrong path here instead of on a worker. */
static const struct {
    const char *key;
    const char *const files[4]; /* one of them is there */
    bool may_be_checkpoint;
    const char *expected;
} marks[] = {
    {"model", {"unet/config.json"}, true, MODEL_EXPECTED},
    {"negative", {"unet/config.json"}, true, MODEL_EXPECTED},
    {"data", DATA_FILES, false, DATA_EXPECTED},
    {"evaluate.data", DATA_FILES, false, DATA_EXPECTED},
};

static bool has_any(const char *dir, const char *const *files)
{
    bool found = false;
    for (; *files && !found; files++) {
        char *path = npo_file_join(dir, *files);
        found = !path || npo_file_exists(path); /* out of memory: the worker looks again */
        free(path);
    }
    return found;
}

static bool is_weights(const char *name)
{
    size_t len = strlen(name), end = strlen(weights_ending);
    return len > end && strcmp(name + len - end, weights_ending) == 0;
}

/* A .safetensors file, or a folder with one at its root. */
static bool is_checkpoint(const char *path)
{
    DIR *dir = opendir(path);
    bool found = !dir && is_weights(path);
    for (struct dirent *entry; dir && !found && (entry = readdir(dir));)
        found = is_weights(entry->d_name);
    if (dir)
        closedir(dir);
    return found;
}

static npo_err check_path(const char *key, const char *path, npo_error *error)
{
    if (!npo_file_exists(path))
        return npo_error_set(error, NPO_E_NOT_FOUND, "%s: '%s' does not exist", key, path);
    for (size_t i = 0; i < NPO_ARRAY_COUNT(marks); i++)
        if (strcmp(marks[i].key, key) == 0 && !has_any(path, marks[i].files) &&
            !(marks[i].may_be_checkpoint && is_checkpoint(path)))
            return npo_error_set(error, NPO_E_NOT_FOUND, "%s: found '%s', expected %s", key, path,
                                 marks[i].expected);
    return NPO_OK;
}

/* Pixels a latent position on each side, of the VAE in a local folder; 1 where there is none, or
 * where only a worker can tell what is wrong with it. */
static int vae_factor(const char *model)
{
    cJSON *config = NULL;
    char *path = npo_file_join(model, "vae/config.json");
    int levels = 1;
    if (path && npo_json_load(path, NPO_JOB_FILE_BYTES_MAX, &config, NULL) == NPO_OK)
        levels = cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(config, "block_out_channels"));
    cJSON_Delete(config);
    free(path);
    return levels > 1 && levels < 16 ? 1 << (levels - 1) : 1;
}

static npo_err check_resolution(const npo_job *job, npo_error *error)
{
    const struct {
        const char *key;
        int64_t pixels;
    } sides[] = {{"height", job->height}, {"width", job->width}};
    int factor = job->model.path ? vae_factor(job->model.path) : 1;
    for (size_t i = 0; i < NPO_ARRAY_COUNT(sides); i++)
        if (sides[i].pixels % factor != 0)
            return npo_error_set(error, NPO_E_USAGE,
                                 "%s: found %lld pixels, expected a multiple of %d as the VAE of "
                                 "'%s' needs",
                                 sides[i].key, (long long)sides[i].pixels, factor, job->model.path);
    return NPO_OK;
}

npo_err npo_job_file_check(const cJSON *json, npo_job *ret_job, npo_error *error)
{
    NPO_TRY(npo_job_read(json, ret_job, error));
    NPO_TRY(check_size(json, error));
    for (const char *const *key = npo_job_path_keys(); *key; key++) {
        const char *path = path_at((cJSON *)json, *key);
        if (path)
            NPO_TRY(check_path(*key, path, error));
    }
    return check_resolution(ret_job, error);
}

static cJSON *artifact_json(const npo_artifact *artifact)
{
    char hash[NPO_HASH_TEXT_SIZE];
    npo_hash_format(&artifact->hash, hash);
    cJSON *object = cJSON_CreateObject();
    if (cJSON_AddStringToObject(object, "artifact", hash))
        return object;
    cJSON_Delete(object);
    return NULL;
}

npo_exit npo_job_file_import(npo_session *session, cJSON *json)
{
    npo_error error = {0};
    for (const char *const *key = npo_job_path_keys(); *key; key++) {
        npo_artifact artifact;
        const char *path = path_at(json, *key);
        if (!path)
            continue;
        npo_exit code = npo_session_upload(session, path, &artifact);
        if (code)
            return code;
        if (replace(json, *key, artifact_json(&artifact), &error))
            return npo_exit_local(&error);
    }
    return NPO_EXIT_OK;
}
