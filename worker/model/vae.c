#include "worker/model/vae.h"

#include "worker/model/networks/autoencoder.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { IMAGE = NPO_AUTOENCODER_IMAGE_CHANNELS };

/* The two directions: what goes in and what comes out, [height,width,channels]. */
typedef enum { ENCODE, DECODE } direction;

/* A planned graph for one input size; height is 0 for a free place. */
typedef struct {
    direction direction;
    int64_t height, width;
    npo_graph *graph;
} planned;

struct npo_vae {
    npo_backend *backend;
    npo_autoencoder_config config;
    npo_layout *layout;
    npo_params *params;
    planned planned;
};

npo_err npo_vae_open(npo_backend *backend, const npo_folder *folder, npo_vae **ret_vae,
                     npo_error *error)
{
    npo_vae *vae = calloc(1, sizeof *vae);
    if (!vae)
        return npo_error_set(error, NPO_E_NOMEM, "cannot open a VAE: out of memory");
    vae->backend = backend;
    npo_err err =
        npo_folder_load_vae(folder, backend, &vae->config, &vae->layout, &vae->params, error);
    if (err) {
        free(vae);
        return err;
    }
    *ret_vae = vae;
    return NPO_OK;
}

void npo_vae_free(npo_vae *vae)
{
    if (!vae)
        return;
    npo_graph_free(vae->planned.graph);
    npo_params_free(vae->params);
    npo_layout_unref(vae->layout);
    free(vae);
}

int64_t npo_vae_factor(const npo_vae *vae)
{
    return npo_autoencoder_config_factor(&vae->config);
}

int64_t npo_vae_channels(const npo_vae *vae)
{
    return vae->config.latent_channels;
}

/* ---- graphs ---- */

static int64_t input_channels(const npo_vae *vae, direction way)
{
    return way == ENCODE ? IMAGE : vae->config.latent_channels;
}

static npo_err plan(npo_vae *vae, direction way, int64_t height, int64_t width, npo_error *error)
{
    npo_graph *graph = NULL;
    npo_err err = npo_graph_new(vae->backend, vae->layout, &graph);
    if (err)
        return npo_error_set(error, err, "cannot record the VAE: %s", npo_err_text(err));
    int64_t dims[] = {1, height, width, input_channels(vae, way)};
    npo_value x = npo_graph_input(graph, "x", NPO_F32, 4, dims);
    npo_graph_output(graph, "y",
                     way == ENCODE ? npo_autoencoder_record_encoder(graph, &vae->config, x)
                                   : npo_autoencoder_record_decoder(graph, &vae->config, x));
    err = npo_graph_plan(graph, &(npo_plan_options){.loss = NPO_VALUE_NONE}, NULL, error);
    if (err) {
        npo_graph_free(graph);
        return npo_error_prefix(error, err, "cannot plan the VAE for %lld x %lld",
                                (long long)height, (long long)width);
    }
    npo_graph_free(vae->planned.graph);
    vae->planned = (planned){way, height, width, graph};
    return NPO_OK;
}

/* Runs the graph of this size, planning it where it is not the last one used. The input is filled
 * at *ret_x before npo_graph_forward. */
static npo_err get_graph(npo_vae *vae, direction way, int64_t height, int64_t width,
                         npo_graph **ret_graph, npo_error *error)
{
    const planned *p = &vae->planned;
    if (!p->graph || p->direction != way || p->height != height || p->width != width)
        NPO_TRY(plan(vae, way, height, width, error));
    *ret_graph = vae->planned.graph;
    return NPO_OK;
}

/* ---- running ---- */

npo_err npo_vae_decode(npo_vae *vae, const float *latent, int64_t height, int64_t width,
                       float *ret_image, npo_error *error)
{
    npo_graph *graph;
    npo_shape shape;
    size_t count = (size_t)(height * width * vae->config.latent_channels);
    assert(height > 0 && width > 0);
    NPO_TRY(get_graph(vae, DECODE, height, width, &graph, error));
    float *x = npo_graph_input_data(graph, "x");
    for (size_t i = 0; i < count; i++)
        x[i] = latent[i] / vae->config.latent_scale + vae->config.latent_shift;
    NPO_TRY(npo_graph_forward(graph, vae->params, error));
    const float *y = npo_graph_output_data(graph, "y", &shape);
    memcpy(ret_image, y, (size_t)(shape.dims[1] * shape.dims[2]) * IMAGE * sizeof *y);
    return NPO_OK;
}

npo_err npo_vae_moments(npo_vae *vae, const float *image, int64_t height, int64_t width,
                        float *ret_mean, float *ret_logvar, npo_error *error)
{
    npo_graph *graph;
    npo_shape shape;
    int64_t factor = npo_vae_factor(vae);
    size_t channels = (size_t)vae->config.latent_channels;
    if (height < 1 || width < 1 || height % factor || width % factor)
        return npo_error_set(error, NPO_E_SHAPE,
                             "image of %lld x %lld pixels, expected multiples of %lld for the VAE",
                             (long long)height, (long long)width, (long long)factor);
    NPO_TRY(get_graph(vae, ENCODE, height, width, &graph, error));
    memcpy(npo_graph_input_data(graph, "x"), image,
           (size_t)(height * width) * IMAGE * sizeof *image);
    NPO_TRY(npo_graph_forward(graph, vae->params, error));
    const float *y = npo_graph_output_data(graph, "y", &shape);
    size_t positions = (size_t)(shape.dims[1] * shape.dims[2]);
    for (size_t i = 0; i < positions * channels; i++) {
        const float *at = y + i / channels * 2 * channels + i % channels;
        if (ret_mean)
            ret_mean[i] = *at;
        if (ret_logvar)
            ret_logvar[i] = fminf(fmaxf(at[channels], -30), 20);
    }
    return NPO_OK;
}

npo_err npo_vae_encode(npo_vae *vae, const float *image, int64_t height, int64_t width,
                       float *ret_latent, npo_error *error)
{
    NPO_TRY(npo_vae_moments(vae, image, height, width, ret_latent, NULL, error));
    int64_t factor = npo_vae_factor(vae);
    size_t count = (size_t)(height / factor * (width / factor) * vae->config.latent_channels);
    for (size_t i = 0; i < count; i++)
        ret_latent[i] = (ret_latent[i] - vae->config.latent_shift) * vae->config.latent_scale;
    return NPO_OK;
}
