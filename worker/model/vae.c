#include "worker/model/vae.h"

#include "worker/model/networks/autoencoder.h"
#include "worker/model/vae_tiles.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    IMAGE = NPO_AUTOENCODER_IMAGE_CHANNELS,
    PLANS_MAX = 4, /* a row of tiles has at most three widths */
};

typedef enum { ENCODE, DECODE } direction;

/* A planned graph for one size in latent positions; height is 0 for a free place. */
typedef struct {
    direction way;
    int64_t height, width;
    uint64_t last_use;
    npo_graph *graph;
} planned;

/* What was found to fit the limit: the size asked for last and the side of its tiles. */
typedef struct {
    int64_t height, width, tile;
} fitting;

struct npo_vae {
    npo_backend *backend;
    npo_autoencoder_config config;
    npo_layout *layout;
    npo_params *params;
    planned plans[PLANS_MAX];
    uint64_t uses;
    size_t limit_bytes;
    int64_t forced_tile, last_tile;
    fitting fits[2]; /* by direction */
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

static void drop_plans(npo_vae *vae)
{
    for (int i = 0; i < PLANS_MAX; i++) {
        npo_graph_free(vae->plans[i].graph);
        vae->plans[i] = (planned){0};
    }
}

void npo_vae_free(npo_vae *vae)
{
    if (!vae)
        return;
    drop_plans(vae);
    npo_params_free(vae->params);
    npo_layout_unref(vae->layout);
    free(vae);
}

void npo_vae_limit_memory(npo_vae *vae, size_t bytes)
{
    drop_plans(vae);
    memset(vae->fits, 0, sizeof vae->fits);
    vae->limit_bytes = bytes;
}

void npo_vae_set_tile(npo_vae *vae, int64_t side)
{
    assert(side >= 0 && side % NPO_VAE_TILE_MULTIPLE == 0);
    vae->forced_tile = side;
}

int64_t npo_vae_tile(const npo_vae *vae)
{
    return vae->last_tile;
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

static int64_t in_channels(const npo_vae *vae, direction way)
{
    return way == ENCODE ? IMAGE : vae->config.latent_channels;
}

static int64_t out_channels(const npo_vae *vae, direction way)
{
    return way == ENCODE ? 2 * vae->config.latent_channels : IMAGE;
}

static int64_t in_scale(const npo_vae *vae, direction way)
{
    return way == ENCODE ? npo_vae_factor(vae) : 1;
}

static int64_t out_scale(const npo_vae *vae, direction way)
{
    return way == ENCODE ? 1 : npo_vae_factor(vae);
}

static size_t floats_of(int64_t height, int64_t width, int64_t scale, int64_t channels)
{
    return (size_t)(height * scale * width * scale * channels);
}

/* Under a limit weights are put into the device's layout layer by layer, so that several tile sizes
 * do not each hold them all. */
static npo_err set_limits(const npo_vae *vae, direction way, int64_t height, int64_t width,
                          npo_plan_options *options, npo_error *error)
{
    size_t pictures =
        sizeof(float) * (floats_of(height, width, in_scale(vae, way), in_channels(vae, way)) +
                         floats_of(height, width, out_scale(vae, way), out_channels(vae, way)));
    if (!vae->limit_bytes)
        return NPO_OK;
    if (vae->limit_bytes <= pictures)
        return npo_error_set(error, NPO_E_NOMEM, "%zu KiB of picture, expected at most %zu KiB",
                             pictures >> 10, vae->limit_bytes >> 10);
    options->packed_bytes = 1;
    options->memory_bytes = vae->limit_bytes;
    return NPO_OK;
}

static npo_err plan(npo_vae *vae, direction way, int64_t height, int64_t width,
                    npo_graph **ret_graph, npo_error *error)
{
    npo_graph *graph = NULL;
    npo_plan_options options = {.loss = NPO_VALUE_NONE};
    int64_t scale = in_scale(vae, way);
    int64_t dims[] = {1, height * scale, width * scale, in_channels(vae, way)};
    NPO_TRY(set_limits(vae, way, height, width, &options, error));
    npo_err err = npo_graph_new(vae->backend, vae->layout, &graph);
    if (err)
        return npo_error_set(error, err, "cannot record the VAE: %s", npo_err_text(err));
    npo_value x = npo_graph_input(graph, "x", NPO_F32, 4, dims);
    npo_graph_output(graph, "y",
                     way == ENCODE ? npo_autoencoder_record_encoder(graph, &vae->config, x)
                                   : npo_autoencoder_record_decoder(graph, &vae->config, x));
    err = npo_graph_plan(graph, &options, NULL, error);
    if (err)
        npo_graph_free(graph);
    else
        *ret_graph = graph;
    return err;
}

/* The graph for this size: kept, or planned in the place longest unused. */
static npo_err get_graph(npo_vae *vae, direction way, int64_t height, int64_t width,
                         npo_graph **ret_graph, npo_error *error)
{
    planned *place = &vae->plans[0];
    for (int i = 0; i < PLANS_MAX; i++) {
        planned *p = &vae->plans[i];
        if (p->graph && p->way == way && p->height == height && p->width == width) {
            place = p;
            break;
        }
        if (p->last_use < place->last_use)
            place = p;
    }
    if (!place->graph || place->way != way || place->height != height || place->width != width) {
        npo_graph *graph = NULL;
        npo_err err = plan(vae, way, height, width, &graph, error);
        if (err)
            return npo_error_prefix(error, err, "cannot plan the VAE for a latent of %lld x %lld",
                                    (long long)height, (long long)width);
        npo_graph_free(place->graph);
        *place = (planned){.way = way, .height = height, .width = width, .graph = graph};
    }
    place->last_use = ++vae->uses;
    *ret_graph = place->graph;
    return NPO_OK;
}

/* ---- tiles ---- */

/* The largest tiles that fit the limit; 0: the whole does. */
static npo_err choose_tile(npo_vae *vae, direction way, int64_t height, int64_t width,
                           int64_t *ret_tile, npo_error *error)
{
    static const int64_t sides[] = {128, 96, 64, 48, 32, 24, 16, 8};
    fitting *fits = &vae->fits[way];
    npo_graph *graph;
    if (!vae->limit_bytes || (fits->height == height && fits->width == width)) {
        *ret_tile = vae->limit_bytes ? fits->tile : 0;
        return NPO_OK;
    }
    int64_t tile = 0, longest = height > width ? height : width;
    npo_err err = get_graph(vae, way, height, width, &graph, error);
    for (size_t i = 0; err == NPO_E_NOMEM && i < sizeof sides / sizeof *sides; i++) {
        tile = sides[i];
        if (tile < longest)
            err = get_graph(vae, way, tile < height ? tile : height, tile < width ? tile : width,
                            &graph, error);
    }
    if (err)
        return err;
    *fits = (fitting){height, width, tile};
    *ret_tile = tile;
    return NPO_OK;
}

/* What run_part runs. */
typedef struct {
    npo_vae *vae;
    direction way;
} runner;

/* One graph on a tile, or on the whole; sizes in latent positions. */
static npo_err run_part(void *self, const float *in, int64_t height, int64_t width, float *ret_out,
                        npo_error *error)
{
    const runner *r = self;
    npo_vae *vae = r->vae;
    npo_graph *graph;
    npo_shape shape;
    size_t count = floats_of(height, width, in_scale(vae, r->way), in_channels(vae, r->way));
    size_t out_count = floats_of(height, width, out_scale(vae, r->way), out_channels(vae, r->way));
    NPO_TRY(get_graph(vae, r->way, height, width, &graph, error));
    memcpy(npo_graph_input_data(graph, "x"), in, count * sizeof *in);
    NPO_TRY(npo_graph_forward(graph, vae->params, error));
    memcpy(ret_out, npo_graph_output_data(graph, "y", &shape), out_count * sizeof *ret_out);
    return NPO_OK;
}

/* height, width: of the latent. in and ret_out [height*scale, width*scale, channels]. */
static npo_err run(npo_vae *vae, direction way, int64_t height, int64_t width, const float *in,
                   float *ret_out, npo_error *error)
{
    int64_t tile = vae->forced_tile;
    runner self = {vae, way};
    if (!tile)
        NPO_TRY(choose_tile(vae, way, height, width, &tile, error));
    npo_vae_tiling tiling = {
        .height = height,
        .width = width,
        .tile = tile,
        .in_scale = in_scale(vae, way),
        .in_channels = in_channels(vae, way),
        .out_scale = out_scale(vae, way),
        .out_channels = out_channels(vae, way),
        .run = run_part,
        .self = &self,
    };
    vae->last_tile = tile && npo_vae_tiling_needed(&tiling) ? tile : 0;
    return vae->last_tile ? npo_vae_tiling_run(&tiling, in, ret_out, error)
                          : run_part(&self, in, height, width, ret_out, error);
}

/* ---- running ---- */

npo_err npo_vae_decode(npo_vae *vae, const float *latent, int64_t height, int64_t width,
                       float *ret_image, npo_error *error)
{
    size_t count = floats_of(height, width, 1, vae->config.latent_channels);
    assert(height > 0 && width > 0);
    float *z = malloc(count * sizeof *z);
    if (!z)
        return npo_error_set(error, NPO_E_NOMEM, "cannot decode a latent: out of memory");
    for (size_t i = 0; i < count; i++)
        z[i] = latent[i] / vae->config.latent_scale + vae->config.latent_shift;
    npo_err err = run(vae, DECODE, height, width, z, ret_image, error);
    free(z);
    return err;
}

npo_err npo_vae_moments(npo_vae *vae, const float *image, int64_t height, int64_t width,
                        float *ret_mean, float *ret_logvar, npo_error *error)
{
    int64_t factor = npo_vae_factor(vae);
    size_t channels = (size_t)vae->config.latent_channels;
    if (height < 1 || width < 1 || height % factor || width % factor)
        return npo_error_set(error, NPO_E_SHAPE,
                             "image of %lld x %lld pixels, expected multiples of %lld for the VAE",
                             (long long)height, (long long)width, (long long)factor);
    size_t count = floats_of(height / factor, width / factor, 1, vae->config.latent_channels);
    float *moments = malloc(2 * count * sizeof *moments);
    if (!moments)
        return npo_error_set(error, NPO_E_NOMEM, "cannot encode an image: out of memory");
    npo_err err = run(vae, ENCODE, height / factor, width / factor, image, moments, error);
    for (size_t i = 0; !err && i < count; i++) {
        const float *at = moments + i / channels * 2 * channels + i % channels;
        if (ret_mean)
            ret_mean[i] = *at;
        if (ret_logvar)
            ret_logvar[i] = fminf(fmaxf(at[channels], -30), 20);
    }
    free(moments);
    return err;
}

npo_err npo_vae_encode(npo_vae *vae, const float *image, int64_t height, int64_t width,
                       float *ret_latent, npo_error *error)
{
    NPO_TRY(npo_vae_moments(vae, image, height, width, ret_latent, NULL, error));
    int64_t factor = npo_vae_factor(vae);
    size_t count = floats_of(height / factor, width / factor, 1, vae->config.latent_channels);
    for (size_t i = 0; i < count; i++)
        ret_latent[i] = (ret_latent[i] - vae->config.latent_shift) * vae->config.latent_scale;
    return NPO_OK;
}
