#include "worker/model/files/safetensors.h"

#include "common/file.h"
#include "common/json.h"
#include "worker/model/files/half.h"
#include "worker/model/files/safetensors_header.h"

#include <assert.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    PREFIX_BYTES = 8,
    SHARDS_MAX = 1000,
    INDEX_BYTES_MAX = 4 << 20,
    FINITE_BLOCK = 4096,
};

typedef struct {
    char *name; /* of the file, without folder */
    npo_file_map map;
    npo_tensor_header header;
} shard;

struct npo_safetensors {
    char *path;
    shard *shards;
    size_t shard_count;
    npo_tensor *tensors; /* of all shards, by name */
    size_t count;
};

/* ---- one file ---- */

static uint64_t read_u64(const uint8_t *bytes)
{
    uint64_t value = 0;
    for (int i = PREFIX_BYTES - 1; i >= 0; i--)
        value = value << 8 | bytes[i];
    return value;
}

/* Files that are no safetensors by their first bytes. */
static const struct {
    const char *magic, *what;
} strangers[] = {
    {"PK\x03\x04", "a pickle of PyTorch (.ckpt, .pt, .bin), which can run code while it is read"},
    {"\x80\x02", "a pickle (.ckpt, .pt, .bin), which can run code while it is read"},
    {"GGUF", "a GGUF file"},
    {"version https://git-lfs", "a pointer of git-lfs to the file"},
    {"<!", "a web page"},
};

static npo_err refuse_strangers(const npo_file_map *map, npo_error *error)
{
    for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++) {
        size_t len = strlen(strangers[i].magic);
        if (map->size >= len && memcmp(map->data, strangers[i].magic, len) == 0 &&
            (map->size < PREFIX_BYTES || read_u64(map->data) > map->size))
            return npo_error_set(error, NPO_E_FORMAT, "found %s, expected a .safetensors file",
                                 strangers[i].what);
    }
    return NPO_OK;
}

static npo_err parse_shard(shard *s, npo_error *error)
{
    NPO_TRY(refuse_strangers(&s->map, error));
    if (s->map.size < PREFIX_BYTES)
        return npo_error_set(error, NPO_E_FORMAT, "found %zu bytes, expected at least %d",
                             s->map.size, PREFIX_BYTES);
    uint64_t len = read_u64(s->map.data);
    if (len > NPO_SAFETENSORS_HEADER_BYTES_MAX)
        return npo_error_set(error, NPO_E_LIMIT, "header of %llu bytes, expected at most %d",
                             (unsigned long long)len, NPO_SAFETENSORS_HEADER_BYTES_MAX);
    if (len > s->map.size - PREFIX_BYTES)
        return npo_error_set(error, NPO_E_FORMAT,
                             "header of %llu bytes, found only %zu bytes behind its length",
                             (unsigned long long)len, s->map.size - PREFIX_BYTES);
    const uint8_t *data = s->map.data + PREFIX_BYTES + len;
    NPO_TRY(npo_tensor_header_parse((const char *)s->map.data + PREFIX_BYTES, (size_t)len,
                                    s->map.size - PREFIX_BYTES - len, &s->header, error));
    for (size_t i = 0; i < s->header.count; i++)
        s->header.entries[i].tensor.data = data + s->header.entries[i].begin;
    return NPO_OK;
}

static npo_err open_shard(const char *path, shard *ret_shard, npo_error *error)
{
    shard s = {0};
    NPO_TRY(npo_file_map_open(path, &s.map, error));
    npo_err err = parse_shard(&s, error);
    if (err) {
        npo_error_prefix(error, err, "cannot read '%s'", path);
        npo_file_map_close(&s.map);
        return err;
    }
    s.name = ret_shard->name;
    *ret_shard = s;
    return NPO_OK;
}

/* ---- shards of an index ---- */

static shard *find_shard(const npo_safetensors *file, const char *name)
{
    for (size_t i = 0; i < file->shard_count; i++)
        if (file->shards[i].name && strcmp(file->shards[i].name, name) == 0)
            return &file->shards[i];
    return NULL;
}

static npo_err add_shard(npo_safetensors *file, const char *name, npo_error *error)
{
    if (!*name || strchr(name, '/'))
        return npo_error_set(error, NPO_E_FORMAT, "shard '%s', expected a file name without folder",
                             name);
    if (file->shard_count == SHARDS_MAX)
        return npo_error_set(error, NPO_E_LIMIT, "found more than %d shards", SHARDS_MAX);
    shard *more = reallocarray(file->shards, file->shard_count + 1, sizeof *more);
    if (!more)
        return NPO_E_NOMEM;
    file->shards = more;
    more[file->shard_count] = (shard){.name = strdup(name)};
    if (!more[file->shard_count].name)
        return NPO_E_NOMEM;
    file->shard_count++;
    return NPO_OK;
}

static npo_err open_shards(npo_safetensors *file, npo_error *error)
{
    npo_err err = NPO_OK;
    char *copy = strdup(file->path);
    const char *dir = copy ? dirname(copy) : NULL;
    if (!copy)
        err = NPO_E_NOMEM;
    for (size_t i = 0; !err && i < file->shard_count; i++) {
        char *path = npo_file_join(dir, file->shards[i].name);
        err = path ? open_shard(path, &file->shards[i], error) : NPO_E_NOMEM;
        free(path);
    }
    free(copy);
    return err;
}

static npo_err check_map(const npo_safetensors *file, const cJSON *map, npo_error *error)
{
    for (const cJSON *item = map->child; item; item = item->next) {
        const npo_tensor *tensor = npo_safetensors_find(file, item->string);
        const shard *home = find_shard(file, item->valuestring);
        if (!tensor || tensor->data < home->map.data ||
            tensor->data > home->map.data + home->map.size)
            return npo_error_set(error, NPO_E_FORMAT, "tensor '%s' is not in '%s'", item->string,
                                 item->valuestring);
    }
    size_t listed = (size_t)cJSON_GetArraySize(map);
    if (listed != file->count)
        return npo_error_set(error, NPO_E_FORMAT, "lists %zu tensors, found %zu in the shards",
                             listed, file->count);
    return NPO_OK;
}

static npo_err collect(npo_safetensors *file, npo_error *error);

static npo_err open_index(npo_safetensors *file, npo_error *error)
{
    cJSON *json = NULL;
    NPO_TRY(npo_json_load(file->path, INDEX_BYTES_MAX, &json, error));
    npo_err err = NPO_OK;
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(json, "weight_map");
    if (!cJSON_IsObject(map)) {
        err = npo_error_set(error, NPO_E_FORMAT, "'weight_map' is missing or not an object");
        goto out;
    }
    for (const cJSON *item = map->child; item && !err; item = item->next) {
        if (!cJSON_IsString(item))
            err = npo_error_set(error, NPO_E_FORMAT, "weight_map '%s': expected a file name",
                                item->string);
        else if (!find_shard(file, item->valuestring))
            err = add_shard(file, item->valuestring, error);
    }
    if (!err)
        err = open_shards(file, error);
    if (!err)
        err = collect(file, error);
    if (!err)
        err = check_map(file, map, error);
out:
    if (err)
        npo_error_prefix(error, err, "cannot read '%s'", file->path);
    cJSON_Delete(json);
    return err;
}

/* ---- opening ---- */

static int compare_tensors(const void *a, const void *b)
{
    return strcmp(((const npo_tensor *)a)->name, ((const npo_tensor *)b)->name);
}

static npo_err collect(npo_safetensors *file, npo_error *error)
{
    size_t total = 0;
    for (size_t i = 0; i < file->shard_count; i++)
        total += file->shards[i].header.count;
    file->tensors = calloc(total ? total : 1, sizeof *file->tensors);
    if (!file->tensors)
        return NPO_E_NOMEM;
    for (size_t i = 0; i < file->shard_count; i++)
        for (size_t k = 0; k < file->shards[i].header.count; k++)
            file->tensors[file->count++] = file->shards[i].header.entries[k].tensor;
    qsort(file->tensors, file->count, sizeof *file->tensors, compare_tensors);
    for (size_t i = 1; i < file->count; i++)
        if (compare_tensors(&file->tensors[i - 1], &file->tensors[i]) == 0)
            return npo_error_set(error, NPO_E_FORMAT, "tensor '%s' is in two shards",
                                 file->tensors[i].name);
    return NPO_OK;
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static npo_err open_single(npo_safetensors *file, npo_error *error)
{
    file->shards = calloc(1, sizeof *file->shards);
    if (!file->shards)
        return NPO_E_NOMEM;
    file->shard_count = 1;
    NPO_TRY(open_shard(file->path, &file->shards[0], error));
    return collect(file, error);
}

npo_err npo_safetensors_open(const char *path, npo_safetensors **ret_file, npo_error *error)
{
    npo_safetensors *file = calloc(1, sizeof *file);
    npo_err err = file && (file->path = strdup(path)) ? NPO_OK : NPO_E_NOMEM;
    if (!err)
        err = ends_with(path, ".json") ? open_index(file, error) : open_single(file, error);
    if (err == NPO_E_NOMEM)
        npo_error_set(error, err, "cannot read '%s': out of memory", path);
    if (err) {
        npo_safetensors_close(file);
        return err;
    }
    *ret_file = file;
    return NPO_OK;
}

void npo_safetensors_close(npo_safetensors *file)
{
    if (!file)
        return;
    for (size_t i = 0; i < file->shard_count; i++) {
        npo_file_map_close(&file->shards[i].map);
        npo_tensor_header_fini(&file->shards[i].header);
        free(file->shards[i].name);
    }
    free(file->shards);
    free(file->tensors);
    free(file->path);
    free(file);
}

/* ---- access ---- */

const char *npo_safetensors_path(const npo_safetensors *file)
{
    return file->path;
}

size_t npo_safetensors_count(const npo_safetensors *file)
{
    return file->count;
}

const npo_tensor *npo_safetensors_at(const npo_safetensors *file, size_t index)
{
    assert(index < file->count);
    return &file->tensors[index];
}

const npo_tensor *npo_safetensors_find(const npo_safetensors *file, const char *name)
{
    npo_tensor key = {.name = name};
    return bsearch(&key, file->tensors, file->count, sizeof key, compare_tensors);
}

const char *npo_safetensors_metadata(const npo_safetensors *file, const char *key)
{
    for (size_t i = 0; i < file->shard_count; i++) {
        const npo_tensor_header *header = &file->shards[i].header;
        for (size_t k = 0; k < header->metadata_count; k++)
            if (strcmp(header->metadata[k].key, key) == 0)
                return header->metadata[k].value;
    }
    return NULL;
}

/* ---- elements ---- */

/* One row per dtype: element bytes at `from` (possibly unaligned) as f32. */
#define NPO_READ_F32(name, type, expression)                                                       \
    static void name(const uint8_t *from, size_t n, float *to)                                     \
    {                                                                                              \
        for (size_t i = 0; i < n; i++) {                                                           \
            type v;                                                                                \
            memcpy(&v, from + i * sizeof v, sizeof v);                                             \
            to[i] = expression;                                                                    \
        }                                                                                          \
    }
NPO_READ_F32(f32_from_u8, uint8_t, (float)v)
NPO_READ_F32(f32_from_f16, uint16_t, npo_f32_from_f16(v))
NPO_READ_F32(f32_from_bf16, uint16_t, npo_f32_from_bf16(v))
NPO_READ_F32(f32_from_i32, int32_t, (float)v)
NPO_READ_F32(f32_from_f32, float, v)
NPO_READ_F32(f32_from_i64, int64_t, (float)v)
#undef NPO_READ_F32

void npo_tensor_read_f32(const npo_tensor *tensor, size_t first, size_t n, float *ret_values)
{
    static void (*const read[NPO_TENSOR_DTYPES])(const uint8_t *, size_t, float *) = {
        [NPO_TENSOR_U8] = f32_from_u8,     [NPO_TENSOR_F16] = f32_from_f16,
        [NPO_TENSOR_BF16] = f32_from_bf16, [NPO_TENSOR_I32] = f32_from_i32,
        [NPO_TENSOR_F32] = f32_from_f32,   [NPO_TENSOR_I64] = f32_from_i64,
    };
    assert(first <= tensor->count && n <= tensor->count - first);
    read[tensor->dtype](tensor->data + first * npo_tensor_dtype_bytes(tensor->dtype), n,
                        ret_values);
}

bool npo_tensor_is_float(const npo_tensor *tensor)
{
    return tensor->dtype == NPO_TENSOR_F32 || tensor->dtype == NPO_TENSOR_F16 ||
           tensor->dtype == NPO_TENSOR_BF16;
}

npo_err npo_tensor_read_finite(const npo_tensor *tensor, size_t first, size_t n, float *ret_values,
                               npo_error *error)
{
    /* In blocks, so that the check finds the values still in the cache. */
    for (size_t done = 0, block; done < n; done += block) {
        block = n - done < FINITE_BLOCK ? n - done : FINITE_BLOCK;
        npo_tensor_read_f32(tensor, first + done, block, ret_values + done);
        if (npo_f32_all_finite(ret_values + done, block))
            continue;
        while (npo_f32_all_finite(ret_values + done, 1))
            done++;
        return npo_error_set(error, NPO_E_RANGE,
                             "'%.200s': element %zu is %g, expected a finite number", tensor->name,
                             first + done, (double)ret_values[done]);
    }
    return NPO_OK;
}

void npo_tensor_release(const npo_tensor *tensor)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)tensor->data + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)tensor->data + tensor->bytes) / page * page;
    if (end > begin)
        (void)madvise((void *)begin, end - begin, MADV_DONTNEED); /* advice: failure costs memory */
}

void npo_tensor_read_i64(const npo_tensor *tensor, size_t first, size_t n, int64_t *ret_values)
{
    assert(first <= tensor->count && n <= tensor->count - first);
    size_t size = npo_tensor_dtype_bytes(tensor->dtype);
    for (size_t i = 0; i < n; i++) {
        const uint8_t *from = tensor->data + (first + i) * size;
        int32_t narrow;
        switch (tensor->dtype) {
        case NPO_TENSOR_U8:
            ret_values[i] = *from;
            break;
        case NPO_TENSOR_I32:
            memcpy(&narrow, from, sizeof narrow);
            ret_values[i] = narrow;
            break;
        default:
            assert(tensor->dtype == NPO_TENSOR_I64);
            memcpy(&ret_values[i], from, sizeof *ret_values);
        }
    }
}
