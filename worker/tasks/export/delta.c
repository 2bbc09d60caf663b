#include "worker/tasks/export/forms.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ComfyUI's names of full-rank offsets, by which its LoRA loader adds them: the module with '_' for
 * '.', then .diff for a weight and .diff_b for a bias. */
static const struct {
    const char *suffix, *written;
} kinds[] = {{".weight", ".diff"}, {".bias", ".diff_b"}};

typedef struct {
    npo_export_work *work;
    size_t tensor;
    char name[NPO_PARAM_NAME_MAX + 32];
} offset_tensor;

static npo_err fill(void *user, size_t first, size_t n, float *ret_values, npo_error *error)
{
    const offset_tensor *offset = user;
    return npo_export_fill(offset->work, offset->tensor, first, n, ret_values, error);
}

static void name_for_comfyui(const char *name, char *ret_name, size_t size)
{
    size_t len = strlen(name);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        size_t n = strlen(kinds[i].suffix);
        if (len <= n || strcmp(name + len - n, kinds[i].suffix) != 0)
            continue;
        snprintf(ret_name, size, "lora_unet_%.*s", (int)(len - n), name);
        for (char *at = ret_name; *at; at++)
            *at = *at == '.' ? '_' : *at;
        len = strlen(ret_name);
        snprintf(ret_name + len, size - len, "%s", kinds[i].written);
        return;
    }
    snprintf(ret_name, size, "%s", name);
}

static void describe(npo_export_work *work, size_t tensor, offset_tensor *offset,
                     npo_tensor_source *ret_source)
{
    const npo_param_info *info = npo_layout_at(work->blend.layout, tensor);
    offset->work = work;
    offset->tensor = tensor;
    if (work->ctx->task->spec->export.naming == NPO_NAMING_COMFYUI)
        name_for_comfyui(info->name, offset->name, sizeof offset->name);
    else
        snprintf(offset->name, sizeof offset->name, "%s", info->name);
    *ret_source = (npo_tensor_source){.name = offset->name,
                                      .dtype = work->blend.dtype,
                                      .ndim = info->ndim,
                                      .fill = fill,
                                      .user = offset};
    memcpy(ret_source->dims, info->dims, sizeof info->dims);
}

npo_err npo_export_delta(npo_export_work *work, const char *path)
{
    static const npo_tensor_metadata metadata[] = {{"format", "pt"}, {"npo", "delta"}};
    size_t count = npo_layout_count(work->blend.layout);
    npo_tensor_source *sources = calloc(count + 1, sizeof *sources);
    offset_tensor *offsets = calloc(count + 1, sizeof *offsets);
    npo_err err = sources && offsets ? NPO_OK : npo_context_fail(work->ctx, NPO_E_NOMEM, "delta");
    for (size_t i = 0; !err && i < count; i++)
        describe(work, i, &offsets[i], &sources[i]);
    if (!err)
        err = npo_safetensors_write(path, sources, count, metadata, 2, work->ctx->error);
    free(sources);
    free(offsets);
    return err;
}
