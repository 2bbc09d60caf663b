#include "tests/reference/case.h"

#include "common/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- comparing ---- */

void case_compare(case_worst *worst, const char *tensor, const float *values, const float *expected,
                  size_t count)
{
    double largest = 0, difference = 0;
    for (size_t i = 0; i < count; i++) {
        double d = fabs((double)values[i] - (double)expected[i]);
        largest = fmax(largest, fabs((double)expected[i]));
        difference = isfinite(d) ? fmax(difference, d) : INFINITY;
    }
    double error = difference == 0 ? 0 : difference / largest;
    if (*worst->tensor && error <= worst->error)
        return;
    worst->error = error;
    snprintf(worst->tensor, sizeof worst->tensor, "%s", tensor);
}

static bool is_image(int ndim)
{
    return ndim == 4;
}

npo_err case_compare_tensor(case_worst *worst, const npo_tensor *expected, const npo_shape *shape,
                            const float *values, npo_error *error)
{
    float *reference = NULL;
    size_t count = 1;
    for (int i = 0; i < shape->ndim; i++)
        count *= (size_t)shape->dims[i];
    bool same = count == expected->count && shape->ndim == expected->ndim;
    static const int order[] = {0, 3, 1, 2}; /* of [N,H,W,C] axes in [N,C,H,W] */
    for (int i = 0; same && i < shape->ndim; i++)
        same = expected->dims[i] == shape->dims[is_image(shape->ndim) ? order[i] : i];
    if (!same)
        return npo_error_set(error, NPO_E_SHAPE, "'%s': this project's shape is another",
                             expected->name);
    NPO_TRY(case_read(expected, &reference, error));
    case_compare(worst, expected->name, values, reference, count);
    free(reference);
    return NPO_OK;
}

static double tolerance_of(const case_moved *moved, double tolerance)
{
    return fmax(tolerance, CASE_SPREAD_FACTOR * moved->spread);
}

static void report(case_env *env, const char *suffix, const case_moved *moved, double tolerance)
{
    const case_worst *worst = &moved->worst;
    /* Written so that a NaN fails. */
    bool pass = *worst->tensor && worst->error <= tolerance_of(moved, tolerance);
    printf("%s%s %.3g %s", env->name, suffix, worst->error, pass ? "pass" : "FAIL");
    if (!pass)
        printf(" (%s, tolerance %.3g)", *worst->tensor ? worst->tensor : "nothing compared",
               tolerance_of(moved, tolerance));
    else if (worst->error > tolerance)
        printf(
            " (%s, tolerance %.3g, but one unit in the last place of the weights moves it by %.3g)",
            worst->tensor, tolerance, moved->spread);
    printf("\n");
    fflush(stdout);
    env->totals->passed += pass;
    env->totals->failed += !pass;
}

void case_report(case_env *env, const char *suffix, const case_worst *worst, double tolerance)
{
    report(env, suffix, &(case_moved){.worst = *worst}, tolerance);
}

void case_report_moved(case_env *env, const char *suffix, const case_moved *moved, size_t count,
                       double tolerance)
{
    const case_moved *shown = moved;
    for (size_t i = 1; i < count; i++)
        if (!(moved[i].worst.error / tolerance_of(&moved[i], tolerance) <=
              shown->worst.error / tolerance_of(shown, tolerance)))
            shown = &moved[i];
    report(env, suffix, shown, tolerance);
}

/* ---- reading ---- */

npo_err case_open(const case_env *env, const char *file, npo_safetensors **ret_file,
                  npo_error *error)
{
    char *path = npo_file_join(env->dir, file);
    if (!path)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    npo_err err = npo_safetensors_open(path, ret_file, error);
    free(path);
    return err;
}

npo_err case_find(const npo_safetensors *file, const char *name, const npo_tensor **ret_tensor,
                  npo_error *error)
{
    *ret_tensor = npo_safetensors_find(file, name);
    if (!*ret_tensor)
        return npo_error_set(error, NPO_E_NOT_FOUND, "'%s' has no tensor '%s'",
                             npo_safetensors_path(file), name);
    return NPO_OK;
}

static void to_channels_last(const npo_tensor *tensor, const float *from, float *to)
{
    size_t channels = (size_t)tensor->dims[1];
    size_t pixels = (size_t)(tensor->dims[2] * tensor->dims[3]);
    for (size_t i = 0; i < tensor->count; i++) {
        size_t n = i / (channels * pixels), c = i / pixels % channels, p = i % pixels;
        to[(n * pixels + p) * channels + c] = from[i];
    }
}

npo_err case_read_into(const npo_tensor *tensor, float *ret_values, npo_error *error)
{
    if (!is_image(tensor->ndim)) {
        npo_tensor_read_f32(tensor, 0, tensor->count, ret_values);
        return NPO_OK;
    }
    float *planar = malloc((tensor->count + 1) * sizeof *planar);
    if (!planar)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    npo_tensor_read_f32(tensor, 0, tensor->count, planar);
    to_channels_last(tensor, planar, ret_values);
    free(planar);
    return NPO_OK;
}

npo_err case_read(const npo_tensor *tensor, float **ret_values, npo_error *error)
{
    float *values = malloc((tensor->count + 1) * sizeof *values);
    if (!values)
        return npo_error_set(error, NPO_E_NOMEM, "out of memory");
    npo_err err = case_read_into(tensor, values, error);
    if (err)
        free(values);
    else
        *ret_values = values;
    return err;
}
