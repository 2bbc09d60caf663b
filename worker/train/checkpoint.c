#include "worker/train/checkpoint.h"

#include "common/bounds.h"
#include "worker/model/files/safetensors.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TENSOR_NAME_MAX (NPO_PARAM_NAME_MAX + 20)

static_assert(NPO_CHECKPOINT_VERSION == 2, "the format below writes version 2");

/* ---- what a file holds ---- */

/* A tensor of the file and its place in memory; data is NULL where nobody wants it. */
typedef struct {
    char name[TENSOR_NAME_MAX];
    npo_tensor_dtype dtype;
    int ndim;
    int64_t dims[NPO_PARAM_DIMS_MAX];
    size_t count;
    bool non_negative; /* every value */
    void *data;
} item;

typedef struct {
    item *items;
    size_t count;
} listing;

static const struct {
    const char *prefix, *absmax_prefix;
    bool non_negative;
} moment_rows[] = {
    [NPO_EXP_AVG] = {"exp_avg.", "exp_avg_absmax.", false},
    [NPO_EXP_AVG_SQ] = {"exp_avg_sq.", "exp_avg_sq_absmax.", true},
};
static_assert(sizeof moment_rows / sizeof *moment_rows == NPO_MOMENTS_COUNT, "one row a moment");

enum { ITEMS_A_TENSOR = 2 + 2 * NPO_MOMENTS_COUNT };

/* A tensor shaped as that of the network. */
static item *add_item(listing *list, const char *prefix, const npo_param_info *info, void *data)
{
    item *added = &list->items[list->count++];
    *added =
        (item){.dtype = NPO_TENSOR_F32, .ndim = info->ndim, .count = info->count, .data = data};
    memcpy(added->dims, info->dims, sizeof info->dims);
    snprintf(added->name, sizeof added->name, "%s%s", prefix, info->name);
    return added;
}

static void add_set(listing *list, const char *prefix, const npo_layout *layout,
                    const npo_params *set)
{
    for (size_t i = 0; i < npo_layout_count(layout); i++) {
        const npo_param_info *info = npo_layout_at(layout, i);
        add_item(list, prefix, info, set ? (void *)(npo_params_data(set) + info->offset) : NULL);
    }
}

static void add_moment(listing *list, npo_moment_kind which, npo_optimizer_kind kind,
                       const npo_param_info *info, npo_moment moment)
{
    item *added = add_item(list, moment_rows[which].prefix, info, moment.values);
    added->non_negative = moment_rows[which].non_negative;
    if (!npo_moments_is_8bit(kind, info))
        return;
    added->dtype = NPO_TENSOR_U8;
    added->data = moment.blocks.codes;
    item *absmax = add_item(list, moment_rows[which].absmax_prefix, info, moment.blocks.absmax);
    absmax->ndim = 1;
    absmax->count = npo_blockwise_blocks(info->count);
    absmax->dims[0] = (int64_t)absmax->count;
    absmax->non_negative = true;
}

static void add_moments(listing *list, npo_moment_kind which, npo_optimizer_kind kind,
                        const npo_layout *layout, const npo_moments *moments)
{
    for (size_t i = 0; i < npo_layout_count(layout); i++) {
        npo_moment none = {0};
        add_moment(list, which, kind, npo_layout_at(layout, i),
                   moments ? npo_moments_at(moments, which, i) : none);
    }
}

static npo_err list_items(const npo_checkpoint_sets *sets, npo_optimizer_kind kind,
                          listing *ret_list)
{
    const npo_layout *layout = npo_params_layout(sets->student ? sets->student : sets->ema);
    ret_list->items =
        calloc(npo_layout_count(layout) + 1, ITEMS_A_TENSOR * sizeof *ret_list->items);
    if (!ret_list->items)
        return NPO_E_NOMEM;
    add_set(ret_list, "student.", layout, sets->student);
    add_set(ret_list, "ema.", layout, sets->ema);
    for (int which = 0; which < NPO_MOMENTS_COUNT; which++)
        add_moments(ret_list, (npo_moment_kind)which, kind, layout, sets->moments);
    return NPO_OK;
}

/* ---- writing ---- */

enum { LORA_KEYS = 3 }; /* the last ones, which only a LoRA's checkpoint has */

static npo_err write_items(const char *path, const listing *list,
                           const npo_tensor_metadata *metadata, size_t metadata_count,
                           npo_error *error)
{
    npo_tensor_source *sources = calloc(list->count + 1, sizeof *sources);
    if (!sources)
        return npo_error_set(error, NPO_E_NOMEM, "cannot write '%s': out of memory", path);
    for (size_t i = 0; i < list->count; i++) {
        const item *from = &list->items[i];
        sources[i] = (npo_tensor_source){
            .name = from->name, .dtype = from->dtype, .ndim = from->ndim, .data = from->data};
        memcpy(sources[i].dims, from->dims, sizeof from->dims);
    }
    npo_err err =
        npo_safetensors_write(path, sources, list->count, metadata, metadata_count, error);
    free(sources);
    return err;
}

npo_err npo_checkpoint_save(const char *path, const npo_checkpoint_sets *sets,
                            const npo_checkpoint_meta *meta, npo_error *error)
{
    char step[32], cursor[32], hyper[NPO_HASH_TEXT_SIZE], rank[32], alpha[32];
    npo_optimizer_kind kind = npo_moments_optimizer(sets->moments);
    snprintf(step, sizeof step, "%lld", (long long)meta->step);
    snprintf(cursor, sizeof cursor, "%lld", (long long)meta->cursor);
    npo_hash_format(&meta->hyper, hyper);
    const npo_tensor_metadata metadata[] = {
        {"npo", "checkpoint"},
        {"version", "2"},
        {"step", step},
        {"cursor", cursor},
        {"hyper", hyper},
        {"numeric_class", meta->numeric_class},
        {"optimizer", npo_optimizer_name(kind)},
        {"lora_rank", rank},
        {"lora_alpha", alpha},
        {"lora_targets", npo_lora_targets_name((int)meta->lora.targets)},
    };
    size_t count = sizeof metadata / sizeof metadata[0] - (meta->lora.rank ? 0 : LORA_KEYS);
    snprintf(rank, sizeof rank, "%lld", (long long)meta->lora.rank);
    snprintf(alpha, sizeof alpha, "%.17g", meta->lora.alpha);
    listing list = {0};
    npo_err err = list_items(sets, kind, &list);
    if (err)
        npo_error_set(error, err, "cannot write '%s': out of memory", path);
    else
        err = write_items(path, &list, metadata, count, error);
    free(list.items);
    return err;
}

/* ---- reading ---- */

static npo_err read_count(const npo_safetensors *file, const char *key, int64_t *ret_value,
                          npo_error *error)
{
    const char *text = npo_safetensors_metadata(file, key);
    char *end = NULL;
    errno = 0;
    long long value = text ? strtoll(text, &end, 10) : -1;
    if (!text || end == text || *end || errno || value < 0)
        return npo_error_set(error, NPO_E_FORMAT,
                             "cannot load '%s': '%s' is '%s', expected a whole number",
                             npo_safetensors_path(file), key, text ? text : "missing");
    *ret_value = value;
    return NPO_OK;
}

static npo_err read_optimizer(const npo_safetensors *file, npo_optimizer_kind *ret_kind,
                              npo_error *error)
{
    const char *name = npo_safetensors_metadata(file, "optimizer");
    for (int kind = NPO_OPTIMIZER_ADAMW; name && kind <= NPO_OPTIMIZER_ADAMW8BIT; kind++) {
        if (strcmp(name, npo_optimizer_name((npo_optimizer_kind)kind)) != 0)
            continue;
        *ret_kind = (npo_optimizer_kind)kind;
        return NPO_OK;
    }
    return npo_error_set(error, NPO_E_FORMAT,
                         "cannot load '%s': 'optimizer' is '%s', expected 'adamw' or 'adamw8bit'",
                         npo_safetensors_path(file), name ? name : "missing");
}

static npo_err read_lora(const npo_safetensors *file, npo_lora_options *ret_lora, npo_error *error)
{
    const char *alpha = npo_safetensors_metadata(file, "lora_alpha");
    const char *targets = npo_safetensors_metadata(file, "lora_targets");
    npo_lora_options lora = {0};
    if (!npo_safetensors_metadata(file, "lora_rank"))
        return NPO_OK;
    NPO_TRY(read_count(file, "lora_rank", &lora.rank, error));
    lora.alpha = alpha ? strtod(alpha, NULL) : 0;
    bool known = false;
    for (int i = NPO_LORA_ATTENTION; targets && i <= NPO_LORA_ALL; i++)
        if (strcmp(targets, npo_lora_targets_name(i)) == 0) {
            lora.targets = (npo_lora_targets)i;
            known = true;
        }
    if (!known || lora.rank < 1 || lora.rank > NPO_LORA_RANK_MAX || !(lora.alpha > 0) ||
        !isfinite(lora.alpha))
        return npo_error_set(error, NPO_E_FORMAT,
                             "cannot load '%s': a LoRA of rank %lld, alpha '%s', targets '%s', "
                             "expected a rank up to %d, an alpha above 0 and known targets",
                             npo_safetensors_path(file), (long long)lora.rank,
                             alpha ? alpha : "missing", targets ? targets : "missing",
                             NPO_LORA_RANK_MAX);
    *ret_lora = lora;
    return NPO_OK;
}

static npo_err read_meta(const npo_safetensors *file, npo_checkpoint_meta *ret_meta,
                         npo_error *error)
{
    const char *path = npo_safetensors_path(file);
    const char *kind = npo_safetensors_metadata(file, "npo");
    const char *version = npo_safetensors_metadata(file, "version");
    const char *hyper = npo_safetensors_metadata(file, "hyper");
    const char *numeric_class = npo_safetensors_metadata(file, "numeric_class");
    if (!kind || strcmp(kind, "checkpoint") != 0)
        return npo_error_set(error, NPO_E_FORMAT,
                             "cannot load '%s': kind '%s', expected 'checkpoint'", path,
                             kind ? kind : "none");
    if (!version || (strcmp(version, "1") != 0 && strcmp(version, "2") != 0))
        return npo_error_set(error, NPO_E_VERSION,
                             "cannot load '%s': checkpoint of version '%s', expected '1' or '2'",
                             path, version ? version : "none");
    npo_checkpoint_meta meta = {0};
    if (strcmp(version, "2") == 0)
        NPO_TRY(read_optimizer(file, &meta.optimizer, error));
    NPO_TRY(read_lora(file, &meta.lora, error));
    NPO_TRY(read_count(file, "step", &meta.step, error));
    NPO_TRY(read_count(file, "cursor", &meta.cursor, error));
    if (!hyper || npo_hash_parse(hyper, &meta.hyper))
        return npo_error_set(error, NPO_E_FORMAT,
                             "cannot load '%s': 'hyper' is '%s', expected 32 hex digits", path,
                             hyper ? hyper : "missing");
    if (!numeric_class || strlen(numeric_class) >= sizeof meta.numeric_class)
        return npo_error_set(
            error, NPO_E_FORMAT, "cannot load '%s': 'numeric_class' is %s, expected up to %d bytes",
            path, numeric_class ? "too long" : "missing", NPO_CHECKPOINT_CLASS_MAX - 1);
    strcpy(meta.numeric_class, numeric_class);
    *ret_meta = meta;
    return NPO_OK;
}

npo_err npo_checkpoint_read_meta(const char *path, npo_checkpoint_meta *ret_meta, npo_error *error)
{
    npo_safetensors *file = NULL;
    NPO_TRY(npo_safetensors_open(path, &file, error));
    npo_err err = read_meta(file, ret_meta, error);
    npo_safetensors_close(file);
    return err;
}

static npo_err check_values(const npo_tensor *tensor, bool non_negative, const char *path,
                            npo_error *error)
{
    enum { BLOCK = 4096 };
    float values[BLOCK];
    for (size_t first = 0; first < tensor->count; first += BLOCK) {
        size_t n = tensor->count - first < BLOCK ? tensor->count - first : BLOCK;
        npo_tensor_read_f32(tensor, first, n, values);
        bool is_right = true;
        for (size_t i = 0; i < n; i++)
            is_right &= isfinite(values[i]) && (!non_negative || values[i] >= 0);
        if (!is_right)
            return npo_error_set(
                error, NPO_E_RANGE, "cannot load '%s': '%s' holds a value that is %s", path,
                tensor->name, non_negative ? "not finite or negative" : "not finite");
    }
    return NPO_OK;
}

static npo_err check_item(const npo_safetensors *file, const item *expected, npo_error *error)
{
    const char *path = npo_safetensors_path(file);
    const npo_tensor *tensor = npo_safetensors_find(file, expected->name);
    if (!tensor)
        return npo_error_set(error, NPO_E_NOT_FOUND, "cannot load '%s': no tensor '%s'", path,
                             expected->name);
    if (tensor->dtype != expected->dtype)
        return npo_error_set(error, NPO_E_TYPE, "cannot load '%s': '%s' is %s, expected %s", path,
                             expected->name, npo_tensor_dtype_name(tensor->dtype),
                             npo_tensor_dtype_name(expected->dtype));
    if (tensor->ndim != expected->ndim ||
        memcmp(tensor->dims, expected->dims, (size_t)expected->ndim * sizeof *expected->dims) != 0)
        return npo_error_set(error, NPO_E_SHAPE,
                             "cannot load '%s': '%s' has %zu values in %d dimensions, expected %zu "
                             "in %d of the network's shape",
                             path, expected->name, tensor->count, tensor->ndim, expected->count,
                             expected->ndim);
    return check_values(tensor, expected->non_negative, path, error);
}

static npo_err check_items(const npo_safetensors *file, const listing *list, npo_error *error)
{
    for (size_t i = 0; i < list->count; i++)
        NPO_TRY(check_item(file, &list->items[i], error));
    /* Every expected name was found, so a higher count means others beside them. */
    if (npo_safetensors_count(file) != list->count)
        return npo_error_set(error, NPO_E_FORMAT, "cannot load '%s': %zu tensors, expected %zu",
                             npo_safetensors_path(file), npo_safetensors_count(file), list->count);
    return NPO_OK;
}

static npo_err check_optimizer(const npo_safetensors *file, npo_optimizer_kind found,
                               const npo_moments *moments, npo_error *error)
{
    if (!moments || npo_moments_optimizer(moments) == found)
        return NPO_OK;
    return npo_error_set(error, NPO_E_STATE,
                         "cannot load '%s': the state of optimizer '%s', expected that of '%s'",
                         npo_safetensors_path(file), npo_optimizer_name(found),
                         npo_optimizer_name(npo_moments_optimizer(moments)));
}

static void read_items(const npo_safetensors *file, const listing *list)
{
    for (size_t i = 0; i < list->count; i++) {
        const item *into = &list->items[i];
        const npo_tensor *tensor = npo_safetensors_find(file, into->name);
        if (into->data && into->dtype == NPO_TENSOR_U8)
            memcpy(into->data, tensor->data, tensor->bytes);
        else if (into->data)
            npo_tensor_read_f32(tensor, 0, tensor->count, into->data);
    }
}

npo_err npo_checkpoint_load(const char *path, const npo_checkpoint_sets *sets,
                            npo_checkpoint_meta *ret_meta, npo_error *error)
{
    npo_safetensors *file = NULL;
    npo_checkpoint_meta meta;
    listing list = {0};
    assert(sets->student || sets->ema);
    npo_err err = npo_safetensors_open(path, &file, error);
    if (!err)
        err = read_meta(file, &meta, error);
    if (!err)
        err = check_optimizer(file, meta.optimizer, sets->moments, error);
    if (!err && (err = list_items(sets, meta.optimizer, &list)))
        npo_error_set(error, err, "cannot load '%s': out of memory", path);
    if (!err)
        err = check_items(file, &list, error);
    if (err)
        goto out;
    npo_params *const written[] = {sets->student, sets->ema};
    for (int i = 0; i < 2; i++)
        if (written[i])
            npo_params_edit(written[i]); /* so that packed weights are made anew */
    read_items(file, &list);
    *ret_meta = meta;
out:
    free(list.items);
    npo_safetensors_close(file);
    return err;
}
