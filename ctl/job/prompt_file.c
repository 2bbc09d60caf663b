#include "ctl/job/prompt_file.h"

#include "common/bounds.h"
#include "common/file.h"
#include "common/utf8.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MARK     "\xEF\xBB\xBF"     /* byte order mark */
#define SEED_MAX 9007199254740992.0 /* 2^53 */

typedef struct {
    const char *path;
    bool is_json;
    size_t number; /* of the line, from 1 */
    bool has_negative, has_seed;
    npo_prompt_file file;
} reading;

typedef struct {
    const char *prompt, *caption, *text, *negative;
    const cJSON *seed;
} line_values;

static const npo_json_field fields[] = {
    {"prompt", NPO_JSON_STRING, offsetof(line_values, prompt)},
    {"caption", NPO_JSON_STRING, offsetof(line_values, caption)},
    {"text", NPO_JSON_STRING, offsetof(line_values, text)},
    {"negative_prompt", NPO_JSON_STRING, offsetof(line_values, negative)},
    {"seed", NPO_JSON_ANY, offsetof(line_values, seed)},
};

static npo_err no_memory(const reading *r, npo_error *error)
{
    return npo_error_set(error, NPO_E_NOMEM, "cannot read '%s': out of memory", r->path);
}

static npo_err check_utf8(const reading *r, const char *line, size_t len, npo_error *error)
{
    for (const char *at = line, *end = line + len; at < end;) {
        const char *from = at;
        if (npo_utf8_decode(&at, end) == NPO_UTF8_INVALID || *from == '\0')
            return npo_error_set(
                error, NPO_E_FORMAT,
                "'%s' line %zu: found byte 0x%02x at byte %zu, expected UTF-8 text", r->path,
                r->number, (unsigned char)*from, (size_t)(from - line) + 1);
    }
    return NPO_OK;
}

/* ---- lines ---- */

/* seed NULL: none. */
static npo_err add(reading *r, const char *prompt, const char *negative, const cJSON *seed,
                   npo_error *error)
{
    npo_prompt_file *file = &r->file;
    cJSON *own = seed ? cJSON_CreateNumber(seed->valuedouble) : cJSON_CreateNull();
    bool added = cJSON_AddItemToArray(file->prompts, cJSON_CreateString(prompt)) &&
                 cJSON_AddItemToArray(file->negatives, cJSON_CreateString(negative)) &&
                 cJSON_AddItemToArray(file->seeds, own);
    r->has_negative |= *negative != '\0';
    r->has_seed |= seed != NULL;
    return added ? NPO_OK : no_memory(r, error);
}

static npo_err check_seed(const char *where, const cJSON *seed, npo_error *error)
{
    double value = cJSON_GetNumberValue(seed);
    if (value >= 0 && value <= SEED_MAX && value == (double)(uint64_t)value)
        return NPO_OK;
    return npo_error_set(error, NPO_E_TYPE, "%s: seed: expected a whole number of at least 0",
                         where);
}

static npo_err add_object(reading *r, const cJSON *json, const char *where, npo_error *error)
{
    line_values values = {.negative = ""};
    npo_err err =
        npo_json_read(json, "", fields, sizeof fields / sizeof *fields, false, &values, error);
    if (err)
        return npo_error_prefix(error, err, "%s", where);
    if (values.seed)
        NPO_TRY(check_seed(where, values.seed, error));
    const char *prompt = values.prompt    ? values.prompt
                         : values.caption ? values.caption
                                          : values.text;
    if (!prompt)
        return npo_error_set(error, NPO_E_USAGE, "%s: missing key 'prompt', 'caption' or 'text'",
                             where);
    return add(r, prompt, values.negative, values.seed, error);
}

static npo_err add_json(reading *r, const char *line, size_t len, npo_error *error)
{
    char where[NPO_ERROR_TEXT_MAX / 2];
    cJSON *json = NULL;
    snprintf(where, sizeof where, "'%s' line %zu", r->path, r->number);
    NPO_TRY(npo_json_parse(line, len, where, &json, error));
    npo_err err = cJSON_IsObject(json)
                      ? add_object(r, json, where, error)
                      : npo_error_set(error, NPO_E_TYPE, "%s: expected an object", where);
    cJSON_Delete(json);
    return err;
}

static npo_err add_text(reading *r, const char *line, size_t len, npo_error *error)
{
    char *prompt = strndup(line, len);
    npo_err err = prompt ? add(r, prompt, "", NULL, error) : no_memory(r, error);
    free(prompt);
    return err;
}

static npo_err add_line(reading *r, const char *line, size_t len, npo_error *error)
{
    r->number++;
    if (len > 0 && line[len - 1] == '\r')
        len--;
    NPO_TRY(check_utf8(r, line, len, error));
    if (len == 0 || (r->is_json && strspn(line, " \t") >= len))
        return NPO_OK;
    return r->is_json ? add_json(r, line, len, error) : add_text(r, line, len, error);
}

/* ---- file ---- */

static npo_err add_lines(reading *r, const npo_buf *text, npo_error *error)
{
    size_t mark = text->len >= 3 && memcmp(text->data, MARK, 3) == 0 ? 3 : 0;
    for (size_t at = mark; at < text->len;) {
        const char *line = text->data + at, *stop = memchr(line, '\n', text->len - at);
        size_t len = stop ? (size_t)(stop - line) : text->len - at;
        NPO_TRY(add_line(r, line, len, error));
        at += len + 1;
    }
    if (cJSON_GetArraySize(r->file.prompts) == 0)
        return npo_error_set(error, NPO_E_USAGE, "'%s' holds none", r->path);
    return NPO_OK;
}

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text), part = strlen(end);
    return len >= part && strcmp(text + len - part, end) == 0;
}

static void drop(cJSON **list)
{
    cJSON_Delete(*list);
    *list = NULL;
}

static npo_err read_file(reading *r, npo_error *error)
{
    npo_buf text = NPO_BUF_INIT;
    npo_err err = npo_file_read(r->path, NPO_JOB_FILE_BYTES_MAX, &text, error);
    if (!err)
        err = add_lines(r, &text, error);
    npo_buf_fini(&text);
    return err;
}

/* ---- folder of captions ---- */

static int is_caption(const struct dirent *entry)
{
    return ends_with(entry->d_name, ".txt");
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static npo_err add_caption(reading *r, const char *path, npo_error *error)
{
    npo_buf text = NPO_BUF_INIT;
    reading one = *r;
    one.path = path;
    one.number = 0;
    one.is_json = false;
    npo_err err = npo_file_read(path, NPO_JOB_FILE_BYTES_MAX, &text, error);
    if (!err) {
        size_t mark = text.len >= 3 && memcmp(text.data, MARK, 3) == 0 ? 3 : 0;
        const char *line = text.len ? text.data + mark : "";
        const char *stop = memchr(line, '\n', text.len - mark);
        err = add_line(&one, line, stop ? (size_t)(stop - line) : text.len - mark, error);
    }
    npo_buf_fini(&text);
    return err;
}

static npo_err read_folder(reading *r, npo_error *error)
{
    struct dirent **entries = NULL;
    int count = scandir(r->path, &entries, is_caption, by_name);
    if (count < 0)
        return npo_error_errno(error, errno, "cannot read '%s'", r->path);
    npo_err err = NPO_OK;
    for (int i = 0; i < count; i++) {
        char *path = err ? NULL : npo_file_join(r->path, entries[i]->d_name);
        if (!err)
            err = path ? add_caption(r, path, error) : no_memory(r, error);
        free(path);
        free(entries[i]);
    }
    free(entries);
    if (!err && cJSON_GetArraySize(r->file.prompts) == 0)
        err = npo_error_set(error, NPO_E_USAGE, "'%s' holds no captions, expected *.txt files",
                            r->path);
    return err;
}

static bool is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

npo_err npo_prompt_file_read(const char *path, npo_prompt_file *ret_file, npo_error *error)
{
    reading r = {.path = path,
                 .is_json = ends_with(path, ".jsonl"),
                 .file = {cJSON_CreateArray(), cJSON_CreateArray(), cJSON_CreateArray()}};
    npo_err err =
        r.file.prompts && r.file.negatives && r.file.seeds ? NPO_OK : no_memory(&r, error);
    if (!err)
        err = is_folder(path) ? read_folder(&r, error) : read_file(&r, error);
    if (err) {
        npo_prompt_file_fini(&r.file);
        return npo_error_prefix(error, err, "prompts");
    }
    if (!r.has_negative)
        drop(&r.file.negatives);
    if (!r.has_seed)
        drop(&r.file.seeds);
    *ret_file = r.file;
    return NPO_OK;
}

void npo_prompt_file_fini(npo_prompt_file *file)
{
    drop(&file->prompts);
    drop(&file->negatives);
    drop(&file->seeds);
}
