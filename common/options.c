#include "common/options.h"

#include "common/json.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_BYTES_MAX = 1 << 20, NAME_SIZE = NPO_OPTION_NAME_SIZE, OPTIONS_MAX = 64 };

typedef enum { SOURCE_DEFAULT, SOURCE_FILE, SOURCE_ENVIRONMENT, SOURCE_FLAG } source;

static const char *const source_names[] = {
    [SOURCE_DEFAULT] = "default",
    [SOURCE_FILE] = "file",
    [SOURCE_ENVIRONMENT] = "environment",
    [SOURCE_FLAG] = "flag",
};

struct npo_options {
    const npo_options_spec *spec;
    bool help, version, print_config;
    const char *config;
    source sources[OPTIONS_MAX];
    char **rest;
    int rest_count;
    npo_option_store store;
};

static const npo_option standard[] = {
    {"help", 'h', NPO_OPTION_BOOL, NPO_OPTION_FLAG_ONLY, offsetof(npo_options, help), NULL,
     "print this and leave", 0, 0},
    {"version", 'V', NPO_OPTION_BOOL, NPO_OPTION_FLAG_ONLY, offsetof(npo_options, version), NULL,
     "print the version and leave", 0, 0},
    {"print-config", 0, NPO_OPTION_BOOL, NPO_OPTION_FLAG_ONLY, offsetof(npo_options, print_config),
     NULL, "print every setting and where it came from, and leave", 0, 0},
    {"config", 0, NPO_OPTION_STRING, 0, offsetof(npo_options, config), "FILE",
     "read settings from a JSON file", 0, 0},
};
enum { STANDARD_COUNT = sizeof standard / sizeof standard[0] };

/* ---- the options of a spec as one sequence: own, common, standard ---- */

static size_t own_count(const npo_options_spec *spec)
{
    return spec->count + spec->common_count;
}

static const npo_option *option_at(const npo_options_spec *spec, size_t index)
{
    if (index < spec->count)
        return &spec->options[index];
    if (index < own_count(spec))
        return &spec->common_options[index - spec->count];
    return index < own_count(spec) + STANDARD_COUNT ? &standard[index - own_count(spec)] : NULL;
}

static const npo_option *find_name(const npo_options_spec *spec, const char *name, size_t len,
                                   size_t *ret_index)
{
    const npo_option *option;
    for (size_t i = 0; (option = option_at(spec, i)); i++) {
        if (strlen(option->name) == len && strncmp(option->name, name, len) == 0) {
            *ret_index = i;
            return option;
        }
    }
    return NULL;
}

static const npo_option *find_letter(const npo_options_spec *spec, char letter, size_t *ret_index)
{
    const npo_option *option;
    for (size_t i = 0; (option = option_at(spec, i)); i++) {
        if (option->letter == letter) {
            *ret_index = i;
            return option;
        }
    }
    return NULL;
}

static void *member_of(npo_options *options, void *values, size_t index)
{
    const npo_option *option = option_at(options->spec, index);
    void *base = index < own_count(options->spec) ? values : options;
    return (char *)base + option->offset;
}

static npo_err unknown(const npo_options_spec *spec, const char *prefix, const char *name,
                       char joiner, npo_error *error)
{
    char names[OPTIONS_MAX + STANDARD_COUNT][NAME_SIZE];
    const char *known[OPTIONS_MAX + STANDARD_COUNT];
    size_t count = 0;
    const npo_option *option;
    for (size_t i = 0; (option = option_at(spec, i)); i++) {
        if (option->flags & NPO_OPTION_HIDDEN)
            continue;
        if (joiner == '_')
            npo_option_key(option, names[count]);
        else
            snprintf(names[count], NAME_SIZE, "%s", option->name);
        known[count] = names[count];
        count++;
    }
    const char *closest = npo_json_closest(name, known, count);
    if (closest)
        return npo_error_set(error, NPO_E_USAGE, "unknown option '%s%s', did you mean '%s%s'?",
                             prefix, name, prefix, closest);
    return npo_error_set(error, NPO_E_USAGE, "unknown option '%s%s'", prefix, name);
}

/* ---- one value ---- */

/* where: "--threads", "NPO_THREADS", "'file.json': threads". A higher source replaces a list of a
 * lower one, the same source adds to it. */
static npo_err set_value(npo_options *options, void *values, size_t index, const char *text,
                         source from, const char *where, npo_error *error)
{
    const npo_option *option = option_at(options->spec, index);
    void *member = member_of(options, values, index);
    if (option->type == NPO_OPTION_LIST && index < OPTIONS_MAX && options->sources[index] != from)
        *(npo_option_list *)member = (npo_option_list){NULL, 0};
    npo_err err = npo_option_read(option, text, &options->store, member);
    if (err == NPO_E_NOMEM)
        return npo_error_set(error, err, "%s: out of memory", where);
    if (err == NPO_E_RANGE && (option->min != 0 || option->max != 0))
        return npo_error_set(error, NPO_E_USAGE, "%s: found '%s', expected %s from %.17g to %.17g",
                             where, text, npo_option_expectation(option), option->min, option->max);
    if (err)
        return npo_error_set(error, NPO_E_USAGE, "%s: found '%s', expected %s", where, text,
                             npo_option_expectation(option));
    if (index < OPTIONS_MAX)
        options->sources[index] = from;
    return NPO_OK;
}

/* ---- flags ---- */

typedef struct {
    npo_options *options;
    void *values;
    int argc;
    char **argv;
    int at;     /* of the argument being read */
    bool apply; /* the first pass only finds --config and checks */
} flag_reader;

static npo_err take_flag(flag_reader *reader, size_t index, const char *text, const char *shown,
                         npo_error *error)
{
    const npo_option *option = option_at(reader->options->spec, index);
    bool is_standard = index >= own_count(reader->options->spec);
    if (!text && option->type == NPO_OPTION_BOOL)
        text = "true";
    if (!text && reader->at + 1 < reader->argc)
        text = reader->argv[++reader->at];
    if (!text)
        return npo_error_set(error, NPO_E_USAGE, "%s: a value is missing (%s)", shown,
                             option->argument ? option->argument : "VALUE");
    /* Standard options go in the first pass, the program's own after file and environment. */
    if (is_standard == reader->apply)
        return NPO_OK;
    return set_value(reader->options, reader->values, index, text, SOURCE_FLAG, shown, error);
}

static npo_err read_long(flag_reader *reader, const char *argument, npo_error *error)
{
    const npo_options_spec *spec = reader->options->spec;
    const char *name = argument + 2, *equals = strchr(name, '=');
    size_t len = equals ? (size_t)(equals - name) : strlen(name), index;
    char shown[NAME_SIZE + 4];
    snprintf(shown, sizeof shown, "--%.*s", (int)(len < NAME_SIZE ? len : NAME_SIZE), name);
    if (find_name(spec, name, len, &index))
        return take_flag(reader, index, equals ? equals + 1 : NULL, shown, error);
    const npo_option *option = NULL;
    if (!equals && strncmp(name, "no-", 3) == 0)
        option = find_name(spec, name + 3, len - 3, &index);
    if (option && option->type == NPO_OPTION_BOOL)
        return take_flag(reader, index, "false", shown, error);
    return unknown(spec, "--", shown + 2, '-', error);
}

static npo_err read_short(flag_reader *reader, const char *argument, npo_error *error)
{
    for (const char *at = argument + 1; *at; at++) {
        size_t index;
        char shown[3] = {'-', *at, '\0'};
        const npo_option *option = find_letter(reader->options->spec, *at, &index);
        if (!option)
            return npo_error_set(error, NPO_E_USAGE, "unknown option '%s'", shown);
        if (option->type != NPO_OPTION_BOOL)
            return take_flag(reader, index, at[1] ? at + 1 : NULL, shown, error);
        NPO_TRY(take_flag(reader, index, NULL, shown, error));
    }
    return NPO_OK;
}

static npo_err read_flags(flag_reader *reader, npo_error *error)
{
    npo_options *options = reader->options;
    const npo_options_spec *spec = options->spec;
    bool only_rest = false;
    options->rest_count = 0;
    for (reader->at = 1; reader->at < reader->argc; reader->at++) {
        char *argument = reader->argv[reader->at];
        if (!only_rest && strcmp(argument, "--") == 0) {
            only_rest = true;
        } else if (!only_rest && strncmp(argument, "--", 2) == 0) {
            NPO_TRY(read_long(reader, argument, error));
        } else if (!only_rest && argument[0] == '-' && argument[1]) {
            NPO_TRY(read_short(reader, argument, error));
        } else {
            if ((size_t)options->rest_count >= spec->rest_max && !spec->stop_at_rest)
                return npo_error_set(error, NPO_E_USAGE, "unexpected argument '%s'", argument);
            options->rest[options->rest_count++] = argument;
            only_rest = only_rest || spec->stop_at_rest;
        }
    }
    return NPO_OK;
}

/* ---- environment and file ---- */

static npo_err read_environment(npo_options *options, void *values, size_t index, npo_error *error)
{
    const npo_option *option = option_at(options->spec, index);
    char name[NAME_SIZE];
    npo_option_variable(option, name);
    const char *text = option->flags & NPO_OPTION_FLAG_ONLY ? NULL : getenv(name);
    if (!text || !*text)
        return NPO_OK;
    return set_value(options, values, index, text, SOURCE_ENVIRONMENT, name, error);
}

static npo_err read_item(npo_options *options, void *values, size_t index, const cJSON *item,
                         const char *where, npo_error *error)
{
    char *printed = NULL;
    const char *text = cJSON_GetStringValue(item);
    if (!text)
        text = printed = cJSON_PrintUnformatted(item);
    npo_err err = text ? set_value(options, values, index, text, SOURCE_FILE, where, error)
                       : npo_error_set(error, NPO_E_NOMEM, "%s: out of memory", where);
    cJSON_free(printed);
    return err;
}

static npo_err read_key(npo_options *options, void *values, const cJSON *item, npo_error *error)
{
    char where[2 * NAME_SIZE + 512], key[NAME_SIZE], prefix[512];
    const npo_option *option;
    snprintf(where, sizeof where, "'%s': %.*s", options->config, NAME_SIZE, item->string);
    for (size_t i = 0; i < own_count(options->spec); i++) {
        option = option_at(options->spec, i);
        npo_option_key(option, key);
        if (strcmp(key, item->string) != 0 || (option->flags & NPO_OPTION_FLAG_ONLY))
            continue;
        if (option->type != NPO_OPTION_LIST || !cJSON_IsArray(item))
            return read_item(options, values, i, item, where, error);
        for (const cJSON *child = item->child; child; child = child->next)
            NPO_TRY(read_item(options, values, i, child, where, error));
        return NPO_OK;
    }
    snprintf(prefix, sizeof prefix, "%s: ", options->config);
    return unknown(options->spec, prefix, item->string, '_', error);
}

static npo_err read_file(npo_options *options, void *values, npo_error *error)
{
    cJSON *json = NULL;
    NPO_TRY(npo_json_load(options->config, CONFIG_BYTES_MAX, &json, error));
    npo_err err = cJSON_IsObject(json) ? NPO_OK
                                       : npo_error_set(error, NPO_E_TYPE,
                                                       "'%s': expected an object", options->config);
    for (const cJSON *item = json->child; !err && item; item = item->next)
        if (item->string[0] != '_')
            err = read_key(options, values, item, error);
    cJSON_Delete(json);
    return err;
}

/* ---- all together ---- */

static npo_err read_all(npo_options *options, int argc, char **argv, void *values, npo_error *error)
{
    size_t count = own_count(options->spec);
    flag_reader reader = {.options = options, .values = values, .argc = argc, .argv = argv};
    NPO_TRY(read_flags(&reader, error));
    if (options->help || options->version)
        return NPO_OK;
    if (!options->config)
        NPO_TRY(read_environment(options, values, count + STANDARD_COUNT - 1, error));
    if (options->config)
        NPO_TRY(read_file(options, values, error));
    for (size_t i = 0; i < count; i++)
        NPO_TRY(read_environment(options, values, i, error));
    reader.apply = true;
    return read_flags(&reader, error);
}

npo_err npo_options_read(const npo_options_spec *spec, int argc, char **argv, void *ret_struct,
                         npo_options **ret_options, npo_error *error)
{
    assert(own_count(spec) <= OPTIONS_MAX);
    npo_options *options = calloc(1, sizeof *options);
    if (options)
        options->rest = calloc((size_t)argc + 1, sizeof *options->rest);
    if (!options || !options->rest) {
        free(options);
        return npo_error_set(error, NPO_E_NOMEM, "cannot read the options: out of memory");
    }
    options->spec = spec;
    npo_err err = read_all(options, argc, argv, ret_struct, error);
    if (err)
        npo_options_free(options);
    else
        *ret_options = options;
    return err;
}

void npo_options_free(npo_options *options)
{
    if (!options)
        return;
    npo_option_store_fini(&options->store);
    free(options->rest);
    free(options);
}

npo_options_request npo_options_requested(const npo_options *options)
{
    if (options->help)
        return NPO_OPTIONS_HELP;
    if (options->version)
        return NPO_OPTIONS_VERSION;
    return options->print_config ? NPO_OPTIONS_PRINT_CONFIG : NPO_OPTIONS_RUN;
}

char **npo_options_rest(const npo_options *options, int *ret_count)
{
    *ret_count = options->rest_count;
    return options->rest;
}

/* ---- printing ---- */

void npo_options_print_help(const npo_options_spec *spec, FILE *to)
{
    fprintf(to, "Usage: %s %s\n\n%s\n\nOptions:\n", spec->program, spec->usage, spec->text);
    const npo_option *option;
    for (size_t i = 0; (option = option_at(spec, i)); i++)
        npo_option_print(option, to);
    fprintf(to, "\nExample:\n  %s\n", spec->example);
}

void npo_options_print_config(const npo_options_spec *spec, const npo_options *options,
                              const void *values, FILE *to)
{
    cJSON *json = cJSON_CreateObject();
    for (size_t i = 0; i < own_count(spec); i++) {
        const npo_option *option = option_at(spec, i);
        char key[NAME_SIZE + 1] = "_";
        cJSON *value = NULL;
        if (!(option->flags & (NPO_OPTION_FLAG_ONLY | NPO_OPTION_HIDDEN)))
            value = npo_option_json(option, (const char *)values + option->offset);
        if (!value)
            continue;
        npo_option_key(option, key + 1);
        cJSON_AddItemToObject(json, key + 1, value);
        cJSON_AddStringToObject(json, key, source_names[options->sources[i]]);
    }
    char *text = cJSON_Print(json);
    fprintf(to, "%s\n", text ? text : "{}");
    cJSON_free(text);
    cJSON_Delete(json);
}

bool npo_options_answer(const npo_options_spec *spec, const npo_options *options,
                        const void *values, FILE *to)
{
    switch (npo_options_requested(options)) {
    case NPO_OPTIONS_RUN:
        return false;
    case NPO_OPTIONS_HELP:
        npo_options_print_help(spec, to);
        break;
    case NPO_OPTIONS_VERSION:
        fprintf(to, "%s %s\n", spec->program, NPO_VERSION);
        break;
    case NPO_OPTIONS_PRINT_CONFIG:
        npo_options_print_config(spec, options, values, to);
        break;
    }
    return true;
}
