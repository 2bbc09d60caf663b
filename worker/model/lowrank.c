#include "worker/model/lowrank.h"

#include "common/rng.h"
#include "common/symmetric.h"
#include "kernels/matrix.h"
#include "kernels/vec.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    OVERSAMPLE = 10, /* directions beyond the rank that is asked for */
    EXACT = 256,     /* sides up to this are decomposed whole */
    ITERATIONS = 3,  /* of the subspace: the gap between singular values to the sixth power */
    ROWS_AT_A_TIME = 64,
};

/* A singular value below this share of the largest is rounding noise of f32. */
#define NOISE 1e-7

/* The matrix with its shorter side first, whichever way it lies in memory. */
typedef struct {
    npo_backend *be;
    const float *values;
    size_t sides[2];   /* shorter, longer */
    size_t strides[2]; /* in floats */
    bool is_turned;
    size_t width; /* of the subspace */
    double norm;
} problem;

/* A basis [length, width] of directions on one of the sides, and what it is made with. */
typedef struct {
    float *basis[2]; /* by side */
    float *spare;    /* [longer, width] */
    float *turn;     /* [width, width] */
    double *gram;    /* [width, width] */
    double *values;  /* [width] eigenvalues of gram, the largest first */
    double *row;     /* [width] */
} workspace;

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static bool new_workspace(const problem *p, workspace *ret_work)
{
    size_t w = p->width;
    *ret_work = (workspace){
        .basis = {calloc(p->sides[0] * w, sizeof(float)), calloc(p->sides[1] * w, sizeof(float))},
        .spare = calloc(p->sides[1] * w, sizeof(float)),
        .turn = calloc(w * w, sizeof(float)),
        .gram = calloc(w * w, sizeof(double)),
        .values = calloc(w, sizeof(double)),
        .row = calloc(w, sizeof(double)),
    };
    return ret_work->basis[0] && ret_work->basis[1] && ret_work->spare && ret_work->turn &&
           ret_work->gram && ret_work->values && ret_work->row;
}

static void free_workspace(workspace *work)
{
    free(work->basis[0]);
    free(work->basis[1]);
    free(work->spare);
    free(work->turn);
    free(work->gram);
    free(work->values);
    free(work->row);
}

/* ---- steps ---- */

/* basis of a side = the matrix applied to the basis of the other. */
static void apply(const problem *p, int side, workspace *work)
{
    npo_matrix_multiply(p->be, &(npo_matrix_product){.m = p->sides[side],
                                                     .n = p->width,
                                                     .k = p->sides[!side],
                                                     .a = p->values,
                                                     .a_row = p->strides[side],
                                                     .a_col = p->strides[!side],
                                                     .b = work->basis[!side],
                                                     .b_row = p->width,
                                                     .c = work->basis[side],
                                                     .c_row = p->width});
}

/* gram = basis' basis. */
static void measure(size_t length, size_t width, const float *basis, workspace *work)
{
    memset(work->gram, 0, width * width * sizeof *work->gram);
    for (size_t i = 0; i < length; i++) {
        const float *from = basis + i * width;
        for (size_t j = 0; j < width; j++)
            work->row[j] = (double)from[j];
        for (size_t j = 0; j < width; j++) {
            double *restrict to = work->gram + j * width, x = work->row[j];
            for (size_t k = 0; k <= j; k++)
                to[k] += x * work->row[k];
        }
    }
    for (size_t j = 0; j < width; j++)
        for (size_t k = 0; k < j; k++)
            work->gram[k * width + j] = work->gram[j * width + k];
}

static void swap_rows(size_t n, double *x, double *y)
{
    for (size_t i = 0; i < n; i++) {
        double kept = x[i];
        x[i] = y[i];
        y[i] = kept;
    }
}

/* Squared singular values of a basis, the largest first, and in the rows of gram their directions.
 */
static npo_err decompose(size_t length, size_t width, const float *basis, workspace *work)
{
    measure(length, width, basis, work);
    NPO_TRY(npo_symmetric_eigen(width, work->gram, 1, work->values));
    for (size_t i = 0; i < width; i++) {
        size_t most = i;
        for (size_t j = i + 1; j < width; j++)
            if (work->values[j] > work->values[most])
                most = j;
        if (most == i)
            continue;
        swap_rows(1, &work->values[i], &work->values[most]);
        swap_rows(width, work->gram + i * width, work->gram + most * width);
    }
    return NPO_OK;
}

static bool is_noise(const workspace *work, size_t direction)
{
    double value = work->values[direction];
    return !(value > 0) || value <= NOISE * NOISE * work->values[0];
}

/* to [length, columns] = basis times the first directions, each scaled. */
static void turn(const problem *p, size_t length, const float *basis, size_t columns,
                 const double *scale, workspace *work, float *to)
{
    for (size_t i = 0; i < p->width; i++)
        for (size_t j = 0; j < columns; j++)
            work->turn[i * columns + j] = (float)(work->gram[j * p->width + i] * scale[j]);
    npo_matrix_multiply(p->be, &(npo_matrix_product){.m = length,
                                                     .n = columns,
                                                     .k = p->width,
                                                     .a = basis,
                                                     .a_row = p->width,
                                                     .a_col = 1,
                                                     .b = work->turn,
                                                     .b_row = columns,
                                                     .c = to,
                                                     .c_row = columns});
}

/* Orthonormal directions in place of a basis, zeros where it has fewer. */
static npo_err straighten(const problem *p, int side, workspace *work)
{
    size_t length = p->sides[side];
    NPO_TRY(decompose(length, p->width, work->basis[side], work));
    for (size_t i = 0; i < p->width; i++)
        work->row[i] = is_noise(work, i) ? 0 : 1 / sqrt(work->values[i]);
    turn(p, length, work->basis[side], p->width, work->row, work, work->spare);
    memcpy(work->basis[side], work->spare, length * p->width * sizeof *work->spare);
    return NPO_OK;
}

static npo_err find_subspace(const problem *p, workspace *work)
{
    if (p->width == p->sides[0]) { /* nothing to find: all of it */
        for (size_t i = 0; i < p->width; i++)
            work->basis[0][i * p->width + i] = 1;
        return NPO_OK;
    }
    npo_rng rng = npo_rng_stream(0, NPO_RNG_LOW_RANK, 0, 0);
    npo_rng_gaussians(&rng, p->sides[1] * p->width, work->basis[1]);
    apply(p, 0, work);
    NPO_TRY(straighten(p, 0, work));
    for (int i = 0; i < ITERATIONS; i++) {
        apply(p, 1, work);
        NPO_TRY(straighten(p, 1, work));
        apply(p, 0, work);
        NPO_TRY(straighten(p, 0, work));
    }
    return straighten(p, 0, work); /* the first is as exact as the basis was well conditioned */
}

/* ---- factors ---- */

static size_t choose_rank(const problem *p, const npo_lowrank_options *options,
                          const workspace *work)
{
    size_t most = smaller(options->rank, p->width), rank = 0;
    /* All of the energy is all directions: whether sums reach it would be a matter of rounding. */
    bool by_rank = options->energy == 0 || options->energy >= 1;
    double kept = 0, wanted = options->energy * p->norm * p->norm;
    while (rank < most && !is_noise(work, rank) && (by_rank || kept < wanted))
        kept += work->values[rank++];
    return rank;
}

static void transpose(size_t rows, size_t columns, const float *from, float *to)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++)
            to[j * rows + i] = from[i * columns + j];
}

/* With orthonormal directions Q on the shorter side and Z = A' Q on the longer, Z' Z = U S^2 U':
 * A is near (Q U) (Z U)' = (Q U sqrt(S)) (Z U / sqrt(S))'. */
static npo_err split(const problem *p, size_t rank, workspace *work, npo_lowrank *ret_factors)
{
    float *up = calloc(ret_factors->rows * rank, sizeof *up);
    float *down = calloc(ret_factors->columns * rank, sizeof *down);
    if (!up || !down) {
        free(up);
        free(down);
        return NPO_E_NOMEM;
    }
    int up_side = p->is_turned, down_side = !up_side;
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < rank; i++)
            work->row[i] = pow(work->values[i], side == 0 ? 0.25 : -0.25);
        float *to = side == up_side ? up : work->spare;
        turn(p, p->sides[side], work->basis[side], rank, work->row, work, to);
        if (side == down_side)
            transpose(ret_factors->columns, rank, work->spare, down);
    }
    ret_factors->rank = rank;
    ret_factors->up = up;
    ret_factors->down = down;
    return NPO_OK;
}

static npo_err factor(const problem *p, const npo_lowrank_options *options, workspace *work,
                      npo_lowrank *ret_factors)
{
    NPO_TRY(find_subspace(p, work));
    apply(p, 1, work);
    NPO_TRY(decompose(p->sides[1], p->width, work->basis[1], work));
    size_t rank = choose_rank(p, options, work);
    return rank > 0 ? split(p, rank, work, ret_factors) : NPO_OK;
}

npo_err npo_lowrank_factor(npo_backend *be, size_t rows, size_t columns, const float *matrix,
                           const npo_lowrank_options *options, npo_lowrank *ret_factors,
                           npo_error *error)
{
    assert(rows > 0 && columns > 0 && options->rank > 0);
    bool is_turned = columns < rows;
    problem p = {.be = be,
                 .values = matrix,
                 .sides = {smaller(rows, columns), is_turned ? rows : columns},
                 .strides = {is_turned ? 1 : columns, is_turned ? columns : 1},
                 .is_turned = is_turned,
                 .norm = npo_vec_norm(be, rows * columns, matrix)};
    npo_lowrank factors = {.rows = rows, .columns = columns, .norm = p.norm};
    workspace work = {0};
    p.width = p.sides[0] <= EXACT
                  ? p.sides[0]
                  : smaller(smaller(options->rank, p.sides[0]) + OVERSAMPLE, p.sides[0]);
    if (!isfinite(p.norm))
        return npo_error_set(error, NPO_E_RANGE,
                             "cannot factor a matrix of [%zu,%zu]: a value is not finite", rows,
                             columns);
    npo_err err = NPO_OK;
    if (p.norm > 0)
        err = new_workspace(&p, &work) ? factor(&p, options, &work, &factors) : NPO_E_NOMEM;
    free_workspace(&work);
    if (err)
        return npo_error_set(error, err, "cannot factor a matrix of [%zu,%zu] by rank %zu: %s",
                             rows, columns, options->rank, npo_err_text(err));
    *ret_factors = factors;
    return NPO_OK;
}

void npo_lowrank_fini(npo_lowrank *factors)
{
    free(factors->up);
    free(factors->down);
    *factors = (npo_lowrank){0};
}

npo_err npo_lowrank_distance(npo_backend *be, const npo_lowrank *factors, const float *matrix,
                             double *ret_distance)
{
    double sum = 0;
    size_t columns = factors->columns;
    if (factors->rank == 0) {
        *ret_distance = npo_vec_norm(be, factors->rows * columns, matrix);
        return NPO_OK;
    }
    float *part = calloc(ROWS_AT_A_TIME * columns, sizeof *part);
    if (!part)
        return NPO_E_NOMEM;
    for (size_t first = 0, rows; first < factors->rows; first += rows) {
        rows = smaller(ROWS_AT_A_TIME, factors->rows - first);
        npo_matrix_multiply(be, &(npo_matrix_product){.m = rows,
                                                      .n = columns,
                                                      .k = factors->rank,
                                                      .a = factors->up + first * factors->rank,
                                                      .a_row = factors->rank,
                                                      .a_col = 1,
                                                      .b = factors->down,
                                                      .b_row = columns,
                                                      .c = part,
                                                      .c_row = columns});
        npo_vec_axpy(be, rows * columns, -1, matrix + first * columns, part);
        double norm = npo_vec_norm(be, rows * columns, part);
        sum += norm * norm;
    }
    free(part);
    *ret_distance = sqrt(sum);
    return NPO_OK;
}
