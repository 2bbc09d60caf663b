/* A temporary folder of a test. */
#ifndef NPO_TESTS_CTL_FOLDER_H
#define NPO_TESTS_CTL_FOLDER_H

#include "common/file.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* cmocka's setup and teardown: *state is the folder's path. */
static inline int folder_setup(void **state)
{
    char path[] = "/tmp/npo-ctl-XXXXXX";
    char *made = mkdtemp(path);
    *state = made ? strdup(made) : NULL;
    return *state ? 0 : -1;
}

static inline int folder_teardown(void **state)
{
    npo_err err = npo_file_remove(*state, NULL);
    free(*state);
    return err ? -1 : 0;
}

static inline void folder_write(const char *dir, const char *name, const char *text)
{
    char *path = npo_file_join(dir, name);
    npo_err err = npo_file_write(path, text, strlen(text), 0644, NULL);
    assert(!err);
    free(path);
}

#endif
