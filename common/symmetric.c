#include "common/symmetric.h"
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { SWEEPS_MAX = 60 }; /* an eigenvalue takes two or three */

typedef struct {
    size_t n;
    double *a;         /* [n, n] */
    double *diagonal;  /* [n], becomes the eigenvalues */
    double *below;     /* [n], below[i] couples i and i + 1 */
    double *scale;     /* [n], 2 / (v . v) of each reflector, 0: identity */
    double *work;      /* [n] */
    double negligible; /* an element below the diagonal up to this size counts as zero */
} problem;

static double dot(size_t n, const double *x, const double *y)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

static void add_scaled(size_t n, double factor, const double *x, double *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] += factor * x[i];
}

/* Reflector that maps v (length m) to a multiple of its first axis. v becomes the reflector's
 * vector; *ret_scale 2 / (v . v). Returns the multiple. */
static double make_reflector(size_t m, double *v, double *ret_scale)
{
    double largest = 0;
    for (size_t i = 0; i < m; i++)
        largest = fmax(largest, fabs(v[i]));
    double tail = 0;
    for (size_t i = 1; i < m; i++)
        tail = fmax(tail, fabs(v[i]));
    *ret_scale = 0;
    if (tail == 0)
        return v[0];
    for (size_t i = 0; i < m; i++)
        v[i] /= largest; /* so that squares neither overflow nor vanish */
    double norm = sqrt(dot(m, v, v));
    double target = v[0] > 0 ? -norm : norm;
    v[0] -= target;
    *ret_scale = 2 / dot(m, v, v);
    return target * largest;
}

/* A <- H A H on the trailing block of size m, H = I - scale v v'. */
static void reflect_block(double *block, size_t stride, size_t m, const double *v, double scale,
                          double *p)
{
    for (size_t i = 0; i < m; i++)
        p[i] = scale * dot(m, block + i * stride, v);
    double half = scale / 2 * dot(m, p, v);
    add_scaled(m, -half, v, p);
    for (size_t i = 0; i < m; i++) {
        add_scaled(m, -v[i], p, block + i * stride);
        add_scaled(m, -p[i], v, block + i * stride);
    }
}

/* Row k of a keeps the reflector of step k right of the diagonal. */
static void reduce(problem *p)
{
    size_t n = p->n;
    for (size_t k = 0; k + 1 < n; k++) {
        size_t m = n - k - 1;
        double *v = p->a + k * n + k + 1;
        p->diagonal[k] = p->a[k * n + k];
        p->below[k] = make_reflector(m, v, &p->scale[k]);
        if (p->scale[k] != 0)
            reflect_block(p->a + (k + 1) * n + k + 1, n, m, v, p->scale[k], p->work);
    }
    p->diagonal[n - 1] = p->a[n * n - 1];
    p->below[n - 1] = 0;
}

/* a <- transpose of the product of all reflectors, built from the last to the first so that each
 * touches only the block it acts on. */
static void build_transpose(problem *p)
{
    size_t n = p->n;
    double *a = p->a;
    a[n * n - 1] = 1;
    for (size_t k = n - 1; k-- > 0;) {
        size_t m = n - k - 1;
        double *v = p->work, *block = a + (k + 1) * n + k + 1;
        memcpy(v, a + k * n + k + 1, m * sizeof *v);
        /* Q <- H Q, so Q' <- Q' H: each row loses its part along v. */
        for (size_t i = 0; i < m && p->scale[k] != 0; i++)
            add_scaled(m, -p->scale[k] * dot(m, block + i * n, v), v, block + i * n);
        memset(a + k * n + k + 1, 0, m * sizeof *a);
        for (size_t i = k + 1; i < n; i++)
            a[i * n + k] = 0;
        a[k * n + k] = 1;
    }
}

static void rotate_rows(size_t n, double *upper, double *lower, double c, double s)
{
    for (size_t i = 0; i < n; i++) {
        double u = upper[i], l = lower[i];
        lower[i] = s * u + c * l;
        upper[i] = c * u - s * l;
    }
}

/* Measured by the whole matrix, not by the neighbours: among the many eigenvalues near zero of a
 * matrix of low rank all elements are rounding noise, and the iteration would chase them without
 * end. */
static double negligible_of(const problem *p)
{
    double largest = 0;
    for (size_t i = 0; i < p->n; i++)
        largest = fmax(largest, fabs(p->diagonal[i]) + fabs(p->below[i]));
    return DBL_EPSILON * largest;
}

/* End of the unreduced block that begins at l. */
static size_t block_end(const problem *p, size_t l)
{
    size_t m = l;
    while (m + 1 < p->n && fabs(p->below[m]) > p->negligible)
        m++;
    return m;
}

/* One QL sweep with implicit shift over rows l .. m. */
static void sweep(problem *p, size_t l, size_t m, bool vectors)
{
    double *d = p->diagonal, *e = p->below;
    double half = (d[l + 1] - d[l]) / (2 * e[l]);
    double root = hypot(half, 1);
    double g = d[m] - d[l] + e[l] / (half + copysign(root, half));
    double c = 1, s = 1, shifted = 0;
    for (size_t i = m; i-- > l;) {
        double f = s * e[i], b = c * e[i];
        double r = hypot(f, g);
        e[i + 1] = r;
        if (r == 0) { /* the block falls apart here: end the sweep early */
            d[i + 1] -= shifted;
            e[m] = 0;
            return;
        }
        s = f / r;
        c = g / r;
        g = d[i + 1] - shifted;
        double t = (d[i] - g) * s + 2 * c * b;
        shifted = s * t;
        d[i + 1] = g + shifted;
        g = c * t - b;
        if (vectors)
            rotate_rows(p->n, p->a + i * p->n, p->a + (i + 1) * p->n, c, s);
    }
    d[l] -= shifted;
    e[l] = g;
    e[m] = 0;
}

static npo_err iterate(problem *p, bool vectors)
{
    for (size_t l = 0; l < p->n; l++) {
        for (int sweeps = 0;; sweeps++) {
            size_t m = block_end(p, l);
            if (m == l)
                break;
            if (sweeps == SWEEPS_MAX)
                return NPO_E_DIVERGED;
            sweep(p, l, m, vectors);
        }
    }
    return NPO_OK;
}

npo_err npo_symmetric_eigen(size_t n, double *a, int vectors, double *ret_values)
{
    if (n == 0 || n > NPO_SYMMETRIC_DIM_MAX)
        return NPO_E_RANGE;
    for (size_t i = 0; i < n * n; i++)
        if (!isfinite(a[i]))
            return NPO_E_DIVERGED;
    double *memory = calloc(3 * n, sizeof *memory);
    if (!memory)
        return NPO_E_NOMEM;
    problem p = {n, a, ret_values, memory, memory + n, memory + 2 * n, 0};
    reduce(&p);
    p.negligible = negligible_of(&p);
    if (vectors)
        build_transpose(&p);
    npo_err err = iterate(&p, vectors != 0);
    free(memory);
    return err;
}
