#include "worker/model/weight_view.h"

#include "worker/model/files/complaints.h"
#include "worker/model/files/lora.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SET_NAME_MAX (NPO_PARAM_NAME_MAX + 32)

struct npo_weight_view {
    const npo_layout *layout;
    npo_safetensors *file;      /* NULL: a LoRA */
    const npo_tensor **tensors; /* [tensors of the layout] */
    npo_lora lora;
    const npo_lora_layer **layers; /* [tensors of the layout], NULL where the LoRA has none */
};

static npo_err new_view(const char *path, const npo_layout *layout, npo_weight_view **ret_view,
                        npo_error *error)
{
    size_t count = npo_layout_count(layout);
    npo_weight_view *view = calloc(1, sizeof *view);
    if (view) {
        view->layout = layout;
        view->tensors = calloc(count ? count : 1, sizeof *view->tensors);
        view->layers = calloc(count ? count : 1, sizeof *view->layers);
    }
    if (!view || !view->tensors || !view->layers) {
        npo_weight_view_close(view);
        return npo_error_set(error, NPO_E_NOMEM, "cannot load '%s': out of memory", path);
    }
    *ret_view = view;
    return NPO_OK;
}

void npo_weight_view_close(npo_weight_view *view)
{
    if (!view)
        return;
    npo_safetensors_close(view->file);
    npo_lora_fini(&view->lora);
    free(view->tensors);
    free(view->layers);
    free(view);
}

static npo_err finish(npo_weight_view *view, npo_err err, npo_weight_view **ret_view)
{
    if (err)
        npo_weight_view_close(view);
    else
        *ret_view = view;
    return err;
}

npo_err npo_weight_view_open(const char *path, const npo_weights_map *map, const npo_layout *layout,
                             npo_weight_view **ret_view, npo_error *error)
{
    npo_weight_view *view = NULL;
    NPO_TRY(new_view(path, layout, &view, error));
    npo_err err = npo_safetensors_open(path, &view->file, error);
    if (!err)
        err = npo_weights_find(view->file, map, layout, view->tensors, error);
    return finish(view, err, ret_view);
}

static npo_err find_set(npo_weight_view *view, const char *prefix, npo_error *error)
{
    npo_complaints complaints = {0};
    char name[SET_NAME_MAX];
    for (size_t i = 0; i < npo_layout_count(view->layout); i++) {
        const npo_param_info *info = npo_layout_at(view->layout, i);
        snprintf(name, sizeof name, "%s%s", prefix, info->name);
        const npo_tensor *tensor = view->tensors[i] = npo_safetensors_find(view->file, name);
        bool right_shape =
            tensor && tensor->ndim == info->ndim &&
            memcmp(tensor->dims, info->dims, (size_t)info->ndim * sizeof *info->dims) == 0;
        npo_complain_tensor(&complaints, name, tensor, right_shape, info->ndim, info->dims);
    }
    return npo_complaints_finish(&complaints, npo_safetensors_path(view->file), error);
}

npo_err npo_weight_view_open_set(const char *path, const char *prefix, const npo_layout *layout,
                                 npo_weight_view **ret_view, npo_error *error)
{
    npo_weight_view *view = NULL;
    NPO_TRY(new_view(path, layout, &view, error));
    npo_err err = npo_safetensors_open(path, &view->file, error);
    if (!err)
        err = find_set(view, prefix, error);
    return finish(view, err, ret_view);
}

/* Layers come in the layout's order. */
static void place_layers(npo_weight_view *view)
{
    char name[NPO_PARAM_NAME_MAX + 8];
    for (size_t i = 0; i < view->lora.count; i++) {
        snprintf(name, sizeof name, "%s.weight", view->lora.layers[i].module);
        const npo_param_info *info = npo_layout_find(view->layout, name);
        view->layers[info - npo_layout_at(view->layout, 0)] = &view->lora.layers[i];
    }
}

npo_err npo_weight_view_open_lora(const char *path, const npo_layout *layout,
                                  npo_weight_view **ret_view, npo_error *error)
{
    npo_weight_view *view = NULL;
    NPO_TRY(new_view(path, layout, &view, error));
    npo_err err = npo_lora_load(path, layout, &view->lora, error);
    if (!err)
        place_layers(view);
    return finish(view, err, ret_view);
}

const npo_layout *npo_weight_view_layout(const npo_weight_view *view)
{
    return view->layout;
}

bool npo_weight_view_is_offset(const npo_weight_view *view)
{
    return !view->file;
}

/* Elements of alpha / rank up @ down, the part of one row at a time. */
static void read_layer(const npo_lora_layer *layer, size_t columns, size_t first, size_t n,
                       float *values)
{
    size_t rank = (size_t)layer->rank;
    float scale = layer->alpha / (float)rank;
    memset(values, 0, n * sizeof *values);
    for (size_t done = 0, part; done < n; done += part) {
        size_t row = (first + done) / columns, column = (first + done) % columns;
        part = columns - column < n - done ? columns - column : n - done;
        float *restrict to = values + done;
        for (size_t k = 0; k < rank; k++) {
            float factor = scale * layer->up[row * rank + k];
            const float *from = layer->down + k * columns + column;
            for (size_t i = 0; i < part; i++)
                to[i] += factor * from[i];
        }
    }
}

npo_err npo_weight_view_read(const npo_weight_view *view, size_t tensor, size_t first, size_t n,
                             float *ret_values, npo_error *error)
{
    const npo_param_info *info = npo_layout_at(view->layout, tensor);
    if (view->file) {
        npo_err err = npo_tensor_read_finite(view->tensors[tensor], first, n, ret_values, error);
        return err ? npo_error_prefix(error, err, "cannot load '%s'",
                                      npo_safetensors_path(view->file))
                   : NPO_OK;
    }
    if (view->layers[tensor])
        read_layer(view->layers[tensor], info->count / (size_t)info->dims[0], first, n, ret_values);
    else
        memset(ret_values, 0, n * sizeof *ret_values);
    return NPO_OK;
}

void npo_weight_view_release(const npo_weight_view *view, size_t tensor)
{
    if (view->file)
        npo_tensor_release(view->tensors[tensor]);
}
