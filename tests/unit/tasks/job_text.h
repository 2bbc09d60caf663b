/* Job files of the tests, changed key by key, and files that jobs leave. */
#ifndef NPO_TESTS_UNIT_TASKS_JOB_TEXT_H
#define NPO_TESTS_UNIT_TASKS_JOB_TEXT_H

#include "common/file.h"
#include "tests/unit/cmocka.h"
#include "tests/unit/tasks/local.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char job_dir[64]; /* of this test program, removed at its end */

static inline int job_dir_setup(void **state)
{
    strcpy(job_dir, "/tmp/npo-tasks-XXXXXX");
    return mkdtemp(job_dir) ? 0 : -1;
}

static inline int job_dir_teardown(void **state)
{
    return npo_file_remove(job_dir, NULL) == NPO_OK ? 0 : -1;
}

/* Path below the program's folder; valid for the next 31 calls. */
static inline const char *job_path(const char *format, ...)
{
    static char paths[32][512];
    static int at;
    char *path = paths[at++ % 32], name[256];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    snprintf(path, sizeof paths[0], "%s/%s", job_dir, name);
    return path;
}

/* Path of something that make_models.py made. */
static inline const char *model_path(const char *name)
{
    static char paths[16][512];
    static int at;
    char *path = paths[at++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", NPO_MODELS_DIR, name);
    return path;
}

/* A JSON text with ' in place of ", then changes "key=value" separated by spaces. */
static inline cJSON *job_json(const char *text, const char *changes)
{
    char *copy = strdup(text), *list = strdup(changes), *rest = list, *item;
    for (char *at = copy; *at; at++)
        *at = *at == '\'' ? '"' : *at;
    cJSON *json = cJSON_Parse(copy);
    assert_non_null(json);
    while ((item = strsep(&rest, " "))) {
        char *value = strchr(item, '=');
        if (!value)
            continue;
        *value++ = 0;
        assert_int_equal(npo_json_set_path(json, item, value, NULL), NPO_OK);
    }
    free(copy);
    free(list);
    return json;
}

static inline void read_all(const char *path, npo_buf *ret_buf)
{
    npo_error error = {0};
    if (npo_file_read(path, 64 << 20, ret_buf, &error) != NPO_OK)
        fail_msg("%s", error.text);
}

static inline size_t file_size(const char *path)
{
    npo_buf buf = NPO_BUF_INIT;
    read_all(path, &buf);
    size_t size = buf.len;
    npo_buf_fini(&buf);
    return size;
}

static inline void assert_same_file(const char *a, const char *b)
{
    npo_buf x = NPO_BUF_INIT, y = NPO_BUF_INIT;
    read_all(a, &x);
    read_all(b, &y);
    if (x.len != y.len || memcmp(x.data, y.data, x.len) != 0)
        fail_msg("'%s' and '%s' differ", a, b);
    npo_buf_fini(&x);
    npo_buf_fini(&y);
}

static inline void assert_other_file(const char *a, const char *b)
{
    npo_buf x = NPO_BUF_INIT, y = NPO_BUF_INIT;
    read_all(a, &x);
    read_all(b, &y);
    assert_false(x.len == y.len && memcmp(x.data, y.data, x.len) == 0);
    npo_buf_fini(&x);
    npo_buf_fini(&y);
}

static inline bool file_has(const char *path, const char *text)
{
    npo_buf x = NPO_BUF_INIT;
    read_all(path, &x);
    bool found = x.len > 0 && strstr(x.data, text) != NULL;
    npo_buf_fini(&x);
    return found;
}

#endif
