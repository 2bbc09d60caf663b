#include "tests/reference/case.h"

#include "worker/model/files/lora.h"

#include <stdio.h>
#include <stdlib.h>

#define LORA_TOLERANCE 1e-6 /* two roundings of a weight */

/* The folder's UNet plus the LoRA against negative-unet, which holds the same offset. */
static npo_err compare(case_env *env, const npo_folder *folder, const char *path,
                       npo_layout *layout, npo_error *error)
{
    npo_params *params = NULL, *negative = NULL;
    npo_safetensors *file = NULL;
    npo_lora lora = {0};
    case_worst worst = {0};
    npo_err err = npo_params_new(layout, &params);
    if (!err)
        err = npo_params_new(layout, &negative);
    if (err) {
        npo_error_set(error, err, "out of memory");
        goto out;
    }
    err = npo_folder_load_unet(folder, params, error);
    if (!err)
        err = case_open(env, "negative-unet.safetensors", &file, error);
    if (!err)
        err = npo_weights_read(file, NULL, negative, error);
    if (!err)
        err = npo_lora_load(path, layout, &lora, error);
    if (err)
        goto out;
    npo_lora_apply(&lora, 1, params);
    for (size_t i = 0; i < npo_layout_count(layout); i++) {
        const npo_param_info *info = npo_layout_at(layout, i);
        case_compare(&worst, info->name, npo_params_data(params) + info->offset,
                     npo_params_data(negative) + info->offset, info->count);
    }
    case_report(env, "", &worst, LORA_TOLERANCE);
out:
    npo_lora_fini(&lora);
    npo_safetensors_close(file);
    npo_params_free(params);
    npo_params_free(negative);
    return err;
}

npo_err case_run_lora(case_env *env, npo_error *error)
{
    npo_folder folder;
    npo_unet_config config;
    npo_layout *layout = NULL;
    char *path = NULL;
    NPO_TRY(npo_folder_open(env->dir, &folder, error));
    npo_err err = npo_folder_unet(&folder, env->backend, &config, &layout, error);
    if (!err && asprintf(&path, "%s/%s", env->dir, env->file) < 0)
        err = npo_error_set(error, NPO_E_NOMEM, "out of memory");
    if (!err)
        err = compare(env, &folder, path, layout, error);
    free(path);
    npo_layout_unref(layout);
    npo_folder_fini(&folder);
    return err;
}
