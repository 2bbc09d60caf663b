/* Reference cases: files that a public library wrote from random weights, each compared with what
 * this project computes. A kind of case is one row of the table in main.c: a file name pattern and
 * the function that runs the case; it stands in a file of its own, case_<kind>.c.
 *
 * Every result is one line on stdout: name, largest relative error, pass or FAIL (with the worst
 * tensor). The relative error of a tensor is its largest absolute difference over the reference's
 * largest absolute value. */
#ifndef NPO_TESTS_REFERENCE_CASE_H
#define NPO_TESTS_REFERENCE_CASE_H

#include "kernels/graph.h"
#include "worker/model/files/safetensors.h"
#include "worker/model/folder.h"
#include "worker/model/text/tokenizer.h"

#define CASE_OUTPUT_TOLERANCE   1e-4
#define CASE_GRADIENT_TOLERANCE 1e-3
/* Between two correct programs lies up to twice what a perturbation moves one of them, and the
 * largest of a few repetitions is seldom the largest there is. */
#define CASE_SPREAD_FACTOR 4

/* Counts of result lines. */
typedef struct {
    int passed, failed, skipped;
} case_totals;

/* One case: `file` matched the pattern of a row. Strings are borrowed for the run. */
typedef struct {
    npo_backend *backend;
    const char *dir;  /* folder of the file: /tmp/cases/sd15-tiny */
    const char *file; /* name of the file: unet-square.safetensors */
    const char *name; /* for the result line: sd15-tiny/unet-square */
    case_totals *totals;
} case_env;

/* Prints the result lines. An error is a case that could not be run: main prints FAIL with the
 * sentence. */
typedef npo_err (*case_run)(case_env *env, npo_error *error);

npo_err case_run_tokenizer(case_env *env, npo_error *error);
npo_err case_run_text(case_env *env, npo_error *error);
npo_err case_run_text_xl(case_env *env, npo_error *error);
npo_err case_run_unet(case_env *env, npo_error *error);
npo_err case_run_unet_grads(case_env *env, npo_error *error);
npo_err case_run_vae(case_env *env, npo_error *error);
npo_err case_run_sampling(case_env *env, npo_error *error);
npo_err case_run_self_npo(case_env *env, npo_error *error);
npo_err case_run_lora(case_env *env, npo_error *error);
npo_err case_run_schedule(case_env *env, npo_error *error);

/* ---- comparing ---- */

/* The largest relative error so far and the tensor it is of. */
typedef struct {
    double error;
    char tensor[NPO_PARAM_NAME_MAX];
} case_worst;

/* values, expected: [count]. A NaN or infinity on either side counts as an infinite error. */
void case_compare(case_worst *worst, const char *tensor, const float *values, const float *expected,
                  size_t count);
/* values [N,H,W,C] or [N,C] in this project's order against a file's tensor [N,C,H,W] or of the
 * same shape. Errors: NPO_E_SHAPE, NPO_E_NOMEM. */
npo_err case_compare_tensor(case_worst *worst, const npo_tensor *expected, const npo_shape *shape,
                            const float *values, npo_error *error) NPO_MUST_CHECK;
/* Prints `env->name` + suffix, the error and the verdict, and counts it. */
void case_report(case_env *env, const char *suffix, const case_worst *worst, double tolerance);

/* An error, and by how much (relative, as the error) rounding alone moves what it is of. */
typedef struct {
    case_worst worst;
    double spread;
} case_moved;

/* One line for all of [count], that of the largest error next to its tolerance: the one given, or
 * CASE_SPREAD_FACTOR times the spread where that is larger; the line says so when it was needed. */
void case_report_moved(case_env *env, const char *suffix, const case_moved *moved, size_t count,
                       double tolerance);

/* ---- reading ---- */

/* The file of the case, or another one of its folder. */
npo_err case_open(const case_env *env, const char *file, npo_safetensors **ret_file,
                  npo_error *error) NPO_MUST_CHECK;
/* NPO_E_NOT_FOUND with a sentence. */
npo_err case_find(const npo_safetensors *file, const char *name, const npo_tensor **ret_tensor,
                  npo_error *error) NPO_MUST_CHECK;
/* A tensor as f32; [N,C,H,W] becomes [N,H,W,C], other ranks stay. malloc'ed. */
npo_err case_read(const npo_tensor *tensor, float **ret_values, npo_error *error) NPO_MUST_CHECK;
/* Into memory of the tensor's count, in the same order as case_read. */
npo_err case_read_into(const npo_tensor *tensor, float *ret_values,
                       npo_error *error) NPO_MUST_CHECK;

#endif
