#include "worker/model/files/single_file.h"

#include "worker/model/files/complaints.h"
#include "worker/model/files/part_file.h"
#include "worker/model/files/single_name.h"

#include <stdlib.h>
#include <string.h>

#define UNET "model.diffusion_model."

/* ---- which it is ---- */

/* A file that holds a tensor of this name is something else, where its dimension `dim` has this
 * size, or any (0). */
static const struct {
    const char *name;
    int dim;
    int64_t size;
    npo_err code;
    const char *what;
} strangers[] = {
    {UNET "double_blocks.0.img_attn.qkv.weight", 0, 0, NPO_E_UNSUPPORTED, "Flux"},
    {"double_blocks.0.img_attn.qkv.weight", 0, 0, NPO_E_UNSUPPORTED, "Flux"},
    {UNET "joint_blocks.0.context_block.attn.qkv.weight", 0, 0, NPO_E_UNSUPPORTED,
     "Stable Diffusion 3"},
    {"cond_stage_model.model.ln_final.weight", 0, 0, NPO_E_UNSUPPORTED, "Stable Diffusion 2"},
    {UNET "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight", 1, 1024, NPO_E_UNSUPPORTED,
     "Stable Diffusion 2"},
    {"conditioner.embedders.0.model.ln_final.weight", 0, 0, NPO_E_UNSUPPORTED,
     "the refiner of Stable Diffusion XL"},
    {UNET "input_blocks.0.0.weight", 1, 9, NPO_E_UNSUPPORTED, "an inpainting model"},
    {UNET "input_blocks.0.0.weight", 1, 8, NPO_E_UNSUPPORTED, "an image editing model"},
    {"control_model.input_hint_block.0.weight", 0, 0, NPO_E_UNSUPPORTED, "a ControlNet"},
    {"conv_in.weight", 0, 0, NPO_E_USAGE, "a UNet in diffusers names alone"},
    {"encoder.conv_in.weight", 0, 0, NPO_E_USAGE, "a VAE alone"},
    {"text_model.embeddings.token_embedding.weight", 0, 0, NPO_E_USAGE, "a text encoder alone"},
};

static const char *const expected =
    "expected a single-file checkpoint of Stable Diffusion 1.5 or XL";

static npo_err refuse_strangers(const npo_safetensors *file, npo_error *error)
{
    for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++) {
        const npo_tensor *tensor = npo_safetensors_find(file, strangers[i].name);
        bool sized =
            tensor && (!strangers[i].size || (strangers[i].dim < tensor->ndim &&
                                              tensor->dims[strangers[i].dim] == strangers[i].size));
        if (sized)
            return npo_error_set(error, strangers[i].code, "'%s': found %s, %s",
                                 npo_safetensors_path(file), strangers[i].what, expected);
    }
    return NPO_OK;
}

bool npo_single_file_has(const npo_safetensors *file, npo_single_part part)
{
    const char *prefix = npo_single_prefix(part);
    for (size_t i = 0; i < npo_safetensors_count(file); i++)
        if (strncmp(npo_safetensors_at(file, i)->name, prefix, strlen(prefix)) == 0)
            return true;
    return false;
}

static npo_err refuse_incomplete(const npo_safetensors *file, npo_error *error)
{
    const char *path = npo_safetensors_path(file);
    if (!npo_single_file_has(file, NPO_SINGLE_UNET)) {
        const char *first =
            npo_safetensors_count(file) ? npo_safetensors_at(file, 0)->name : "nothing";
        return npo_error_set(error, NPO_E_USAGE, "'%s': found '%.100s' and no '" UNET "...', %s",
                             path, first, expected);
    }
    return npo_error_set(error, NPO_E_USAGE, "'%s': it has a UNet but no text encoder, %s", path,
                         expected);
}

npo_err npo_single_file_family(const npo_safetensors *file, bool published,
                               npo_single_family *ret_family, npo_error *error)
{
    NPO_TRY(refuse_strangers(file, error));
    bool sd15 = npo_single_file_has(file, NPO_SINGLE_TEXT);
    bool sdxl = npo_single_file_has(file, NPO_SINGLE_TEXT_2);
    if (!npo_single_file_has(file, NPO_SINGLE_UNET) || (!sd15 && !sdxl))
        return refuse_incomplete(file, error);
    if (published && npo_safetensors_find(file, "v_pred"))
        return npo_error_set(error, NPO_E_UNSUPPORTED,
                             "'%s': it predicts v, which the built-in configuration does not: put "
                             "it in a folder with scheduler/scheduler_config.json",
                             npo_safetensors_path(file));
    *ret_family = sdxl ? NPO_SINGLE_SDXL : NPO_SINGLE_SD15;
    return NPO_OK;
}

const char *npo_single_file_parts(npo_single_family family)
{
    static const char *const parts[] = {
        [NPO_SINGLE_SD15] = NPO_BUILT_IN "sd15",
        [NPO_SINGLE_SDXL] = NPO_BUILT_IN "sdxl",
    };
    return parts[family];
}

/* ---- writing ---- */

typedef struct {
    const npo_safetensors *file;
    npo_tensor_source *sources; /* [tensors of the file]; name NULL: left out */
    size_t count;
    npo_weights_made_tensor *made; /* [tensors of the UNet] */
} copy;

static void list_all(copy *c)
{
    static const char ema[] = "model_ema.";
    for (size_t i = 0; i < npo_safetensors_count(c->file); i++) {
        const npo_tensor *tensor = npo_safetensors_at(c->file, i);
        npo_tensor_source *source = &c->sources[i];
        if (strncmp(tensor->name, ema, strlen(ema)) == 0)
            continue;
        *source = (npo_tensor_source){
            .name = tensor->name, .dtype = tensor->dtype, .ndim = tensor->ndim, .from = tensor};
        memcpy(source->dims, tensor->dims, sizeof source->dims);
    }
}

/* The weights' values in the place of the file's. */
static void replace_unet(copy *c, const npo_weights_made *weights, npo_tensor_dtype dtype,
                         npo_complaints *complaints)
{
    const npo_layout *layout = weights->layout;
    npo_single_names names = npo_single_names_of(NPO_SINGLE_UNET, layout);
    for (size_t i = 0; i < npo_layout_count(layout); i++) {
        const npo_param_info *info = npo_layout_at(layout, i);
        npo_single_place place;
        const npo_tensor *tensor = npo_single_place_of(&names, info->name, &place)
                                       ? npo_safetensors_find(c->file, place.name)
                                       : NULL;
        if (!tensor) {
            npo_complain(complaints, NPO_E_NOT_FOUND, "'%s': missing", info->name);
        } else if (tensor->count != info->count) {
            npo_complain_shape(complaints, tensor->name, tensor->ndim, tensor->dims, info->ndim,
                               info->dims);
        } else {
            npo_tensor_source *source = &c->sources[tensor - npo_safetensors_at(c->file, 0)];
            source->dtype = dtype;
            source->from = NULL;
            c->made[i] = (npo_weights_made_tensor){weights, i};
            source->fill = npo_weights_fill;
            source->user = &c->made[i];
        }
    }
}

static void drop_unnamed(copy *c)
{
    for (size_t i = 0; i < npo_safetensors_count(c->file); i++)
        if (c->sources[i].name)
            c->sources[c->count++] = c->sources[i];
}

npo_err npo_single_file_write(const char *from, const npo_weights_made *weights,
                              npo_tensor_dtype dtype, const char *to, npo_error *error)
{
    static const npo_tensor_metadata format = {"format", "pt"};
    npo_safetensors *file = NULL;
    npo_complaints complaints = {0};
    NPO_TRY(npo_safetensors_open(from, &file, error));
    size_t count = npo_safetensors_count(file);
    copy c = {file, calloc(count + 1, sizeof *c.sources), 0,
              calloc(npo_layout_count(weights->layout) + 1, sizeof *c.made)};
    npo_err err = c.sources && c.made ? NPO_OK : NPO_E_NOMEM;
    if (err) {
        npo_error_set(error, err, "cannot write '%s': out of memory", to);
        goto out;
    }
    list_all(&c);
    replace_unet(&c, weights, dtype, &complaints);
    err = npo_complaints_finish(&complaints, from, error);
    if (err)
        goto out;
    drop_unnamed(&c);
    err = npo_safetensors_write(to, c.sources, c.count, &format, 1, error);
out:
    free(c.sources);
    free(c.made);
    npo_safetensors_close(file);
    return err;
}
