#include "kernels/vec.h"

#include "kernels/backend-ops.h"

#include <string.h>

double npo_vec_norm(npo_backend *be, size_t n, const float *x)
{
    be->ops->enter(be);
    double norm = be->ops->norm(be, n, x);
    be->ops->leave(be);
    return norm;
}

void npo_vec_scale(npo_backend *be, size_t n, float a, float *x)
{
    be->ops->enter(be);
    be->ops->scale(be, n, a, x);
    be->ops->leave(be);
}

void npo_vec_axpy(npo_backend *be, size_t n, float a, const float *x, float *y)
{
    be->ops->enter(be);
    be->ops->axpy(be, n, a, x, y);
    be->ops->leave(be);
}

void npo_vec_lerp(npo_backend *be, size_t n, float w, const float *x, float *y)
{
    be->ops->enter(be);
    be->ops->lerp(be, n, w, x, y);
    be->ops->leave(be);
}

void npo_vec_adamw(npo_backend *be, size_t n, npo_adamw hyper, const float *grad, float *param,
                   float *exp_avg, float *exp_avg_sq)
{
    const npo_update update = {.adamw = hyper, .grad_scale = 1, .grad = grad, .param = param};
    npo_vec_update(be, n, &update, exp_avg, exp_avg_sq);
}

void npo_vec_update(npo_backend *be, size_t n, const npo_update *update, float *exp_avg,
                    float *exp_avg_sq)
{
    be->ops->enter(be);
    be->ops->update(be, n, update, exp_avg, exp_avg_sq);
    be->ops->leave(be);
}

void npo_vec_update8(npo_backend *be, size_t n, const npo_update *update, npo_blockwise exp_avg,
                     npo_blockwise exp_avg_sq)
{
    be->ops->enter(be);
    be->ops->update8(be, n, update, exp_avg, exp_avg_sq);
    be->ops->leave(be);
}

void npo_blockwise_clear(size_t n, npo_blockwise values)
{
    memset(values.codes, values.map->zero, n);
    memset(values.absmax, 0, npo_blockwise_blocks(n) * sizeof *values.absmax);
}
