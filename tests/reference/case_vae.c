/* vae.safetensors beside vae/: image [N,3,H,W] -> mean and logvar; latent (not scaled) [N,C,h,w] ->
 * decoded. Where it has `tile` (side of the latent's tiles), the same as tiled.mean, tiled.logvar
 * and tiled.decoded. */
#include "tests/reference/case.h"

#include "common/file.h"
#include "worker/model/vae.h"

#include <stdio.h>
#include <stdlib.h>

typedef struct {
    npo_folder folder;
    npo_autoencoder_config config;
    npo_vae *vae;
    npo_safetensors *file;
    const char *prefix; /* of the tensors compared with: "" or "tiled." */
    case_worst encoded, decoded;
} vae_case;

static npo_err load(vae_case *c, const case_env *env, npo_error *error)
{
    /* The rest of a model is not needed. */
    c->folder = (npo_folder){
        .vae_config = npo_file_join(env->dir, "vae/config.json"),
        .vae_weights = npo_file_join(env->dir, "vae/diffusion_pytorch_model.safetensors"),
    };
    if (!c->folder.vae_config || !c->folder.vae_weights)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    NPO_TRY(case_open(env, env->file, &c->file, error));
    NPO_TRY(npo_vae_open(env->backend, &c->folder, &c->vae, error));
    return npo_autoencoder_config_load(c->folder.vae_config, &c->config, error);
}

/* Room for a tensor of the file, and its values channels last. */
static npo_err prepare(const vae_case *c, const char *name, const npo_tensor **ret_tensor,
                       float **ret_values, npo_error *error)
{
    NPO_TRY(case_find(c->file, name, ret_tensor, error));
    if ((*ret_tensor)->ndim != 4)
        return npo_error_set(error, NPO_E_SHAPE, "'%s': expected a tensor [N,C,H,W]", name);
    return case_read(*ret_tensor, ret_values, error);
}

static npo_err prepare_output(const vae_case *c, const char *name, const npo_tensor **ret_tensor,
                              float **ret_values, npo_error *error)
{
    char full[64];
    snprintf(full, sizeof full, "%s%s", c->prefix, name);
    return prepare(c, full, ret_tensor, ret_values, error);
}

static npo_err compare_encoder(vae_case *c, npo_error *error)
{
    const npo_tensor *image, *mean, *logvar;
    float *x = NULL, *means = NULL, *logvars = NULL;
    npo_err err = prepare(c, "image", &image, &x, error);
    if (!err)
        err = prepare_output(c, "mean", &mean, &means, error);
    if (!err)
        err = prepare_output(c, "logvar", &logvar, &logvars, error);
    for (int64_t n = 0; !err && n < image->dims[0]; n++)
        err = npo_vae_moments(c->vae, x + (size_t)n * image->count / (size_t)image->dims[0],
                              image->dims[2], image->dims[3],
                              means + (size_t)n * mean->count / (size_t)image->dims[0],
                              logvars + (size_t)n * mean->count / (size_t)image->dims[0], error);
    if (!err) {
        const int64_t *d = mean->dims;
        npo_shape shape = {NPO_F32, 4, {d[0], d[2], d[3], d[1]}};
        err = case_compare_tensor(&c->encoded, mean, &shape, means, error);
        if (!err)
            err = case_compare_tensor(&c->encoded, logvar, &shape, logvars, error);
    }
    free(x);
    free(means);
    free(logvars);
    return err;
}

static npo_err compare_decoder(vae_case *c, npo_error *error)
{
    const npo_tensor *latent, *decoded;
    float *z = NULL, *images = NULL;
    npo_err err = prepare(c, "latent", &latent, &z, error);
    if (!err)
        err = prepare_output(c, "decoded", &decoded, &images, error);
    for (size_t i = 0; !err && i < latent->count; i++)
        z[i] = (z[i] - c->config.latent_shift) * c->config.latent_scale;
    for (int64_t n = 0; !err && n < latent->dims[0]; n++)
        err = npo_vae_decode(c->vae, z + (size_t)n * latent->count / (size_t)latent->dims[0],
                             latent->dims[2], latent->dims[3],
                             images + (size_t)n * decoded->count / (size_t)latent->dims[0], error);
    if (!err) {
        const int64_t *d = decoded->dims;
        npo_shape shape = {NPO_F32, 4, {d[0], d[2], d[3], d[1]}};
        err = case_compare_tensor(&c->decoded, decoded, &shape, images, error);
    }
    free(z);
    free(images);
    return err;
}

static npo_err compare(vae_case *c, const char *prefix, npo_error *error)
{
    c->prefix = prefix;
    c->encoded = c->decoded = (case_worst){0};
    NPO_TRY(compare_encoder(c, error));
    return compare_decoder(c, error);
}

static npo_err compare_tiled(vae_case *c, case_env *env, npo_error *error)
{
    const npo_tensor *tile = npo_safetensors_find(c->file, "tile");
    int64_t side;
    if (!tile)
        return NPO_OK;
    npo_tensor_read_i64(tile, 0, 1, &side);
    npo_vae_set_tile(c->vae, side);
    NPO_TRY(compare(c, "tiled.", error));
    case_report(env, "-tiled-encode", &c->encoded, CASE_OUTPUT_TOLERANCE);
    case_report(env, "-tiled-decode", &c->decoded, CASE_OUTPUT_TOLERANCE);
    return NPO_OK;
}

npo_err case_run_vae(case_env *env, npo_error *error)
{
    vae_case c = {0};
    npo_err err = load(&c, env, error);
    if (!err)
        err = compare(&c, "", error);
    if (!err) {
        case_report(env, "-encode", &c.encoded, CASE_OUTPUT_TOLERANCE);
        case_report(env, "-decode", &c.decoded, CASE_OUTPUT_TOLERANCE);
        err = compare_tiled(&c, env, error);
    }
    npo_vae_free(c.vae);
    npo_folder_fini(&c.folder);
    npo_safetensors_close(c.file);
    return err;
}
