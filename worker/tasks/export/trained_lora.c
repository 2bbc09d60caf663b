#include "worker/tasks/export/trained_lora.h"

#include <stdlib.h>

static npo_err load(npo_context *ctx, const npo_trained_lora *trained, npo_layout *layout,
                    npo_lora *ret_lora)
{
    npo_params *params = NULL;
    npo_checkpoint_meta meta;
    npo_err err = npo_params_new(layout, &params);
    if (err != NPO_OK)
        return npo_context_fail(ctx, err, "LoRA");
    const npo_checkpoint_sets sets = {.student = trained->ema ? NULL : params,
                                      .ema = trained->ema ? params : NULL};
    err = npo_checkpoint_load(trained->checkpoint, &sets, &meta, ctx->error);
    if (err == NPO_OK)
        err = npo_lora_of_params(params, ret_lora, ctx->error);
    npo_params_free(params);
    return err;
}

static npo_err save(npo_context *ctx, const npo_lora *lora, npo_lora_names names, const char *file,
                    char **ret_path)
{
    char *path = NULL;
    NPO_TRY(npo_context_out(ctx, file, &path));
    npo_err err = npo_lora_save(path, lora, names, NPO_TENSOR_F32, ctx->error);
    if (err == NPO_OK)
        err = npo_context_publish(ctx, file, file);
    if (err == NPO_OK)
        *ret_path = path;
    else
        free(path);
    return err;
}

static npo_err save_both(npo_context *ctx, const npo_lora *lora, char **ret_path)
{
    char *kohya = NULL;
    NPO_TRY(save(ctx, lora, NPO_LORA_KOHYA, "lora-kohya.safetensors", &kohya));
    free(kohya);
    return save(ctx, lora, NPO_LORA_PEFT, "lora-peft.safetensors", ret_path);
}

npo_err npo_trained_lora_export(npo_context *ctx, const npo_trained_lora *trained, char **ret_path)
{
    npo_layout *layout = NULL;
    npo_lora lora = {0};
    NPO_TRY(npo_lora_layout(trained->base, trained->options, &layout, ctx->error));
    npo_err err = load(ctx, trained, layout, &lora);
    if (err == NPO_OK)
        err = save_both(ctx, &lora, ret_path);
    npo_lora_fini(&lora);
    npo_layout_unref(layout);
    return err;
}
