#include "proto/pipeline.h"

#include "common/json.h"

#include <stdlib.h>
#include <string.h>

static const char index_name[] = "model_index.json";
enum { INDEX_BYTES_MAX = 1 << 20 };

static bool is_weights(const char *path)
{
    return strstr(path, ".safetensors") != NULL;
}

static bool has_unet_weights(const npo_file_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        if (strncmp(list->paths[i], "unet/", 5) == 0 && is_weights(list->paths[i]))
            return true;
    return false;
}

/* Components are lists of library and class; the other members are settings. */
static bool belongs(const cJSON *index, bool whole, const char *path)
{
    if (strcmp(path, index_name) == 0 || (!whole && !strchr(path, '/') && is_weights(path)))
        return true;
    for (const cJSON *item = index->child; item; item = item->next) {
        size_t len = strlen(item->string);
        if (cJSON_IsArray(item) && strncmp(path, item->string, len) == 0 && path[len] == '/')
            return true;
    }
    return false;
}

static void keep(const cJSON *index, npo_file_list *list)
{
    size_t kept = 0;
    bool whole = has_unet_weights(list);
    for (size_t i = 0; i < list->count; i++) {
        if (belongs(index, whole, list->paths[i]))
            list->paths[kept++] = list->paths[i];
        else
            free(list->paths[i]);
    }
    list->count = kept;
}

npo_err npo_pipeline_filter(const char *dir, npo_file_list *list, npo_error *error)
{
    cJSON *index = NULL;
    char *path = npo_file_join(dir, index_name);
    if (!path)
        return npo_error_set(error, NPO_E_NOMEM, "cannot list '%s': out of memory", dir);
    npo_err err =
        npo_file_exists(path) ? npo_json_load(path, INDEX_BYTES_MAX, &index, error) : NPO_OK;
    if (!err && index && !cJSON_IsObject(index))
        err = npo_error_set(error, NPO_E_TYPE, "'%s': expected an object", path);
    else if (!err && index)
        keep(index, list);
    cJSON_Delete(index);
    free(path);
    return err;
}
