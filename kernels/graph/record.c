/* Recording. */
#include "kernels/graph/state.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

npo_err npo_graph_new(npo_backend *backend, npo_layout *layout, npo_graph **ret_graph)
{
    npo_graph *graph = calloc(1, sizeof *graph);
    if (!graph)
        return NPO_E_NOMEM;
    graph->backend = backend;
    graph->layout = npo_layout_ref(layout);
    graph->loss = NPO_VALUE_NONE;
    *ret_graph = graph;
    return NPO_OK;
}

static void free_steps(npo_graph *graph)
{
    for (size_t i = 0; graph->steps && i < graph->node_count; i++)
        if (graph->steps[i].prepared)
            graph->backend->ops->op_finish(graph->backend, &graph->steps[i].work);
    free(graph->steps);
    free(graph->calls);
}

void npo_graph_free(npo_graph *graph)
{
    if (!graph)
        return;
    free_steps(graph);
    graph->backend->ops->release(graph->backend, graph->memory);
    for (size_t i = 0; i < NPO_PACK_SLOTS_MAX; i++)
        graph->backend->ops->release(graph->backend, graph->slots[i].memory);
    for (size_t i = 0; i < graph->value_count; i++)
        free(npo_graph_at(graph, (npo_value)i)->name);
    for (size_t i = 0; i * NPO_GRAPH_CHUNK < graph->value_count; i++)
        free(graph->chunks[i]);
    for (size_t i = 0; i < graph->output_count; i++)
        free(graph->outputs[i].name);
    free(graph->chunks);
    free(graph->nodes);
    free(graph->outputs);
    free(graph->params);
    free(graph->frozen);
    npo_layout_unref(graph->layout);
    free(graph);
}

npo_layout *npo_graph_layout(const npo_graph *graph)
{
    return graph->layout;
}

/* ---- failures ---- */

void npo_graph_fail(npo_graph *graph, npo_err code, const char *format, ...)
{
    if (graph->err)
        return;
    va_list args;
    va_start(args, format);
    graph->err = graph->error.code = code;
    vsnprintf(graph->error.text, sizeof graph->error.text, format, args);
    va_end(args);
}

bool npo_graph_failed(const npo_graph *graph)
{
    return graph->err != NPO_OK;
}

static npo_value fail_memory(npo_graph *graph)
{
    npo_graph_fail(graph, NPO_E_NOMEM, "out of memory while recording a graph");
    return NPO_VALUE_NONE;
}

/* ---- values ---- */

/* The list with room for one more, or NULL, which leaves it as it was. */
static void *reserve(void *list, size_t count, size_t *cap, size_t size)
{
    if (count < *cap)
        return list;
    size_t wanted = *cap ? *cap * 2 : 64;
    void *grown = realloc(list, wanted * size);
    if (grown)
        *cap = wanted;
    return grown;
}

static bool add_chunk(npo_graph *graph)
{
    size_t count = graph->value_count / NPO_GRAPH_CHUNK;
    npo_graph_value **chunks =
        reserve(graph->chunks, count, &graph->chunk_cap, sizeof *graph->chunks);
    if (!chunks)
        return false;
    graph->chunks = chunks;
    chunks[count] = calloc(NPO_GRAPH_CHUNK, sizeof **chunks);
    return chunks[count] != NULL;
}

static npo_value add_value(npo_graph *graph, npo_source source, const npo_shape *shape)
{
    size_t count = graph->value_count;
    assert(!graph->planned);
    if (count >= NPO_GRAPH_VALUES_MAX) {
        npo_graph_fail(graph, NPO_E_LIMIT, "graph of more than %d values", NPO_GRAPH_VALUES_MAX);
        return NPO_VALUE_NONE;
    }
    if (count % NPO_GRAPH_CHUNK == 0 && !add_chunk(graph))
        return fail_memory(graph);
    npo_value value = (npo_value)count;
    graph->value_count++;
    *npo_graph_at(graph, value) = (npo_graph_value){
        .shape = *shape,
        .source = source,
        .root = value,
        .node = -1,
    };
    return value;
}

static bool check_dims(npo_graph *graph, const char *name, int ndim, const int64_t *dims)
{
    int64_t count = 1;
    bool fits = ndim >= 0 && ndim <= NPO_DIMS_MAX;
    for (int i = 0; fits && i < ndim; i++)
        fits = dims[i] >= 1 && !__builtin_mul_overflow(count, dims[i], &count) &&
               count < INT64_MAX / 64;
    if (!fits)
        npo_graph_fail(graph, NPO_E_SHAPE,
                       "'%s': expected at most %d dimensions, each of at least 1", name,
                       NPO_DIMS_MAX);
    return fits;
}

npo_value npo_graph_input(npo_graph *graph, const char *name, npo_dtype dtype, int ndim,
                          const int64_t *dims)
{
    if (graph->err || !check_dims(graph, name, ndim, dims))
        return NPO_VALUE_NONE;
    npo_shape shape = npo_shape_make(dtype, ndim, dims);
    npo_value value = add_value(graph, NPO_SOURCE_INPUT, &shape);
    if (value == NPO_VALUE_NONE)
        return value;
    npo_graph_value *v = npo_graph_at(graph, value);
    v->is_private = true;
    v->name = strdup(name);
    return v->name ? value : fail_memory(graph);
}

/* The value of tensor index, NONE where it has none yet; NULL without memory. */
static npo_value *find_param(npo_value **list, size_t *cap, size_t index)
{
    while (index >= *cap) {
        size_t old = *cap;
        npo_value *params = reserve(*list, old, cap, sizeof *params);
        if (!params)
            return NULL;
        *list = params;
        for (size_t i = old; i < *cap; i++)
            params[i] = NPO_VALUE_NONE;
    }
    return &(*list)[index];
}

npo_value npo_graph_param(npo_graph *graph, const char *name, int ndim, const int64_t *dims)
{
    size_t index;
    if (graph->err)
        return NPO_VALUE_NONE;
    npo_layout *base = npo_layout_base(graph->layout);
    bool is_frozen = base && npo_layout_find(base, name);
    npo_err err =
        npo_layout_add(is_frozen ? base : graph->layout, name, ndim, dims, &index, &graph->error);
    if (err) {
        graph->err = err;
        return NPO_VALUE_NONE;
    }
    npo_value *known = is_frozen ? find_param(&graph->frozen, &graph->frozen_cap, index)
                                 : find_param(&graph->params, &graph->param_cap, index);
    if (!known)
        return fail_memory(graph);
    if (*known != NPO_VALUE_NONE)
        return *known;
    npo_shape shape = npo_shape_make(NPO_F32, ndim, dims);
    npo_value value = add_value(graph, NPO_SOURCE_PARAM, &shape);
    if (value != NPO_VALUE_NONE) {
        npo_graph_at(graph, value)->param = index;
        npo_graph_at(graph, value)->is_frozen = is_frozen;
        *known = value;
    }
    return value;
}

npo_value npo_graph_view(npo_graph *graph, npo_value of, const npo_shape *shape)
{
    npo_value value = add_value(graph, NPO_SOURCE_VIEW, shape);
    if (value != NPO_VALUE_NONE)
        npo_graph_at(graph, value)->root = npo_graph_at(graph, of)->root;
    return value;
}

void npo_graph_block(npo_graph *graph)
{
    bool empty = !graph->node_count || graph->nodes[graph->node_count - 1].block != graph->block;
    if (!graph->err && !empty)
        graph->block++;
}

void npo_graph_output(npo_graph *graph, const char *name, npo_value value)
{
    if (graph->err)
        return;
    assert(value >= 0 && (size_t)value < graph->value_count);
    npo_graph_value *root = npo_graph_at(graph, npo_graph_at(graph, value)->root);
    if (root->source == NPO_SOURCE_PARAM) {
        npo_graph_fail(graph, NPO_E_USAGE,
                       "output '%s': expected a computed value, found a "
                       "parameter",
                       name);
        return;
    }
    char *copy = strdup(name);
    npo_graph_name *outputs =
        reserve(graph->outputs, graph->output_count, &graph->output_cap, sizeof *outputs);
    if (outputs)
        graph->outputs = outputs;
    if (!copy || !outputs) {
        free(copy);
        fail_memory(graph);
        return;
    }
    root->is_private = true;
    outputs[graph->output_count++] = (npo_graph_name){.name = copy, .value = value};
}

const npo_shape *npo_graph_shape(const npo_graph *graph, npo_value value)
{
    if (value == NPO_VALUE_NONE)
        return NULL;
    assert(value >= 0 && (size_t)value < graph->value_count);
    return &npo_graph_at(graph, value)->shape;
}

/* ---- ops ---- */

static bool fill_desc(npo_graph *graph, npo_op_desc *desc, const npo_value *in)
{
    const npo_op_rule *rule = npo_op_rule_of(desc->kind);
    for (int i = 0; i < rule->inputs; i++) {
        if (in[i] == NPO_VALUE_NONE && i >= rule->required)
            continue;
        if (in[i] == NPO_VALUE_NONE) {
            npo_graph_fail(graph, NPO_E_USAGE, "op '%s': operand %d is missing", rule->name, i);
            return false;
        }
        assert(in[i] >= 0 && (size_t)in[i] < graph->value_count);
        desc->given |= 1u << i;
        desc->in[i] = npo_graph_at(graph, in[i])->shape;
    }
    npo_err err = rule->shape(desc, &graph->error);
    graph->err = err;
    return err == NPO_OK && check_dims(graph, rule->name, desc->out.ndim, desc->out.dims);
}

npo_value npo_graph_record(npo_graph *graph, npo_op_kind kind, const npo_op_attrs *attrs,
                           const npo_value *in)
{
    npo_op_desc desc = {.kind = kind, .attrs = *attrs};
    if (graph->err || !fill_desc(graph, &desc, in))
        return NPO_VALUE_NONE;
    npo_graph_node *nodes =
        reserve(graph->nodes, graph->node_count, &graph->node_cap, sizeof *nodes);
    if (!nodes)
        return fail_memory(graph);
    graph->nodes = nodes;
    npo_value out = add_value(graph, NPO_SOURCE_NODE, &desc.out);
    if (out == NPO_VALUE_NONE)
        return out;
    npo_graph_node *node = &nodes[graph->node_count];
    *node = (npo_graph_node){.desc = desc, .out = out, .block = graph->block};
    for (int i = 0; i < NPO_OP_INPUTS_MAX; i++)
        node->in[i] = desc.given & 1u << i ? in[i] : NPO_VALUE_NONE;
    npo_graph_at(graph, out)->node = (int)graph->node_count++;
    return out;
}
