#include "worker/data/captions.h"
#include "common/file.h"
#include "common/json.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GROW_FROM = 256 };

typedef struct {
    const char *file, *caption;
} line_values;

static const npo_json_field line_fields[] = {
    {.key = "file",
     .type = NPO_JSON_STRING,
     .offset = offsetof(line_values, file),
     .required = true,
     .max = 1024},
    {.key = "caption",
     .type = NPO_JSON_STRING,
     .offset = offsetof(line_values, caption),
     .required = true,
     .max = NPO_CAPTION_BYTES_MAX},
};

static bool leaves_folder(const char *path)
{
    if (path[0] == '/' || path[0] == 0)
        return true;
    for (const char *part = path; part; part = strchr(part, '/')) {
        part += *part == '/';
        if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || part[2] == 0))
            return true;
    }
    return false;
}

static npo_err reserve(npo_captions *captions, size_t *cap, const char *name, npo_error *error)
{
    if (captions->count < *cap)
        return NPO_OK;
    if (captions->count >= NPO_CAPTIONS_COUNT_MAX)
        return npo_error_set(error, NPO_E_LIMIT, "'%s' has more than %d captions", name,
                             NPO_CAPTIONS_COUNT_MAX);
    size_t next = *cap ? *cap * 2 : GROW_FROM;
    char **files = realloc(captions->files, next * sizeof *files);
    if (files)
        captions->files = files;
    char **texts = realloc(captions->captions, next * sizeof *texts);
    if (texts)
        captions->captions = texts;
    if (!files || !texts)
        return npo_error_set(error, NPO_E_NOMEM, "cannot read '%s': out of memory", name);
    *cap = next;
    return NPO_OK;
}

static npo_err add_line(npo_captions *captions, size_t *cap, const char *text, size_t len,
                        const char *where, npo_error *error)
{
    cJSON *json = NULL;
    line_values values = {0};
    NPO_TRY(npo_json_parse(text, len, where, &json, error));
    npo_err err = npo_json_read(json, "", line_fields, 2, false, &values, error);
    if (err != NPO_OK)
        npo_error_prefix(error, err, "%s", where);
    if (err == NPO_OK && leaves_folder(values.file))
        err = npo_error_set(error, NPO_E_REFUSED,
                            "%s: found file \"%s\", expected a path below the folder", where,
                            values.file);
    if (err == NPO_OK)
        err = reserve(captions, cap, where, error);
    if (err == NPO_OK) {
        char *file = strdup(values.file), *caption = strdup(values.caption);
        captions->files[captions->count] = file;
        captions->captions[captions->count] = caption;
        captions->count++;
        if (!file || !caption)
            err = npo_error_set(error, NPO_E_NOMEM, "cannot read %s: out of memory", where);
    }
    cJSON_Delete(json);
    return err;
}

static npo_err add_lines(npo_captions *captions, const char *path, const npo_buf *buf,
                         npo_error *error)
{
    size_t cap = 0, number = 0;
    for (const char *at = buf->data, *end = at + buf->len; at < end;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((stop ? stop : end) - at);
        char where[1200];
        snprintf(where, sizeof where, "'%.1024s' line %zu", path, ++number);
        if (strspn(at, " \t\r") < len)
            NPO_TRY(add_line(captions, &cap, at, len, where, error));
        at += len + 1;
    }
    if (captions->count == 0)
        return npo_error_set(error, NPO_E_FORMAT, "'%s' has no line, expected at least one caption",
                             path);
    return NPO_OK;
}

npo_err npo_captions_load(const char *path, npo_captions *ret_captions, npo_error *error)
{
    npo_buf buf = NPO_BUF_INIT;
    npo_captions captions = {0};
    npo_err err = npo_file_read(path, NPO_CAPTIONS_BYTES_MAX, &buf, error);
    if (err == NPO_OK)
        err = add_lines(&captions, path, &buf, error);
    npo_buf_fini(&buf);
    if (err != NPO_OK) {
        npo_captions_fini(&captions);
        return err;
    }
    *ret_captions = captions;
    return NPO_OK;
}

void npo_captions_fini(npo_captions *captions)
{
    for (size_t i = 0; i < captions->count; i++) {
        free(captions->files[i]);
        free(captions->captions[i]);
    }
    free(captions->files);
    free(captions->captions);
    *captions = (npo_captions){0};
}
