/* A folder of its own for a test, and files in it. */
#ifndef NPO_TESTS_UNIT_DATA_SCRATCH_H
#define NPO_TESTS_UNIT_DATA_SCRATCH_H

#include "common/file.h"
#include "tests/unit/cmocka.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

static char scratch_dir[32];

static inline int scratch_setup(void **state)
{
    strcpy(scratch_dir, "/tmp/npo-data-XXXXXX");
    return mkdtemp(scratch_dir) ? 0 : -1;
}

static inline int scratch_teardown(void **state)
{
    return npo_file_remove(scratch_dir, NULL) == NPO_OK ? 0 : -1;
}

/* Path in the folder; valid for the next 63 calls. */
static inline const char *scratch_path(const char *name)
{
    static char paths[64][256];
    static int at;
    char *path = paths[at++ % 64];
    snprintf(path, sizeof paths[0], "%s/%s", scratch_dir, name);
    return path;
}

static inline void scratch_write(const char *name, const void *data, size_t len)
{
    assert_int_equal(npo_file_write(scratch_path(name), data, len, 0644, NULL), NPO_OK);
}

static inline void scratch_write_gz(const char *name, const void *data, size_t len)
{
    gzFile file = gzopen(scratch_path(name), "wb");
    assert_non_null(file);
    assert_int_equal(gzwrite(file, data, (unsigned)len), (int)len);
    assert_int_equal(gzclose(file), Z_OK);
}

#endif
