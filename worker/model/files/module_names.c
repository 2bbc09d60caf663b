#include "worker/model/files/module_names.h"

#include "worker/model/files/single_name.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STYLES = 4 };

typedef struct {
    char name[NPO_PARAM_NAME_MAX];
    const npo_param_info *info;
} alias;

struct npo_module_names {
    alias *aliases; /* by name */
    size_t count;
};

static int compare_aliases(const void *a, const void *b)
{
    return strcmp(((const alias *)a)->name, ((const alias *)b)->name);
}

static bool is_module_weight(const npo_param_info *info)
{
    static const char end[] = ".weight";
    size_t len = strlen(info->name), n = strlen(end);
    return (info->ndim == 2 || info->ndim == 4) && len > n &&
           strcmp(info->name + len - n, end) == 0;
}

/* name: with ".weight". */
static void add(npo_module_names *names, const npo_param_info *info, const char *name,
                bool underscores)
{
    alias *to = &names->aliases[names->count++];
    size_t len = strlen(name) - strlen(".weight");
    to->info = info;
    snprintf(to->name, sizeof to->name, "%.*s", (int)len, name);
    for (char *at = to->name; underscores && *at; at++)
        *at = *at == '.' ? '_' : *at;
}

static void add_all(npo_module_names *names, const npo_single_names *single,
                    const npo_param_info *info)
{
    npo_single_place place;
    size_t prefix = strlen(npo_single_prefix(single->part));
    for (int underscores = 0; underscores < 2; underscores++) {
        add(names, info, info->name, underscores);
        if (npo_single_place_of(single, info->name, &place) &&
            strcmp(place.name + prefix, info->name) != 0)
            add(names, info, place.name + prefix, underscores);
    }
}

npo_err npo_module_names_new(const npo_layout *layout, npo_module_names **ret_names)
{
    size_t tensors = npo_layout_count(layout);
    npo_single_names single = npo_single_names_of(NPO_SINGLE_UNET, layout);
    npo_module_names *names = calloc(1, sizeof *names);
    if (!names)
        return NPO_E_NOMEM;
    names->aliases = calloc(tensors ? tensors : 1, STYLES * sizeof *names->aliases);
    if (!names->aliases) {
        free(names);
        return NPO_E_NOMEM;
    }
    for (size_t i = 0; i < tensors; i++)
        if (is_module_weight(npo_layout_at(layout, i)))
            add_all(names, &single, npo_layout_at(layout, i));
    qsort(names->aliases, names->count, sizeof *names->aliases, compare_aliases);
    *ret_names = names;
    return NPO_OK;
}

void npo_module_names_free(npo_module_names *names)
{
    if (!names)
        return;
    free(names->aliases);
    free(names);
}

const npo_param_info *npo_module_names_find(const npo_module_names *names, const char *name,
                                            size_t len)
{
    alias key;
    if (len >= sizeof key.name)
        return NULL;
    snprintf(key.name, sizeof key.name, "%.*s", (int)len, name);
    const alias *found = bsearch(&key, names->aliases, names->count, sizeof key, compare_aliases);
    return found ? found->info : NULL;
}
