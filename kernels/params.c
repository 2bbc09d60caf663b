#include "kernels/params.h"

#include "common/bounds.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN_FLOATS = 16, ALIGN_BYTES = 64 };

struct npo_layout {
    atomic_int refs;
    bool frozen;
    npo_layout *base; /* of an adapter, else NULL */
    float scale;
    npo_param_info *infos;
    size_t count, cap;
    size_t floats;
    uint32_t *table; /* open addressing by name; index + 1, 0: free */
    size_t table_size;
};

struct npo_params {
    npo_layout *layout;
    const npo_params *base;
    float *data;
    uint64_t version;
};

static atomic_uint_fast64_t next_version = 1;

/* ---- layout ---- */

npo_err npo_layout_new(npo_layout **ret_layout)
{
    npo_layout *layout = calloc(1, sizeof *layout);
    if (!layout)
        return NPO_E_NOMEM;
    atomic_init(&layout->refs, 1);
    *ret_layout = layout;
    return NPO_OK;
}

npo_err npo_layout_new_adapter(npo_layout *base, float scale, npo_layout **ret_layout)
{
    NPO_TRY(npo_layout_new(ret_layout));
    (*ret_layout)->base = npo_layout_ref(base);
    (*ret_layout)->scale = scale;
    return NPO_OK;
}

npo_layout *npo_layout_base(const npo_layout *layout)
{
    return layout->base;
}

float npo_layout_scale(const npo_layout *layout)
{
    return layout->scale;
}

npo_layout *npo_layout_ref(npo_layout *layout)
{
    atomic_fetch_add(&layout->refs, 1);
    return layout;
}

void npo_layout_unref(npo_layout *layout)
{
    if (!layout || atomic_fetch_sub(&layout->refs, 1) > 1)
        return;
    npo_layout_unref(layout->base);
    free(layout->infos);
    free(layout->table);
    free(layout);
}

static uint64_t hash_name(const char *name)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 1099511628211u;
    return hash;
}

/* The slot of the name, or the free one where it would stand. The table is never full. */
static uint32_t *find_slot(const npo_layout *layout, const char *name)
{
    size_t mask = layout->table_size - 1;
    size_t at = (size_t)hash_name(name) & mask;
    while (layout->table[at] && strcmp(layout->infos[layout->table[at] - 1].name, name) != 0)
        at = (at + 1) & mask;
    return &layout->table[at];
}

static npo_err grow(npo_layout *layout)
{
    size_t cap = layout->cap ? layout->cap * 2 : 64;
    npo_param_info *infos = realloc(layout->infos, cap * sizeof *infos);
    if (!infos)
        return NPO_E_NOMEM;
    layout->infos = infos;
    uint32_t *table = calloc(cap * 2, sizeof *table);
    if (!table)
        return NPO_E_NOMEM;
    free(layout->table);
    layout->table = table;
    layout->table_size = cap * 2;
    layout->cap = cap;
    for (size_t i = 0; i < layout->count; i++)
        *find_slot(layout, infos[i].name) = (uint32_t)i + 1;
    return NPO_OK;
}

static const char *format_dims(int ndim, const int64_t *dims, char *text, size_t size)
{
    size_t len = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < ndim && len < size; i++)
        len += (size_t)snprintf(text + len, size - len, "%s%lld", i ? "," : "", (long long)dims[i]);
    if (len < size)
        snprintf(text + len, size - len, "]");
    return text;
}

static npo_err check_again(const npo_param_info *info, int ndim, const int64_t *dims,
                           npo_error *error)
{
    if (info->ndim == ndim && memcmp(info->dims, dims, (size_t)ndim * sizeof *dims) == 0)
        return NPO_OK;
    char found[96], expected[96];
    return npo_error_set(error, NPO_E_SHAPE, "parameter '%s': shape %s, expected %s", info->name,
                         format_dims(ndim, dims, found, sizeof found),
                         format_dims(info->ndim, info->dims, expected, sizeof expected));
}

static npo_err count_elements(const char *name, int ndim, const int64_t *dims, size_t *ret_count,
                              npo_error *error)
{
    char text[96];
    size_t count = 1;
    if (ndim < 1 || ndim > NPO_PARAM_DIMS_MAX)
        return npo_error_set(error, NPO_E_SHAPE, "parameter '%s': %d dimensions, expected 1 to %d",
                             name, ndim, NPO_PARAM_DIMS_MAX);
    for (int i = 0; i < ndim; i++)
        if (dims[i] < 1 || __builtin_mul_overflow(count, (size_t)dims[i], &count) ||
            count > SIZE_MAX / 64)
            return npo_error_set(error, NPO_E_SHAPE,
                                 "parameter '%s': shape %s, expected sizes of at least 1 in memory",
                                 name, format_dims(ndim, dims, text, sizeof text));
    *ret_count = count;
    return NPO_OK;
}

npo_err npo_layout_add(npo_layout *layout, const char *name, int ndim, const int64_t *dims,
                       size_t *ret_index, npo_error *error)
{
    size_t count = 0, floats;
    NPO_TRY(count_elements(name, ndim, dims, &count, error));
    if (strlen(name) >= NPO_PARAM_NAME_MAX)
        return npo_error_set(error, NPO_E_LIMIT,
                             "parameter '%.40s...': name of %zu bytes, expected "
                             "at most %d",
                             name, strlen(name), NPO_PARAM_NAME_MAX - 1);
    const npo_param_info *known = npo_layout_find(layout, name);
    if (known) {
        NPO_TRY(check_again(known, ndim, dims, error));
        *ret_index = (size_t)(known - layout->infos);
        return NPO_OK;
    }
    if (layout->frozen)
        return npo_error_set(error, NPO_E_STATE,
                             "parameter '%s': new name in a layout that sets exist of", name);
    if (layout->count == layout->cap && grow(layout))
        return npo_error_set(error, NPO_E_NOMEM, "parameter '%s': out of memory", name);
    if (__builtin_add_overflow(layout->floats, count + ALIGN_FLOATS, &floats) ||
        floats > SIZE_MAX / 64)
        return npo_error_set(error, NPO_E_LIMIT, "parameter '%s': layout too large", name);
    npo_param_info *info = &layout->infos[layout->count];
    *info = (npo_param_info){.ndim = ndim, .offset = layout->floats, .count = count};
    memcpy(info->dims, dims, (size_t)ndim * sizeof *dims);
    snprintf(info->name, sizeof info->name, "%s", name);
    *find_slot(layout, name) = (uint32_t)layout->count + 1;
    layout->floats += (count + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS;
    *ret_index = layout->count++;
    return NPO_OK;
}

size_t npo_layout_count(const npo_layout *layout)
{
    return layout->count;
}

const npo_param_info *npo_layout_at(const npo_layout *layout, size_t index)
{
    assert(index < layout->count);
    return &layout->infos[index];
}

const npo_param_info *npo_layout_find(const npo_layout *layout, const char *name)
{
    uint32_t slot = layout->table_size ? *find_slot(layout, name) : 0;
    return slot ? &layout->infos[slot - 1] : NULL;
}

size_t npo_layout_floats(const npo_layout *layout)
{
    return layout->floats;
}

/* ---- sets ---- */

npo_err npo_params_new(npo_layout *layout, npo_params **ret_params)
{
    npo_params *params = calloc(1, sizeof *params);
    if (!params)
        return NPO_E_NOMEM;
    size_t bytes = (layout->floats ? layout->floats : ALIGN_FLOATS) * sizeof(float);
    params->data = aligned_alloc(ALIGN_BYTES, bytes);
    if (!params->data) {
        free(params);
        return NPO_E_NOMEM;
    }
    memset(params->data, 0, bytes);
    params->layout = npo_layout_ref(layout);
    layout->frozen = true;
    params->version = atomic_fetch_add(&next_version, 1);
    *ret_params = params;
    return NPO_OK;
}

void npo_params_free(npo_params *params)
{
    if (!params)
        return;
    npo_layout_unref(params->layout);
    free(params->data);
    free(params);
}

npo_layout *npo_params_layout(const npo_params *params)
{
    return params->layout;
}

const float *npo_params_data(const npo_params *params)
{
    return params->data;
}

float *npo_params_edit(npo_params *params)
{
    params->version = atomic_fetch_add(&next_version, 1);
    return params->data;
}

uint64_t npo_params_version(const npo_params *params)
{
    return params->version;
}

void npo_params_set_base(npo_params *params, const npo_params *base)
{
    assert(base->layout == params->layout->base);
    params->base = base;
    npo_params_edit(params);
}

const npo_params *npo_params_base(const npo_params *params)
{
    return params->base;
}

void npo_params_copy(npo_params *to, const npo_params *from)
{
    assert(to->layout == from->layout);
    memcpy(npo_params_edit(to), from->data, to->layout->floats * sizeof(float));
}
