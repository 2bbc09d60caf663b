#include "worker/model/networks/clip_text.h"

#include "worker/model/networks/config.h"
#include "worker/model/networks/modules.h"

#include <stdio.h>
#include <string.h>

enum {
    LAYERS_MAX = 128,
    WIDTH_MAX = 1 << 16,
    IDS_MAX = 1 << 24,
};

static const char projection_name[] = "text_projection.weight";

/* ---- config ---- */

typedef struct {
    int64_t vocab, hidden, intermediate, positions, layers, heads, projection, eos;
    double norm_eps;
    int act;
} raw_config;

static const char *const act_names[] = {"quick_gelu", "gelu", NULL};
static const npo_act acts[] = {NPO_ACT_QUICK_GELU, NPO_ACT_GELU};

#define FIELD(name, kind, member, low, high, list)                                                 \
    {                                                                                              \
        .key = name, .type = kind, .offset = offsetof(raw_config, member), .min = low,             \
        .max = high, .choices = list                                                               \
    }

static const npo_json_field fields[] = {
    FIELD("vocab_size", NPO_JSON_INT, vocab, 1, IDS_MAX, NULL),
    FIELD("hidden_size", NPO_JSON_INT, hidden, 1, WIDTH_MAX, NULL),
    FIELD("intermediate_size", NPO_JSON_INT, intermediate, 1, 8.0 * WIDTH_MAX, NULL),
    FIELD("max_position_embeddings", NPO_JSON_INT, positions, 2, WIDTH_MAX, NULL),
    FIELD("num_hidden_layers", NPO_JSON_INT, layers, 1, LAYERS_MAX, NULL),
    FIELD("num_attention_heads", NPO_JSON_INT, heads, 1, WIDTH_MAX, NULL),
    FIELD("projection_dim", NPO_JSON_INT, projection, 1, WIDTH_MAX, NULL),
    FIELD("eos_token_id", NPO_JSON_INT, eos, 0, IDS_MAX, NULL),
    FIELD("layer_norm_eps", NPO_JSON_NUMBER, norm_eps, 0, 1, NULL),
    FIELD("hidden_act", NPO_JSON_ENUM, act, 0, 0, act_names),
};

npo_err npo_clip_text_config_read(const cJSON *json, const char *name,
                                  npo_clip_text_config *ret_config, npo_error *error)
{
    /* transformers' defaults, eos_token_id included; see npo_clip_text_pooled_index. */
    raw_config raw = {.vocab = 49408,
                      .hidden = 512,
                      .intermediate = 2048,
                      .positions = 77,
                      .layers = 12,
                      .heads = 8,
                      .projection = 512,
                      .eos = 49407,
                      .norm_eps = 1e-5};
    npo_err err =
        npo_json_read(json, "", fields, sizeof fields / sizeof *fields, true, &raw, error);
    if (!err && raw.hidden % raw.heads)
        err = npo_error_set(error, NPO_E_RANGE,
                            "num_attention_heads: found %lld, expected a divisor of hidden_size "
                            "%lld",
                            (long long)raw.heads, (long long)raw.hidden);
    if (err)
        return npo_error_prefix(error, err, "%s", name);
    *ret_config = (npo_clip_text_config){
        .vocab = raw.vocab,
        .hidden = raw.hidden,
        .intermediate = raw.intermediate,
        .positions = raw.positions,
        .layers = raw.layers,
        .heads = raw.heads,
        .projection = raw.projection,
        .eos_id = raw.eos,
        .norm_eps = (float)raw.norm_eps,
        .act = acts[raw.act],
    };
    return NPO_OK;
}

npo_err npo_clip_text_config_load(const char *path, npo_clip_text_config *ret_config,
                                  npo_error *error)
{
    cJSON *json = NULL;
    char name[NPO_CONFIG_NAME_MAX];
    NPO_TRY(npo_config_open(path, &json, name, error));
    npo_err err = npo_clip_text_config_read(json, name, ret_config, error);
    cJSON_Delete(json);
    return err;
}

/* ---- network ---- */

typedef struct {
    npo_graph *graph;
    const npo_clip_text_config *config;
    bool name_states;
} encoder;

static void name_state(const encoder *e, int64_t index, npo_value x)
{
    char name[32];
    if (!e->name_states)
        return;
    snprintf(name, sizeof name, "hidden.%lld", (long long)index);
    npo_graph_output(e->graph, name, x);
}

static npo_value embed(const encoder *e, npo_value ids)
{
    static const char tokens[] = "text_model.embeddings.token_embedding.weight";
    static const char positions[] = "text_model.embeddings.position_embedding.weight";
    const npo_clip_text_config *c = e->config;
    npo_value table = npo_graph_param(e->graph, tokens, 2, (int64_t[]){c->vocab, c->hidden});
    npo_value places =
        npo_graph_param(e->graph, positions, 2, (int64_t[]){c->positions, c->hidden});
    return npo_op_add_rows(e->graph, npo_op_embedding(e->graph, ids, table), places);
}

/* Linear layer `part` of the module at path. */
static npo_value linear(const encoder *e, const char *path, const char *part, npo_value x,
                        int64_t out)
{
    char name[NPO_PATH_MAX];
    npo_module_path(e->graph, name, "%s.%s", path, part);
    return npo_module_linear(e->graph, name, x, out, true);
}

static npo_value layer(const encoder *e, int64_t index, npo_value x)
{
    npo_graph *g = e->graph;
    const npo_clip_text_config *c = e->config;
    char path[NPO_PATH_MAX], name[NPO_PATH_MAX];
    npo_module_path(g, path, "text_model.encoder.layers.%lld", (long long)index);
    npo_module_path(g, name, "%.100s.layer_norm1", path);
    npo_value h = npo_module_layer_norm(g, name, x, c->norm_eps);
    npo_value q = linear(e, path, "self_attn.q_proj", h, c->hidden);
    npo_value k = linear(e, path, "self_attn.k_proj", h, c->hidden);
    npo_value v = linear(e, path, "self_attn.v_proj", h, c->hidden);
    h = npo_op_attention(g, q, k, v, (int)c->heads, true);
    x = npo_op_add(g, x, linear(e, path, "self_attn.out_proj", h, c->hidden));
    npo_module_path(g, name, "%.100s.layer_norm2", path);
    h = npo_module_layer_norm(g, name, x, c->norm_eps);
    h = npo_op_activation(g, linear(e, path, "mlp.fc1", h, c->intermediate), c->act);
    return npo_op_add(g, x, linear(e, path, "mlp.fc2", h, c->hidden));
}

npo_clip_text_states npo_clip_text_record(npo_graph *graph, const npo_clip_text_config *config,
                                          npo_value ids, bool name_states)
{
    encoder e = {graph, config, name_states};
    npo_clip_text_states states = {0};
    npo_value x = embed(&e, ids);
    name_state(&e, 0, x);
    for (int64_t i = 0; i < config->layers; i++) {
        states.penultimate = x;
        x = layer(&e, i, x);
        name_state(&e, i + 1, x);
    }
    states.last = npo_module_layer_norm(graph, "text_model.final_layer_norm", x, config->norm_eps);
    return states;
}

static void record_layout(npo_graph *graph, const void *user)
{
    const npo_clip_text_config *config = user;
    npo_value ids = npo_graph_input(graph, "ids", NPO_I32, 2, (int64_t[]){1, 1});
    npo_graph_output(graph, "last", npo_clip_text_record(graph, config, ids, false).last);
    if (config->with_projection)
        npo_graph_param(graph, projection_name, 2, (int64_t[]){config->projection, config->hidden});
}

npo_err npo_clip_text_layout(npo_backend *backend, const npo_clip_text_config *config,
                             npo_layout **ret_layout, npo_error *error)
{
    return npo_module_layout(backend, "the text encoder", record_layout, config, ret_layout, error);
}

int64_t npo_clip_text_pooled_index(const npo_clip_text_config *config, const int32_t *ids,
                                   int64_t length)
{
    int64_t highest = 0;
    for (int64_t i = 0; i < length; i++) {
        if (config->eos_id != 2 && ids[i] == config->eos_id)
            return i;
        if (ids[i] > ids[highest])
            highest = i;
    }
    return config->eos_id == 2 ? highest : 0;
}

void npo_clip_text_project(const npo_clip_text_config *config, const npo_params *params,
                           const float *pooled, float *ret_projected)
{
    const npo_param_info *info = npo_layout_find(npo_params_layout(params), projection_name);
    const float *weight = npo_params_data(params) + info->offset;
    for (int64_t i = 0; i < config->projection; i++) {
        double sum = 0;
        for (int64_t k = 0; k < config->hidden; k++)
            sum += (double)weight[i * config->hidden + k] * (double)pooled[k];
        ret_projected[i] = (float)sum;
    }
}
