/* Goldens, a scratch folder, and checks of sentences, for the tests of worker/model. */
#ifndef NPO_TESTS_UNIT_MODEL_SUPPORT_H
#define NPO_TESTS_UNIT_MODEL_SUPPORT_H

#include "common/file.h"
#include "kernels/params.h"
#include "tests/unit/cmocka.h"
#include "worker/model/files/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN(path) NPO_GOLDEN_DIR "/" path

static char scratch_dir[32];

static inline int scratch_setup(void **state)
{
    strcpy(scratch_dir, "/tmp/npo-model-XXXXXX");
    return mkdtemp(scratch_dir) ? 0 : -1;
}

static inline int scratch_teardown(void **state)
{
    return npo_file_remove(scratch_dir, NULL) == NPO_OK ? 0 : -1;
}

/* Path in the scratch folder; valid for the next 15 calls. */
static inline const char *scratch_path(const char *name)
{
    static char paths[16][384];
    static int at;
    char *path = paths[at++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", scratch_dir, name);
    return path;
}

static inline void scratch_write(const char *name, const void *data, size_t len)
{
    char *dir = strdup(scratch_path(name));
    *strrchr(dir, '/') = '\0';
    assert_int_equal(npo_file_make_dirs(dir, NULL), NPO_OK);
    free(dir);
    FILE *file = fopen(scratch_path(name), "wb"); /* not durable: some tests write thousands */
    assert_non_null(file);
    assert_int_equal(len ? fwrite(data, 1, len, file) : 0, len);
    assert_int_equal(fclose(file), 0);
}

static inline void scratch_text(const char *name, const char *text)
{
    scratch_write(name, text, strlen(text));
}

static inline void scratch_copy(const char *from, const char *name)
{
    npo_file_map map;
    assert_int_equal(npo_file_map_open(from, &map, NULL), NPO_OK);
    scratch_write(name, map.data, map.size);
    npo_file_map_close(&map);
}

/* A call that succeeds; its sentence is printed when it does not. */
#define assert_ok(call)                                                                            \
    do {                                                                                           \
        npo_error error = {0};                                                                     \
        npo_err err_ = (call);                                                                     \
        if (err_)                                                                                  \
            print_error("%s: %s\n", npo_err_name(err_), error.text);                               \
        assert_int_equal(err_, NPO_OK);                                                            \
    } while (0)

/* A call that fails with this code and a sentence that holds `part`. The call passes &error. */
#define assert_fails(expected, part, call)                                                         \
    do {                                                                                           \
        npo_error error = {0};                                                                     \
        npo_err err_ = (call);                                                                     \
        if (err_ != (expected) || !strstr(error.text, part))                                       \
            print_error("%s: '%s', expected %s: '%s'\n", npo_err_name(err_), error.text,           \
                        npo_err_name(expected), part);                                             \
        assert_int_equal(err_, expected);                                                          \
        assert_non_null(strstr(error.text, part));                                                 \
    } while (0)

/* Largest absolute difference over the largest absolute expected value. */
static inline double relative_error(const float *values, const float *expected, size_t count)
{
    double largest = 0, difference = 0;
    for (size_t i = 0; i < count; i++) {
        double d = fabs((double)values[i] - (double)expected[i]);
        largest = fmax(largest, fabs((double)expected[i]));
        difference = isfinite(d) ? fmax(difference, d) : INFINITY;
    }
    return largest > 0 ? difference / largest : difference;
}

/* A tensor of an open file as f32, [N,C,H,W] turned into [N,H,W,C]. malloc'ed. */
static inline float *golden_values(const npo_safetensors *file, const char *name)
{
    const npo_tensor *t = npo_safetensors_find(file, name);
    assert_non_null(t);
    float *values = malloc((t->count + 1) * sizeof *values);
    float *planar = malloc((t->count + 1) * sizeof *planar);
    size_t channels = t->ndim == 4 ? (size_t)t->dims[1] : 1;
    size_t pixels = t->ndim == 4 ? (size_t)(t->dims[2] * t->dims[3]) : t->count;
    npo_tensor_read_f32(t, 0, t->count, planar);
    for (size_t i = 0; i < t->count; i++)
        values[(i / (channels * pixels) * pixels + i % pixels) * channels + i / pixels % channels] =
            planar[i];
    free(planar);
    return values;
}

#endif
