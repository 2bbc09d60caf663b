#include "worker/model/networks/network.h"

#include "worker/model/networks/unet.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* A planned graph of one batch size; n is 0 for a free place. */
typedef struct {
    int64_t n;
    uint64_t last_use;
    npo_graph *graph;
    npo_plan_info info;
} batch_graph;

struct npo_network {
    npo_backend *backend;
    npo_layout *layout;
    npo_unet_config config;
    npo_network_shape shape;
    npo_network_plan plan;
    batch_graph graphs[NPO_NETWORK_GRAPHS_MAX];
    uint64_t uses;
};

npo_err npo_network_new(npo_backend *backend, npo_layout *layout, const npo_unet_config *config,
                        const npo_network_shape *shape, npo_network **ret_network, npo_error *error)
{
    if (shape->height < 1 || shape->width < 1 || shape->context_len < 1)
        return npo_error_set(error, NPO_E_RANGE,
                             "network shape: found height %lld, width %lld, %lld tokens, expected "
                             "at least 1 each",
                             (long long)shape->height, (long long)shape->width,
                             (long long)shape->context_len);
    npo_network *network = calloc(1, sizeof *network);
    if (!network)
        return npo_error_set(error, NPO_E_NOMEM, "cannot create a network: out of memory");
    network->backend = backend;
    network->layout = npo_layout_ref(layout);
    network->config = *config;
    network->shape = *shape;
    *ret_network = network;
    return NPO_OK;
}

static void drop_graphs(npo_network *network)
{
    for (int i = 0; i < NPO_NETWORK_GRAPHS_MAX; i++) {
        npo_graph_free(network->graphs[i].graph);
        network->graphs[i] = (batch_graph){0};
    }
}

void npo_network_free(npo_network *network)
{
    if (!network)
        return;
    drop_graphs(network);
    npo_layout_unref(network->layout);
    free(network);
}

void npo_network_set_plan(npo_network *network, npo_network_plan plan)
{
    if (plan.compute != network->plan.compute || plan.packed_bytes != network->plan.packed_bytes)
        drop_graphs(network);
    network->plan = plan;
}

void npo_network_trim(npo_network *network)
{
    drop_graphs(network);
}

const npo_unet_config *npo_network_config(const npo_network *network)
{
    return &network->config;
}

const npo_network_shape *npo_network_shape_of(const npo_network *network)
{
    return &network->shape;
}

size_t npo_network_sample_floats(const npo_network *network)
{
    return (size_t)(network->shape.height * network->shape.width * network->config.in_channels);
}

size_t npo_network_context_floats(const npo_network *network)
{
    return (size_t)(network->shape.context_len * npo_unet_config_context(&network->config));
}

size_t npo_network_added_floats(const npo_network *network)
{
    return (size_t)npo_unet_config_added(&network->config);
}

/* ---- graphs ---- */

static void record(npo_network *network, int64_t n, npo_graph *graph)
{
    const npo_unet_config *c = &network->config;
    const npo_network_shape *s = &network->shape;
    npo_unet_inputs inputs = npo_unet_declare(graph, c, n, s->height, s->width, s->context_len);
    npo_graph_output(graph, "y", npo_unet_record(graph, c, inputs, NULL));
}

static npo_err build(npo_network *network, int64_t n, batch_graph *place, npo_error *error)
{
    npo_graph *graph = NULL;
    npo_err err = npo_graph_new(network->backend, network->layout, &graph);
    if (err)
        return npo_error_set(error, err, "cannot record the network: %s", npo_err_text(err));
    record(network, n, graph);
    npo_plan_options options = {
        .loss = NPO_VALUE_NONE,
        .packed_bytes = network->plan.packed_bytes,
        .compute = network->plan.compute,
    };
    err = npo_graph_plan(graph, &options, &place->info, error);
    if (err) {
        npo_graph_free(graph);
        return npo_error_prefix(error, err, "cannot plan the network for batch %lld", (long long)n);
    }
    place->graph = graph;
    place->n = n;
    return NPO_OK;
}

/* The graph for batch n: kept, or planned in the place longest unused. */
static npo_err get_graph(npo_network *network, int64_t n, batch_graph **ret_place, npo_error *error)
{
    batch_graph *place = &network->graphs[0];
    for (int i = 0; i < NPO_NETWORK_GRAPHS_MAX && place->n != n; i++)
        if (network->graphs[i].n == n || network->graphs[i].last_use < place->last_use)
            place = &network->graphs[i];
    if (place->n != n) {
        npo_graph_free(place->graph);
        *place = (batch_graph){0};
        NPO_TRY(build(network, n, place, error));
    }
    place->last_use = ++network->uses;
    *ret_place = place;
    return NPO_OK;
}

npo_err npo_network_prepare(npo_network *network, int64_t n, npo_plan_info *ret_info,
                            npo_error *error)
{
    batch_graph *place;
    assert(n > 0);
    NPO_TRY(get_graph(network, n, &place, error));
    *ret_info = place->info;
    return NPO_OK;
}

/* ---- evaluation ---- */

static void feed_added(const npo_network *network, size_t n, const float *added, npo_graph *graph)
{
    size_t floats = npo_network_added_floats(network);
    size_t pooled_channels = (size_t)network->config.pooled_channels;
    float *pooled = npo_graph_input_data(graph, "pooled");
    float *time_ids = npo_graph_input_data(graph, "time_ids");
    for (size_t i = 0; floats && i < n; i++)
        npo_unet_split_added(&network->config, added + i * floats, pooled + i * pooled_channels,
                             time_ids + i * NPO_UNET_TIME_IDS);
}

npo_err npo_network_eval(npo_network *network, const npo_params *params, int64_t n, const float *x,
                         const float *t, const float *context, const float *added, float *ret_out,
                         npo_error *error)
{
    batch_graph *place;
    assert(n > 0);
    NPO_TRY(get_graph(network, n, &place, error));
    size_t count = (size_t)n;
    memcpy(npo_graph_input_data(place->graph, "x"), x,
           count * npo_network_sample_floats(network) * sizeof *x);
    memcpy(npo_graph_input_data(place->graph, "t"), t, count * sizeof *t);
    if (npo_unet_config_context(&network->config))
        memcpy(npo_graph_input_data(place->graph, "context"), context,
               count * npo_network_context_floats(network) * sizeof *context);
    feed_added(network, count, added, place->graph);
    NPO_TRY(npo_graph_forward(place->graph, params, error));
    npo_shape shape;
    const float *y = npo_graph_output_data(place->graph, "y", &shape);
    size_t floats = 1;
    for (int i = 0; i < shape.ndim; i++)
        floats *= (size_t)shape.dims[i];
    memcpy(ret_out, y, floats * sizeof *y);
    return NPO_OK;
}
