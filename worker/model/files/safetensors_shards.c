#include "worker/model/files/safetensors.h"

#include "common/file.h"
#include "common/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char ending[] = ".safetensors";

/* A name taken apart: "dir/model.fp16.safetensors" is stem "dir/model" and variant ".fp16". */
typedef struct {
    const char *path;
    int stem_len, variant_len;
    const char *variant;
} shard_names;

static shard_names take_apart(const char *path)
{
    size_t len = strlen(path);
    size_t named = len > strlen(ending) && strcmp(path + len - strlen(ending), ending) == 0
                       ? len - strlen(ending)
                       : len;
    const char *slash = strrchr(path, '/');
    const char *file = slash ? slash + 1 : path;
    const char *dot = memchr(file, '.', (size_t)(path + named - file));
    const char *variant = dot ? dot : path + named;
    return (shard_names){path, (int)(variant - path), (int)(path + named - variant), variant};
}

static char *shard_path(const shard_names *names, size_t index, size_t count)
{
    char *path = NULL;
    int len = asprintf(&path, "%.*s%.*s-%05zu-of-%05zu%s", names->stem_len, names->path,
                       names->variant_len, names->variant, index + 1, count, ending);
    return len < 0 ? NULL : path;
}

static char *index_path(const shard_names *names)
{
    char *path = NULL;
    int len = asprintf(&path, "%.*s%s.index%.*s.json", names->stem_len, names->path, ending,
                       names->variant_len, names->variant);
    return len < 0 ? NULL : path;
}

/* Tensors [begin, end) go to one shard: as many as fit, and one at least. */
static size_t shard_end(const npo_tensor_source *tensors, size_t count, size_t begin,
                        uint64_t shard_bytes)
{
    uint64_t bytes = 0;
    size_t end = begin;
    while (end < count) {
        bytes += npo_tensor_source_bytes(&tensors[end]);
        if (end > begin && bytes > shard_bytes)
            break;
        end++;
    }
    return end;
}

static size_t count_shards(const npo_tensor_source *tensors, size_t count, uint64_t shard_bytes)
{
    size_t shards = 0;
    for (size_t at = 0; at < count; at = shard_end(tensors, count, at, shard_bytes))
        shards++;
    return shards;
}

/* Adds the shard's tensors to the index. */
static bool list_tensors(cJSON *map, const npo_tensor_source *tensors, size_t begin, size_t end,
                         const char *path)
{
    const char *slash = strrchr(path, '/');
    for (size_t i = begin; i < end; i++)
        if (!cJSON_AddStringToObject(map, tensors[i].name, slash ? slash + 1 : path))
            return false;
    return true;
}

static npo_err write_index(const char *path, cJSON *index, npo_error *error)
{
    char *text = npo_json_canonical(index);
    if (!text)
        return npo_error_set(error, NPO_E_NOMEM, "cannot write '%s': out of memory", path);
    npo_err err = npo_file_write(path, text, strlen(text), 0666, error);
    free(text);
    return err;
}

/* {"metadata": {"total_size": bytes}, "weight_map": {}} */
static cJSON *new_index(const npo_tensor_source *tensors, size_t count, cJSON **ret_map)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += npo_tensor_source_bytes(&tensors[i]);
    cJSON *index = cJSON_CreateObject();
    cJSON *metadata = cJSON_AddObjectToObject(index, "metadata");
    *ret_map = cJSON_AddObjectToObject(index, "weight_map");
    if (*ret_map && cJSON_AddNumberToObject(metadata, "total_size", (double)bytes))
        return index;
    cJSON_Delete(index);
    return NULL;
}

typedef struct {
    const npo_tensor_source *tensors;
    size_t count;
    const npo_tensor_metadata *metadata;
    size_t metadata_count;
    uint64_t shard_bytes;
    shard_names names;
    size_t shards;
} sharding;

static npo_err write_all(const sharding *s, cJSON *map, npo_error *error)
{
    npo_err err = NPO_OK;
    for (size_t i = 0, begin = 0, end; !err && i < s->shards; i++, begin = end) {
        end = shard_end(s->tensors, s->count, begin, s->shard_bytes);
        char *path = shard_path(&s->names, i, s->shards);
        if (!path || !list_tensors(map, s->tensors, begin, end, path))
            err = npo_error_set(error, NPO_E_NOMEM, "cannot write '%s': out of memory",
                                s->names.path);
        else
            err = npo_safetensors_write(path, s->tensors + begin, end - begin, s->metadata,
                                        s->metadata_count, error);
        free(path);
    }
    return err;
}

/* Shards of a failed write; those that are not there count as removed. */
static void remove_all(const sharding *s)
{
    for (size_t i = 0; i < s->shards; i++) {
        char *path = shard_path(&s->names, i, s->shards);
        npo_err err = path ? npo_file_remove(path, NULL) : NPO_E_NOMEM;
        (void)err; /* the write's own failure is what the caller hears of */
        free(path);
    }
}

npo_err npo_safetensors_write_shards(const char *path, const npo_tensor_source *tensors,
                                     size_t count, const npo_tensor_metadata *metadata,
                                     size_t metadata_count, uint64_t shard_bytes, npo_error *error)
{
    sharding s = {tensors,
                  count,
                  metadata,
                  metadata_count,
                  shard_bytes,
                  take_apart(path),
                  count_shards(tensors, count, shard_bytes)};
    if (s.shards <= 1)
        return npo_safetensors_write(path, tensors, count, metadata, metadata_count, error);
    cJSON *map = NULL, *index = new_index(tensors, count, &map);
    char *list = index_path(&s.names);
    npo_err err = index && list ? NPO_OK : NPO_E_NOMEM;
    if (err)
        npo_error_set(error, err, "cannot write '%s': out of memory", path);
    if (!err)
        err = write_all(&s, map, error);
    if (!err)
        err = write_index(list, index, error);
    if (err)
        remove_all(&s);
    else
        err = npo_file_remove(path, error); /* it would be taken for the newer */
    cJSON_Delete(index);
    free(list);
    return err;
}
