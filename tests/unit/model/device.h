/* The backend that the tests of a file share, and layouts checked against a list of tensors. */
#ifndef NPO_TESTS_UNIT_MODEL_DEVICE_H
#define NPO_TESTS_UNIT_MODEL_DEVICE_H

#include "kernels/backend.h"
#include "tests/unit/model/support.h"

static npo_backend *backend;

static inline int device_setup(void **state)
{
    npo_backend_options options = {.device = "cpu", .threads = 1};
    return scratch_setup(state) || npo_backend_new(&options, &backend, NULL) ? -1 : 0;
}

static inline int device_teardown(void **state)
{
    npo_backend_free(backend);
    return scratch_teardown(state);
}

/* path: lines of name, tab, shape as 320x4x3x3, tab, anything; '#' begins a comment. */
static inline void check_layout(const npo_layout *layout, const char *path)
{
    size_t lines = 0;
    char line[1024];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file)) {
        char shape[128] = "";
        char *name = strtok(line, "\t"), *expected = strtok(NULL, "\t\n");
        if (*name == '#')
            continue;
        const npo_param_info *info = npo_layout_find(layout, name);
        if (!info)
            print_error("no tensor '%s'\n", name);
        assert_non_null(info);
        for (int i = 0; i < info->ndim; i++)
            sprintf(shape + strlen(shape), "%s%lld", i ? "x" : "", (long long)info->dims[i]);
        assert_string_equal(shape, expected);
        lines++;
    }
    fclose(file);
    assert_int_equal(npo_layout_count(layout), lines);
}

#endif
