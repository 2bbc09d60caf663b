#include "worker/model/files/lora.h"

#include "common/file.h"
#include "common/json.h"
#include "worker/model/files/complaints.h"
#include "worker/model/files/module_names.h"

#include <assert.h>
#include <libgen.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Tensors of a module, in the order in which they stand in a file. */
enum { DOWN, UP, ALPHA, KINDS };

static const struct {
    const char *suffix;
    int kind;
} suffixes[] = {
    {".lora_A.weight", DOWN},    {".lora_B.weight", UP},         {".lora_A.default.weight", DOWN},
    {".lora_down.weight", DOWN}, {".lora_B.default.weight", UP}, {".lora_up.weight", UP},
    {".lora.down.weight", DOWN}, {".lora.up.weight", UP},        {".alpha", ALPHA},
};

static const char *const prefixes[] = {
    "base_model.model.unet.", "base_model.model.", "unet.", "lora_unet_", "diffusion_model.", "",
};

static const char *const text_prefixes[] = {
    "text_encoder.", "text_encoder_2.",
    "lora_te_",      "lora_te1_",
    "lora_te2_",     "base_model.model.text_model.",
    "te_",           "base_model.model.text_encoder.",
};

typedef struct {
    const npo_tensor *tensors[KINDS];
} found_module;

/* What stands in files beside the tensors, as peft names it. */
typedef struct {
    cJSON *json;        /* NULL: nothing */
    const char *prefix; /* of its keys: "unet." or "" */
} adapter_config;

typedef struct {
    const npo_safetensors *file;
    const npo_layout *layout;
    npo_module_names *names;
    found_module *modules; /* [tensors of the layout] */
    size_t text_tensors;
    npo_complaints complaints;
} reading;

/* ---- names ---- */

static bool starts_with(const char *text, const char *start)
{
    return strncmp(text, start, strlen(start)) == 0;
}

static bool is_text_name(const char *name)
{
    for (size_t i = 0; i < sizeof text_prefixes / sizeof *text_prefixes; i++)
        if (starts_with(name, text_prefixes[i]))
            return true;
    return false;
}

/* The kind of tensor, or KINDS; *ret_len: bytes of the module's name. */
static int kind_of(const char *name, size_t *ret_len)
{
    size_t len = strlen(name);
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        size_t n = strlen(suffixes[i].suffix);
        if (len > n && strcmp(name + len - n, suffixes[i].suffix) == 0) {
            *ret_len = len - n;
            return suffixes[i].kind;
        }
    }
    return KINDS;
}

/* The layout's weight of the module, or NULL. */
static const npo_param_info *find_module(const reading *r, const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        size_t n = strlen(prefixes[i]);
        const npo_param_info *info = n < len && starts_with(name, prefixes[i])
                                         ? npo_module_names_find(r->names, name + n, len - n)
                                         : NULL;
        if (info)
            return info;
    }
    return NULL;
}

static void sort_tensor(reading *r, const npo_tensor *tensor)
{
    size_t len = 0;
    int kind = kind_of(tensor->name, &len);
    if (is_text_name(tensor->name)) {
        r->text_tensors++;
        return;
    }
    if (kind == KINDS) {
        npo_complain(&r->complaints, NPO_E_UNSUPPORTED,
                     "'%.200s': not a tensor of a LoRA in PEFT or kohya names", tensor->name);
        return;
    }
    const npo_param_info *info = find_module(r, tensor->name, len);
    if (!info) {
        npo_complain(&r->complaints, NPO_E_USAGE, "'%.200s': the network has no such module",
                     tensor->name);
        return;
    }
    found_module *module = &r->modules[info - npo_layout_at(r->layout, 0)];
    if (module->tensors[kind])
        npo_complain(&r->complaints, NPO_E_EXISTS, "'%.200s': second such tensor for module '%s'",
                     tensor->name, info->name);
    else
        module->tensors[kind] = tensor;
}

/* ---- shapes ---- */

static int64_t rank_of(const found_module *module)
{
    return module->tensors[DOWN]->dims[0];
}

static void check_shape(reading *r, const npo_tensor *tensor, int ndim, const int64_t *dims)
{
    if (tensor->ndim != ndim || memcmp(tensor->dims, dims, (size_t)ndim * sizeof *dims) != 0)
        npo_complain_shape(&r->complaints, tensor->name, tensor->ndim, tensor->dims, ndim, dims);
    else if (!npo_tensor_is_float(tensor))
        npo_complain(&r->complaints, NPO_E_TYPE, "'%.200s': dtype %s, expected F32, F16 or BF16",
                     tensor->name, npo_tensor_dtype_name(tensor->dtype));
}

static void check_pair(reading *r, const npo_param_info *info, const found_module *module)
{
    const npo_tensor *down = module->tensors[DOWN];
    int64_t rank = down->ndim ? down->dims[0] : 0;
    if (rank < 1 || rank > NPO_LORA_RANK_MAX) {
        npo_complain(&r->complaints, NPO_E_SHAPE, "'%.200s': rank %lld, expected 1 to %d",
                     down->name, (long long)rank, NPO_LORA_RANK_MAX);
        return;
    }
    int64_t down_dims[NPO_PARAM_DIMS_MAX],
        up_dims[NPO_PARAM_DIMS_MAX] = {info->dims[0], rank, 1, 1};
    memcpy(down_dims, info->dims, sizeof down_dims);
    down_dims[0] = rank;
    check_shape(r, down, info->ndim, down_dims);
    check_shape(r, module->tensors[UP], info->ndim, up_dims);
}

static void check_alpha(reading *r, const npo_tensor *alpha)
{
    if (alpha && alpha->count != 1)
        npo_complain(&r->complaints, NPO_E_SHAPE, "'%.200s': %zu values, expected one", alpha->name,
                     alpha->count);
}

static void check_module(reading *r, const npo_param_info *info, const found_module *module)
{
    static const char *const expected[] = {[DOWN] = "down (lora_A)", [UP] = "up (lora_B)"};
    const npo_tensor *any = NULL;
    for (int kind = 0; kind < KINDS; kind++)
        any = any ? any : module->tensors[kind];
    if (!any)
        return;
    for (int kind = DOWN; kind <= UP; kind++)
        if (!module->tensors[kind]) {
            npo_complain(&r->complaints, NPO_E_NOT_FOUND, "'%.200s': the module's %s is missing",
                         any->name, expected[kind]);
            return;
        }
    check_pair(r, info, module);
    check_alpha(r, module->tensors[ALPHA]);
}

/* ---- alpha ---- */

enum { CONFIG_BYTES_MAX = 4 << 20 };

static npo_err parse_metadata(const npo_safetensors *file, adapter_config *config, npo_error *error)
{
    const char *text = npo_safetensors_metadata(file, "lora_adapter_metadata");
    return text ? npo_json_parse(text, strlen(text), "lora_adapter_metadata", &config->json, error)
                : NPO_OK;
}

static npo_err load_config(const npo_safetensors *file, adapter_config *config, npo_error *error)
{
    char *copy = strdup(npo_safetensors_path(file));
    char *path = copy ? npo_file_join(dirname(copy), "adapter_config.json") : NULL;
    npo_err err = NPO_OK;
    if (!path)
        err = npo_error_set(error, NPO_E_NOMEM, "out of memory");
    else if (npo_file_exists(path))
        err = npo_json_load(path, CONFIG_BYTES_MAX, &config->json, error);
    free(path);
    free(copy);
    return err;
}

static npo_err open_config(const npo_safetensors *file, adapter_config *config, npo_error *error)
{
    NPO_TRY(parse_metadata(file, config, error));
    if (!config->json)
        NPO_TRY(load_config(file, config, error));
    const char *prefix = "unet.";
    bool prefixed = false;
    for (const cJSON *item = config->json ? config->json->child : NULL; item; item = item->next)
        prefixed = prefixed || starts_with(item->string ? item->string : "", prefix);
    config->prefix = prefixed ? prefix : "";
    return NPO_OK;
}

static const cJSON *config_item(const adapter_config *config, const char *key)
{
    char name[64];
    snprintf(name, sizeof name, "%s%s", config->prefix, key);
    return cJSON_GetObjectItemCaseSensitive(config->json, name);
}

/* The pattern's value for the module, as peft matches keys: the module's whole name or its end
 * behind a '.'. */
static double pattern_value(const adapter_config *config, const char *key, const char *module,
                            double fallback)
{
    const cJSON *pattern = config_item(config, key);
    size_t len = strlen(module);
    for (const cJSON *item = pattern ? pattern->child : NULL; item; item = item->next) {
        size_t n = item->string ? strlen(item->string) : 0;
        if (n && n <= len && cJSON_IsNumber(item) && strcmp(module + len - n, item->string) == 0 &&
            (n == len || module[len - n - 1] == '.'))
            return item->valuedouble;
    }
    return fallback;
}

static double alpha_of(const adapter_config *config, const npo_lora_layer *layer)
{
    const cJSON *alpha = config_item(config, "lora_alpha");
    double value = cJSON_IsNumber(alpha) ? alpha->valuedouble : (double)layer->rank;
    value = pattern_value(config, "alpha_pattern", layer->module, value);
    return cJSON_IsTrue(config_item(config, "use_rslora")) ? value * sqrt((double)layer->rank)
                                                           : value;
}

static npo_err check_config(const adapter_config *config, npo_error *error)
{
    if (cJSON_IsTrue(config_item(config, "use_dora")))
        return npo_error_set(error, NPO_E_UNSUPPORTED, "'use_dora' is true, expected a plain LoRA");
    return NPO_OK;
}

/* ---- reading ---- */

static npo_err read_values(const npo_tensor *tensor, float **ret_values, npo_error *error)
{
    *ret_values = malloc(tensor->count * sizeof **ret_values);
    if (!*ret_values)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    NPO_TRY(npo_tensor_read_finite(tensor, 0, tensor->count, *ret_values, error));
    npo_tensor_release(tensor);
    return NPO_OK;
}

static npo_err read_alpha(const found_module *module, const adapter_config *config,
                          npo_lora_layer *layer, npo_error *error)
{
    double value = alpha_of(config, layer);
    if (!module->tensors[ALPHA]) {
        layer->alpha = (float)value;
        if (isfinite(layer->alpha))
            return NPO_OK;
        return npo_error_set(error, NPO_E_RANGE, "alpha of '%s' is %g, expected a finite number",
                             layer->module, value);
    }
    return npo_tensor_read_finite(module->tensors[ALPHA], 0, 1, &layer->alpha, error);
}

static npo_err read_layer(const npo_param_info *info, const found_module *module,
                          const adapter_config *config, npo_lora_layer *layer, npo_error *error)
{
    *layer = (npo_lora_layer){.rank = rank_of(module), .ndim = info->ndim};
    memcpy(layer->dims, info->dims, sizeof layer->dims);
    snprintf(layer->module, sizeof layer->module, "%.*s",
             (int)(strlen(info->name) - strlen(".weight")), info->name);
    NPO_TRY(read_alpha(module, config, layer, error));
    NPO_TRY(read_values(module->tensors[DOWN], &layer->down, error));
    return read_values(module->tensors[UP], &layer->up, error);
}

static npo_err read_layers(const reading *r, const adapter_config *config, npo_lora *lora,
                           npo_error *error)
{
    size_t tensors = npo_layout_count(r->layout);
    lora->layers = calloc(tensors ? tensors : 1, sizeof *lora->layers);
    if (!lora->layers)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    for (size_t i = 0; i < tensors; i++)
        if (r->modules[i].tensors[DOWN])
            NPO_TRY(read_layer(npo_layout_at(r->layout, i), &r->modules[i], config,
                               &lora->layers[lora->count++], error));
    lora->text_tensors = r->text_tensors;
    return NPO_OK;
}

static npo_err check(reading *r, npo_error *error)
{
    bool any = false;
    for (size_t i = 0; i < npo_safetensors_count(r->file); i++)
        sort_tensor(r, npo_safetensors_at(r->file, i));
    for (size_t i = 0; i < npo_layout_count(r->layout); i++) {
        check_module(r, npo_layout_at(r->layout, i), &r->modules[i]);
        any = any || r->modules[i].tensors[DOWN];
    }
    const char *path = npo_safetensors_path(r->file);
    NPO_TRY(npo_complaints_finish(&r->complaints, path, error));
    return any ? NPO_OK
               : npo_error_set(error, NPO_E_USAGE, "cannot load '%s': it has no LoRA of a UNet",
                               path);
}

static npo_err read_lora(reading *r, npo_lora *lora, npo_error *error)
{
    size_t tensors = npo_layout_count(r->layout);
    const char *path = npo_safetensors_path(r->file);
    adapter_config config = {0};
    npo_err err = npo_module_names_new(r->layout, &r->names);
    r->modules = calloc(tensors ? tensors : 1, sizeof *r->modules);
    if (err || !r->modules)
        return npo_error_set(error, NPO_E_NOMEM, "cannot load '%s': out of memory", path);
    NPO_TRY(check(r, error));
    err = open_config(r->file, &config, error);
    if (!err)
        err = check_config(&config, error);
    if (!err)
        err = read_layers(r, &config, lora, error);
    if (err)
        npo_error_prefix(error, err, "cannot load '%s'", path);
    cJSON_Delete(config.json);
    return err;
}

npo_err npo_lora_load(const char *path, const npo_layout *layout, npo_lora *ret_lora,
                      npo_error *error)
{
    npo_safetensors *file = NULL;
    npo_lora lora = {0};
    NPO_TRY(npo_safetensors_open(path, &file, error));
    reading r = {.file = file, .layout = layout};
    npo_err err = read_lora(&r, &lora, error);
    if (err)
        npo_lora_fini(&lora);
    else
        *ret_lora = lora;
    npo_module_names_free(r.names);
    free(r.modules);
    npo_safetensors_close(file);
    return err;
}

/* ---- writing ---- */

static const struct {
    const char *prefix, *suffixes[KINDS];
    bool underscores;
} styles[] = {
    [NPO_LORA_PEFT] = {"unet.", {".lora_A.weight", ".lora_B.weight"}, false},
    [NPO_LORA_KOHYA] = {"lora_unet_", {".lora_down.weight", ".lora_up.weight", ".alpha"}, true},
};

/* The tensors of one layer on their way out. */
typedef struct {
    char names[KINDS][NPO_PARAM_NAME_MAX + 40];
    float *up; /* NULL: the layer's own */
} written;

static void name_tensors(const npo_lora_layer *layer, npo_lora_names names, written *w)
{
    for (int kind = 0; kind < KINDS && styles[names].suffixes[kind]; kind++) {
        char *at = w->names[kind] +
                   snprintf(w->names[kind], sizeof w->names[kind], "%s", styles[names].prefix);
        snprintf(at, sizeof w->names[kind] - (size_t)(at - w->names[kind]), "%s", layer->module);
        for (; styles[names].underscores && *at; at++)
            *at = *at == '.' ? '_' : *at;
        size_t len = strlen(w->names[kind]);
        snprintf(w->names[kind] + len, sizeof w->names[kind] - len, "%s",
                 styles[names].suffixes[kind]);
    }
}

static npo_err fold_alpha(const npo_lora_layer *layer, written *w)
{
    size_t count = (size_t)(layer->dims[0] * layer->rank);
    float factor = layer->alpha / (float)layer->rank;
    if (factor == 1)
        return NPO_OK;
    w->up = malloc(count * sizeof *w->up);
    if (!w->up)
        return NPO_E_NOMEM;
    for (size_t i = 0; i < count; i++)
        w->up[i] = layer->up[i] * factor;
    return NPO_OK;
}

/* Returns how many sources were filled. */
static size_t fill_sources(const npo_lora_layer *layer, const written *w, npo_tensor_dtype dtype,
                           npo_tensor_source *sources)
{
    npo_tensor_source down = {w->names[DOWN], dtype, layer->ndim, {0}, layer->down};
    npo_tensor_source up = {w->names[UP],
                            dtype,
                            layer->ndim,
                            {layer->dims[0], layer->rank, 1, 1},
                            w->up ? w->up : layer->up};
    npo_tensor_source alpha = {w->names[ALPHA], dtype, 0, {0}, &layer->alpha};
    memcpy(down.dims, layer->dims, sizeof layer->dims);
    down.dims[0] = layer->rank;
    sources[DOWN] = down;
    sources[UP] = up;
    if (!*w->names[ALPHA])
        return ALPHA;
    sources[ALPHA] = alpha;
    return KINDS;
}

npo_err npo_lora_save(const char *path, const npo_lora *lora, npo_lora_names names,
                      npo_tensor_dtype dtype, npo_error *error)
{
    static const npo_tensor_metadata format = {"format", "pt"};
    size_t count = 0, cap = lora->count ? lora->count : 1;
    npo_tensor_source *sources = calloc(cap, KINDS * sizeof *sources);
    written *all = calloc(cap, sizeof *all);
    npo_err err = sources && all ? NPO_OK : NPO_E_NOMEM;
    for (size_t i = 0; !err && i < lora->count; i++) {
        name_tensors(&lora->layers[i], names, &all[i]);
        if (names == NPO_LORA_PEFT)
            err = fold_alpha(&lora->layers[i], &all[i]);
        count += fill_sources(&lora->layers[i], &all[i], dtype, sources + count);
    }
    if (err)
        npo_error_set(error, err, "cannot write '%s': out of memory", path);
    else
        err = npo_safetensors_write(path, sources, count, &format, 1, error);
    for (size_t i = 0; all && i < lora->count; i++)
        free(all[i].up);
    free(all);
    free(sources);
    return err;
}

/* ---- applying ---- */

static void apply_layer(const npo_lora_layer *layer, float scale, float *weight)
{
    size_t rank = (size_t)layer->rank, rows = (size_t)layer->dims[0], cols = 1;
    for (int i = 1; i < layer->ndim; i++)
        cols *= (size_t)layer->dims[i];
    for (size_t row = 0; row < rows; row++)
        for (size_t k = 0; k < rank; k++) {
            const float factor = scale * layer->up[row * rank + k], *down = layer->down + k * cols;
            float *to = weight + row * cols;
            for (size_t col = 0; col < cols; col++)
                to[col] += factor * down[col];
        }
}

void npo_lora_apply(const npo_lora *lora, float scale, npo_params *params)
{
    float *data = npo_params_edit(params);
    for (size_t i = 0; i < lora->count; i++) {
        const npo_lora_layer *layer = &lora->layers[i];
        char name[NPO_PARAM_NAME_MAX + sizeof ".weight"];
        snprintf(name, sizeof name, "%s.weight", layer->module);
        const npo_param_info *info = npo_layout_find(npo_params_layout(params), name);
        assert(info && info->ndim == layer->ndim);
        assert(memcmp(info->dims, layer->dims, (size_t)info->ndim * sizeof *info->dims) == 0);
        apply_layer(layer, scale * layer->alpha / (float)layer->rank, data + info->offset);
    }
}

void npo_lora_fini(npo_lora *lora)
{
    for (size_t i = 0; i < lora->count; i++) {
        free(lora->layers[i].down);
        free(lora->layers[i].up);
    }
    free(lora->layers);
    *lora = (npo_lora){0};
}
