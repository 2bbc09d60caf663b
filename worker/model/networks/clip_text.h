/* CLIPTextModel and CLIPTextModelWithProjection of transformers as forward code that records ops.
 */
#ifndef NPO_WORKER_MODEL_NETWORKS_CLIP_TEXT_H
#define NPO_WORKER_MODEL_NETWORKS_CLIP_TEXT_H

#include "common/json.h"
#include "kernels/graph.h"
#include "kernels/op.h"

typedef struct {
    int64_t vocab, hidden, intermediate, positions; /* positions: longest prompt in tokens */
    int64_t layers, heads;
    int64_t projection; /* channels of the projected pooled state */
    /* CLIPTextModelWithProjection; never set by reading, since a config need not name its class. */
    bool with_projection;
    int64_t eos_id; /* the pooled state's token; 2 in old configs: the highest id is taken */
    float norm_eps;
    npo_act act; /* GELU or QUICK_GELU */
} npo_clip_text_config;

/* As npo_unet_config_read. Missing keys take the defaults of transformers' CLIPTextConfig. */
npo_err npo_clip_text_config_read(const cJSON *json, const char *name,
                                  npo_clip_text_config *ret_config,
                                  npo_error *error) NPO_MUST_CHECK;
npo_err npo_clip_text_config_load(const char *path, npo_clip_text_config *ret_config,
                                  npo_error *error) NPO_MUST_CHECK;

typedef struct {
    npo_value last;        /* the last layer's state after the final norm, [N,L,hidden] */
    npo_value penultimate; /* the state before the last layer, not normed, [N,L,hidden] */
} npo_clip_text_states;

/* ids [N,L] i32, L <= positions. name_states: names every hidden state "hidden.i" (0: embeddings)
 * as an output. */
npo_clip_text_states npo_clip_text_record(npo_graph *graph, const npo_clip_text_config *config,
                                          npo_value ids, bool name_states);
npo_err npo_clip_text_layout(npo_backend *backend, const npo_clip_text_config *config,
                             npo_layout **ret_layout, npo_error *error) NPO_MUST_CHECK;
/* Index of the token whose final state is the pooled one: the first eos_id (0 without one, as
 * argmax has it), or the first highest id where eos_id is 2. ids: [length]. */
int64_t npo_clip_text_pooled_index(const npo_clip_text_config *config, const int32_t *ids,
                                   int64_t length);
/* pooled [hidden] -> ret_projected [projection]. params: of a layout with_projection. */
void npo_clip_text_project(const npo_clip_text_config *config, const npo_params *params,
                           const float *pooled, float *ret_projected);

#endif
