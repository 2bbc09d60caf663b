#include "common/json.h"

#include "common/bounds.h"
#include "common/buf.h"
#include "common/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INT_MAX_EXACT 9007199254740992.0 /* 2^53 */

/* ---- parsing ---- */

static int compare_keys(const void *a, const void *b)
{
    return strcmp((*(cJSON *const *)a)->string, (*(cJSON *const *)b)->string);
}

/* Children of an object, sorted by key; malloc'ed, NULL when out of memory. */
static cJSON **sorted_children(const cJSON *object, size_t *ret_count)
{
    size_t n = (size_t)cJSON_GetArraySize(object), i = 0;
    cJSON **items = malloc((n ? n : 1) * sizeof *items);
    if (!items)
        return NULL;
    for (cJSON *child = object->child; child; child = child->next)
        items[i++] = child;
    qsort(items, n, sizeof *items, compare_keys);
    *ret_count = n;
    return items;
}

/* Sorted, since objects come with 50,000 keys (vocabularies) and from strangers. */
static npo_err check_keys(const cJSON *object, npo_error *error)
{
    size_t n = 0;
    npo_err err = NPO_OK;
    cJSON **items = sorted_children(object, &n);
    if (!items)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    for (size_t i = 1; !err && i < n; i++)
        if (strcmp(items[i - 1]->string, items[i]->string) == 0)
            err = npo_error_set(error, NPO_E_FORMAT, "key '%s' stands twice", items[i]->string);
    free(items);
    return err;
}

static npo_err check_tree(const cJSON *node, int depth, npo_error *error)
{
    if (depth > NPO_JSON_DEPTH_MAX)
        return npo_error_set(error, NPO_E_LIMIT, "nested deeper than %d levels",
                             NPO_JSON_DEPTH_MAX);
    if (cJSON_IsObject(node))
        NPO_TRY(check_keys(node, error));
    for (const cJSON *child = node->child; child; child = child->next)
        NPO_TRY(check_tree(child, depth + 1, error));
    return NPO_OK;
}

static int line_of(const char *text, const char *at)
{
    int line = 1;
    for (; text < at; text++)
        line += *text == '\n';
    return line;
}

npo_err npo_json_parse(const char *text, size_t len, const char *name, cJSON **ret_json,
                       npo_error *error)
{
    const char *end = text;
    if (len > 0 && memchr(text, '\0', len))
        return npo_error_set(error, NPO_E_FORMAT, "%s: not JSON: holds a NUL byte", name);
    cJSON *json = cJSON_ParseWithLengthOpts(text, len, &end, 0);
    if (!json)
        return npo_error_set(error, NPO_E_FORMAT, "%s: not JSON: error in line %d", name,
                             line_of(text, end ? end : text));
    while (end < text + len && strchr(" \t\r\n", *end))
        end++;
    npo_err err = NPO_OK;
    if (end < text + len)
        err = npo_error_set(error, NPO_E_FORMAT, "%s: not JSON: text after the value in line %d",
                            name, line_of(text, end));
    else if ((err = check_tree(json, 0, error)))
        npo_error_prefix(error, err, "%s", name);
    if (err) {
        cJSON_Delete(json);
        return err;
    }
    *ret_json = json;
    return NPO_OK;
}

npo_err npo_json_load(const char *path, size_t limit, cJSON **ret_json, npo_error *error)
{
    npo_buf text = NPO_BUF_INIT;
    char name[320];
    snprintf(name, sizeof name, "'%s'", path);
    npo_err err = npo_file_read(path, limit, &text, error);
    if (!err)
        err = npo_json_parse(text.data, text.len, name, ret_json, error);
    npo_buf_fini(&text);
    return err;
}

/* ---- reading by table ---- */

static size_t edit_distance(const char *a, const char *b)
{
    enum { MAX = 64 };
    size_t n = strlen(a), m = strlen(b), row[MAX + 1];
    if (n > MAX || m > MAX)
        return MAX;
    for (size_t j = 0; j <= m; j++)
        row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[m];
}

const char *npo_json_closest(const char *key, const char *const *known, size_t count)
{
    const char *best = NULL;
    size_t best_distance = strlen(key) / 2 + 1;
    for (size_t i = 0; i < count; i++) {
        size_t distance = edit_distance(key, known[i]);
        if (distance <= best_distance && (!best || distance < best_distance)) {
            best = known[i];
            best_distance = distance;
        }
    }
    return best;
}

static npo_err unknown_key(const char *where, const char *key, const npo_json_field *fields,
                           size_t count, npo_error *error)
{
    enum { MAX = 128 };
    const char *known[MAX];
    size_t n = 0;
    for (size_t i = 0; i < count && n < MAX; i++)
        known[n++] = fields[i].key;
    const char *closest = npo_json_closest(key, known, n);
    if (closest)
        return npo_error_set(error, NPO_E_USAGE, "unknown key '%s%s', did you mean '%s'?", where,
                             key, closest);
    return npo_error_set(error, NPO_E_USAGE, "unknown key '%s%s'", where, key);
}

static npo_err mismatch(const char *name, const cJSON *item, const char *expected, npo_error *error)
{
    char *found = cJSON_PrintUnformatted(item);
    npo_err err =
        npo_error_set(error, NPO_E_TYPE, "%s: found %.60s%s, expected %s", name,
                      found ? found : "?", found && strlen(found) > 60 ? "..." : "", expected);
    free(found);
    return err;
}

static npo_err read_number(const char *name, const cJSON *item, const npo_json_field *field,
                           void *member, npo_error *error)
{
    bool whole = field->type == NPO_JSON_INT;
    bool bounded = field->min != 0 || field->max != 0;
    double value = item->valuedouble;
    char expected[96];
    const char *kind = whole ? "a whole number" : "a number";
    if (bounded)
        snprintf(expected, sizeof expected, "%s from %.10g to %.10g", kind, field->min, field->max);
    else
        snprintf(expected, sizeof expected, "%s", kind);
    if (!cJSON_IsNumber(item) || !isfinite(value) ||
        (whole && (value != floor(value) || fabs(value) > INT_MAX_EXACT)) ||
        (bounded && (value < field->min || value > field->max)))
        return mismatch(name, item, expected, error);
    if (whole)
        *(int64_t *)member = (int64_t)value;
    else
        *(double *)member = value;
    return NPO_OK;
}

static npo_err read_choice(const char *name, const cJSON *item, const npo_json_field *field,
                           int *ret_index, npo_error *error)
{
    npo_buf expected = NPO_BUF_INIT;
    const char *value = cJSON_GetStringValue(item);
    for (int i = 0; field->choices[i]; i++) {
        if (value && strcmp(value, field->choices[i]) == 0) {
            *ret_index = i;
            npo_buf_fini(&expected);
            return NPO_OK;
        }
        npo_buf_printf(&expected, "%s\"%s\"", i ? ", " : "one of ", field->choices[i]);
    }
    npo_err err = mismatch(name, item, expected.data ? expected.data : "another value", error);
    npo_buf_fini(&expected);
    return err;
}

static npo_err read_string(const char *name, const cJSON *item, const npo_json_field *field,
                           const char **ret_text, npo_error *error)
{
    const char *text = cJSON_GetStringValue(item);
    if (!text)
        return mismatch(name, item, "a string", error);
    if (field->max > 0 && (double)strlen(text) > field->max)
        return npo_error_set(error, NPO_E_LIMIT, "%s: found %zu bytes, expected at most %.0f", name,
                             strlen(text), field->max);
    *ret_text = text;
    return NPO_OK;
}

static npo_err read_tree(const char *name, const cJSON *item, npo_json_type type,
                         const cJSON **ret_item, npo_error *error)
{
    if (type == NPO_JSON_OBJECT && !cJSON_IsObject(item))
        return mismatch(name, item, "an object", error);
    if (type == NPO_JSON_ARRAY && !cJSON_IsArray(item))
        return mismatch(name, item, "a list", error);
    *ret_item = item;
    return NPO_OK;
}

static npo_err read_field(const char *name, const cJSON *item, const npo_json_field *field,
                          void *member, npo_error *error)
{
    switch (field->type) {
    case NPO_JSON_BOOL:
        if (!cJSON_IsBool(item))
            return mismatch(name, item, "true or false", error);
        *(bool *)member = cJSON_IsTrue(item);
        return NPO_OK;
    case NPO_JSON_INT:
    case NPO_JSON_NUMBER:
        return read_number(name, item, field, member, error);
    case NPO_JSON_STRING:
        return read_string(name, item, field, member, error);
    case NPO_JSON_ENUM:
        return read_choice(name, item, field, member, error);
    case NPO_JSON_OBJECT:
    case NPO_JSON_ARRAY:
    case NPO_JSON_ANY:
        break;
    }
    return read_tree(name, item, field->type, member, error);
}

static const npo_json_field *find_field(const char *key, const npo_json_field *fields, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(fields[i].key, key) == 0)
            return &fields[i];
    return NULL;
}

npo_err npo_json_read(const cJSON *object, const char *path, const npo_json_field *fields,
                      size_t field_count, bool allow_unknown, void *ret_struct, npo_error *error)
{
    char where[160], name[256];
    snprintf(where, sizeof where, "%s%s", path, *path ? "." : "");
    if (!cJSON_IsObject(object))
        return npo_error_set(error, NPO_E_TYPE, "%s: expected an object",
                             *path ? path : "top level");
    for (const cJSON *item = object->child; item; item = item->next) {
        const npo_json_field *field = find_field(item->string, fields, field_count);
        if (!field) {
            if (allow_unknown || item->string[0] == '_')
                continue;
            return unknown_key(where, item->string, fields, field_count, error);
        }
        snprintf(name, sizeof name, "%s%s", where, item->string);
        NPO_TRY(read_field(name, item, field, (char *)ret_struct + field->offset, error));
    }
    for (size_t i = 0; i < field_count; i++)
        if (fields[i].required && !cJSON_GetObjectItemCaseSensitive(object, fields[i].key))
            return npo_error_set(error, NPO_E_USAGE, "missing key '%s%s'", where, fields[i].key);
    return NPO_OK;
}

/* ---- changing and printing ---- */

npo_err npo_json_set_path(cJSON *object, const char *path, const char *value, npo_error *error)
{
    char *copy = strdup(path);
    if (!copy)
        return npo_error_set(error, NPO_E_NOMEM, "cannot set '%s'", path);
    npo_err err = NPO_OK;
    char *key = copy;
    for (char *dot; (dot = strchr(key, '.')); key = dot + 1) {
        *dot = '\0';
        cJSON *next = cJSON_GetObjectItemCaseSensitive(object, key);
        if (!next)
            next = cJSON_AddObjectToObject(object, key);
        if (!cJSON_IsObject(next)) {
            err = npo_error_set(error, NPO_E_TYPE, "cannot set '%s': '%s' is not an object", path,
                                key);
            goto out;
        }
        object = next;
    }
    if (!*key) {
        err = npo_error_set(error, NPO_E_USAGE, "cannot set '%s': a key is empty", path);
        goto out;
    }
    cJSON *item = cJSON_ParseWithOpts(value, NULL, 1);
    if (!item)
        item = cJSON_CreateString(value);
    if (!item) {
        err = npo_error_set(error, NPO_E_NOMEM, "cannot set '%s'", path);
        goto out;
    }
    cJSON_DeleteItemFromObjectCaseSensitive(object, key);
    cJSON_AddItemToObject(object, key, item);
out:
    free(copy);
    return err;
}

static int sort_tree(cJSON *node)
{
    for (cJSON *child = node->child; child; child = child->next)
        if (sort_tree(child))
            return -1;
    if (!cJSON_IsObject(node) || !node->child)
        return 0;
    size_t n = 0;
    cJSON **items = sorted_children(node, &n);
    if (!items)
        return -1;
    /* cJSON keeps children in a list whose head's prev is the tail. */
    for (size_t i = 0; i < n; i++) {
        items[i]->prev = items[i ? i - 1 : n - 1];
        items[i]->next = i + 1 < n ? items[i + 1] : NULL;
    }
    node->child = items[0];
    free(items);
    return 0;
}

char *npo_json_canonical(cJSON *json)
{
    return sort_tree(json) ? NULL : cJSON_PrintUnformatted(json);
}

int64_t npo_json_int(const cJSON *object, const char *key, int64_t fallback)
{
    double value = npo_json_number(object, key, NAN);
    return fabs(value) <= INT_MAX_EXACT ? (int64_t)value : fallback;
}

double npo_json_number(const cJSON *object, const char *key, double fallback)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNumber(item) ? item->valuedouble : fallback;
}

const char *npo_json_string(const cJSON *object, const char *key, const char *fallback)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));
    return text ? text : fallback;
}

bool npo_json_bool(const cJSON *object, const char *key, bool fallback)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsBool(item) ? (bool)cJSON_IsTrue(item) : fallback;
}
